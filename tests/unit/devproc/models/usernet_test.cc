// The usernet model: frames between a card's ring and a user network, and what of a guest's frames gets that far.
#include "devproc/models/usernet/usernet.h"

#include <gmock/gmock.h>

#include "devproc/models/usernet/outgoing_filter.h"
#include "devproc/models/usernet/spec.h"
#include "tests/fakes/fake_wires.h"

namespace bulkhead::devproc {
namespace {

using namespace usernet_spec;
using Frame = std::vector<std::byte>;

Frame ipv4(std::uint32_t to, std::uint8_t protocol = kProtocolTcp, std::uint16_t port = 80, std::uint16_t fragment = 0,
           std::uint8_t words = 5) {
  Frame frame(kEthernetHeader + words * 4U + 20);
  const auto put = [&](std::size_t at, std::uint64_t value, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) frame[at + i] = static_cast<std::byte>(value >> (8 * (size - 1 - i)));
  };
  put(kEthernetType, kTypeIpv4, 2);
  put(kEthernetHeader + kIpv4VersionIhl, 0x40U | words, 1);
  put(kEthernetHeader + kIpv4Fragment, fragment, 2);
  put(kEthernetHeader + kIpv4Protocol, protocol, 1);
  put(kEthernetHeader + kIpv4Destination, to, 4);
  put(kEthernetHeader + words * 4U + kDestinationPort, port, 2);
  return frame;
}

const std::uint32_t kDns = UsernetConfig{}.dns;

TEST(OutgoingFilter, loopback_addresses_are_forbidden_unless_asked_for) {
  UsernetConfig config;
  for (const std::uint32_t to : {0x7f000001U, 0x7f000035U, 0x7fffffffU, 0U, 0x00010203U}) {
    config.host_loopback = false;
    EXPECT_EQ(judge_outgoing(ipv4(to), config), Outgoing::kForbidden);
    config.host_loopback = true;
    EXPECT_EQ(judge_outgoing(ipv4(to), config), Outgoing::kPass);
  }
  for (const std::uint32_t to : {0x7effffffU, 0x80000000U, 0x01000000U, 0x0a000202U, 0x08080808U, 0xffffffffU})
    EXPECT_EQ(judge_outgoing(ipv4(to), UsernetConfig{}), Outgoing::kPass);
}

TEST(OutgoingFilter, name_server_is_asked_for_names_alone) {
  const UsernetConfig config;
  for (const std::uint8_t protocol : {kProtocolTcp, kProtocolUdp}) {
    EXPECT_EQ(judge_outgoing(ipv4(kDns, protocol, 53), config), Outgoing::kPass);
    EXPECT_EQ(judge_outgoing(ipv4(kDns, protocol, 54), config), Outgoing::kForbidden);
    EXPECT_EQ(judge_outgoing(ipv4(kDns, protocol, 53, 0x2000), config), Outgoing::kForbidden);
    EXPECT_EQ(judge_outgoing(ipv4(kDns, protocol, 53, 1), config), Outgoing::kForbidden);
    EXPECT_EQ(judge_outgoing(ipv4(kDns, protocol, 53, 0x4000), config), Outgoing::kPass);
    // Where the ports are, the header's length says.
    EXPECT_EQ(judge_outgoing(ipv4(kDns, protocol, 53, 0, 15), config), Outgoing::kPass);
    EXPECT_EQ(judge_outgoing(ipv4(kDns, protocol, 22, 0, 15), config), Outgoing::kForbidden);
  }
  EXPECT_EQ(judge_outgoing(ipv4(kDns, kProtocolIcmp, 0), config), Outgoing::kPass);
  EXPECT_EQ(judge_outgoing(ipv4(kDns, 132, 53), config), Outgoing::kForbidden);
}

TEST(OutgoingFilter, every_cut_of_a_frame_is_judged_without_reading_beyond_it) {
  const Frame whole = ipv4(kDns, kProtocolUdp, 53, 0, 15);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const Frame cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));  // of its own, for the sanitizer
    const Outgoing verdict = judge_outgoing(cut, UsernetConfig{});
    if (size < kEthernetHeader + kIpv4Header) {
      EXPECT_EQ(verdict, Outgoing::kTooShort);
    }
    if (size < kEthernetHeader + 60 + kPorts) {
      EXPECT_NE(verdict, Outgoing::kPass);
    }
  }
}

