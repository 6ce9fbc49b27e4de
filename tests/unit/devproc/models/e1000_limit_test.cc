// The 82540EM with rate limits, each direction of its own.
#include "tests/unit/devproc/models/e1000_rig.h"

namespace bulkhead::devproc {
namespace {

using std::chrono::milliseconds;

constexpr std::uint64_t kSame = RateLimit::kUnchanged;
constexpr RateLimit kTenFrames{.operations_per_second = 10, .operations_burst = 2};

class E1000Limit : public E1000Rig {
 protected:
  void limit(LimitId which, const RateLimit& wanted) {
    EXPECT_TRUE(device->on_limit(which, wanted));
    wait(milliseconds(0));
  }
  // Each timer is an input of its own.
  void wait(std::chrono::nanoseconds time) {
    const VmTime end{fakes.clock.now().ns + time.count()};
    for (;;) {
      fakes.publisher.new_input();
      const auto next = fakes.clock.next_deadline();
      if (!next || *next > end) break;
      fakes.clock.advance(std::chrono::nanoseconds(std::max<std::int64_t>(next->ns - fakes.clock.now().ns, 0)));
    }
    fakes.clock.advance(std::chrono::nanoseconds(end.ns - fakes.clock.now().ns));
    EXPECT_FALSE(fakes.clock.storm);
  }
  void post(unsigned frames, std::size_t size = 100) {
    put(kTransmitBuffers, frame_to(kRigMac, size));
    for (unsigned i = 0; i < frames; ++i)
      add(kTransmitBuffers, size | std::uint64_t{kTxCmdEop | kTxCmdIfcs | kTxCmdRs} << 24);
    kick();
  }
  void feed(unsigned frames, std::size_t size = 100) {
    for (unsigned i = 0; i < frames; ++i) arrive(frame_to(kRigMac, size));
  }
  std::size_t sent_frames() { return fakes.frames[0].sent.size(); }
  std::size_t received() { return fakes.frames[0].consumed.size(); }
};

TEST_F(E1000Limit, frames_to_send_wait_in_their_ring) {
  start();
  limit(kSendLimit, kTenFrames);
  post(8);
  EXPECT_EQ(sent_frames(), 2U);
  EXPECT_EQ(rd(kTdh), 2U);
  EXPECT_EQ(transmit_descriptor(2).rest >> 32 & kTxDd, 0U) << "only what went out is told";
  EXPECT_NE(rd(kStatus) & kStatusTxoff, 0U) << "or Linux takes a wait of a second for a hang";
  wait(milliseconds(99));
  EXPECT_EQ(sent_frames(), 2U);
  wait(milliseconds(1));
  EXPECT_EQ(sent_frames(), 3U);
  wait(milliseconds(500));
  EXPECT_EQ(sent_frames(), 8U);
  EXPECT_EQ(rd(kTdh), rd(kTdt));
  EXPECT_EQ(rd(kStatus) & kStatusTxoff, 0U);
  EXPECT_EQ(fakes.clock.armed_count(), 0U);
}

TEST_F(E1000Limit, bytes_are_the_frames_own) {
  start();
  limit(kSendLimit, {.bytes_per_second = 1000, .bytes_burst = 200});
  post(4);
  EXPECT_EQ(sent_frames(), 2U);
  wait(milliseconds(200));
  EXPECT_EQ(sent_frames(), 4U);
}

TEST_F(E1000Limit, segments_that_the_card_makes_pass_one_by_one) {
  fakes.frames[0].offloads_taken = false;
  start();
  limit(kSendLimit, kTenFrames);
  constexpr std::size_t kHeaders = 14 + 20 + 20;
  Bytes frame = frame_to(kRigMac, kHeaders + 400, 0x0800);
  std::fill_n(frame.begin() + 14, 40, std::byte{0});
  frame[14] = std::byte{0x45};
  frame[23] = std::byte{6};
  frame[46] = std::byte{0x50};
  put(kTransmitBuffers, frame);
  add(context_address(14, 24, 33, 34, 50),
      context_rest(0, kTucmdTcp | kTucmdIp | kTxCmdTse | kTxCmdDext, kHeaders, 100));
  add(kTransmitBuffers,
      data_rest(frame.size(), kTxCmdDext | kTxCmdTse | kTxCmdIfcs | kTxCmdEop | kTxCmdRs, kTxPoptsIxsm | kTxPoptsTxsm));
  kick();
  EXPECT_EQ(sent_frames(), 2U);
  EXPECT_EQ(rd(kTdh), 1U) << "the packet is in the ring until its last segment went out";
  wait(milliseconds(100));
  EXPECT_EQ(sent_frames(), 3U);
  wait(milliseconds(100));
  ASSERT_EQ(sent_frames(), 4U);
  EXPECT_EQ(rd(kTdh), 2U);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(load_be16(sent(i), 18), i) << "each once, in order";
}

TEST_F(E1000Limit, a_backend_that_is_full_costs_nothing) {
  start();
  limit(kSendLimit, kTenFrames);
  fakes.frames[0].room = 0;
  post(2);
  for (int i = 0; i < 5; ++i) work();
  fakes.frames[0].room = -1;
  work();
  EXPECT_EQ(sent_frames(), 2U);
}

TEST_F(E1000Limit, frames_to_receive_stay_with_the_backend) {
  start();
  limit(kReceiveLimit, kTenFrames);
  feed(6);
  EXPECT_EQ(received(), 2U);
  EXPECT_FALSE(fakes.frames[0].wanted) << "nobody is to be woken in vain";
  wr(kRdt, kRingSize - 2);
  EXPECT_FALSE(fakes.frames[0].wanted);
  EXPECT_EQ(received(), 2U);
  wait(milliseconds(100));
  EXPECT_EQ(received(), 3U);
  wait(milliseconds(300));
  EXPECT_EQ(received(), 6U);
  wait(milliseconds(100));
  EXPECT_TRUE(fakes.frames[0].wanted);
  EXPECT_EQ(fakes.clock.armed_count(), 0U);
}

TEST_F(E1000Limit, without_descriptors_a_frame_costs_nothing) {
  start();
  limit(kReceiveLimit, kTenFrames);
  wr(kRdt, 0);
  feed(1);
  for (int i = 0; i < 10; ++i) work();
  EXPECT_EQ(received(), 0U);
  wr(kRdt, kRingSize - 1);
  feed(1);
  EXPECT_EQ(received(), 2U);
}

TEST_F(E1000Limit, directions_are_independent) {
  start();
  limit(kSendLimit, kTenFrames);
  feed(8);
  EXPECT_EQ(received(), 8U);
  EXPECT_FALSE(device->on_limit(static_cast<LimitId>(2), {}));
}

TEST_F(E1000Limit, a_driver_that_resets_its_card_gains_nothing) {
  start();
  limit(kSendLimit, kTenFrames);
  limit(kReceiveLimit, kTenFrames);
  post(4);
  feed(4);
  EXPECT_EQ(sent_frames(), 2U);
  EXPECT_EQ(received(), 2U);
  wr(kCtrl, kCtrlRst);
  next_transmit = 0;
  start();
  work();
  post(4);
  EXPECT_EQ(sent_frames(), 2U);
  EXPECT_EQ(received(), 2U);
  wait(milliseconds(400));
  EXPECT_EQ(sent_frames(), 6U);
  EXPECT_EQ(received(), 4U);
  EXPECT_TRUE(fakes.frames[0].wanted) << "what was held back before the reset is not forgotten";
}

TEST_F(E1000Limit, a_change_takes_hold_at_once_and_a_successor_knows_it) {
  start();
  limit(kSendLimit, {.operations_per_second = 1, .operations_burst = 1});
  post(6);
  EXPECT_EQ(sent_frames(), 1U);
  limit(kSendLimit, {kSame, kSame, 10, kSame});
  fakes.clock.cancel(kSendLimit);  // as the timers of a process that dies
  const auto before = fakes.state.snapshot();
  succeed();
  EXPECT_EQ(fakes.state.snapshot(), before);
  EXPECT_EQ(inspected("send_limit_operations_per_second"), 10U);
  work();  // a successor takes its backends as readable
  EXPECT_EQ(sent_frames(), 1U);
  wait(milliseconds(200));
  EXPECT_EQ(sent_frames(), 3U);
  limit(kSendLimit, {0, kSame, 0, kSame});
  EXPECT_EQ(sent_frames(), 6U);
}

}  // namespace
}  // namespace bulkhead::devproc
