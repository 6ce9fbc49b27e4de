// A disk with rate limits: how much passes, who waits for how long, and that a death changes nothing.
#include <gmock/gmock.h>

#include "tests/unit/devproc/models/virtio_blk_rig.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio;
using namespace virtio_blk_spec;
using std::chrono::milliseconds;

constexpr std::uint64_t kSame = RateLimit::kUnchanged;
GuestPhys place(std::size_t i) { return BlkRig::kRequests + 0x2000 * i; }

std::size_t used(BlkRig& rig, QueueId queue = 0) {
  std::size_t count = 0;
  while (rig.driver(queue).take_used()) ++count;
  EXPECT_EQ(rig.driver(queue).complaint(), "");
  return count;
}
// Time goes on, timer by timer, each followed by its commit and by what the disk does.
void wait(BlkRig& rig, std::chrono::nanoseconds time) {
  const VmTime end{rig.fakes.clock.now().ns + time.count()};
  for (;;) {
    const auto next = rig.fakes.clock.next_deadline();
    if (!next || *next > end) break;
    rig.fakes.clock.advance(std::chrono::nanoseconds(std::max<std::int64_t>(next->ns - rig.fakes.clock.now().ns, 0)));
    rig.commit();
    while (rig.disk.run_one()) rig.on_backend();
    rig.on_backend();
  }
  rig.fakes.clock.advance(std::chrono::nanoseconds(end.ns - rig.fakes.clock.now().ns));
}

TEST(VirtioBlkLimit, operations_pass_as_fast_as_they_may_and_no_faster) {
  for (const bool packed : {false, true}) {
    BlkRig rig({.packed = packed, .queue_size = 64, .limit = {.operations_per_second = 10, .operations_burst = 3}});
    for (std::size_t i = 0; i < 10; ++i) rig.add(place(i), kVirtioBlkTIn, i, 512, 0, true);
    rig.settle();
    EXPECT_EQ(used(rig), 3U);
    wait(rig, milliseconds(99));
    EXPECT_EQ(used(rig), 0U);
    wait(rig, milliseconds(1));
    EXPECT_EQ(used(rig), 1U);
    wait(rig, milliseconds(600));
    EXPECT_EQ(used(rig), 6U);
    EXPECT_FALSE(rig.fakes.clock.storm);
    EXPECT_EQ(rig.fakes.clock.armed_count(), 0U) << "nobody waits";
    EXPECT_EQ(rig.disk.complaint, "");
  }
}

TEST(VirtioBlkLimit, bytes_are_those_of_reads_writes_and_zeroes) {
  BlkRig rig({.limit = {.bytes_per_second = 10 * 512, .bytes_burst = 2 * 512}});
  rig.add(place(0), kVirtioBlkTIn, 0, 512, 0, true);
  rig.add(place(1), kVirtioBlkTFlush, 0, 0, 0, true);
  rig.add(place(2), kVirtioBlkTOut, 1, 512, 0, true);
  rig.add(place(3), kVirtioBlkTGetId, 0, 20, 0, true);
  rig.add(place(4), kVirtioBlkTOut, 2, 512, 0, true);
  rig.settle();
  EXPECT_EQ(used(rig), 4U);
  wait(rig, milliseconds(100));
  EXPECT_EQ(used(rig), 1U);
}

TEST(VirtioBlkLimit, what_is_larger_than_the_burst_passes_alone) {
  BlkRig rig({.limit = {.bytes_per_second = 5120, .bytes_burst = 512}});
  rig.add(place(0), kVirtioBlkTIn, 0, 2048, 0, true);
  rig.add(place(1), kVirtioBlkTIn, 0, 512, 0, true);
  rig.settle();
  EXPECT_EQ(used(rig), 1U);
  wait(rig, milliseconds(399));
  EXPECT_EQ(used(rig), 0U);
  wait(rig, milliseconds(1));
  EXPECT_EQ(used(rig), 1U);
}

