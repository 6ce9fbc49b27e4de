// read_usernet(): what the properties of a user network become, and each way in which they can be wrong.
#include "vmm/machine/usernet_request.h"

#include <gtest/gtest.h>

namespace bulkhead::vmm {
namespace {

using List = std::vector<control::Property>;

Result<UsernetConfig> read(List list) {
  Result<Properties> properties = Properties::of({.type = "virtio_net", .properties = std::move(list), .files = 0});
  if (!properties) return properties.error();
  Result<UsernetConfig> config = read_usernet(*properties);
  if (!config) return config;
  if (const Status left = properties->expect_none_left(); !left) return left.error();
  return config;
}
std::string refusal(List list) {
  const Result<UsernetConfig> config = read(std::move(list));
  return config ? "accepted" : config.error().message;
}
PortForward forward_of(const std::string& text) {
  const Result<UsernetConfig> config = read({{"hostfwd", text}});
  EXPECT_TRUE(config) << text << ": " << (config ? "" : config.error().message);
  return config ? config->forwards.at(0) : PortForward{};
}

TEST(UsernetRequest, without_properties_it_is_the_network_that_everybody_knows) {
  EXPECT_EQ(read({}).value(), UsernetConfig{});
  EXPECT_EQ(UsernetConfig{}.guest, 0x0a00020fU);
}

TEST(UsernetRequest, network_moves_all_addresses) {
  const UsernetConfig config = read({{"net", "192.168.76.9/24"}}).value();
  EXPECT_EQ(config.network, 0xc0a84c00);
  EXPECT_EQ(config.mask, 0xffffff00);
  EXPECT_EQ(config.host, 0xc0a84c02);
  EXPECT_EQ(config.dns, 0xc0a84c03);
  EXPECT_EQ(config.guest, 0xc0a84c0f);
  EXPECT_EQ(read({{"net", "172.16.0.0/12"}})->mask, 0xfff00000);
  EXPECT_EQ(read({{"net", "10.5.5.0"}})->mask, 0xffffff00);
}

TEST(UsernetRequest, addresses_are_in_the_network_and_different) {
  const UsernetConfig config = read({{"host", "10.0.2.1"}, {"dns", "10.0.2.9"}, {"dhcpstart", "10.0.2.100"}}).value();
  EXPECT_EQ(config.host, 0x0a000201U);
  EXPECT_EQ(config.dns, 0x0a000209U);
  EXPECT_EQ(config.guest, 0x0a000264U);
  for (const char* bad : {"10.0.3.1", "10.0.2.0", "10.0.2.255"})
    EXPECT_EQ(refusal({{"host", bad}}), std::string("host=") + bad + " is no address of the user network");
  for (const char* bad : {"", "10.0.2", "10.0.2.2.2", "10.0.2.256", "10.0.2.-1", "a.b.c.d", "10.0.2.2 "})
    EXPECT_EQ(refusal({{"dns", bad}}), std::string("dns=") + bad + " is no address such as 10.0.2.2");
  EXPECT_NE(refusal({{"dns", "10.0.2.2"}}).find("three different addresses"), std::string::npos);
}

TEST(UsernetRequest, network_that_is_none_is_refused) {
  for (const char* bad :
       {"", "/24", "10.0.2.0/", "10.0.2.0/7", "10.0.2.0/28", "10.0.2.0/x", "10.0.2.0/24/1", "10.0.2/24"})
    EXPECT_NE(refusal({{"net", bad}}).find("is no network such as"), std::string::npos) << bad;
  for (const char* bad : {"127.0.0.0/8", "0.0.0.0/8", "224.0.0.0/24"})
    EXPECT_NE(refusal({{"net", bad}}).find("that no guest can have"), std::string::npos) << bad;
}

TEST(UsernetRequest, rules_as_they_are_written_elsewhere) {
  EXPECT_EQ(forward_of("tcp:127.0.0.1:2222-:22"), (PortForward{false, 0x7f000001, 2222, 0x0a00020f, 22}));
  EXPECT_EQ(forward_of("tcp::8080-10.0.2.20:80"), (PortForward{false, 0, 8080, 0x0a000214, 80}));
  EXPECT_EQ(forward_of("udp::53-:5353"), (PortForward{true, 0, 53, 0x0a00020f, 5353}));
  EXPECT_EQ(forward_of("::65535-:1"), (PortForward{false, 0, 65535, 0x0a00020f, 1}));
  EXPECT_EQ(read({{"hostfwd", "tcp::1-:1;udp::1-:1;tcp::2-:1"}})->forwards.size(), 3U);
}

TEST(UsernetRequest, rules_that_are_none) {
  for (const char* bad : {"", "tcp", "tcp:", "tcp::22", "tcp::22-", "tcp::22-:", "tcp::0-:22", "tcp::22-:0",
                          "tcp::65536-:1", "tcp::22-:65536", "sctp::22-:22", "tcp:1.2.3:22-:22", "tcp::22-10.0.3.1:22",
                          "tcp::22-:22x", "tcp::-22-:22", "tcp::22-:22;", ";tcp::22-:22", "tcp:127.0.0.1:2222:22"})
    EXPECT_NE(refusal({{"hostfwd", bad}}).find("is no rule such as"), std::string::npos) << bad;
  EXPECT_NE(refusal({{"hostfwd", "tcp::22-:22;tcp::22-:23"}}).find("another rule"), std::string::npos);
  EXPECT_NE(refusal({{"hostfwd", "tcp:127.0.0.1:22-:22;tcp::22-:23"}}).find("another rule"), std::string::npos);
  EXPECT_TRUE(read({{"hostfwd", "tcp:127.0.0.1:22-:22;tcp:127.0.0.2:22-:23"}}));
  std::string many = "tcp::1-:1";
  for (std::size_t i = 2; i <= kMaxPortForwards + 1; ++i) many += ";tcp::" + std::to_string(i) + "-:1";
  EXPECT_NE(refusal({{"hostfwd", many}}).find("at most 32"), std::string::npos);
}

TEST(UsernetRequest, switches_and_names) {
  const UsernetConfig config =
      read({{"restrict", "on"}, {"host-loopback", "on"}, {"hostname", "inner"}, {"bootfile", "ipxe.efi"}}).value();
  EXPECT_TRUE(config.restricted);
  EXPECT_TRUE(config.host_loopback);
  EXPECT_EQ(config.hostname, "inner");
  EXPECT_EQ(config.bootfile, "ipxe.efi");
  EXPECT_EQ(refusal({{"restrict", "yes"}}), "restrict=yes must be on or off");
  EXPECT_EQ(refusal({{"host-loopback", ""}}), "host-loopback= must be on or off");
  EXPECT_NE(refusal({{"hostname", std::string(64, 'a')}}).find("longer than 63"), std::string::npos);
  EXPECT_NE(refusal({{"bootfile", std::string(128, 'a')}}).find("longer than 127"), std::string::npos);
}

}  // namespace
}  // namespace bulkhead::vmm
