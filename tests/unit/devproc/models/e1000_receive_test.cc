// The 82540EM's reception: rings, filters, VLAN tags, checksums, delays.
#include "tests/unit/devproc/models/e1000_rig.h"

namespace bulkhead::devproc {
namespace {

constexpr std::array<std::uint8_t, 6> kOther{0x52, 0x54, 0, 0, 0, 9};
constexpr std::array<std::uint8_t, 6> kAll{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
constexpr std::array<std::uint8_t, 6> kGroup{0x01, 0x00, 0x5e, 0x00, 0x00, 0xfb};

std::uint32_t status_of(const Descriptor& one) { return static_cast<std::uint32_t>(one.rest >> 32) & 0xff; }
std::uint32_t errors_of(const Descriptor& one) { return static_cast<std::uint32_t>(one.rest >> 40) & 0xff; }
std::uint32_t length_of(const Descriptor& one) { return static_cast<std::uint32_t>(one.rest) & 0xffff; }
std::uint32_t special_of(const Descriptor& one) { return static_cast<std::uint32_t>(one.rest >> 48); }

// A UDP datagram over IPv4 with both checksums right.
Bytes udp_frame(std::size_t payload) {
  Bytes frame = frame_to(kRigMac, 14 + 20 + 8 + payload, 0x0800);
  const std::span<std::byte> ip = std::span(frame).subspan(14);
  std::fill_n(ip.begin(), 20, std::byte{0});
  ip[0] = std::byte{0x45};
  store_be16(ip, 2, static_cast<std::uint32_t>(28 + payload));
  ip[8] = std::byte{64};
  ip[9] = std::byte{17};
  store_be32(ip, 12, 0x0a000001);
  store_be32(ip, 16, 0x0a000002);
  store_be16(ip, 10, ~std::uint32_t{internet_sum(ip.first(20))});
  const std::span<std::byte> udp = ip.subspan(20);
  store_be16(udp, 4, static_cast<std::uint32_t>(8 + payload));
  store_be16(udp, 6, 0);
  const std::uint32_t pseudo = internet_sum(ip.subspan(12, 8)) + 17 + static_cast<std::uint32_t>(8 + payload);
  store_be16(udp, 6, ~std::uint32_t{internet_sum(udp, pseudo)});
  return frame;
}

class E1000Receive : public E1000Rig {
 protected:
  bool taken(const Bytes& frame) {
    const std::uint32_t before = rd(kRdh);
    arrive(frame);
    const bool moved = rd(kRdh) != before;
    wr(kRdt, (rd(kRdh) + kRingSize - 1) % kRingSize);
    return moved;
  }
};

TEST_F(E1000Receive, a_frame_lands_in_the_buffer_and_its_descriptor_tells) {
  start();
  wr(kIms, kIntRxt0);
  const Bytes frame = frame_to(kRigMac, 100);
  EXPECT_TRUE(arrive(frame));
  const Descriptor got = receive_descriptor(0);
  EXPECT_EQ(got.address, kReceiveBuffers);
  EXPECT_EQ(length_of(got), 100U);
  EXPECT_EQ(status_of(got), std::uint32_t{kRxDd | kRxEop | kRxIxsm});
  EXPECT_EQ(errors_of(got), 0U);
  EXPECT_EQ(memory(kReceiveBuffers, 100), frame);
  EXPECT_EQ(rd(kRdh), 1U);
  EXPECT_TRUE(line());
  EXPECT_EQ(rd(kIcr), kIntRxt0);
}

TEST_F(E1000Receive, short_frames_are_padded_and_get_their_check_sequence) {
  start(kRctlBam);
  const Bytes frame = frame_to(kRigMac, 20);
  arrive(frame);
  EXPECT_EQ(length_of(receive_descriptor(0)), 64U);
  const Bytes got = memory(kReceiveBuffers, 64);
  EXPECT_TRUE(std::equal(frame.begin(), frame.end(), got.begin()));
  EXPECT_TRUE(std::all_of(got.begin() + 20, got.begin() + 60, [](std::byte b) { return b == std::byte{0}; }));
  // A frame with its sequence behind has this residue, whatever it holds.
  EXPECT_EQ(frame_check_sequence(got), 0x2144df1cU);
}

TEST_F(E1000Receive, known_check_sequence) {
  const std::string_view text = "123456789";
  EXPECT_EQ(frame_check_sequence(std::as_bytes(std::span(text))), 0xcbf43926U);
}

TEST_F(E1000Receive, long_frames_lie_in_several_buffers) {
  start(kRctlBam | kRctlSecrc | 3U << kRctlBsizeShift);  // 256 bytes each
  const Bytes frame = frame_to(kRigMac, 600);
  arrive(frame);
  EXPECT_EQ(rd(kRdh), 3U);
  EXPECT_EQ(status_of(receive_descriptor(0)), std::uint32_t{kRxDd});
  EXPECT_EQ(length_of(receive_descriptor(0)), 256U);
  EXPECT_EQ(status_of(receive_descriptor(2)) & (kRxDd | kRxEop), std::uint32_t{kRxDd | kRxEop});
  EXPECT_EQ(length_of(receive_descriptor(2)), 88U);
  Bytes joined = memory(kReceiveBuffers, 256);
  for (const auto& [index, size] : {std::pair(1, 256), std::pair(2, 88)}) {
    const Bytes piece =
        memory(kReceiveBuffers + 0x1000U * static_cast<unsigned>(index), static_cast<std::size_t>(size));
    joined.insert(joined.end(), piece.begin(), piece.end());
  }
  EXPECT_EQ(joined, frame);
}

TEST_F(E1000Receive, frames_longer_than_the_driver_takes_are_dropped) {
  start();
  EXPECT_TRUE(taken(frame_to(kRigMac, 1518)));
  EXPECT_FALSE(taken(frame_to(kRigMac, 1519)));
  EXPECT_EQ(rd(kRoc), 1U);
  wr(kRctl, rd(kRctl) | kRctlLpe);
  EXPECT_TRUE(taken(frame_to(kRigMac, 9000)));
}

TEST_F(E1000Receive, without_descriptors_frames_wait_and_none_is_lost) {
  start();
  for (unsigned i = 0; i < kRingSize + 4; ++i) arrive(frame_to(kRigMac, 60 + i));
  EXPECT_EQ(rd(kRdh), kRingSize - 1);
  EXPECT_EQ(fakes.frames[0].incoming.size(), 5U);
  EXPECT_FALSE(fakes.frames[0].wanted);
  EXPECT_EQ(rd(kRnbc), 1U);
  wr(kRdt, 5);
  EXPECT_TRUE(fakes.frames[0].wanted);
  work();
  EXPECT_TRUE(fakes.frames[0].incoming.empty());
  EXPECT_EQ(length_of(receive_descriptor(kRingSize - 1)), 60 + kRingSize - 1);
  EXPECT_EQ(inspected("received_frames"), kRingSize + 4);
  EXPECT_EQ(inspected("received_lost"), 0U);
}

TEST_F(E1000Receive, an_input_publishes_no_more_than_there_is_room_for) {
  start(kRctlBam | kRctlSecrc | 3U << kRctlBsizeShift);
  fakes.publisher.most = 5;
  for (int i = 0; i < 4; ++i) fakes.frames[0].incoming.push_back(FakeFrames::Frame(12));
  for (auto& one : fakes.frames[0].incoming) {
    const Bytes frame = frame_to(kRigMac, 600);
    one.insert(one.end(), frame.begin(), frame.end());
  }
  EXPECT_TRUE(work());
  EXPECT_EQ(rd(kRdh), 12U);
  EXPECT_EQ(fakes.publisher.refused, 0);
}

TEST_F(E1000Receive, filters) {
  start(kRctlSecrc);
  const auto frame = [](const std::array<std::uint8_t, 6>& to) { return frame_to(to, 64); };
  EXPECT_TRUE(taken(frame(kRigMac)));
  EXPECT_FALSE(taken(frame(kOther)));
  EXPECT_FALSE(taken(frame(kAll)));
  EXPECT_FALSE(taken(frame(kGroup)));
  wr(kRctl, rd(kRctl) | kRctlBam);
  EXPECT_TRUE(taken(frame(kAll)));
  wr(kRctl, rd(kRctl) | kRctlUpe);
  EXPECT_TRUE(taken(frame(kOther)));
  EXPECT_FALSE(taken(frame(kGroup)));
  wr(kRctl, rd(kRctl) | kRctlMpe);
  EXPECT_TRUE(taken(frame(kGroup)));
  wr(kRctl, kRctlEn | kRctlSecrc);
  wr(kRa + 8, 0x00005452);
  wr(kRa + 12, 0x80000900);
  EXPECT_TRUE(taken(frame(kOther))) << "the second address";
  wr(kRa + 12, 0x00000900);
  EXPECT_FALSE(taken(frame(kOther))) << "not valid";
  EXPECT_EQ(inspected("received_filtered"), 5U);
}

TEST_F(E1000Receive, multicast_hash_takes_the_bits_that_mo_says) {
  for (std::uint32_t mo = 0; mo < 4; ++mo) {
    start(kRctlSecrc | mo << kRctlMoShift);
    const unsigned shift[] = {4, 3, 2, 0};
    const std::uint32_t hash = ((kGroup[4] | std::uint32_t{kGroup[5]} << 8) >> shift[mo]) & 0xfff;
    EXPECT_FALSE(taken(frame_to(kGroup, 64)));
    wr(kMta + 4 * (hash / 32), 1U << (hash % 32));
    const std::uint32_t at = rd(kRdh);
    EXPECT_TRUE(taken(frame_to(kGroup, 64))) << mo;
    EXPECT_NE(status_of(receive_descriptor(at)) & kRxPif, 0U);
    wr(kMta + 4 * (hash / 32), 0);
  }
}

TEST_F(E1000Receive, vlan_tags_are_stripped_and_filtered) {
  start();
  Bytes frame = frame_to(kRigMac, 100, 0x8100);
  store_be16(frame, 14, 0x6123);  // priority 3, VLAN 123h
  arrive(frame);
  EXPECT_EQ(length_of(receive_descriptor(0)), 100U) << "the driver did not ask";
  wr(kCtrl, rd(kCtrl) | kCtrlVme);
  arrive(frame);
  EXPECT_EQ(length_of(receive_descriptor(1)), 96U);
  EXPECT_NE(status_of(receive_descriptor(1)) & kRxVp, 0U);
  EXPECT_EQ(special_of(receive_descriptor(1)), 0x6123U);
  Bytes stripped = frame;
  stripped.erase(stripped.begin() + 12, stripped.begin() + 16);
  EXPECT_EQ(memory(kReceiveBuffers + 0x1000, 96), stripped);
  wr(kRctl, rd(kRctl) | kRctlVfe);
  EXPECT_FALSE(taken(frame));
  EXPECT_TRUE(taken(frame_to(kRigMac, 100))) << "no tag";
  wr(kVfta + 4 * (0x123 / 32), 1U << (0x123 % 32));
  EXPECT_TRUE(taken(frame));
}

TEST_F(E1000Receive, checksums_are_looked_at) {
  start();
  const Bytes good = udp_frame(33);
  Bytes bad_ip = good;
  bad_ip[14 + 8] ^= std::byte{1};
  Bytes bad_udp = good;
  bad_udp.back() ^= std::byte{1};
  wr(kRxcsum, kRxcsumIpofl | kRxcsumTuofl);
  arrive(good);
  arrive(bad_ip);
  arrive(bad_udp);
  arrive(frame_to(kRigMac, 80, 0x0806));
  const auto both = std::uint32_t{kRxDd | kRxEop | kRxIpcs | kRxTcpcs};
  EXPECT_EQ(status_of(receive_descriptor(0)), both);
  EXPECT_EQ(errors_of(receive_descriptor(0)), 0U);
  EXPECT_EQ(errors_of(receive_descriptor(1)), std::uint32_t{kRxIpe});
  EXPECT_EQ(errors_of(receive_descriptor(2)), std::uint32_t{kRxTcpe});
  EXPECT_NE(status_of(receive_descriptor(3)) & kRxIxsm, 0U) << "no IP";
}

TEST_F(E1000Receive, partial_checksums_of_a_backend_are_completed) {
  start();
  wr(kRxcsum, kRxcsumIpofl | kRxcsumTuofl);
  const Bytes good = udp_frame(40);
  Bytes partial = good;
  const std::span<std::byte> ip = std::span(partial).subspan(14);
  store_be16(ip, 26, internet_sum(ip.subspan(12, 8)) + 17U + 48U);
  arrive(partial, {.flags = kFrameNeedsChecksum, .csum_start = 34, .csum_offset = 6});
  EXPECT_EQ(memory(kReceiveBuffers, good.size()), good);
  EXPECT_EQ(errors_of(receive_descriptor(0)), 0U);
}

TEST_F(E1000Receive, interrupts_wait_for_rdtr_but_not_longer_than_radv) {
  start();
  wr(kIms, kIntRxt0);
  wr(kRdtr, 10);
  wr(kRadv, 25);
  for (int i = 0; i < 3; ++i) {
    arrive(frame_to(kRigMac, 64));
    EXPECT_FALSE(line());
    fakes.clock.advance(std::chrono::microseconds(9));
  }
  EXPECT_TRUE(line()) << "25 units after the first";
  rd(kIcr);
  arrive(frame_to(kRigMac, 64));
  fakes.clock.advance(std::chrono::microseconds(11));
  EXPECT_TRUE(line());
  rd(kIcr);
  arrive(frame_to(kRigMac, 64));
  wr(kRdtr, 10 | kRdtrFpd);
  EXPECT_TRUE(line()) << "at once";
}

TEST_F(E1000Receive, threshold_of_free_descriptors) {
  start(kRctlSecrc | 1U << kRctlRdmtsShift);  // a quarter
  wr(kIms, kIntRxdmt0);
  for (unsigned i = 0; i < kRingSize - 1 - 5; ++i) arrive(frame_to(kRigMac, 64));
  EXPECT_FALSE(line());
  arrive(frame_to(kRigMac, 64));
  EXPECT_TRUE(line());
}

TEST_F(E1000Receive, nothing_is_taken_while_it_may_not_work) {
  start();
  device->on_function_control(kControlMemoryEnable);
  arrive(frame_to(kRigMac, 64));
  EXPECT_FALSE(fakes.frames[0].wanted);
  EXPECT_EQ(rd(kRdh), 0U);
  device->on_function_control(kControlMemoryEnable | kControlBusMaster | kControlPowerD3);
  work();
  EXPECT_EQ(rd(kRdh), 0U);
  device->on_function_control(kControlMemoryEnable | kControlBusMaster);
  EXPECT_TRUE(fakes.frames[0].wanted);
  work();
  EXPECT_EQ(rd(kRdh), 1U);
}

TEST_F(E1000Receive, hostile_rings) {
  start();
  wr(kRdt, 0xffff);
  arrive(frame_to(kRigMac, 64));
  EXPECT_EQ(rd(kRdh), 0U) << "a tail beyond the ring";
  wr(kRdt, 8);
  wr(kRdbah, 1);
  work();
  EXPECT_EQ(rd(kRdh), 1U);
  EXPECT_EQ(inspected("received_bad_memory"), 1U);
  FrameHeader gso;
  gso.gso_type = kFrameGsoTcp4;
  gso.gso_size = 100;
  arrive(frame_to(kRigMac, 400), gso);
  arrive(Bytes(5));
  EXPECT_EQ(inspected("received_bad_header"), 1U);
  EXPECT_EQ(inspected("received_bad_length"), 1U);
}

TEST_F(E1000Receive, lost_frames_are_counted) {
  start();
  arrive(frame_to(kRigMac, 64));
  fakes.frames[0].lost = 2;
  EXPECT_EQ(inspected("received_lost"), 2U);
}

}  // namespace
}  // namespace bulkhead::devproc