TEST(VirtioBlkLimit, no_queue_starves_another) {
  BlkRig rig({.queues = 2, .queue_size = 16, .limit = {.bytes_per_second = 5120, .bytes_burst = 2048}});
  rig.add(place(0), kVirtioBlkTIn, 0, 2048, 0, true);
  rig.settle();
  EXPECT_EQ(used(rig, 0), 1U);
  rig.add(place(0), kVirtioBlkTIn, 0, 2048, 0, true);
  rig.settle();
  std::size_t small = 0;
  std::size_t large = 0;
  for (int i = 0; i < 40 && large == 0; ++i) {
    rig.add(place(8), kVirtioBlkTIn, 0, 512, 1, true);
    rig.settle();
    wait(rig, milliseconds(50));
    rig.settle();
    small += used(rig, 1);
    large += used(rig, 0);
  }
  EXPECT_EQ(large, 1U);
  EXPECT_LE(small, 2U) << "the large one came first";
  wait(rig, std::chrono::seconds(5));
  EXPECT_EQ(used(rig, 1) + small > 2, true) << "and the small ones afterwards";
}

TEST(VirtioBlkLimit, a_held_back_queue_does_not_spin) {
  BlkRig rig({.limit = {.operations_per_second = 1, .operations_burst = 1}});
  for (std::size_t i = 0; i < 4; ++i) rig.add(place(i), kVirtioBlkTIn, i, 512, 0, true);
  rig.settle();
  EXPECT_FALSE(rig.device->on_queue(0)) << "more now is in vain";
  rig.commit();
  rig.fakes.clock.fired = 0;
  wait(rig, std::chrono::seconds(3));
  EXPECT_EQ(used(rig), 4U);
  EXPECT_LE(rig.fakes.clock.fired, 4);
}

TEST(VirtioBlkLimit, deaths_give_nothing_away) {
  BlkRig rig({.limit = {.operations_per_second = 10, .operations_burst = 2}});
  std::size_t total = 0;
  for (int i = 0; i < 100; ++i) {
    while (rig.driver().in_flight() < 4) rig.add(place(rig.driver().in_flight()), kVirtioBlkTIn, 1, 512, 0, true);
    rig.settle();
    total += used(rig);
    rig.take_over();
    rig.settle();  // a successor takes every queue as kicked
    wait(rig, milliseconds(10));
    total += used(rig);
  }
  EXPECT_GE(total, 2U + 9U);
  EXPECT_LE(total, 2U + 10U);
}

TEST(VirtioBlkLimit, changed_while_somebody_waits) {
  BlkRig rig({.limit = {.operations_per_second = 1, .operations_burst = 1}});
  for (std::size_t i = 0; i < 6; ++i) rig.add(place(i), kVirtioBlkTIn, i, 512, 0, true);
  rig.settle();
  EXPECT_EQ(used(rig), 1U);
  EXPECT_FALSE(rig.device->on_limit(kSendLimit, {})) << "a disk has one limit";
  EXPECT_TRUE(rig.device->on_limit(kDiskLimit, {kSame, kSame, 10, 2}));
  rig.commit();
  rig.take_over();
  rig.settle();
  wait(rig, milliseconds(100));
  EXPECT_EQ(used(rig), 1U);
  EXPECT_TRUE(rig.device->on_limit(kDiskLimit, {kSame, kSame, 0, kSame}));
  rig.commit();
  wait(rig, milliseconds(0));
  EXPECT_EQ(used(rig), 4U);
}

TEST(VirtioBlkLimit, a_reset_keeps_the_limit_and_lets_nobody_wait) {
  BlkRig rig({.limit = {.operations_per_second = 1, .operations_burst = 1}});
  for (std::size_t i = 0; i < 3; ++i) rig.add(place(i), kVirtioBlkTIn, i, 512, 0, true);
  rig.settle();
  rig.set_common(kDeviceStatus, 1, 0);
  EXPECT_EQ(rig.fakes.clock.armed_count(), 0U);
  rig.start_driver();
  rig.add(place(0), kVirtioBlkTIn, 0, 512, 0, true);
  rig.settle();
  EXPECT_EQ(used(rig), 0U) << "the token is spent";
  wait(rig, std::chrono::seconds(1));
  EXPECT_EQ(used(rig), 1U);
}

}  // namespace
}  // namespace bulkhead::devproc
