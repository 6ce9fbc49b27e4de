// The 82540EM's transmission: rings, descriptors of each kind, checksums, segments, tags, delays.
#include <random>

#include "devproc/models/e1000/timers.h"
#include "tests/unit/devproc/models/e1000_rig.h"

namespace bulkhead::devproc {
namespace {

constexpr std::array<std::uint8_t, 6> kPeer{0x52, 0x54, 0, 0, 0, 9};
constexpr std::size_t kTcpHeaders = 14 + 20 + 20;

// TCP over IPv4 as a driver hands it over for segmentation: no length, no checksums but the pseudo-header's.
Bytes tcp_frame(std::size_t payload, bool with_length) {
  Bytes frame = frame_to(kPeer, kTcpHeaders + payload, 0x0800);
  const std::span<std::byte> ip = std::span(frame).subspan(14);
  std::fill_n(ip.begin(), 40, std::byte{0});
  ip[0] = std::byte{0x45};
  if (with_length) store_be16(ip, 2, static_cast<std::uint32_t>(40 + payload));
  store_be16(ip, 4, 0x1000);
  ip[8] = std::byte{64};
  ip[9] = std::byte{6};
  store_be32(ip, 12, 0x0a000001);
  store_be32(ip, 16, 0x0a000002);
  const std::span<std::byte> tcp = ip.subspan(20);
  store_be32(tcp, 4, 0xfffffff0);
  tcp[12] = std::byte{0x50};
  tcp[13] = std::byte{0x19};  // FIN, PSH, ACK
  std::uint32_t pseudo = internet_sum(ip.subspan(12, 8), 6);
  if (with_length) pseudo = internet_sum({}, pseudo + static_cast<std::uint32_t>(20 + payload));
  store_be16(tcp, 16, pseudo);
  return frame;
}

// Both checksums of a TCP segment over IPv4.
void expect_good(const Bytes& frame) {
  const std::span<const std::byte> ip = std::span(frame).subspan(14);
  EXPECT_EQ(load_be16(ip, 2), frame.size() - 14);
  EXPECT_EQ(internet_sum(ip.first(20)), 0xffff);
  const auto tcp = ip.subspan(20);
  EXPECT_EQ(internet_sum(tcp, internet_sum(ip.subspan(12, 8), 6) + static_cast<std::uint32_t>(tcp.size())), 0xffff);
}

class E1000Transmit : public E1000Rig {
 protected:
  static constexpr std::uint8_t kData = kTxCmdDext | kTxCmdIfcs;
  static constexpr std::uint8_t kLast = kData | kTxCmdEop | kTxCmdRs;
  void add_tcp_context(std::uint8_t tucmd, std::uint16_t mss = 0) {
    add(context_address(14, 24, 33, 34, 50), context_rest(0, tucmd | kTxCmdDext, kTcpHeaders, mss));
  }
  void add_segmented(const Bytes& frame, std::uint16_t mss, std::uint8_t more = 0) {
    put(kTransmitBuffers, frame);
    add_tcp_context(kTucmdTcp | kTucmdIp | kTxCmdTse, mss);
    // In two pieces, as drivers do.
    add(kTransmitBuffers, data_rest(kTcpHeaders, kData | kTxCmdTse | more, kTxPoptsIxsm | kTxPoptsTxsm));
    add(kTransmitBuffers + kTcpHeaders, data_rest(frame.size() - kTcpHeaders, kLast | kTxCmdTse | more, 0, 0x0123));
  }
  void expect_segments(const Bytes& whole, std::size_t mss) {
    const std::size_t payload = whole.size() - kTcpHeaders;
    const std::size_t count = (payload + mss - 1) / mss;
    ASSERT_EQ(fakes.frames[0].sent.size(), count);
    Bytes joined;
    for (std::size_t i = 0; i < count; ++i) {
      const Bytes segment = sent(i);
      expect_good(segment);
      EXPECT_EQ(load_be16(segment, 18), 0x1000 + i);
      EXPECT_EQ(load_be32(segment, 38), static_cast<std::uint32_t>(0xfffffff0 + i * mss));
      EXPECT_EQ(segment[47], i + 1 == count ? std::byte{0x19} : std::byte{0x10}) << "FIN and PSH with the last only";
      joined.insert(joined.end(), segment.begin() + kTcpHeaders, segment.end());
    }
    EXPECT_TRUE(std::equal(joined.begin(), joined.end(), whole.begin() + kTcpHeaders, whole.end()));
  }
};

TEST_F(E1000Transmit, a_legacy_frame_goes_out_and_its_descriptor_tells) {
  start();
  wr(kIms, kIntTxdw);
  const Bytes frame = frame_to(kPeer, 100);
  send_legacy(frame);
  ASSERT_EQ(fakes.frames[0].sent.size(), 1U);
  EXPECT_EQ(sent(0), frame);
  EXPECT_EQ(transmit_descriptor(0).rest & kTxSta, kTxDd);
  EXPECT_EQ(transmit_descriptor(0).rest & 0xffff, 100U) << "the rest stays";
  EXPECT_EQ(rd(kTdh), 1U);
  EXPECT_TRUE(line());
  EXPECT_EQ(rd(kIcr), kIntTxdw | kIntTxqe);
  EXPECT_EQ(rd(kGptc), 1U);
  EXPECT_EQ(rd(kGotcl), 104U);
}

TEST_F(E1000Transmit, no_status_without_rs) {
  start();
  send_legacy(frame_to(kPeer, 100), kTxCmdEop | kTxCmdIfcs);
  EXPECT_EQ(transmit_descriptor(0).rest & kTxSta, 0U);
  EXPECT_EQ(rd(kTdh), 1U);
  EXPECT_EQ(rd(kIcr), kIntTxqe);
}

TEST_F(E1000Transmit, short_frames_are_padded_if_tctl_says_so_and_a_given_check_sequence_is_cut) {
  start(0, 0);
  send_legacy(frame_to(kPeer, 20));
  EXPECT_EQ(sent(0).size(), 20U);
  wr(kTctl, kTctlEn | kTctlPsp);
  send_legacy(frame_to(kPeer, 20));
  EXPECT_EQ(sent(1).size(), 60U);
  send_legacy(frame_to(kPeer, 104), kTxCmdEop | kTxCmdRs);
  EXPECT_EQ(sent(2).size(), 100U);
}

TEST_F(E1000Transmit, legacy_checksum_by_the_backend_and_here) {
  const Bytes frame = tcp_frame(77, true);
  for (const bool by_backend : {true, false}) {
    fakes.frames[0].offloads_taken = by_backend;
    fakes.frames[0].sent.clear();
    start();
    next_transmit = 0;
    send_legacy(frame, kTxCmdEop | kTxCmdIfcs | kTxCmdIc | kTxCmdRs, 50, 34);
    ASSERT_EQ(fakes.frames[0].sent.size(), 1U);
    if (by_backend) {
      EXPECT_EQ(sent_header(0).flags, kFrameNeedsChecksum);
      EXPECT_EQ(sent_header(0).csum_start, 34);
      EXPECT_EQ(sent_header(0).csum_offset, 16);
      EXPECT_EQ(sent(0), frame);
    } else {
      EXPECT_EQ(sent_header(0).flags, 0);
      const auto ip = std::span(fakes.frames[0].sent[0]).subspan(12 + 14);
      EXPECT_EQ(internet_sum(ip.subspan(20), internet_sum(ip.subspan(12, 8), 6) + 97), 0xffff);
    }
  }
}

TEST_F(E1000Transmit, data_descriptors_get_both_checksums) {
  const Bytes frame = tcp_frame(300, true);
  fakes.frames[0].offloads_taken = false;
  start();
  put(kTransmitBuffers, frame);
  add_tcp_context(kTucmdTcp | kTucmdIp);
  add(kTransmitBuffers, data_rest(100, kData, kTxPoptsIxsm | kTxPoptsTxsm));
  add(kTransmitBuffers + 100, data_rest(frame.size() - 100, kLast, 0));
  kick();
  ASSERT_EQ(fakes.frames[0].sent.size(), 1U);
  expect_good(sent(0));
  EXPECT_EQ(rd(kTdh), 3U);
  // The context stays for the next frame.
  put(kTransmitBuffers, frame);
  add(kTransmitBuffers, data_rest(frame.size(), kLast, kTxPoptsIxsm | kTxPoptsTxsm));
  kick();
  expect_good(sent(1));
}

TEST_F(E1000Transmit, segments_are_cut_here_where_the_backend_does_not) {
  for (const std::size_t payload :
       {std::size_t{1}, std::size_t{1000}, std::size_t{1001}, std::size_t{10'000}, std::size_t{60'000}}) {
    fakes.frames[0].offloads_taken = false;
    fakes.frames[0].sent.clear();
    start(0, 0);  // without padding
    next_transmit = 0;
    const Bytes frame = tcp_frame(payload, false);
    add_segmented(frame, 1000);
    kick();
    expect_segments(frame, 1000);
    EXPECT_EQ(rd(kTdh), 3U);
    EXPECT_EQ(transmit_descriptor(2).rest & kTxSta, kTxDd);
  }
}

TEST_F(E1000Transmit, segments_go_whole_to_a_backend_that_cuts) {
  start();
  const Bytes frame = tcp_frame(10'000, false);
  add_segmented(frame, 1448);
  kick();
  ASSERT_EQ(fakes.frames[0].sent.size(), 1U);
  const FrameHeader header = sent_header(0);
  EXPECT_EQ(header.flags, kFrameNeedsChecksum);
  EXPECT_EQ(header.gso_type, kFrameGsoTcp4);
  EXPECT_EQ(header.gso_size, 1448);
  EXPECT_EQ(header.hdr_len, kTcpHeaders);
  EXPECT_EQ(header.csum_start, 34);
  EXPECT_EQ(header.csum_offset, 16);
  const Bytes out = sent(0);
  EXPECT_EQ(out.size(), frame.size());
  const auto ip = std::span(out).subspan(14);
  EXPECT_EQ(load_be16(ip, 2), 10'040);
  EXPECT_EQ(internet_sum(ip.first(20)), 0xffff);
  EXPECT_EQ(load_be16(ip, 36), internet_sum(ip.subspan(12, 8), 6 + 10'020)) << "the pseudo-header, with the length";
}

TEST_F(E1000Transmit, a_tag_moves_what_is_behind_it) {
  start();
  wr(kCtrl, rd(kCtrl) | kCtrlVme);
  const Bytes frame = tcp_frame(5000, false);
  add_segmented(frame, 1448, kTxCmdVle);
  kick();
  ASSERT_EQ(fakes.frames[0].sent.size(), 1U);
  EXPECT_EQ(sent_header(0).csum_start, 38);
  EXPECT_EQ(sent_header(0).hdr_len, kTcpHeaders + 4);
  const Bytes out = sent(0);
  EXPECT_EQ(load_be16(out, 12), 0x8100);
  EXPECT_EQ(load_be16(out, 14), 0x0123);
  EXPECT_EQ(load_be16(out, 16), 0x0800);
  EXPECT_TRUE(std::equal(out.begin(), out.begin() + 12, frame.begin()));
  EXPECT_EQ(out.size(), frame.size() + 4);
}

TEST_F(E1000Transmit, a_full_backend_holds_the_packet_and_nothing_goes_twice) {
  fakes.frames[0].offloads_taken = false;
  start();
  const Bytes frame = tcp_frame(5500, false);
  add_segmented(frame, 1000);
  fakes.frames[0].room = 2;
  kick();
  EXPECT_EQ(fakes.frames[0].sent.size(), 2U);
  EXPECT_EQ(rd(kTdh), 1U) << "behind the context";
  EXPECT_EQ(transmit_descriptor(2).rest & kTxSta, 0U);
  succeed();
  fakes.frames[0].room = -1;
  work();
  expect_segments(frame, 1000);
  EXPECT_EQ(rd(kTdh), 3U);
}

TEST_F(E1000Transmit, a_packet_waits_until_all_of_it_is_there) {
  start();
  const Bytes frame = frame_to(kPeer, 200);
  put(kTransmitBuffers, frame);
  add(kTransmitBuffers, data_rest(100, kData, 0));
  kick();
  EXPECT_EQ(rd(kTdh), 0U);
  EXPECT_TRUE(fakes.frames[0].sent.empty());
  add(kTransmitBuffers + 100, data_rest(100, kLast, 0));
  kick();
  EXPECT_EQ(sent(0), frame);
  EXPECT_EQ(rd(kTdh), 2U);
}

TEST_F(E1000Transmit, interrupts_wait_for_tidv_but_not_longer_than_tadv) {
  start();
  wr(kIms, kIntTxdw);
  wr(kTidv, 10);
  wr(kTadv, 25);
  for (int i = 0; i < 3; ++i) {
    send_legacy(frame_to(kPeer, 64), kTxCmdEop | kTxCmdIfcs | kTxCmdRs | kTxCmdIde);
    EXPECT_FALSE(line());
    fakes.clock.advance(std::chrono::microseconds(9));
  }
  EXPECT_TRUE(line());
  rd(kIcr);
  send_legacy(frame_to(kPeer, 64));
  EXPECT_TRUE(line()) << "without IDE at once";
}

TEST_F(E1000Transmit, much_work_is_done_in_several_inputs) {
  start();
  fakes.publisher.most = 4;
  for (unsigned i = 0; i < kRingSize - 1; ++i) {
    put(kTransmitBuffers + 0x100 * i, frame_to(kPeer, 60 + i));
    add(kTransmitBuffers + 0x100 * i, (60 + i) | std::uint64_t{kTxCmdEop | kTxCmdIfcs | kTxCmdRs} << 24);
  }
  wr(kTdt, next_transmit);
  EXPECT_EQ(rd(kTdh), 4U);
  for (int i = 0; i < 10; ++i) {
    fakes.publisher.new_input();
    device->on_timer(kWorkTimer);
  }
  EXPECT_EQ(rd(kTdh), kRingSize - 1);
  EXPECT_EQ(fakes.frames[0].sent.size(), kRingSize - 1);
  EXPECT_EQ(fakes.publisher.refused, 0);
}

TEST_F(E1000Transmit, what_waited_for_a_full_backend_goes_out_in_as_many_inputs_as_it_takes) {
  start();
  fakes.publisher.most = 4;
  fakes.frames[0].room = 0;
  for (unsigned i = 0; i < kRingSize - 1; ++i) {
    put(kTransmitBuffers + 0x100 * i, frame_to(kPeer, 60 + i));
    add(kTransmitBuffers + 0x100 * i, (60 + i) | std::uint64_t{kTxCmdEop | kTxCmdIfcs | kTxCmdRs} << 24);
  }
  wr(kTdt, next_transmit);
  EXPECT_TRUE(fakes.frames[0].sent.empty());
  fakes.frames[0].room = -1;
  work();
  for (int i = 0; i < 10; ++i) {
    fakes.publisher.new_input();
    if (fakes.clock.armed(kWorkTimer)) device->on_timer(kWorkTimer);
  }
  EXPECT_EQ(rd(kTdh), kRingSize - 1);
}

TEST_F(E1000Transmit, loopback_brings_frames_back) {
  start(kRctlSecrc | kRctlLbm);
  const Bytes frame = frame_to(kRigMac, 100);
  send_legacy(frame);
  EXPECT_TRUE(fakes.frames[0].sent.empty());
  EXPECT_EQ(rd(kRdh), 1U);
  EXPECT_EQ(memory(kReceiveBuffers, 100), frame);
}

TEST_F(E1000Transmit, loopback_keeps_room_for_what_a_packet_itself_is_told_by) {
  start(kRctlSecrc | kRctlLbm);
  fakes.publisher.most = 5;
  // Two descriptors each, and one of the receive ring: the second packet has room for two of its three stores.
  const Bytes frame = frame_to(kRigMac, 100);
  put(kTransmitBuffers, frame);
  for (int i = 0; i < 2; ++i) {
    add(kTransmitBuffers, 50 | std::uint64_t{kTxCmdIfcs | kTxCmdRs} << 24);
    add(kTransmitBuffers + 50, 50 | std::uint64_t{kTxCmdEop | kTxCmdIfcs | kTxCmdRs} << 24);
  }
  wr(kTdt, next_transmit);
  for (int i = 0; i < 4; ++i) {
    fakes.publisher.new_input();
    if (fakes.clock.armed(kWorkTimer)) device->on_timer(kWorkTimer);
  }
  EXPECT_EQ(rd(kTdh), 4U);
  EXPECT_EQ(rd(kRdh), 2U);
  for (std::uint32_t i = 0; i < 4; ++i) EXPECT_NE(transmit_descriptor(i).rest & kTxDd, 0U) << i;
}

TEST_F(E1000Transmit, a_packet_of_very_many_segments_takes_several_inputs) {
  start(kRctlBam, 0);  // without padding
  fakes.frames[0].offloads_taken = false;
  const Bytes frame = tcp_frame(10'000, false);
  put(kTransmitBuffers, frame);
  add_segmented(frame, 1);
  wr(kTdt, next_transmit);
  const std::size_t first = fakes.frames[0].sent.size();
  EXPECT_LT(first, 10'000U) << "one input is not to last as long as its guest likes";
  kick();
  EXPECT_EQ(rd(kTdh), rd(kTdt));
  expect_segments(frame, 1);
}

TEST_F(E1000Transmit, hostile_packets_are_dropped_and_the_ring_goes_on) {
  start();
  // A segmentation without sense, each field of the context in turn.
  const Bytes frame = tcp_frame(3000, false);
  put(kTransmitBuffers, frame);
  std::mt19937_64 random(1);
  for (int i = 0; i < 3000; ++i) {
    fakes.frames[0].offloads_taken = i % 2 == 0;
    std::uint64_t where = context_address(14, 24, 33, 34, 50);
    std::uint64_t rest = context_rest(0, kTucmdTcp | kTucmdIp | kTxCmdTse | kTxCmdDext, kTcpHeaders, 1448);
    (random() % 2 != 0 ? where : rest) ^= std::uint64_t{random() & 0xff} << (8 * (random() % 8));
    rest &= ~(std::uint64_t{0xf} << 20);
    add(where, rest | std::uint64_t{kTxCmdDext} << 24);
    add(kTransmitBuffers + random() % 64,
        data_rest(random() % 4000, kLast | kTxCmdTse, static_cast<std::uint8_t>(random())));
    kick();
    ASSERT_EQ(rd(kTdh), rd(kTdt)) << i;
    fakes.frames[0].sent.clear();
  }
  // Addresses outside RAM, and a packet that never ends.
  fakes.frames[0].sent.clear();
  add(UINT64_MAX - 10, data_rest(100, kLast, 0));
  kick();
  EXPECT_EQ(inspected("sent_bad_memory"), 1U);
  wr(kTdlen, 16 * 0x1000);
  wr(kTdbal, 0x80000);
  wr(kTdh, 0);
  for (std::uint32_t i = 0; i < 200; ++i) fakes.memory.store(0x80000 + 16 * i, Descriptor{0, data_rest(1, kData, 0)});
  fakes.memory.store(0x80000 + 16 * 200, Descriptor{kTransmitBuffers, data_rest(100, kLast, 0)});
  fakes.memory.store(0x80000 + 16 * 201, Descriptor{kTransmitBuffers, data_rest(100, kLast, 0)});
  next_transmit = 202;
  kick();
  EXPECT_EQ(rd(kTdh), 202U);
  EXPECT_EQ(fakes.frames[0].sent.size(), 1U) << "the one behind it";
  wr(kTdt, 0xfff0);
  wr(kTdh, 0xffff);
  EXPECT_EQ(fakes.frames[0].sent.size(), 1U);
}

}  // namespace
}  // namespace bulkhead::devproc
