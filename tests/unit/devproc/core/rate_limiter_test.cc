// RateLimiter: who waits, who goes first, and what lasts.
#include "devproc/core/rate_limiter.h"

#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <string>

#include "tests/fakes/virtual_clock.h"

namespace bulkhead::devproc {
namespace {

constexpr TimerId kTimer = 3;
constexpr std::chrono::milliseconds kTenth{100};

class Recorder final : public Inspector {
 public:
  void field(std::string_view name, std::uint64_t value) override { fields[std::string(name)] = value; }
  std::map<std::string, std::uint64_t> fields;
};

class RateLimiterTest : public ::testing::Test {
 protected:
  RateLimiterTest() { build(); }
  void build() { limiter.emplace(state, clock, clock, kTimer); }
  std::uint64_t shown(const std::string& name) {
    Recorder recorder;
    limiter->inspect(recorder);
    return recorder.fields.at(name);
  }

  LocalStateAllocator allocator;
  VirtualClock clock;
  Persistent<RateLimiterState> state = allocate_state<RateLimiterState>(allocator);
  std::optional<RateLimiter> limiter;
};

TEST_F(RateLimiterTest, without_a_limit_nothing_is_counted_or_changed) {
  limiter->start({});
  allocator.reset_dirty();
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(limiter->pass(0, UINT64_MAX));
  limiter->charge(5);
  EXPECT_FALSE(state.segment().dirty);
  EXPECT_EQ(clock.armed_count(), 0U);
}

TEST_F(RateLimiterTest, bytes_and_operations_must_both_be_there) {
  limiter->start({.bytes_per_second = 1000, .bytes_burst = 100, .operations_per_second = 10, .operations_burst = 2});
  EXPECT_TRUE(limiter->pass(0, 10));
  EXPECT_TRUE(limiter->pass(0, 10));
  EXPECT_FALSE(limiter->pass(0, 10)) << "no operation is left";
  EXPECT_EQ(clock.deadline(kTimer)->ns, 100'000'000);
  clock.advance(kTenth);
  EXPECT_TRUE(limiter->pass(0, 100));
  clock.advance(kTenth);
  EXPECT_TRUE(limiter->pass(0, 100)) << "a tenth of a second brings both";
  clock.advance(kTenth / 2);
  EXPECT_FALSE(limiter->pass(0, 100));
}

TEST_F(RateLimiterTest, who_waits_first_goes_first) {
  limiter->start({.bytes_per_second = 1000, .bytes_burst = 100});
  EXPECT_TRUE(limiter->pass(1, 100));
  EXPECT_FALSE(limiter->pass(2, 100));
  clock.advance(kTenth / 2);
  EXPECT_FALSE(limiter->pass(1, 1)) << "a small one may not starve a large one";
  clock.advance(kTenth / 2);
  EXPECT_FALSE(clock.armed(kTimer)) << "it fired";
  EXPECT_EQ(limiter->woken(), std::optional<std::uint16_t>(2));
  EXPECT_EQ(limiter->woken(), std::nullopt);
  EXPECT_TRUE(limiter->pass(2, 100));
  EXPECT_FALSE(limiter->pass(1, 1));
}

TEST_F(RateLimiterTest, everybody_has_a_turn) {
  limiter->start({.operations_per_second = 10, .operations_burst = 1});
  std::map<std::uint16_t, int> passed;
  for (int i = 0; i < 400; ++i) {
    const std::uint16_t first = limiter->woken().value_or(0);
    for (const std::uint16_t who : {0, 5, 31}) {
      const auto greedy = static_cast<std::uint16_t>(who == 0 ? first : who);
      while (limiter->pass(greedy, 1)) ++passed[greedy];
    }
    clock.advance(kTenth / 2);
  }
  ASSERT_EQ(passed.size(), 3U);
  for (const auto& [who, times] : passed) EXPECT_NEAR(times, 200 / 3, 5) << who;
}

TEST_F(RateLimiterTest, what_is_measured_afterwards_leaves_a_debt) {
  limiter->start({.bytes_per_second = 1000, .bytes_burst = 100});
  EXPECT_TRUE(limiter->may_begin(0));
  EXPECT_TRUE(limiter->may_begin(0)) << "asking costs nothing";
  limiter->charge(300);
  EXPECT_FALSE(limiter->may_begin(0));
  EXPECT_EQ(clock.deadline(kTimer)->ns, 201'000'000);
}

TEST_F(RateLimiterTest, what_did_not_happen_is_given_back) {
  limiter->start({.bytes_per_second = 1000, .bytes_burst = 100, .operations_per_second = 1, .operations_burst = 1});
  EXPECT_TRUE(limiter->pass(0, 100));
  limiter->take_back(100);
  EXPECT_TRUE(limiter->pass(0, 100));
}

TEST_F(RateLimiterTest, a_change_wakes_who_waits_and_keeps_what_is_not_named) {
  limiter->start({.bytes_per_second = 10, .operations_per_second = 10, .operations_burst = 4});
  EXPECT_TRUE(limiter->pass(0, 1000));
  EXPECT_FALSE(limiter->pass(0, 1000));
  constexpr std::uint64_t kSame = RateLimit::kUnchanged;
  limiter->set({kSame, kSame, 20, kSame});
  EXPECT_EQ(clock.deadline(kTimer), clock.now());
  EXPECT_EQ(shown("limit_bytes_per_second"), 10U);
  EXPECT_EQ(shown("limit_operations_per_second"), 20U);
  EXPECT_EQ(shown("limit_operations_burst"), 4U);
  EXPECT_EQ(limiter->woken(), std::optional<std::uint16_t>(0));
  EXPECT_FALSE(limiter->pass(0, 1)) << "the debt of bytes is still there";
  limiter->set({0, kSame, kSame, kSame});
  EXPECT_TRUE(limiter->pass(0, 1));
}

TEST_F(RateLimiterTest, limits_and_debts_outlive_the_process_and_resets) {
  limiter->start({.bytes_per_second = 1000, .bytes_burst = 100});
  limiter->set({.bytes_per_second = 500, .bytes_burst = 50});
  EXPECT_TRUE(limiter->pass(0, 50));
  EXPECT_FALSE(limiter->pass(1, 50));
  build();  // a successor
  const RateLimiterState before = state.get();
  limiter->restore();
  EXPECT_EQ(state.get(), before);
  EXPECT_FALSE(limiter->pass(0, 50)) << "whoever waited before is not known";
  limiter->start({.bytes_per_second = 1000, .bytes_burst = 100});
  EXPECT_EQ(shown("limit_bytes_per_second"), 500U) << "a reset takes nothing back";
  EXPECT_FALSE(limiter->pass(0, 50));
}

}  // namespace
}  // namespace bulkhead::devproc
