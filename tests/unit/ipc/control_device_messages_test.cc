#include <capnp/message.h>
#include <capnp/serialize.h>
#include <gtest/gtest.h>

#include <cstring>

#include "ipc/control/channel.h"
#include "ipc/control/device.capnp.h"
#include "ipc/control/device_messages.h"
#include "tests/unit/ipc/control_test_util.h"

namespace bulkhead::control {
namespace {

using test::mutate;
using test::sample_replies;
using test::sample_take_role;

std::vector<std::byte> serialise(capnp::MessageBuilder& builder) {
  const auto words = capnp::messageToFlatArray(builder);
  std::vector<std::byte> bytes(words.asBytes().size());
  std::memcpy(bytes.data(), words.begin(), bytes.size());
  return bytes;
}

// What a hostile peer sends: `edit` changes a valid message below the encoder's checks.
template <class Root, class Edit>
std::vector<std::byte> forge(const std::vector<std::byte>& valid, Edit edit) {
  capnp::MallocMessageBuilder builder;
  auto words = kj::heapArray<capnp::word>(valid.size() / sizeof(capnp::word));
  std::memcpy(static_cast<void*>(words.begin()), valid.data(), valid.size());
  capnp::FlatArrayMessageReader reader(words);
  builder.setRoot(reader.getRoot<Root>());
  edit(builder.getRoot<Root>());
  return serialise(builder);
}

template <class Edit>
Result<ToDevice> decode_edited_role(Edit edit, std::size_t fd_count = 5) {
  const auto valid = encode(ToDevice(sample_take_role())).value();
  return decode_to_device(
      forge<schema::ToDevice>(valid, [&](schema::ToDevice::Builder root) { edit(root.getTakeRole()); }), fd_count);
}

template <class T>
void expect_refused(const Result<T>& result, std::string_view why) {
  ASSERT_FALSE(result) << why;
  EXPECT_EQ(result.error().error_number, kBadMessage);
  EXPECT_NE(result.error().message.find(why), std::string::npos) << result.error().message;
}

TEST(DeviceMessages, take_role_survives_the_round_trip) {
  const TakeRole sent = sample_take_role();
  const auto decoded = decode_to_device(encode(ToDevice(sent)).value(), sent.fds.size());
  ASSERT_TRUE(decoded) << decoded.error().message;
  const auto& got = std::get<TakeRole>(*decoded);
  EXPECT_EQ(got.role, sent.role);
  EXPECT_EQ(got.vm, sent.vm);
  EXPECT_EQ(got.incarnation, sent.incarnation);
  EXPECT_EQ(got.generation, sent.generation);
  EXPECT_EQ(got.start, sent.start);
  EXPECT_EQ(got.vm_time_offset_ns, sent.vm_time_offset_ns);
  EXPECT_EQ(got.fds, sent.fds);
  EXPECT_EQ(got.guest_ram, sent.guest_ram);
  ASSERT_EQ(got.instances.size(), sent.instances.size());
  for (std::size_t i = 0; i < got.instances.size(); ++i) {
    EXPECT_EQ(got.instances[i].name, sent.instances[i].name);
    EXPECT_EQ(got.instances[i].type, sent.instances[i].type);
    EXPECT_EQ(got.instances[i].config.index(), sent.instances[i].config.index());
    EXPECT_EQ(got.instances[i].regions, sent.instances[i].regions);
    EXPECT_EQ(got.instances[i].lines, sent.instances[i].lines);
    EXPECT_EQ(got.instances[i].streams, sent.instances[i].streams);
    EXPECT_EQ(got.instances[i].vectors, sent.instances[i].vectors);
  }
  EXPECT_EQ(std::get<CmosRtcConfig>(got.instances[1].config), std::get<CmosRtcConfig>(sent.instances[1].config));
  EXPECT_EQ(std::get<PciBusConfig>(got.instances[2].config), std::get<PciBusConfig>(sent.instances[2].config));
}

TEST(DeviceMessages, every_device_config_keeps_its_type) {
  const std::vector<DeviceConfig> configs = {
      Uart16550Config{},   CmosRtcConfig{},    I8042Config{},   AcpiPmConfig{},        SystemPortsConfig{},
      DebugExitConfig{},   PciTestConfig{},    PciBusConfig{},  VirtioRngConfig{},     VirtioBlkConfig{},
      VirtioNetConfig{},   E1000Config{},      UsernetConfig{}, VirtioConsoleConfig{}, VirtioBalloonConfig{},
      VirtioVsockConfig{}, VsockRelayConfig{}, FwCfgConfig{}, VgaConfig{.width = 1280, .height = 800}};
  ASSERT_EQ(configs.size(), std::variant_size_v<DeviceConfig>);
  for (const DeviceConfig& config : configs) {
    TakeRole role;
    role.role = "r";
    role.instances.push_back({.name = "i",
                              .type = "t",
                              .config = config,
                              .regions = {},
                              .lines = {},
                              .streams = {},
                              .vectors = {},
                              .backings = {},
                              .kicks = {}});
    const auto decoded = decode_to_device(encode(ToDevice(role)).value(), 0);
    ASSERT_TRUE(decoded);
    EXPECT_EQ(std::get<TakeRole>(*decoded).instances[0].config.index(), config.index());
  }
}

TEST(DeviceMessages, network_cards_keep_what_they_are_configured_with) {
  const NicConfig nic{.mac = {2, 3, 4, 5, 6, 7},
                      .limits = {RateLimit{.bytes_per_second = 1, .bytes_burst = 2, .operations_per_second = 3},
                                 RateLimit{.operations_per_second = 4, .operations_burst = 5}},
                      .backend = NicBackend::kFrameRing,
                      .offloads = false};
  for (const DeviceConfig& config :
       {DeviceConfig(VirtioNetConfig{.nic = nic, .mtu = 1400, .queue_pairs = 3}), DeviceConfig(E1000Config{.nic = nic}),
        DeviceConfig(E1000Config{.nic = {.mac = nic.mac}})}) {
    TakeRole role;
    role.role = "r";
    role.instances.resize(1);
    role.instances[0].name = "i";
    role.instances[0].type = "t";
    role.instances[0].config = config;
    const auto decoded = decode_to_device(encode(ToDevice(role)).value(), 0);
    ASSERT_TRUE(decoded);
    const DeviceConfig& got = std::get<TakeRole>(*decoded).instances[0].config;
    EXPECT_EQ(*nic_config(got), *nic_config(config));
    if (const auto* card = std::get_if<VirtioNetConfig>(&config); card != nullptr) {
      EXPECT_EQ(std::get<VirtioNetConfig>(got), *card);
    }
  }
}

TEST(DeviceMessages, requests_survive_the_round_trip) {
  for (const ToDevice& sent : {ToDevice(Quiesce{}), ToDevice(GetStatistics{}), ToDevice(Inspect{.instance = "com1"})}) {
    const auto decoded = decode_to_device(encode(sent).value(), 0);
    ASSERT_TRUE(decoded);
    EXPECT_EQ(decoded->index(), sent.index());
  }
}

TEST(DeviceMessages, replies_survive_the_round_trip) {
  for (const FromDevice& sent : sample_replies()) {
    const auto decoded = decode_from_device(encode(sent).value());
    ASSERT_TRUE(decoded) << decoded.error().message;
    ASSERT_EQ(decoded->index(), sent.index());
  }
  const auto ready = decode_from_device(encode(sample_replies()[0]).value()).value();
  EXPECT_EQ(std::get<Ready>(ready).states, std::get<Ready>(sample_replies()[0]).states);
  const auto statistics = decode_from_device(encode(sample_replies()[3]).value()).value();
  EXPECT_EQ(std::get<Statistics>(statistics), std::get<Statistics>(sample_replies()[3]));
  const auto inspected = decode_from_device(encode(sample_replies()[4]).value()).value();
  EXPECT_EQ(std::get<InspectReply>(inspected).instances, std::get<InspectReply>(sample_replies()[4]).instances);
}

TEST(DeviceMessages, statistics_keep_every_counter_apart) {
  Statistics sent;
  std::uint64_t next = 1000;
  for (std::uint64_t* counter :
       {&sent.requests_served, &sent.posted_served, &sent.commits, &sent.timers_fired, &sent.stream_events,
        &sent.lines_raised, &sent.messages_sent, &sent.effects, &sent.refused_accesses, &sent.spurious_wakeups,
        &sent.spins_won, &sent.spins_lost, &sent.sleeps})
    *counter = next++;
  EXPECT_EQ(next - 1000, sizeof(Statistics) / sizeof(std::uint64_t));
  EXPECT_EQ(std::get<Statistics>(decode_from_device(encode(FromDevice(sent)).value()).value()), sent);
}

TEST(DeviceMessages, message_cut_at_any_byte_is_refused) {
  std::vector<std::vector<std::byte>> messages;
  for (const FromDevice& reply : sample_replies()) messages.push_back(encode(reply).value());
  for (const auto& bytes : messages) {
    for (std::size_t length = 0; length < bytes.size(); ++length)
      EXPECT_FALSE(decode_from_device(std::span(bytes).first(length))) << length;
  }
  const auto role = encode(ToDevice(sample_take_role())).value();
  for (std::size_t length = 0; length < role.size(); ++length)
    EXPECT_FALSE(decode_to_device(std::span(role).first(length), 5)) << length;
}

TEST(DeviceMessages, bytes_after_the_message_are_refused) {
  auto bytes = encode(sample_replies()[2]).value();
  bytes.resize(bytes.size() + 8);
  expect_refused(decode_from_device(bytes), "after the message");
}

TEST(DeviceMessages, unaligned_bytes_decode_all_the_same) {
  const auto bytes = encode(sample_replies()[2]).value();
  std::vector<std::byte> shifted(bytes.size() + 1);
  std::memcpy(shifted.data() + 1, bytes.data(), bytes.size());
  EXPECT_TRUE(decode_from_device(std::span(shifted).subspan(1)));
}

TEST(DeviceMessages, random_changes_never_pass_the_checks) {
  std::mt19937_64 random(20240917);
  unsigned accepted = 0;
  for (int round = 0; round < 10000; ++round) {
    const auto replies = sample_replies();
    const auto bytes = mutate(encode(replies[static_cast<std::size_t>(round) % replies.size()]).value(), random);
    const auto decoded = decode_from_device(bytes);
    if (!decoded) {
      EXPECT_FALSE(decoded.error().message.empty());
      continue;
    }
    ++accepted;
    if (const auto* failed = std::get_if<Failed>(&*decoded)) {
      for (const char c : failed->sentence) EXPECT_TRUE(c >= 0x20 && c < 0x7f);
    }
    if (const auto* ready = std::get_if<Ready>(&*decoded)) {
      for (const auto& state : ready->states) EXPECT_TRUE(is_name(state.instance));
    }
    // What was accepted keeps the rules, so it can be sent on; only its size may have grown by aliasing.
    if (const auto again = encode(*decoded); !again) {
      EXPECT_NE(again.error().message.find("bytes long"), std::string::npos) << again.error().message;
    }
  }
  EXPECT_GT(accepted, 100U);  // the changes are not all absurd
}

TEST(DeviceMessages, random_changes_to_take_role_never_pass_the_checks) {
  std::mt19937_64 random(7);
  const auto valid = encode(ToDevice(sample_take_role())).value();
  unsigned accepted = 0;
  for (int round = 0; round < 10000; ++round) {
    const auto decoded = decode_to_device(mutate(valid, random), 5);
    if (!decoded) continue;
    ++accepted;
    const auto* role = std::get_if<TakeRole>(&*decoded);
    if (role == nullptr) continue;
    EXPECT_EQ(role->fds.size(), 5U);
    for (const GuestRange& range : role->guest_ram) {
      ASSERT_LT(range.fd_index, role->fds.size());
      EXPECT_EQ(role->fds[range.fd_index].purpose, FdPurpose::kGuestRam);
      EXPECT_LE(range.length - 1, UINT64_MAX - range.guest_base);
    }
  }
  EXPECT_GT(accepted, 100U);
}

TEST(DeviceMessages, wrong_number_of_descriptors_is_refused) {
  const auto bytes = encode(ToDevice(sample_take_role())).value();
  expect_refused(decode_to_device(bytes, 4), "descriptors");
  expect_refused(decode_to_device(bytes, 6), "descriptors");
  expect_refused(decode_to_device(encode(ToDevice(Quiesce{})).value(), 1), "takes none");
}

TEST(DeviceMessages, unknown_enum_values_are_refused) {
  expect_refused(decode_edited_role([](auto role) { role.setStart(3); }), "kind of start");
  expect_refused(decode_edited_role([](auto role) { role.getFds()[0].setPurpose(kFdPurposeCount); }), "purpose");
  expect_refused(decode_edited_role([](auto role) { role.getFds()[0].setPurpose(UINT16_MAX); }), "purpose");
}

// The union's tag is the first 16-bit word of the root's data section.
TEST(DeviceMessages, unknown_message_kind_is_refused) {
  auto bytes = encode(sample_replies()[2]).value();
  bytes[16] = std::byte{200};
  expect_refused(decode_from_device(bytes), "kind 200 is unknown");
  bytes = encode(ToDevice(Quiesce{})).value();
  bytes[16] = std::byte{77};
  expect_refused(decode_to_device(bytes, 0), "kind 77 is unknown");
}

TEST(DeviceMessages, indexes_out_of_range_are_refused) {
  expect_refused(decode_edited_role([](auto role) { role.getInstances()[0].getLines().setFirst(UINT32_MAX); }),
                 "lines");
  expect_refused(decode_edited_role([](auto role) { role.getInstances()[0].getVectors().setCount(kMaxIndex + 1); }),
                 "vectors");
  expect_refused(decode_edited_role([](auto role) { role.getFds()[2].setIndex(kMaxIndex); }), "out of range");
  expect_refused(decode_edited_role([](auto role) { role.getFds()[3].setIndex(0); }), "two descriptors");
}

TEST(DeviceMessages, guest_ram_that_wraps_overlaps_or_names_no_descriptor_is_refused) {
  expect_refused(decode_edited_role([](auto role) { role.getGuestRam()[1].setLength(~std::uint64_t{0} & ~0xfffULL); }),
                 "wraps");
  expect_refused(decode_edited_role([](auto role) { role.getGuestRam()[1].setOffset(~0xfffULL); }), "wraps");
  expect_refused(decode_edited_role([](auto role) { role.getGuestRam()[0].setLength(0); }), "whole pages");
  expect_refused(decode_edited_role([](auto role) { role.getGuestRam()[0].setGuestBase(1); }), "whole pages");
  expect_refused(decode_edited_role([](auto role) { role.getGuestRam()[1].setGuestBase(0x9f000); }), "overlap");
  expect_refused(decode_edited_role([](auto role) { role.getGuestRam()[1].setFdIndex(5); }), "names descriptor 5");
  expect_refused(decode_edited_role([](auto role) { role.getGuestRam()[1].setFdIndex(0); }), "names descriptor 0");
}

TEST(DeviceMessages, rings_survive_the_round_trip_and_are_checked) {
  TakeRole sent = sample_take_role();
  sent.rings = {{.descriptor = 5, .backing = 1}, {.descriptor = 6, .backing = 0}};
  sent.rings[1].params.front() = std::byte{1};
  sent.rings[1].params.back() = std::byte{2};
  const auto valid = encode(ToDevice(sent)).value();
  const auto decoded = decode_to_device(valid, sent.fds.size());
  ASSERT_TRUE(decoded) << decoded.error().message;
  EXPECT_EQ(std::get<TakeRole>(*decoded).rings, sent.rings);
  const auto edited = [&](auto edit) {
    return decode_to_device(
        forge<schema::ToDevice>(valid, [&](schema::ToDevice::Builder root) { edit(root.getTakeRole()); }), 5);
  };
  expect_refused(edited([](auto role) { role.getRings()[0].setDescriptor(kMaxIndex); }), "out of range");
  expect_refused(edited([](auto role) { role.getRings()[1].setBacking(kMaxIndex); }), "out of range");
  expect_refused(edited([](auto role) { role.getRings()[1].initParams(119); }), "119 bytes");
  expect_refused(edited([](auto role) { role.initRings(kMaxRings + 1); }), "rings");
}

TEST(DeviceMessages, names_are_checked) {
  expect_refused(decode_edited_role([](auto role) { role.setRole(""); }), "not a name");
  expect_refused(decode_edited_role([](auto role) { role.setRole("../x"); }), "not a name");
  expect_refused(decode_edited_role([](auto role) { role.setRole(std::string(64, 'a')); }), "not a name");
  expect_refused(decode_edited_role([](auto role) { role.getInstances()[1].setName("com1"); }),
                 "two instances named com1");
  expect_refused(decode_edited_role([](auto role) { role.getInstances()[1].setType("a b"); }), "not a name");
}

TEST(DeviceMessages, lists_beyond_their_bounds_are_refused) {
  expect_refused(decode_edited_role([](auto role) {
                   auto fds = role.initFds(kMaxMessageFds + 1);
                   for (unsigned i = 0; i < fds.size(); ++i) fds[i].setIndex(i);
                 }),
                 "65 descriptors");
  expect_refused(decode_edited_role([](auto role) { role.initInstances(kMaxInstances + 1); }), "65 instances");
  expect_refused(decode_edited_role([](auto role) { role.initGuestRam(kMaxGuestRanges + 1); }), "33 ranges");
  TakeRole role = sample_take_role();
  std::get<PciBusConfig>(role.instances[2].config).functions.assign(kMaxPciFunctions + 1, {.devfn = 0, .type = "x"});
  EXPECT_FALSE(encode(ToDevice(role)));
}

// 2^28 elements of no size: sixteen bytes that would make a careless reader walk a quarter of a billion
// entries.
TEST(DeviceMessages, huge_list_of_empty_elements_is_refused_at_once) {
  const std::uint64_t words[] = {
      std::uint64_t{4} << 32,                               // one segment of four words
      (std::uint64_t{1} << 32) | (std::uint64_t{1} << 48),  // root: one data word, one pointer
      4,                                                    // union tag: inspectReply
      1 | (std::uint64_t{7} << 32),                         // composite list, no words
      (std::uint64_t{1} << 28) << 2,                        // its tag: 2^28 elements of no size
  };
  std::vector<std::byte> bytes(sizeof words);
  std::memcpy(bytes.data(), words, sizeof words);
  const auto before = std::chrono::steady_clock::now();
  const auto decoded = decode_from_device(bytes);
  ASSERT_FALSE(decoded);
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::milliseconds(100));
}

TEST(DeviceMessages, text_of_a_hostile_device_cannot_drive_a_terminal) {
  const auto valid = encode(FromDevice(Failed{.sentence = "x"})).value();
  const auto bytes = forge<schema::FromDevice>(
      valid, [](schema::FromDevice::Builder root) { root.setFailed("\x1b[31mred\n\xc3\xa9"); });
  const auto decoded = decode_from_device(bytes);
  ASSERT_TRUE(decoded);
  EXPECT_EQ(std::get<Failed>(*decoded).sentence, "?[31mred???");
}

TEST(DeviceMessages, long_text_is_refused_and_own_sentences_are_cut) {
  const std::string text(kMaxSentenceLength + 1, 'a');
  const auto valid = encode(FromDevice(Failed{.sentence = text})).value();
  EXPECT_EQ(std::get<Failed>(decode_from_device(valid).value()).sentence.size(), kMaxSentenceLength);
  const auto bytes = forge<schema::FromDevice>(valid, [&](schema::FromDevice::Builder root) { root.setFailed(text); });
  expect_refused(decode_from_device(bytes), "1025 characters");
}

TEST(DeviceMessages, names_are_letters_digits_and_three_signs) {
  for (const char* good : {"a", "9", "com1", "a.b-c_d", "A-"}) EXPECT_TRUE(is_name(good)) << good;
  EXPECT_TRUE(is_name(std::string(kMaxNameLength, 'x')));
  for (const char* bad : {"", ".a", "-a", "_a", "a/b", "a b", "\xc3\xa9", "a\n"}) EXPECT_FALSE(is_name(bad)) << bad;
  EXPECT_FALSE(is_name(std::string(kMaxNameLength + 1, 'x')));
  EXPECT_FALSE(is_name(std::string_view("a\0b", 3)));
}

}  // namespace
}  // namespace bulkhead::control
