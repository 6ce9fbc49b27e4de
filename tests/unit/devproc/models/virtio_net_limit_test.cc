// A network card with rate limits, each direction of its own.
#include <gmock/gmock.h>

#include "tests/unit/devproc/models/virtio_net_rig.h"

namespace bulkhead::devproc {
namespace {

using std::chrono::milliseconds;

constexpr std::uint64_t kSame = RateLimit::kUnchanged;
constexpr RateLimit kTenFrames{.operations_per_second = 10, .operations_burst = 2};

class NetLimit : public ::testing::Test {
 protected:
  explicit NetLimit() { rig.start({}); }
  void limit(LimitId which, const RateLimit& wanted) {
    EXPECT_TRUE(rig.device->on_limit(which, wanted));
    rig.fakes.clock.attach(*rig.device);
    wait(milliseconds(0));
  }
  void wait(std::chrono::nanoseconds time) {
    const VmTime end{rig.fakes.clock.now().ns + time.count()};
    for (;;) {
      const auto next = rig.fakes.clock.next_deadline();
      if (!next || *next > end) break;
      rig.fakes.clock.advance(std::chrono::nanoseconds(std::max<std::int64_t>(next->ns - rig.fakes.clock.now().ns, 0)));
      rig.show();
    }
    rig.fakes.clock.advance(std::chrono::nanoseconds(end.ns - rig.fakes.clock.now().ns));
  }
  std::size_t sent() {
    while (rig.drivers[1]->take_used()) continue;
    return rig.frames[0]->sent.size();
  }
  std::size_t received() {
    std::size_t count = 0;
    while (rig.take_frame()) ++count;
    return count;
  }