TEST(OutgoingFilter, other_network_layers_are_forbidden_but_for_arp) {
  Frame frame = ipv4(0x08080808);
  for (const std::uint16_t type : {std::uint16_t{0x86dd}, std::uint16_t{0x8100}, std::uint16_t{0x88cc}}) {
    frame[kEthernetType] = static_cast<std::byte>(type >> 8);
    frame[kEthernetType + 1] = static_cast<std::byte>(type);
    EXPECT_EQ(judge_outgoing(frame, UsernetConfig{}), Outgoing::kForbidden);
  }
  frame[kEthernetType] = std::byte{0x08};
  frame[kEthernetType + 1] = std::byte{0x06};
  EXPECT_EQ(judge_outgoing(frame, UsernetConfig{}), Outgoing::kPass);
}

class UsernetTest : public ::testing::Test {
 protected:
  UsernetTest()
      : fakes_({.frames = 1}),
        device_(allocate_state<UsernetState>(fakes_.state), UsernetConfig{}, fakes_.frames[0], fakes_.network,
                fakes_.clock, fakes_.clock) {
    fakes_.clock.attach(device_);
    device_.reset();
  }
  static Frame with_header(const Frame& frame, std::uint8_t flags = 0, std::uint8_t gso = 0) {
    Frame whole(kFrameHeader + frame.size());
    whole[0] = std::byte{flags};
    whole[1] = std::byte{gso};
    std::copy(frame.begin(), frame.end(), whole.begin() + kFrameHeader);
    return whole;
  }
  FakeFrames& ring() { return fakes_.frames[0]; }

  FakeWires fakes_;
  Usernet device_;
};

TEST_F(UsernetTest, guests_frames_reach_the_network_without_their_headers) {
  const Frame frame = ipv4(0x08080808);
  ring().incoming.push_back(with_header(frame));
  EXPECT_FALSE(device_.on_backend(0));
  EXPECT_THAT(fakes_.network.seen, ::testing::ElementsAre(frame));
  EXPECT_EQ(ring().consumed.size(), 1U);
  EXPECT_GE(fakes_.network.runs, 1);
}

TEST_F(UsernetTest, networks_frames_reach_the_guest_behind_an_empty_header) {
  const Frame frame(60, std::byte{7});
  fakes_.network.to_send.push_back(frame);
  device_.on_backend(1);
  EXPECT_THAT(ring().sent, ::testing::ElementsAre(with_header(frame)));
}

TEST_F(UsernetTest, frames_that_ask_for_offloads_are_too_short_or_forbidden_are_dropped) {
  ring().incoming.push_back(with_header(ipv4(0x08080808), 1));
  ring().incoming.push_back(with_header(ipv4(0x08080808), 0, 1));
  ring().incoming.push_back(Frame(5));
  ring().incoming.push_back(with_header(Frame(13)));
  ring().incoming.push_back(with_header(ipv4(0x7f000001)));
  device_.on_backend(0);
  EXPECT_TRUE(fakes_.network.seen.empty());
  EXPECT_EQ(ring().consumed.size(), 5U);
}

TEST_F(UsernetTest, full_ring_drops_and_counts) {
  ring().room = 1;
  fakes_.network.to_send = {Frame(60), Frame(60), Frame(kMostFrame)};
  device_.on_backend(1);
  EXPECT_EQ(ring().sent.size(), 1U);
  EXPECT_TRUE(fakes_.network.to_send.empty());
}

TEST_F(UsernetTest, one_input_takes_a_bounded_number_of_frames) {
  for (unsigned i = 0; i < Usernet::kMostFrames + 1; ++i) ring().incoming.push_back(with_header(ipv4(0x08080808)));
  EXPECT_TRUE(device_.on_backend(0));
  EXPECT_EQ(fakes_.network.seen.size(), Usernet::kMostFrames);
  EXPECT_FALSE(device_.on_backend(0));
}

TEST_F(UsernetTest, network_is_run_again_when_it_asked_to_be) {
  fakes_.network.again_ns = 5'000'000;
  device_.on_backend(1);
  const int runs = fakes_.network.runs;
  fakes_.clock.advance(std::chrono::milliseconds(4));
  EXPECT_EQ(fakes_.network.runs, runs);
  fakes_.network.again_ns = -1;
  fakes_.clock.advance(std::chrono::milliseconds(2));
  EXPECT_EQ(fakes_.network.runs, runs + 1);
  fakes_.clock.advance(std::chrono::seconds(10));
  EXPECT_EQ(fakes_.network.runs, runs + 1);
}

TEST_F(UsernetTest, poisoned_input_loses_one_frame) {
  ring().incoming.push_back(with_header(ipv4(0x08080808)));
  ring().incoming.push_back(with_header(ipv4(0x08080809)));
  device_.on_backend_poisoned(0);
  EXPECT_TRUE(fakes_.network.seen.empty());
  device_.on_backend(0);
  EXPECT_THAT(fakes_.network.seen, ::testing::ElementsAre(ipv4(0x08080809)));
}

}  // namespace
}  // namespace bulkhead::devproc
