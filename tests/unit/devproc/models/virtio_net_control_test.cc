// The network device's control queue, and the several queue pairs that it switches. VIRTIO 1.2, section 5.1.6.5.
#include <gmock/gmock.h>

#include "tests/unit/devproc/models/virtio_net_rig.h"

namespace bulkhead::devproc {
namespace {

constexpr std::uint64_t kControl = feature_bit(kNetFCtrlVq) | feature_bit(kNetFCtrlRx) | feature_bit(kNetFCtrlRxExtra) |
                                   feature_bit(kNetFCtrlVlan) | feature_bit(kNetFCtrlMacAddr) |
                                   feature_bit(kNetFCtrlGuestOffloads) | feature_bit(kNetFGuestCsum) |
                                   feature_bit(kNetFGuestTso4);

constexpr MacAddress kOther{0x52, 0x54, 0, 9, 9, 9};
constexpr MacAddress kGroup{0x01, 0, 0x5e, 0, 0, 1};
constexpr MacAddress kOtherGroup{0x33, 0x33, 0, 0, 0, 7};
constexpr MacAddress kBroadcast{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

Frame flag(bool on) { return {static_cast<std::byte>(on)}; }

class VirtioNetControl : public ::testing::Test {
 protected:
  VirtioNetControl() { rig_.start({.more_features = kControl}); }

  void mode(std::uint8_t command, bool on) { EXPECT_EQ(rig_.command(kNetCtrlRx, command, flag(on)), kNetOk); }
  // Whether a frame to this address reaches the driver; a VLAN tag if there is one.
  bool reaches(const MacAddress& to, std::optional<std::uint16_t> vlan = std::nullopt) {
    Frame frame = ethernet(100, 1, to);
    if (vlan) {
      frame[12] = std::byte{0x81};
      frame[13] = std::byte{0};
      frame[14] = static_cast<std::byte>(0xe0 | *vlan >> 8);  // with a priority
      frame[15] = static_cast<std::byte>(*vlan);
    }
    rig_.add_buffer({2000});
    rig_.kick(0);
    rig_.put(0, with_header(frame));
    const auto got = rig_.take_frame();
    if (got) {
      EXPECT_EQ(*got, frame);
    } else {
      // The buffer is used up, so that the next one is the next frame's.
      mode_of_all_frames();
    }
    return got.has_value();
  }
  void mode_of_all_frames() {
    const bool promiscuous = (rig_.counter("receive_modes") & 1) != 0;
    mode(kNetCtrlRxPromisc, true);
    rig_.put(0, with_header(ethernet(60)));
    EXPECT_TRUE(rig_.take_frame());
    if (!promiscuous) mode(kNetCtrlRxPromisc, false);
  }
  static Frame table(std::span<const MacAddress> unicast, std::span<const MacAddress> multicast) {
    Frame all = bytes_of(static_cast<std::uint32_t>(unicast.size()));
    for (const MacAddress& one : unicast) all = joined(all, bytes_of(one));
    all = joined(all, bytes_of(static_cast<std::uint32_t>(multicast.size())));
    for (const MacAddress& one : multicast) all = joined(all, bytes_of(one));
    return all;
  }

  NetRig rig_;
};

TEST_F(VirtioNetControl, everything_passes_until_the_driver_says_otherwise) {
  for (const MacAddress& to : {kMac, kOther, kGroup, kBroadcast}) EXPECT_TRUE(reaches(to));
  EXPECT_TRUE(reaches(kMac, std::uint16_t{5}));
}

TEST_F(VirtioNetControl, receive_modes) {
  mode(kNetCtrlRxPromisc, false);
  EXPECT_TRUE(reaches(kMac));
  EXPECT_FALSE(reaches(kOther));
  EXPECT_FALSE(reaches(kGroup));
  EXPECT_TRUE(reaches(kBroadcast));
  EXPECT_EQ(rig_.counter("received_filtered"), 2U);

  mode(kNetCtrlRxAllmulti, true);
  EXPECT_TRUE(reaches(kGroup));
  EXPECT_FALSE(reaches(kOther));
  mode(kNetCtrlRxNomulti, true);
  EXPECT_FALSE(reaches(kGroup));
  EXPECT_TRUE(reaches(kBroadcast));

  mode(kNetCtrlRxAlluni, true);
  EXPECT_TRUE(reaches(kOther));
  mode(kNetCtrlRxNouni, true);
  EXPECT_FALSE(reaches(kOther));
  EXPECT_FALSE(reaches(kMac));

  mode(kNetCtrlRxNobcast, true);
  EXPECT_FALSE(reaches(kBroadcast));
  mode(kNetCtrlRxNobcast, false);
  EXPECT_TRUE(reaches(kBroadcast));
  mode(kNetCtrlRxPromisc, true);
  for (const MacAddress& to : {kMac, kOther, kGroup, kBroadcast}) EXPECT_TRUE(reaches(to));
}

TEST_F(VirtioNetControl, mac_table) {
  mode(kNetCtrlRxPromisc, false);
  const MacAddress unicast[] = {kOther};
  const MacAddress multicast[] = {kOtherGroup, kGroup};
  EXPECT_EQ(rig_.command(kNetCtrlMac, kNetCtrlMacTableSet, table(unicast, multicast), 1), kNetOk);
  for (const MacAddress& to : {kMac, kOther, kGroup, kOtherGroup}) EXPECT_TRUE(reaches(to));
  EXPECT_FALSE(reaches({0x52, 0, 0, 0, 0, 0}));
  EXPECT_EQ(rig_.command(kNetCtrlMac, kNetCtrlMacTableSet, table({}, std::span(multicast).first(1))), kNetOk);
  EXPECT_FALSE(reaches(kOther)) << "the table is replaced";
  EXPECT_FALSE(reaches(kGroup));
  EXPECT_TRUE(reaches(kOtherGroup));
}

TEST_F(VirtioNetControl, mac_table_that_overflows_lets_its_whole_kind_pass) {
  mode(kNetCtrlRxPromisc, false);
  const std::vector<MacAddress> full(ReceiveFilter::kMostAddresses, kOther);
  const std::vector<MacAddress> over(ReceiveFilter::kMostAddresses + 1, kOtherGroup);
  EXPECT_EQ(rig_.command(kNetCtrlMac, kNetCtrlMacTableSet, table(full, over)), kNetOk);
  EXPECT_TRUE(reaches(kOther));
  EXPECT_FALSE(reaches({0x52, 0, 0, 0, 0, 0}));
  EXPECT_TRUE(reaches(kGroup));
}

TEST_F(VirtioNetControl, mac_table_that_is_cut_changes_nothing) {
  mode(kNetCtrlRxPromisc, false);
  const MacAddress one[] = {kOther};
  EXPECT_EQ(rig_.command(kNetCtrlMac, kNetCtrlMacTableSet, table(one, {})), kNetOk);
  const Frame whole = table({}, one);
  for (std::size_t length = 0; length < whole.size(); ++length) {
    const Frame cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
    EXPECT_EQ(rig_.command(kNetCtrlMac, kNetCtrlMacTableSet, cut), kNetErr) << length;
  }
  EXPECT_EQ(rig_.command(kNetCtrlMac, kNetCtrlMacTableSet, joined(whole, Frame(1))), kNetErr) << "too long";
  const std::vector<MacAddress> over(ReceiveFilter::kMostAddresses + 1, kOtherGroup);
  for (const Frame& overflow : {table(over, {}), table({}, over)}) {
    const Frame cut(overflow.begin(), overflow.end() - 1);
    EXPECT_EQ(rig_.command(kNetCtrlMac, kNetCtrlMacTableSet, cut), kNetErr) << "its end is missing";
  }
  EXPECT_EQ(rig_.command(kNetCtrlMac, kNetCtrlMacTableSet, Frame(8, std::byte{0xff})), kNetErr) << "2^32 - 1 of them";
  EXPECT_TRUE(reaches(kOther));
}

TEST_F(VirtioNetControl, mac_address) {
  mode(kNetCtrlRxPromisc, false);
  EXPECT_EQ(rig_.command(kNetCtrlMac, kNetCtrlMacAddrSet, bytes_of(kOther)), kNetOk);
  for (std::uint32_t i = 0; i < 6; ++i) EXPECT_EQ(rig_.config_field(i, 1), kOther[i]);
  EXPECT_TRUE(reaches(kOther));
  EXPECT_FALSE(reaches(kMac));
}

TEST_F(VirtioNetControl, vlans) {
  mode(kNetCtrlRxPromisc, false);
  EXPECT_FALSE(reaches(kMac, std::uint16_t{5}));
  EXPECT_TRUE(reaches(kMac, std::uint16_t{0})) << "only a priority";
  for (const std::uint16_t vlan : {5, 4095})
    EXPECT_EQ(rig_.command(kNetCtrlVlan, kNetCtrlVlanAdd, bytes_of(vlan)), kNetOk);
  EXPECT_TRUE(reaches(kMac, std::uint16_t{5}));
  EXPECT_TRUE(reaches(kMac, std::uint16_t{4095}));
  EXPECT_FALSE(reaches(kMac, std::uint16_t{4}));
  EXPECT_FALSE(reaches(kOther, std::uint16_t{5})) << "the address counts as well";
  EXPECT_EQ(rig_.command(kNetCtrlVlan, kNetCtrlVlanDel, bytes_of(std::uint16_t{5})), kNetOk);
  EXPECT_FALSE(reaches(kMac, std::uint16_t{5}));
  EXPECT_EQ(rig_.command(kNetCtrlVlan, kNetCtrlVlanAdd, bytes_of(std::uint16_t{4096})), kNetErr);
}

TEST_F(VirtioNetControl, guest_offloads) {
  const auto set = [&](std::uint64_t bits) {
    return rig_.command(kNetCtrlGuestOffloads, kNetCtrlGuestOffloadsSet, bytes_of(bits));
  };
  EXPECT_EQ(rig_.frames[0]->offloads, (FrameBackend::Offloads{.checksum = true, .tso4 = true}));
  EXPECT_EQ(set(0), kNetOk);
  EXPECT_EQ(rig_.frames[0]->offloads, FrameBackend::Offloads{});
  EXPECT_EQ(set(feature_bit(kNetFGuestCsum)), kNetOk);
  EXPECT_EQ(rig_.frames[0]->offloads, FrameBackend::Offloads{.checksum = true});
  EXPECT_EQ(set(feature_bit(kNetFGuestTso6)), kNetErr) << "not agreed on";
  EXPECT_EQ(set(feature_bit(kNetFCsum)), kNetErr) << "agreed on or not, it is none of these";
  EXPECT_EQ(rig_.frames[0]->offloads, FrameBackend::Offloads{.checksum = true});
  // What the driver set outlives the process, and bus mastering that comes and goes.
  rig_.restart();
  rig_.device->on_function_control(kControlMemoryEnable);
  rig_.device->on_function_control(kControlMemoryEnable | kControlBusMaster);
  EXPECT_EQ(rig_.frames[0]->offloads, FrameBackend::Offloads{.checksum = true});
  rig_.add_buffer({5000});
  rig_.kick(0);
  rig_.put(0, with_header(ethernet(4000), {.flags = 1, .gso_type = 1, .gso_size = 1000, .csum_start = 34}));
  EXPECT_EQ(rig_.counter("received_not_agreed"), 1U) << "a frame that came before";
}

TEST_F(VirtioNetControl, commands_that_are_malformed_or_unknown_change_nothing) {
  const auto before = rig_.counter("receive_modes");
  int refused = 0;
  const auto expect_refused = [&](std::uint8_t its_class, std::uint8_t command, const Frame& data) {
    EXPECT_EQ(rig_.command(its_class, command, data), kNetErr) << int{its_class} << ' ' << int{command};
    ++refused;
  };
  expect_refused(kNetCtrlRx, 6, flag(true));
  expect_refused(kNetCtrlRx, kNetCtrlRxPromisc, {});
  expect_refused(kNetCtrlRx, kNetCtrlRxPromisc, Frame(2));
  expect_refused(kNetCtrlMac, 2, Frame(6));
  expect_refused(kNetCtrlMac, kNetCtrlMacAddrSet, Frame(5));
  expect_refused(kNetCtrlMac, kNetCtrlMacAddrSet, Frame(7));
  expect_refused(kNetCtrlVlan, 2, Frame(2));
  expect_refused(kNetCtrlVlan, kNetCtrlVlanAdd, Frame(1));
  expect_refused(3, 0, {});
  expect_refused(kNetCtrlMq, kNetCtrlMqVqPairsSet, bytes_of(std::uint16_t{1}));  // MQ was not agreed on
  expect_refused(kNetCtrlGuestOffloads, 1, Frame(8));
  expect_refused(kNetCtrlGuestOffloads, kNetCtrlGuestOffloadsSet, Frame(4));
  expect_refused(200, 0, Frame(100'000));
  EXPECT_EQ(rig_.raw_command(Frame(1)), kNetErr);
  EXPECT_EQ(rig_.counter("commands_refused"), static_cast<std::uint64_t>(refused) + 1);
  EXPECT_EQ(rig_.counter("receive_modes"), before);
  // In any split.
  for (std::size_t split = 1; split <= 3; ++split)
    EXPECT_EQ(rig_.command(kNetCtrlRx, kNetCtrlRxAllmulti, flag(true), split), kNetOk);
}

TEST_F(VirtioNetControl, command_without_a_place_for_the_answer_is_given_back) {
  rig_.add_readable(rig_.control_queue(), Frame{std::byte{0}, std::byte{1}, std::byte{1}});
  rig_.kick(rig_.control_queue());
  const auto used = rig_.drivers[rig_.control_queue()]->take_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->written, 0U);
  EXPECT_EQ(rig_.counter("receive_modes"), 1U);
}

TEST(VirtioNetControlFeatures, commands_of_features_that_were_not_agreed_on_are_refused) {
  NetRig rig;
  rig.start({.more_features = feature_bit(kNetFCtrlVq)});
  EXPECT_EQ(rig.command(kNetCtrlRx, kNetCtrlRxPromisc, flag(false)), kNetErr);
  EXPECT_EQ(rig.command(kNetCtrlRx, kNetCtrlRxNobcast, flag(true)), kNetErr);
  EXPECT_EQ(rig.command(kNetCtrlMac, kNetCtrlMacTableSet, Frame(8)), kNetErr);
  EXPECT_EQ(rig.command(kNetCtrlMac, kNetCtrlMacAddrSet, Frame(6)), kNetErr);
  EXPECT_EQ(rig.command(kNetCtrlVlan, kNetCtrlVlanAdd, bytes_of(std::uint16_t{5})), kNetErr);
  EXPECT_EQ(rig.command(kNetCtrlGuestOffloads, kNetCtrlGuestOffloadsSet, Frame(8)), kNetErr);
  EXPECT_EQ(rig.counter("commands_refused"), 6U);
}

// ---- Several pairs ----

class VirtioNetPairs : public ::testing::Test {
 protected:
  VirtioNetPairs() : rig_(4) { rig_.start({.more_features = feature_bit(kNetFCtrlVq) | feature_bit(kNetFMq)}); }
  std::optional<std::uint8_t> use_pairs(std::uint16_t pairs) {
    return rig_.command(kNetCtrlMq, kNetCtrlMqVqPairsSet, bytes_of(pairs));
  }
  NetRig rig_;
};

TEST_F(VirtioNetPairs, control_queue_is_behind_all_of_them) {
  EXPECT_EQ(rig_.control_queue(), 8);
  EXPECT_EQ(use_pairs(4), kNetOk);
  EXPECT_EQ(rig_.counter("pairs"), 4U);
  for (const std::uint16_t bad : {0, 5, 0xffff}) EXPECT_EQ(use_pairs(bad), kNetErr);
  EXPECT_EQ(rig_.counter("pairs"), 4U);
}

TEST(VirtioNetOnePair, control_queue_of_a_driver_without_mq_is_queue_2) {
  NetRig rig(4);
  rig.start({.more_features = kControl});
  EXPECT_EQ(rig.control_queue(), 2);
  EXPECT_EQ(rig.command(kNetCtrlRx, kNetCtrlRxPromisc, flag(false)), kNetOk);
  EXPECT_EQ(rig.counter("receive_modes"), 0U);
}

TEST_F(VirtioNetPairs, frames_of_all_backends_reach_the_pairs_in_use) {
  for (std::uint16_t queue = 0; queue < 8; queue += 2) {
    for (int i = 0; i < 12; ++i) rig_.add_buffer({2000}, queue);
    rig_.kick(queue);
  }
  std::uint32_t number = 0;
  for (const std::uint16_t pairs : {1, 3, 4, 2}) {
    ASSERT_EQ(use_pairs(pairs), kNetOk);
    for (std::uint16_t backend = 0; backend < 4; ++backend) {
      EXPECT_TRUE(rig_.frames[backend]->wanted);
      rig_.put(backend, with_header(ethernet(100, ++number)));
      for (std::uint16_t pair = 0; pair < 4; ++pair) {
        const auto got = rig_.take_frame(static_cast<std::uint16_t>(2 * pair));
        EXPECT_EQ(got.has_value(), pair == backend % pairs) << pairs << ' ' << backend << ' ' << pair;
        EXPECT_EQ(got.value_or(ethernet(100, number)), ethernet(100, number));
      }
    }
  }
}

TEST_F(VirtioNetPairs, queue_without_buffers_stops_the_backends_that_feed_it) {
  ASSERT_EQ(use_pairs(2), kNetOk);
  rig_.put(1, with_header(ethernet(100)));
  EXPECT_TRUE(rig_.frames[0]->wanted);
  EXPECT_FALSE(rig_.frames[1]->wanted);
  EXPECT_TRUE(rig_.frames[2]->wanted);
  EXPECT_FALSE(rig_.frames[3]->wanted);
  // One that is not in use starts none.
  rig_.add_buffer({2000}, 6);
  rig_.kick(6);
  EXPECT_FALSE(rig_.frames[3]->wanted);
  rig_.add_buffer({2000}, 2);
  rig_.kick(2);
  EXPECT_TRUE(rig_.frames[1]->wanted);
  EXPECT_TRUE(rig_.frames[3]->wanted);
  EXPECT_EQ(rig_.take_frame(2), ethernet(100));
  // More pairs: each queue is looked at anew.
  rig_.put(3, with_header(ethernet(100, 2)));
  EXPECT_FALSE(rig_.frames[3]->wanted);
  ASSERT_EQ(use_pairs(4), kNetOk);
  EXPECT_TRUE(rig_.frames[3]->wanted);
  rig_.wake(3);
  EXPECT_EQ(rig_.take_frame(6), ethernet(100, 2));
}

TEST_F(VirtioNetPairs, each_transmit_queue_has_its_backend) {
  ASSERT_EQ(use_pairs(4), kNetOk);
  for (std::uint16_t pair = 0; pair < 4; ++pair) {
    ASSERT_TRUE(rig_.add_readable(static_cast<std::uint16_t>(2 * pair + 1), with_header(ethernet(60, pair))));
    rig_.kick(static_cast<std::uint16_t>(2 * pair + 1));
    EXPECT_EQ(rig_.frames[pair]->sent, std::vector<Frame>(1, with_header(ethernet(60, pair))));
  }
}

}  // namespace
}  // namespace bulkhead::devproc