  NetRig rig;
};

TEST_F(NetLimit, frames_to_send_wait_in_their_queue) {
  limit(kSendLimit, kTenFrames);
  for (std::uint32_t i = 0; i < 8; ++i) rig.add_readable(1, with_header(ethernet(100, i)));
  rig.kick(1);
  EXPECT_EQ(sent(), 2U);
  wait(milliseconds(99));
  EXPECT_EQ(sent(), 2U);
  wait(milliseconds(1));
  EXPECT_EQ(sent(), 3U);
  wait(milliseconds(500));
  EXPECT_EQ(sent(), 8U);
  EXPECT_EQ(rig.frames[0]->refused, 0);
  EXPECT_EQ(rig.fakes.clock.armed_count(), 0U);
  // The driver's next kick is asked for again.
  wait(std::chrono::seconds(1));
  EXPECT_TRUE(rig.send(with_header(ethernet(100, 9))));
}

TEST_F(NetLimit, bytes_are_the_frames_own) {
  limit(kSendLimit, {.bytes_per_second = 1000, .bytes_burst = 200});
  for (std::uint32_t i = 0; i < 4; ++i) rig.add_readable(1, with_header(ethernet(100, i)));
  rig.kick(1);
  EXPECT_EQ(sent(), 2U);
  wait(milliseconds(200));
  EXPECT_EQ(sent(), 4U);
}

TEST_F(NetLimit, a_backend_that_is_full_costs_nothing) {
  limit(kSendLimit, kTenFrames);
  rig.frames[0]->room = 0;
  for (std::uint32_t i = 0; i < 2; ++i) rig.add_readable(1, with_header(ethernet(100, i)));
  rig.kick(1);
  for (int i = 0; i < 5; ++i) rig.wake(0);
  rig.frames[0]->room = -1;
  rig.wake(0);
  EXPECT_EQ(sent(), 2U);
}

TEST_F(NetLimit, frames_to_receive_stay_with_the_backend) {
  limit(kReceiveLimit, kTenFrames);
  for (int i = 0; i < 8; ++i) rig.add_buffer({2048});
  rig.kick(0);
  for (std::uint32_t i = 0; i < 6; ++i) rig.frames[0]->incoming.push_back(with_header(ethernet(100, i)));
  rig.wake(0);
  EXPECT_EQ(received(), 2U);
  EXPECT_EQ(rig.frames[0]->incoming.size(), 4U);
  EXPECT_FALSE(rig.frames[0]->wanted) << "nobody is to be woken in vain";
  rig.kick(0);
  EXPECT_FALSE(rig.frames[0]->wanted);
  EXPECT_FALSE(rig.device->on_backend(0));
  wait(milliseconds(100));
  EXPECT_EQ(received(), 1U);
  wait(milliseconds(300));
  EXPECT_EQ(received(), 3U);
  wait(milliseconds(100));
  EXPECT_TRUE(rig.frames[0]->wanted);
}

TEST_F(NetLimit, a_large_frame_leaves_a_debt) {
  limit(kReceiveLimit, {.bytes_per_second = 1000, .bytes_burst = 100});
  for (int i = 0; i < 8; ++i) rig.add_buffer({2048});
  rig.kick(0);
  for (std::uint32_t i = 0; i < 3; ++i) rig.frames[0]->incoming.push_back(with_header(ethernet(600, i)));
  rig.wake(0);
  EXPECT_EQ(received(), 1U);
  wait(milliseconds(500));
  EXPECT_EQ(received(), 0U);
  wait(milliseconds(1));
  EXPECT_EQ(received(), 1U);
}

TEST_F(NetLimit, without_buffers_a_frame_costs_nothing) {
  limit(kReceiveLimit, kTenFrames);
  rig.frames[0]->incoming.push_back(with_header(ethernet(100)));
  for (int i = 0; i < 10; ++i) rig.wake(0);
  for (int i = 0; i < 8; ++i) rig.add_buffer({2048});
  rig.frames[0]->incoming.push_back(with_header(ethernet(100)));
  rig.kick(0);
  EXPECT_EQ(received(), 2U);
}

TEST_F(NetLimit, directions_are_independent) {
  limit(kSendLimit, kTenFrames);
  for (int i = 0; i < 8; ++i) rig.add_buffer({2048});
  rig.kick(0);
  for (std::uint32_t i = 0; i < 8; ++i) rig.put(0, with_header(ethernet(100, i)));
  EXPECT_EQ(received(), 8U);
  EXPECT_FALSE(rig.device->on_limit(static_cast<LimitId>(2), {}));
}

TEST_F(NetLimit, a_change_takes_hold_at_once_and_a_successor_knows_it) {
  limit(kSendLimit, {.operations_per_second = 1, .operations_burst = 1});
  for (std::uint32_t i = 0; i < 6; ++i) rig.add_readable(1, with_header(ethernet(100, i)));
  rig.kick(1);
  EXPECT_EQ(sent(), 1U);
  limit(kSendLimit, {kSame, kSame, 10, kSame});
  rig.build();
  rig.fakes.clock.attach(*rig.device);
  const auto before = rig.fakes.state.snapshot();
  rig.device->restore();
  EXPECT_EQ(rig.fakes.state.snapshot(), before);
  rig.kick(1);
  EXPECT_EQ(sent(), 1U);
  wait(milliseconds(200));
  EXPECT_EQ(sent(), 3U);
  limit(kSendLimit, {0, kSame, 0, kSame});
  EXPECT_EQ(sent(), 6U);
}

TEST_F(NetLimit, every_queue_gets_its_turn) {
  NetRig two(2);
  two.start({.more_features = feature_bit(kNetFMq) | feature_bit(kNetFCtrlVq)});
  ASSERT_EQ(two.command(kNetCtrlMq, kNetCtrlMqVqPairsSet, bytes_of(std::uint16_t{2})), kNetOk);
  EXPECT_TRUE(two.device->on_limit(kSendLimit, {.operations_per_second = 10, .operations_burst = 1}));
  two.fakes.clock.attach(*two.device);
  for (std::uint32_t i = 0; i < 8; ++i) {
    two.add_readable(1, with_header(ethernet(100, i)));
    two.add_readable(3, with_header(ethernet(100, i)));
  }
  two.kick(1);
  two.kick(3);
  for (int i = 0; i < 8; ++i) {
    two.fakes.clock.advance(milliseconds(100));
    two.show();
  }
  EXPECT_FALSE(two.fakes.clock.storm);
  EXPECT_GE(two.frames[0]->sent.size(), 3U);
  EXPECT_GE(two.frames[1]->sent.size(), 3U);
  EXPECT_LE(two.frames[0]->sent.size() + two.frames[1]->sent.size(), 9U);
}

}  // namespace
}  // namespace bulkhead::devproc
