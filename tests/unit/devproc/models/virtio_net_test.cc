// The network device as its driver sees it: features, configuration, transmission, reception. VIRTIO 1.2, section 5.1.
#include <gmock/gmock.h>

#include <tuple>

#include "tests/unit/devproc/models/virtio_net_rig.h"

namespace bulkhead::devproc {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr std::uint64_t kSendOffloads =
    feature_bit(kNetFCsum) | feature_bit(kNetFHostTso4) | feature_bit(kNetFHostTso6) | feature_bit(kNetFHostEcn);
constexpr std::uint64_t kReceiveOffloads = feature_bit(kNetFGuestCsum) | feature_bit(kNetFGuestTso4) |
                                           feature_bit(kNetFGuestTso6) | feature_bit(kNetFGuestEcn);

NetHdr tso(std::uint8_t type, std::uint16_t size = 1448) {
  return {.flags = kNetHdrFNeedsCsum,
          .gso_type = type,
          .hdr_len = 54,
          .gso_size = size,
          .csum_start = 34,
          .csum_offset = 16};
}

TEST(VirtioNet, features_and_configuration) {
  NetRig rig(2);
  const std::uint64_t offered = rig.offered();
  for (const unsigned bit : {kNetFMac,       kNetFStatus,      kNetFMtu,      kNetFMq,          kNetFCtrlVq,
                             kNetFCtrlRx,    kNetFCtrlRxExtra, kNetFCtrlVlan, kNetFCtrlMacAddr, kNetFCtrlGuestOffloads,
                             kNetFCsum,      kNetFGuestCsum,   kNetFHostTso4, kNetFHostTso6,    kNetFHostEcn,
                             kNetFGuestTso4, kNetFGuestTso6,   kNetFGuestEcn, kNetFMrgRxbuf,    kNetFSpeedDuplex,
                             kVirtioFInOrder})
    EXPECT_TRUE(has_feature(offered, bit)) << bit;
  for (const unsigned bit : {10U, 14U, 21U}) EXPECT_FALSE(has_feature(offered, bit)) << bit << ": UFO, announce";
  EXPECT_FALSE(has_feature(NetRig(1).offered(), kNetFMq)) << "one pair";

  EXPECT_EQ(rig.common(kNumQueues, 2), 5U);
  for (std::uint32_t i = 0; i < 6; ++i) EXPECT_EQ(rig.config_field(i, 1), kMac[i]);
  EXPECT_EQ(rig.config_field(6, 2), kNetSLinkUp);
  EXPECT_EQ(rig.config_field(8, 2), 2U);
  EXPECT_EQ(rig.config_field(10, 2), 1500U);
  EXPECT_EQ(rig.config_field(12, 4), 10'000U);
  EXPECT_EQ(rig.config_field(16, 1), kNetFullDuplex);
  EXPECT_EQ(rig.config_field(17, 1), 0U);
  EXPECT_EQ(rig.config_field(4092, 4), 0U);
}

// ---- Transmission ----

class VirtioNetRings : public ::testing::TestWithParam<std::tuple<bool, bool, bool>> {
 protected:
  static NetSetup setup(bool mergeable) {
    const auto [packed, event_idx, in_order] = GetParam();
    return {.packed = packed, .event_idx = event_idx, .in_order = in_order, .indirect = true, .mergeable = mergeable};
  }
};
INSTANTIATE_TEST_SUITE_P(Each, VirtioNetRings,
                         ::testing::Combine(::testing::Bool(), ::testing::Bool(), ::testing::Bool()));

TEST_P(VirtioNetRings, frames_are_sent_however_they_are_cut) {
  NetRig rig;
  rig.start(setup(false));
  std::uint32_t number = 0;
  std::vector<Frame> expected;
  for (const std::initializer_list<std::size_t>& pieces :
       {std::initializer_list<std::size_t>{}, {12}, {1, 11}, {5, 20, 30}, {11, 1, 1, 1, 1}, {13}}) {
    for (const bool indirect : {false, true}) {
      const Frame frame = ethernet(100 + number, number);
      // num_buffers means nothing here, and is not handed on.
      ASSERT_TRUE(rig.send(with_header(frame, {.num_buffers = 77}), pieces, indirect));
      expected.push_back(with_header(frame));
      ++number;
    }
  }
  EXPECT_EQ(rig.frames[0]->sent, expected);
  EXPECT_EQ(rig.counter("sent_frames"), number);
  EXPECT_EQ(rig.counter("sent_bytes"), number * 100 + number * (number - 1) / 2);
}

TEST(VirtioNetSend, lengths_that_are_no_frame_are_dropped_and_given_back) {
  NetRig rig;
  rig.start({});
  EXPECT_TRUE(rig.send(Frame(11)));
  EXPECT_TRUE(rig.send(with_header(ethernet(13))));
  EXPECT_TRUE(rig.send(Frame(kMostFrame + 1)));
  EXPECT_THAT(rig.frames[0]->sent, IsEmpty());
  EXPECT_EQ(rig.counter("sent_bad_length"), 3U);
  EXPECT_TRUE(rig.send(with_header(ethernet(14))));
  EXPECT_TRUE(rig.send(Frame(kMostFrame)));
  EXPECT_EQ(rig.frames[0]->sent.size(), 2U);
  EXPECT_EQ(rig.counter("sent_frames"), 2U);
}

TEST(VirtioNetSend, offloads_that_were_agreed_on_are_handed_on) {
  NetRig rig;
  rig.start({.more_features = kSendOffloads});
  const NetHdr headers[] = {tso(kNetHdrGsoTcpV4), tso(kNetHdrGsoTcpV6), tso(kNetHdrGsoTcpV4 | kNetHdrGsoEcn),
                            NetHdr{.flags = kNetHdrFNeedsCsum, .csum_start = 34, .csum_offset = 16}};
  for (const NetHdr& header : headers) {
    ASSERT_TRUE(rig.send(with_header(ethernet(4000), header)));
    EXPECT_EQ(rig.frames[0]->sent.back(), with_header(ethernet(4000), header));
  }
}

TEST(VirtioNetSend, offloads_that_were_not_agreed_on_are_dropped) {
  struct Case {
    std::uint64_t without;
    NetHdr header;
  };
  const NetHdr checksum{.flags = kNetHdrFNeedsCsum, .csum_start = 34, .csum_offset = 16};
  for (const Case& one :
       {Case{feature_bit(kNetFCsum), checksum}, Case{feature_bit(kNetFHostTso4), tso(kNetHdrGsoTcpV4)},
        Case{feature_bit(kNetFHostTso6), tso(kNetHdrGsoTcpV6)},
        Case{feature_bit(kNetFHostEcn), tso(kNetHdrGsoTcpV4 | kNetHdrGsoEcn)},
        Case{feature_bit(kNetFCsum), tso(kNetHdrGsoTcpV4)}, Case{0, tso(3)}, Case{0, tso(5)}}) {
    NetRig rig;
    rig.start({.more_features = kSendOffloads & ~one.without});
    EXPECT_TRUE(rig.send(with_header(ethernet(4000), one.header)));
    EXPECT_THAT(rig.frames[0]->sent, IsEmpty()) << int{one.header.gso_type};
    EXPECT_EQ(rig.counter("sent_not_agreed"), 1U);
  }
}

TEST(VirtioNetSend, headers_that_contradict_themselves_are_dropped) {
  NetRig rig;
  rig.start({.more_features = kSendOffloads});
  NetHdr no_checksum = tso(kNetHdrGsoTcpV4);
  no_checksum.flags = 0;
  NetHdr outside = tso(kNetHdrGsoTcpV4);
  outside.csum_start = 83;
  const NetHdr headers[] = {tso(kNetHdrGsoTcpV4, 0), no_checksum, outside, NetHdr{.gso_type = kNetHdrGsoEcn},
                            NetHdr{.flags = 1, .csum_start = 0xffff, .csum_offset = 0xffff}};
  for (const NetHdr& header : headers) EXPECT_TRUE(rig.send(with_header(ethernet(100), header)));
  EXPECT_THAT(rig.frames[0]->sent, IsEmpty());
  EXPECT_EQ(rig.counter("sent_bad_header"), std::size(headers));
  // Just inside, it is none; and what means nothing is cleared.
  outside.csum_start = 82;
  outside.hdr_len = 5000;
  EXPECT_TRUE(rig.send(with_header(ethernet(100), outside)));
  outside.hdr_len = 100;
  EXPECT_EQ(rig.frames[0]->sent.back(), with_header(ethernet(100), outside));
  EXPECT_TRUE(rig.send(with_header(ethernet(100), {.flags = 6, .hdr_len = 9, .gso_size = 9, .csum_start = 9})));
  EXPECT_EQ(rig.frames[0]->sent.back(), with_header(ethernet(100)));
}

TEST_P(VirtioNetRings, full_backend_leaves_the_chain_with_the_driver) {
  NetRig rig;
  rig.start(setup(false));
  rig.frames[0]->room = 2;
  for (std::uint32_t i = 0; i < 4; ++i) ASSERT_TRUE(rig.add_readable(1, with_header(ethernet(60, i)), {12}, i == 3));
  rig.kick(1);
  EXPECT_EQ(rig.frames[0]->sent.size(), 2U);
  EXPECT_TRUE(rig.drivers[1]->take_used());
  EXPECT_TRUE(rig.drivers[1]->take_used());
  EXPECT_FALSE(rig.drivers[1]->take_used());
  // Room for one more, and a process that has died meanwhile.
  rig.restart();
  rig.frames[0]->room = 1;
  rig.wake(0);
  EXPECT_TRUE(rig.drivers[1]->take_used());
  EXPECT_FALSE(rig.drivers[1]->take_used());
  rig.frames[0]->room = -1;
  rig.wake(0);
  EXPECT_TRUE(rig.drivers[1]->take_used());
  for (std::uint32_t i = 0; i < 4; ++i) EXPECT_EQ(rig.frames[0]->sent.at(i), with_header(ethernet(60, i)));
  // Kicks are on again.
  rig.drivers[1]->must_kick();
  rig.add_readable(1, with_header(ethernet(60)));
  EXPECT_TRUE(rig.drivers[1]->must_kick());
  EXPECT_EQ(rig.drivers[1]->complaint(), "");
}

TEST(VirtioNetSend, one_input_sends_so_many_bytes) {
  NetRig rig;
  rig.start({.size = 64});
  for (std::uint32_t i = 0; i < 20; ++i) ASSERT_TRUE(rig.add_readable(1, with_header(ethernet(60'000, i))));
  EXPECT_TRUE(rig.device->on_queue(1));
  EXPECT_EQ(rig.frames[0]->sent.size(), VirtioNet::kMostBytes / 60'000 + 1);
  rig.show();
  rig.kick(1);
  EXPECT_EQ(rig.frames[0]->sent.size(), 20U);
}

TEST(VirtioNetSend, backend_that_was_full_is_served_until_nothing_is_left) {
  NetRig rig;
  rig.start({.size = 64});
  rig.frames[0]->room = 0;
  for (std::uint32_t i = 0; i < 20; ++i) ASSERT_TRUE(rig.add_readable(1, with_header(ethernet(60'000, i))));
  rig.kick(1);
  EXPECT_EQ(rig.frames[0]->refused, 1) << "it is not asked again before it tells";
  rig.frames[0]->room = -1;
  rig.wake(0);
  EXPECT_EQ(rig.frames[0]->sent.size(), 20U) << "over several inputs";
}

TEST(VirtioNetSend, header_outside_ram_needs_a_reset) {
  NetRig rig;
  rig.start({});
  const VirtioDriver::Buffer outside[] = {{std::uint64_t{1} << 40, 100, false}};
  rig.drivers[1]->add(outside);
  rig.kick(1);
  EXPECT_NE(rig.common(kDeviceStatus, 1) & kStatusNeedsReset, 0U);
}

// ---- Reception ----

TEST_P(VirtioNetRings, frame_fills_one_chain_whatever_its_shape) {
  for (const bool mergeable : {false, true}) {
    NetRig rig;
    rig.start(setup(mergeable));
    std::uint32_t number = 0;
    for (const std::initializer_list<std::size_t>& lengths :
         {std::initializer_list<std::size_t>{2000}, {12, 1500}, {1, 11, 100, 1500}, {7, 50, 1500}}) {
      rig.add_buffer(lengths);
      rig.kick(0);
      rig.put(0, with_header(ethernet(200 + number, number), {.num_buffers = 9}));
      EXPECT_EQ(rig.take_frame(), ethernet(200 + number, number));
      EXPECT_EQ(rig.last_header, (NetHdr{.num_buffers = 1}));
      ++number;
    }
    EXPECT_EQ(rig.counter("received_frames"), number);
    EXPECT_EQ(rig.counter("received_bytes"), 200U * number + number * (number - 1) / 2);
    EXPECT_EQ(rig.frames[0]->consumed.size(), number);
  }
}

TEST_P(VirtioNetRings, frame_is_merged_of_as_many_chains_as_it_needs) {
  NetRig rig;
  rig.start(setup(true));
  for (int i = 0; i < 3; ++i) rig.add_buffer({5, 7, 88});  // the header is not in one piece
  rig.add_buffer({100});
  rig.kick(0);
  rig.put(0, with_header(ethernet(250)));
  EXPECT_EQ(rig.take_frame(), ethernet(250));
  EXPECT_EQ(rig.last_header, (NetHdr{.num_buffers = 3}));
  rig.put(0, with_header(ethernet(88)));
  EXPECT_EQ(rig.take_frame(), ethernet(88)) << "exactly full";
  EXPECT_EQ(rig.last_chains, 1U);
}

TEST_P(VirtioNetRings, frame_waits_until_there_are_buffers_for_all_of_it) {
  NetRig rig;
  rig.start(setup(true));
  rig.add_buffer({100});
  rig.add_buffer({100});
  rig.kick(0);
  EXPECT_TRUE(rig.frames[0]->wanted);
  rig.put(0, with_header(ethernet(250, 1)));
  EXPECT_EQ(rig.frames[0]->incoming.size(), 1U) << "it stays";
  EXPECT_FALSE(rig.frames[0]->wanted) << "nobody is woken for what cannot be taken";
  EXPECT_FALSE(rig.drivers[0]->has_used());
  rig.drivers[0]->must_kick();
  rig.add_buffer({100});
  ASSERT_TRUE(rig.drivers[0]->must_kick()) << "the driver is asked to kick, behind what is there";
  rig.kick(0);
  EXPECT_TRUE(rig.frames[0]->wanted);
  EXPECT_EQ(rig.take_frame(), ethernet(250, 1));
  EXPECT_EQ(rig.last_chains, 3U);
  EXPECT_EQ(rig.drivers[0]->complaint(), "");
}

// Its driver would wait for the device, and the device for its driver.
TEST_P(VirtioNetRings, frame_that_the_whole_queue_cannot_hold_is_dropped) {
  for (const std::uint16_t cut : {0, 10}) {
    NetRig rig;
    rig.start(setup(true));
    while (rig.drivers[0]->free_descriptors() >= (cut != 0 ? 2 : 1)) {
      if (cut != 0)
        rig.add_buffer({cut, 90});
      else
        rig.add_buffer({100});
    }
    rig.kick(0);
    rig.put(0, with_header(ethernet(1600, 1)));
    EXPECT_EQ(rig.counter("received_no_fit"), 1U);
    rig.put(0, with_header(ethernet(700, 2)));
    EXPECT_EQ(rig.take_frame(), ethernet(700, 2));
  }
}

TEST_P(VirtioNetRings, no_buffers_no_frames_until_the_kick) {
  NetRig rig;
  rig.start(setup(false));
  rig.put(0, with_header(ethernet(100, 1)));
  rig.put(0, with_header(ethernet(100, 2)));
  EXPECT_FALSE(rig.frames[0]->wanted);
  for (std::uint32_t i = 1; i <= 2; ++i) {
    rig.drivers[0]->must_kick();
    rig.add_buffer({2000});
    ASSERT_TRUE(rig.drivers[0]->must_kick());
    rig.kick(0);
    EXPECT_EQ(rig.take_frame(), ethernet(100, i));
    EXPECT_EQ(rig.frames[0]->wanted, i == 2);
  }
}

// A buffer that the driver adds while the device asks for kicks did not ring.
TEST_P(VirtioNetRings, buffer_that_comes_while_kicks_are_turned_on_is_seen) {
  NetRig rig;
  rig.start(setup(false));
  rig.frames[0]->incoming.push_back(with_header(ethernet(100)));
  const std::uint64_t writes = rig.memory.writes;
  bool added = false;
  rig.memory.after_access = [&] {
    if (added || rig.memory.writes == writes) return;
    added = true;  // behind the write that turns kicks on, before the last look
    rig.add_buffer({2000});
  };
  rig.wake(0);
  EXPECT_EQ(rig.take_frame(), ethernet(100));
}

TEST(VirtioNetReceive, without_merging_a_frame_that_does_not_fit_is_dropped) {
  NetRig rig;
  rig.start({});
  rig.add_buffer({111});
  rig.kick(0);
  rig.put(0, with_header(ethernet(100, 1)));
  EXPECT_THAT(rig.frames[0]->incoming, IsEmpty());
  EXPECT_FALSE(rig.drivers[0]->has_used()) << "the buffer is still the device's";
  EXPECT_EQ(rig.counter("received_no_fit"), 1U);
  rig.put(0, with_header(ethernet(99, 2)));
  EXPECT_EQ(rig.take_frame(), ethernet(99, 2));
}

TEST(VirtioNetReceive, header_has_to_fit_the_first_chain) {
  NetRig rig;
  rig.start({.mergeable = true});
  rig.add_buffer({11});
  rig.add_buffer({2000});
  rig.kick(0);
  rig.put(0, with_header(ethernet(100)));
  EXPECT_EQ(rig.counter("received_no_fit"), 1U);
  EXPECT_FALSE(rig.drivers[0]->has_used());
}

TEST(VirtioNetReceive, frame_that_needs_more_chains_than_an_input_has_is_dropped) {
  NetRig rig;
  rig.start({.mergeable = true, .size = 128});
  for (int i = 0; i < 100; ++i) rig.add_buffer({20});
  rig.kick(0);
  rig.put(0, with_header(ethernet(20 * kMaxShown - 11)));
  EXPECT_EQ(rig.counter("received_no_fit"), 1U);
  // One less fits, in an input of its own.
  rig.frames[0]->incoming.push_back(with_header(ethernet(20)));
  rig.frames[0]->incoming.push_back(with_header(ethernet(20 * kMaxShown - 12)));
  rig.wake(0);
  EXPECT_EQ(rig.take_frame(), ethernet(20));
  EXPECT_EQ(rig.take_frame(), ethernet(20 * kMaxShown - 12));
  EXPECT_EQ(rig.last_chains, kMaxShown);
}

TEST(VirtioNetReceive, offloads_reach_a_driver_that_agreed) {
  NetRig rig;
  rig.start({.more_features = kReceiveOffloads});
  EXPECT_EQ(rig.frames[0]->offloads,
            (FrameBackend::Offloads{.checksum = true, .tso4 = true, .tso6 = true, .ecn = true}));
  NetHdr valid{.flags = kNetHdrFDataValid};
  NetHdr complete = tso(kNetHdrGsoTcpV6);
  complete.flags = kNetHdrFDataValid;
  complete.csum_start = complete.csum_offset = 0;
  for (NetHdr header : {valid, tso(kNetHdrGsoTcpV4), tso(kNetHdrGsoTcpV6 | kNetHdrGsoEcn), complete}) {
    rig.add_buffer({5000});
    rig.kick(0);
    rig.put(0, with_header(ethernet(4000), header));
    EXPECT_EQ(rig.take_frame(), ethernet(4000));
    header.num_buffers = 1;
    EXPECT_EQ(rig.last_header, header);
  }
}

TEST(VirtioNetReceive, offloads_do_not_reach_a_driver_that_did_not_agree) {
  NetRig rig;
  rig.start({.more_features = feature_bit(kNetFGuestTso4)});  // without GUEST_CSUM: as good as nothing
  EXPECT_EQ(rig.frames[0]->offloads, FrameBackend::Offloads{});
  rig.add_buffer({5000});
  rig.kick(0);
  rig.put(0, with_header(ethernet(100), {.flags = kNetHdrFNeedsCsum, .csum_start = 34, .csum_offset = 16}));
  rig.put(0, with_header(ethernet(4000), tso(kNetHdrGsoTcpV4)));
  EXPECT_FALSE(rig.drivers[0]->has_used());
  EXPECT_EQ(rig.counter("received_not_agreed"), 2U);
  rig.put(0, with_header(ethernet(100), {.flags = kNetHdrFDataValid}));
  EXPECT_EQ(rig.take_frame(), ethernet(100));
  EXPECT_EQ(rig.last_header.flags, 0) << "a hint that means nothing to this driver";
}

TEST(VirtioNetReceive, what_is_no_frame_is_dropped) {
  NetRig rig;
  rig.start({.more_features = kReceiveOffloads});
  rig.add_buffer({80'000});
  rig.kick(0);
  rig.put(0, Frame(5));
  rig.put(0, with_header(ethernet(13)));
  rig.put(0, Frame(kMostFrame + 1));
  EXPECT_EQ(rig.counter("received_bad_length"), 3U);
  rig.put(0, with_header(ethernet(50), tso(kNetHdrGsoTcpV4)));
  EXPECT_EQ(rig.counter("received_bad_header"), 1U) << "its checksum lies outside";
  EXPECT_FALSE(rig.drivers[0]->has_used());
  EXPECT_THAT(rig.frames[0]->incoming, IsEmpty());
  EXPECT_EQ(rig.counter("received_lost"), 0U) << "what became of each is known";
  rig.frames[0]->lost = 2;
  EXPECT_EQ(rig.counter("received_lost"), 2U);
}

TEST(VirtioNetReceive, buffer_outside_ram_needs_a_reset) {
  for (const bool mergeable : {false, true}) {
    NetRig rig;
    rig.start({.mergeable = mergeable});
    const VirtioDriver::Buffer outside[] = {{std::uint64_t{1} << 40, 2000, true}};
    rig.drivers[0]->add(outside);
    rig.put(0, with_header(ethernet(100)));
    EXPECT_NE(rig.common(kDeviceStatus, 1) & kStatusNeedsReset, 0U);
    EXPECT_FALSE(rig.frames[0]->wanted);
  }
}

TEST(VirtioNetReceive, a_frame_that_ends_processes_is_dropped_and_the_card_goes_on) {
  NetRig rig;
  rig.start({});
  rig.add_buffer({2000});
  rig.frames[0]->incoming.push_back(with_header(ethernet(100, 1)));
  rig.device->on_backend_poisoned(0);
  rig.show();
  EXPECT_EQ(rig.counter("received_poisoned"), 1U);
  EXPECT_EQ(rig.common(kDeviceStatus, 1) & kStatusNeedsReset, 0U);
  rig.put(0, with_header(ethernet(100, 2)));
  EXPECT_EQ(rig.take_frame(), ethernet(100, 2));
  EXPECT_EQ(rig.counter("received_lost"), 0U);
}

TEST(VirtioNetSend, a_chain_that_waits_for_room_and_ends_processes_needs_a_reset) {
  NetRig rig;
  rig.start({});
  rig.frames[0]->room = 0;
  ASSERT_TRUE(rig.add_readable(1, with_header(ethernet(100))));
  rig.kick(1);
  rig.device->on_backend_poisoned(0);
  rig.show();
  EXPECT_NE(rig.common(kDeviceStatus, 1) & kStatusNeedsReset, 0U);
}

TEST(VirtioNetReceive, one_input_handles_so_many_frames) {
  NetRig rig;
  rig.start({});
  for (unsigned i = 0; i < 3 * VirtioNet::kMostFrames; ++i) rig.frames[0]->incoming.push_back(Frame(1));
  EXPECT_TRUE(rig.device->on_backend(0));
  EXPECT_EQ(rig.frames[0]->consumed.size(), VirtioNet::kMostFrames);
  rig.show();
  rig.wake(0);
  EXPECT_EQ(rig.frames[0]->consumed.size(), 3 * VirtioNet::kMostFrames);
}

// ---- Life ----

TEST(VirtioNetLife, nothing_is_received_before_driver_ok_or_without_bus_mastering) {
  NetRig rig;
  rig.put(0, with_header(ethernet(100, 1)));
  EXPECT_FALSE(rig.frames[0]->wanted);
  EXPECT_EQ(rig.frames[0]->incoming.size(), 1U);
  rig.start({});
  EXPECT_TRUE(rig.frames[0]->wanted);
  rig.add_buffer({2000});
  rig.device->on_function_control(kControlMemoryEnable);
  rig.wake(0);
  EXPECT_FALSE(rig.frames[0]->wanted);
  EXPECT_FALSE(rig.drivers[0]->has_used());
  rig.device->on_function_control(kControlMemoryEnable | kControlBusMaster);
  EXPECT_TRUE(rig.frames[0]->wanted);
  rig.wake(0);
  EXPECT_EQ(rig.take_frame(), ethernet(100, 1));
}

TEST(VirtioNetLife, link_is_told_by_a_configuration_change) {
  NetRig rig;
  rig.start({.more_features = feature_bit(kNetFStatus)});
  const std::uint32_t generation = rig.common(kConfigGeneration, 1);
  rig.frames[0]->link_up = false;
  rig.wake(0);
  EXPECT_EQ(rig.config_field(6, 2), 0U);
  EXPECT_NE(rig.common(kConfigGeneration, 1), generation);
  EXPECT_EQ(rig.device->read({kVirtioRegisters, kVirtioIsrOffset, 1}), kIsrConfig);
  rig.wake(0);
  EXPECT_EQ(rig.device->read({kVirtioRegisters, kVirtioIsrOffset, 1}), 0U) << "told once";
  rig.frames[0]->on_send = [&] { rig.frames[0]->link_up = true; };
  rig.send(with_header(ethernet(100)));
  EXPECT_EQ(rig.config_field(6, 2), kNetSLinkUp) << "sending shows it, too";
  EXPECT_EQ(rig.device->read({kVirtioRegisters, kVirtioIsrOffset, 1}), kIsrConfig | kIsrQueue);
}

TEST(VirtioNetLife, link_of_a_driver_without_the_field_is_not_told) {
  NetRig rig;
  rig.start({});
  rig.frames[0]->link_up = false;
  rig.wake(0);
  EXPECT_EQ(rig.device->read({kVirtioRegisters, kVirtioIsrOffset, 1}), 0U);
}

TEST(VirtioNetLife, reset_forgets_what_the_driver_said) {
  NetRig rig;
  rig.start({.more_features = kReceiveOffloads | feature_bit(kNetFCtrlVq) | feature_bit(kNetFCtrlMacAddr)});
  EXPECT_EQ(rig.command(kNetCtrlMac, kNetCtrlMacAddrSet, Frame(6, std::byte{2})), kNetOk);
  EXPECT_EQ(rig.config_field(0, 1), 2U);
  rig.put(0, Frame(1));
  rig.set_common(kDeviceStatus, 1, 0);
  EXPECT_EQ(rig.config_field(0, 1), kMac[0]);
  EXPECT_EQ(rig.frames[0]->offloads, FrameBackend::Offloads{});
  EXPECT_FALSE(rig.frames[0]->wanted);
  EXPECT_EQ(rig.counter("received_bad_length"), 1U) << "counters go on";
}

TEST(VirtioNetLife, successor_tells_the_backend_what_it_knows) {
  NetRig rig;
  rig.start({.more_features = kReceiveOffloads});
  rig.frames[0]->offloads = {};
  rig.frames[0]->wanted = false;
  rig.restart();
  EXPECT_TRUE(rig.frames[0]->offloads.tso6);
  EXPECT_TRUE(rig.frames[0]->wanted);
}

TEST(VirtioNetLife, queue_that_is_reset_while_its_backend_is_full_starts_anew) {
  NetRig rig;
  rig.start({.more_features = feature_bit(kVirtioFRingReset)});
  rig.frames[0]->room = 0;
  rig.add_readable(1, with_header(ethernet(60)));
  rig.kick(1);
  EXPECT_EQ(rig.frames[0]->refused, 1);
  rig.set_common(kQueueSelect, 2, 1);
  rig.set_common(kQueueReset, 2, 1);
  rig.frames[0]->room = -1;
  rig.wake(0);
  EXPECT_THAT(rig.frames[0]->sent, IsEmpty());
  rig.drivers.pop_back();
  rig.enable(1);
  EXPECT_TRUE(rig.send(with_header(ethernet(60))));
}

TEST(VirtioNetLife, any_state_is_brought_into_range) {
  NetRig rig(2);
  rig.start({.more_features = feature_bit(kNetFMq) | feature_bit(kNetFCtrlVq)});
  std::mt19937_64 random(1);
  for (int round = 0; round < 300; ++round) {
    for (std::size_t i = rig.fakes.state.count() - 2; i < rig.fakes.state.count(); ++i)
      for (std::byte& byte : rig.fakes.state.bytes(i)) byte = static_cast<std::byte>(random() >> (round % 8));
    rig.build();
    rig.device->restore();
    rig.restart();
    EXPECT_TRUE(rig.counter("pairs") == 1 || rig.counter("pairs") == 2);
    rig.put(0, with_header(ethernet(60)));
    rig.put(1, with_header(ethernet(60)));
    rig.send(with_header(ethernet(60)));
  }
}

}  // namespace
}  // namespace bulkhead::devproc
