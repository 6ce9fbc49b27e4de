#include "vmm/process/awake_clock.h"

#include <gtest/gtest.h>

namespace bulkhead::vmm {
namespace {

constexpr std::int64_t kMs = 1'000'000;

TEST(AwakeClock, CountsSleepsThatEndedInTime) {
  AwakeClock clock;
  clock.start(500 * kMs);
  const std::int64_t began = clock.now();
  std::int64_t now = 500 * kMs;
  for (const std::int64_t slept : {0, 1, 40, 99, 100}) {
    now += slept * kMs;
    clock.advance(now, 100 * kMs);
  }
  EXPECT_EQ(clock.now() - began, 240 * kMs);
}

// However long nobody ran, it counts for one sleep.
TEST(AwakeClock, FreezeCountsForOneSleepAtMost) {
  for (const std::int64_t frozen : {101, 1'000, 1'300, 3'600'000}) {
    AwakeClock clock;
    clock.start(0);
    clock.advance(60 * kMs, 100 * kMs);
    const std::int64_t before = clock.now();
    clock.advance((60 + frozen) * kMs, 100 * kMs);
    EXPECT_EQ(clock.now() - before, 100 * kMs) << frozen;
    clock.advance((60 + frozen + 5) * kMs, 100 * kMs);
    EXPECT_EQ(clock.now() - before, 105 * kMs) << frozen;
  }
}

TEST(AwakeClock, NeverGoesBackAndIsNeverZero) {
  AwakeClock clock;
  EXPECT_NE(clock.now(), 0);
  clock.start(1'000);
  clock.advance(10, 100);  // a clock that went back
  EXPECT_GT(clock.now(), 0);
  const std::int64_t before = clock.now();
  clock.advance(20, 100);
  EXPECT_EQ(clock.now(), before + 10);
}

}  // namespace
}  // namespace bulkhead::vmm
