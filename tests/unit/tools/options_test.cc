#include "tools/bulkhead/options.h"

#include <gtest/gtest.h>

#include "tools/bulkhead/net.h"

namespace bulkhead::cli {
namespace {

TEST(ParseSize, takes_whole_numbers_with_a_suffix) {
  EXPECT_EQ(parse_size("0").value(), 0U);
  EXPECT_EQ(parse_size("4096").value(), 4096U);
  EXPECT_EQ(parse_size("4K").value(), 4096U);
  EXPECT_EQ(parse_size("256M").value(), 256U << 20);
  EXPECT_EQ(parse_size("3g").value(), std::uint64_t{3} << 30);
  EXPECT_EQ(parse_size("1T").value(), std::uint64_t{1} << 40);
}

TEST(ParseSize, refuses_nonsense) {
  for (const char* text :
       {"", "M", "12X", "-1", "+1", "1.5G", " 1", "1 ", "0x10", "1MM", "1MB", "18446744073709551616", "99999999999T"})
    EXPECT_FALSE(parse_size(text)) << text;
}

TEST(ParseDuration, takes_whole_numbers_with_a_unit) {
  EXPECT_EQ(parse_duration("500ms").value(), 500'000'000);
  EXPECT_EQ(parse_duration("2s").value(), 2'000'000'000);
  EXPECT_EQ(parse_duration("0s").value(), 0);
}

TEST(ParseDuration, refuses_nonsense) {
  for (const char* text : {"", "s", "ms", "1", "1.5s", "-1s", "+1s", " 1s", "1 s", "1us", "1m", "0x1s",
                           "9223372036855s", "10000000000s", "99999999999999999999s"})
    EXPECT_FALSE(parse_duration(text)) << text;
}

TEST(ParseDevice, takes_a_type_and_properties) {
  const auto plain = parse_device("pci-test").value();
  EXPECT_EQ(plain.type, "pci-test");
  EXPECT_TRUE(plain.properties.empty());
  const auto device = parse_device("pci-test,vectors=8,note=a=b,empty=").value();
  EXPECT_EQ(device.properties, (std::vector<control::Property>{{"vectors", "8"}, {"note", "a=b"}, {"empty", ""}}));
}

TEST(ParseDevice, refuses_what_is_no_device) {
  for (const char* text : {"", ",a=b", "x,", "x,a", "x,=1", "x,,a=b", "x y", "x,a b=c"})
    EXPECT_FALSE(parse_device(text)) << text;
}

TEST(ParseNet, takes_a_tap_and_properties) {
  const auto plain = parse_net("tap=tap0").value();
  EXPECT_EQ(plain.type, "virtio_net");
  EXPECT_EQ(plain.files, 1);
  EXPECT_EQ(plain.properties, (std::vector<control::Property>{{"tap", "tap0"}}));
  const auto all = parse_net("mac=02:00:00:00:00:01,tap=t-0.1,queues=4,mtu=9000,slot=7").value();
  EXPECT_EQ(all.files, 4);
  EXPECT_EQ(all.properties.size(), 5U);
  EXPECT_EQ(all.properties[1], (control::Property{"tap", "t-0.1"}));
}

TEST(ParseNet, takes_descriptors) {
  EXPECT_EQ(parse_net("fd=5").value().files, 1);
  EXPECT_EQ(parse_net("fd=5:6:12,mtu=1400").value().files, 3);
}

TEST(ParseNet, model_chooses_the_card) {
  EXPECT_EQ(parse_net("tap=tap0,model=virtio").value().type, "virtio_net");
  const auto old = parse_net("tap=tap0,model=e1000,slot=7").value();
  EXPECT_EQ(old.type, "e1000");
  EXPECT_EQ(old.properties, (std::vector<control::Property>{{"tap", "tap0"}, {"slot", "7"}}));
  EXPECT_EQ(parse_net("fd=5,model=e1000").value().files, 1);
  for (const char* text : {"tap=tap0,model=e1000,queues=2", "fd=5:6,model=e1000",
                           "tap=tap0,model=", "tap=tap0,model=ne2k", "user,model=virtio,model=e1000"})
    EXPECT_FALSE(parse_net(text)) << text;
}

TEST(ParseNet, refuses_what_is_no_tap) {
  for (const char* text : {"",
                           "tap0",
                           "tap=",
                           "tap=.",
                           "tap=..",
                           "tap=a/b",
                           "tap=a b",
                           "tap=a:b",
                           "tap=sixteen-letters-",
                           "tap=a,tap=b,fd=3",
                           "tap=a,fd=3",
                           "mtu=1500",
                           "tap=a,",
                           "tap=a,mtu",
                           "tap=a,queues=0",
                           "tap=a,queues=5",
                           "tap=a,queues=",
                           "tap=a,queues=x",
                           "fd=",
                           "fd=x",
                           "fd=3:",
                           "fd=:3",
                           "fd=-1",
                           "fd=3:3",
                           "fd=3:4:5:6:7",
                           "fd=4294967296",
                           "fd=2147483648",
                           "fd=3,queues=1"}) {
    const auto net = parse_net(text);
    ASSERT_FALSE(net) << text;
    EXPECT_TRUE(net.error().message.starts_with(std::string("--net ") + text + ": ")) << net.error().message;
  }
  EXPECT_TRUE(parse_net("tap=fifteen-letters")) << "as long as a name can be";
}

TEST(ParseNet, a_user_networks_forwards_become_one_property_and_an_empty_one_is_a_mistake) {
  EXPECT_EQ(parse_net("user,hostfwd=tcp::1-:2,hostfwd=udp::3-:4").value().properties,
            (std::vector<control::Property>{{"backend", "user"}, {"hostfwd", "tcp::1-:2;udp::3-:4"}}));
  EXPECT_FALSE(parse_net("user,hostfwd="));
  EXPECT_FALSE(parse_net("user,hostfwd=tcp::1-:2,hostfwd="));
}

TEST(ParseNet, more_queues_than_one_message_carries_are_bad_usage) {
  for (const int cards : {12, 13}) {
    std::vector<const char*> arguments{"bulkhead", "run", "--kernel", "k"};
    for (int i = 0; i < cards; ++i) arguments.insert(arguments.end(), {"--net", "tap=a,queues=4"});
    const Command command = parse_command_line(static_cast<int>(arguments.size()), arguments.data());
    EXPECT_EQ(std::holds_alternative<RunOptions>(command), cards == 12);
    if (const auto* leave = std::get_if<Leave>(&command)) {
      EXPECT_EQ(leave->status, control::kExitUsage);
    }
  }
}

using Properties = std::vector<control::Property>;

TEST(ParseDisk, takes_a_file_and_properties_in_order) {
  const auto plain = parse_disk("/images/a.img").value();
  EXPECT_EQ(plain.type, "virtio_blk");
  EXPECT_EQ(plain.files, 1);
  EXPECT_EQ(plain.properties, (Properties{{"path", "/images/a.img"}}));
  EXPECT_EQ(parse_disk("a.img,slot=7,direct=on,serial=a=b c,readonly=off,queues=4").value().properties,
            (Properties{{"path", "a.img"},
                        {"slot", "7"},
                        {"direct", "on"},
                        {"serial", "a=b c"},
                        {"readonly", "off"},
                        {"queues", "4"}}));
  EXPECT_EQ(parse_disk("a.img,serial=").value().properties, (Properties{{"path", "a.img"}, {"serial", ""}}));
}

TEST(ParseDisk, file_may_be_called_anything) {
  const auto path_of = [](const char* text) { return parse_disk(text).value().properties; };
  EXPECT_EQ(path_of("a=b"), (Properties{{"path", "a=b"}}));
  EXPECT_EQ(path_of("readonly=on"), (Properties{{"path", "readonly=on"}})) << "the first word is the file";
  EXPECT_EQ(path_of("a=b,slot=3"), (Properties{{"path", "a=b"}, {"slot", "3"}}));
  EXPECT_EQ(path_of("a,,b"), (Properties{{"path", "a,b"}}));
  EXPECT_EQ(path_of("a,,slot=3"), (Properties{{"path", "a,slot=3"}}));
  EXPECT_EQ(path_of("a,,"), (Properties{{"path", "a,"}}));
  EXPECT_EQ(path_of(",,"), (Properties{{"path", ","}}));
  EXPECT_EQ(path_of(",,,,"), (Properties{{"path", ",,"}}));
  EXPECT_EQ(path_of("a,,,slot=3"), (Properties{{"path", "a,"}, {"slot", "3"}}));
  EXPECT_EQ(path_of("a,,b,,,,c,slot=3"), (Properties{{"path", "a,b,,c"}, {"slot", "3"}}));
  EXPECT_EQ(path_of(" a "), (Properties{{"path", " a "}}));
}

TEST(ParseDisk, mistakes_are_named) {
  const auto refusal = [](const std::string& text) {
    const auto disk = parse_disk(text);
    return disk ? "accepted" : disk.error().message;
  };
  EXPECT_EQ(refusal(""), "--disk : must begin with a file");
  EXPECT_EQ(refusal(",readonly=on"), "--disk ,readonly=on: must begin with a file");
  EXPECT_EQ(refusal("a,"), "--disk a,: ends with a comma");
  EXPECT_EQ(refusal("a,slot=3,"), "--disk a,slot=3,: ends with a comma");
  EXPECT_EQ(refusal("a,,,"), "--disk a,,,: ends with a comma");
  EXPECT_EQ(refusal("a,slot"), "--disk a,slot: 'slot' is not KEY=VALUE");
  EXPECT_EQ(refusal("a,slot=3,,serial=x"), "--disk a,slot=3,,serial=x: '' is not KEY=VALUE");
  EXPECT_EQ(refusal("a,=3"), "--disk a,=3: '=3' is not KEY=VALUE");
  EXPECT_EQ(refusal("a,path=b"), "--disk a,path=b: the path is given twice");
  for (const char* key : {"readonly", "direct"}) {
    for (const char* value : {"", "yes", "ON", "on ", "1", "true"}) {
      const std::string text = std::string("a,") + key + "=" + value;
      EXPECT_EQ(refusal(text), "--disk " + text + ": " + key + "=" + value + " must be on or off");
    }
  }
}

TEST(ParseDisk, limits) {
  const std::string longest(control::kMaxPathLength, 'p');
  EXPECT_TRUE(parse_disk(longest));
  EXPECT_FALSE(parse_disk(longest + "p"));
  EXPECT_TRUE(parse_disk(longest.substr(1) + ",,")) << "a comma counts once";
  std::string most = "a";
  for (std::size_t i = 1; i < control::kMaxProperties; ++i) most += ",k" + std::to_string(i) + "=v";
  EXPECT_EQ(parse_disk(most).value().properties.size(), control::kMaxProperties) << "the path is one of them";
  EXPECT_FALSE(parse_disk(most + ",k=v"));
}

TEST(ParseCommandLine, disks_come_behind_devices_in_the_order_given) {
  const char* const arguments[] = {"bulkhead", "run",    "--disk", "b,slot=9", "--kernel",   "k",      "--device",
                                   "pci_test", "--disk", "a,,a",   "--device", "virtio_rng", "--disk", "b,serial=2"};
  const Command command = parse_command_line(std::size(arguments), arguments);
  const auto* run = std::get_if<RunOptions>(&command);
  ASSERT_NE(run, nullptr);
  std::string seen;
  for (const control::DeviceRequest& device : run->devices) {
    seen += device.type + "/" + std::to_string(device.files);
    for (const control::Property& property : device.properties) seen += " " + property.key + "=" + property.value;
    seen += "\n";
  }
  EXPECT_EQ(seen,
            "pci_test/0\nvirtio_rng/0\nvirtio_blk/1 path=b slot=9\nvirtio_blk/1 path=a,a\n"
            "virtio_blk/1 path=b serial=2\n");
}

TEST(ParseTopology, takes_three_numbers) {
  EXPECT_EQ(parse_topology("2:4:1").value(), (control::Topology{.sockets = 2, .cores = 4, .threads = 1}));
}

TEST(ParseTopology, refuses_the_rest) {
  for (const char* text : {"", "2", "2:4", "2:4:1:1", "0:1:1", "a:1:1", "2::1", "2:4:", "65:1:1", "2:4:-1"})
    EXPECT_FALSE(parse_topology(text)) << text;
}

}  // namespace
}  // namespace bulkhead::cli
