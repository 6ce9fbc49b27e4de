// TokenBucket: never more than it may, never less than it could, at any rate, however time goes.
#include "devproc/core/token_bucket.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace bulkhead::devproc {
namespace {

using Wide = unsigned __int128;
constexpr std::int64_t kSecond = 1'000'000'000;

TokenBucket bucket(std::uint64_t rate, std::uint64_t burst, std::int64_t now = 0) {
  TokenBucket made;
  made.configure(rate, burst, VmTime{now});
  return made;
}

struct Passed {
  std::int64_t at;
  std::uint64_t cost;
};

// Whoever always wants something, of random size, waits exactly as long as he is told to, now and then longer.
std::vector<Passed> greedy(TokenBucket& tokens, std::mt19937_64& random, std::uint64_t most_cost, int count) {
  std::vector<Passed> all;
  VmTime now = tokens.filled;
  for (int i = 0; i < count; ++i) {
    const std::uint64_t cost = 1 + random() % most_cost;
    if (random() % 8 == 0) now.ns += static_cast<std::int64_t>(random() % (2 * kSecond));
    tokens.fill(now);
    while (!tokens.allows(cost)) {
      const VmTime then = tokens.ready_at(cost);
      EXPECT_GT(then, now) << "a wait that is none";
      // Work-conserving: a moment before, it would not have passed.
      if (then.ns - now.ns < TokenBucket::kLongestWait) {
        TokenBucket early = tokens;
        early.fill(VmTime{then.ns - 1});
        EXPECT_FALSE(early.allows(cost)) << "it waited too long";
      }
      now = then;
      tokens.fill(now);
    }
    tokens.take(cost);
    all.push_back({now.ns, cost});
  }
  return all;
}

TEST(TokenBucket, no_window_has_more_than_burst_and_rate) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    std::mt19937_64 random(seed);
    const std::uint64_t rate = std::uint64_t{1} << random() % 40;
    const std::uint64_t burst = 1 + random() % (2 * rate);
    const std::uint64_t most_cost = seed % 2 == 0 ? burst : 3 * burst;
    TokenBucket tokens = bucket(rate, burst);
    const std::vector<Passed> all = greedy(tokens, random, most_cost, 200);
    for (std::size_t from = 0; from < all.size(); ++from) {
      Wide sum = 0;
      std::uint64_t largest = burst;
      for (std::size_t to = from; to < all.size(); ++to) {
        sum += all[to].cost;
        largest = std::max(largest, all[to].cost);
        const Wide window = static_cast<Wide>(all[to].at - all[from].at);
        // In billionths of a token, so that nothing is rounded away.
        ASSERT_LE(sum * kSecond, static_cast<Wide>(largest) * kSecond + window * rate)
            << "seed " << seed << ", from " << from << " to " << to;
      }
    }
  }
}

TEST(TokenBucket, in_the_long_run_it_is_the_rate_exactly) {
  for (const std::uint64_t rate : {1ULL, 3ULL, 7ULL, 999'999'937ULL, 10'000'000'019ULL}) {
    TokenBucket tokens = bucket(rate, 2 * rate);
    tokens.take(2 * rate);
    // Looked at in odd steps: no fraction is lost.
    std::int64_t now = 0;
    for (std::int64_t step = 1; now + step < kSecond; step = step * 3 % 1'000'003 + 1) tokens.fill(VmTime{now += step});
    tokens.fill(VmTime{kSecond});
    EXPECT_EQ(tokens.tokens, static_cast<std::int64_t>(rate));
    EXPECT_EQ(tokens.fraction, 0U);
  }
}

TEST(TokenBucket, what_is_larger_than_the_burst_passes_when_full_and_is_paid_back) {
  TokenBucket tokens = bucket(100, 10);
  EXPECT_TRUE(tokens.allows(1000));
  tokens.take(1000);
  EXPECT_EQ(tokens.tokens, -990);
  EXPECT_FALSE(tokens.allows(1));
  EXPECT_EQ(tokens.ready_at(1).ns, 991 * kSecond / 100);
  tokens.fill(tokens.ready_at(1));
  EXPECT_TRUE(tokens.allows(1));
  EXPECT_FALSE(tokens.allows(2));
  EXPECT_FALSE(tokens.allows(1000)) << "not full";
}

TEST(TokenBucket, nothing_overflows) {
  constexpr std::uint64_t kMost = RateLimit::kMost;
  for (const std::uint64_t rate : {std::uint64_t{1}, kMost, UINT64_MAX}) {
    for (const std::uint64_t burst : {std::uint64_t{1}, kMost, UINT64_MAX}) {
      for (const std::int64_t now : {std::int64_t{0}, INT64_MAX / 2}) {
        TokenBucket tokens = bucket(rate, burst);
        for (int i = 0; i < 40; ++i) tokens.take(UINT64_MAX);
        EXPECT_LE(tokens.tokens, 0);
        EXPECT_GE(tokens.ready_at(UINT64_MAX).ns, 0);
        tokens.fill(VmTime{now});
        EXPECT_GE(tokens.ready_at(1), tokens.filled);
        EXPECT_LE(tokens.tokens, tokens.burst);
        for (int i = 0; i < 2; ++i) tokens.give(UINT64_MAX);  // the debt, and the bucket
        EXPECT_EQ(tokens.tokens, tokens.burst);
      }
    }
  }
}

TEST(TokenBucket, a_wait_is_an_hour_at_most) {
  TokenBucket tokens = bucket(1, 1);
  tokens.take(RateLimit::kMost);
  EXPECT_EQ(tokens.ready_at(1).ns, TokenBucket::kLongestWait);
}

TEST(TokenBucket, time_that_stands_still_or_goes_back_gives_nothing) {
  TokenBucket tokens = bucket(1000, 10, 5 * kSecond);
  tokens.take(10);
  for (int i = 0; i < 100; ++i) tokens.fill(VmTime{5 * kSecond});
  tokens.fill(VmTime{1});
  EXPECT_EQ(tokens.tokens, 0);
  tokens.fill(VmTime{5 * kSecond + 1'000'000});
  EXPECT_EQ(tokens.tokens, 1);
}

TEST(TokenBucket, changes_give_nothing_away) {
  TokenBucket tokens = bucket(1000, 100);
  tokens.take(100);
  for (int i = 0; i < 100; ++i) tokens.configure(1000, 100 + static_cast<std::uint64_t>(i), VmTime{0});
  EXPECT_EQ(tokens.tokens, 0) << "a limit that is set again fills no bucket";
  tokens.configure(10, 5, VmTime{kSecond});
  EXPECT_EQ(tokens.tokens, 5) << "it fits the new bucket";
  tokens.take(100);
  tokens.configure(1'000'000, 0, VmTime{kSecond});
  EXPECT_EQ(tokens.tokens, -95) << "a debt stays";
  EXPECT_EQ(tokens.burst, 100'000) << "a tenth of a second's worth";
  tokens.configure(0, 0, VmTime{kSecond});
  EXPECT_TRUE(tokens.allows(UINT64_MAX));
  tokens.configure(3, 0, VmTime{kSecond});
  EXPECT_EQ(tokens.tokens, 1) << "one that is new begins full";
}

TEST(TokenBucket, an_honest_one_stays_and_any_other_is_brought_into_range) {
  std::mt19937_64 random(7);
  TokenBucket honest = bucket(12345, 999);
  for (int i = 0; i < 1000; ++i) {
    honest.fill(VmTime{honest.filled.ns + static_cast<std::int64_t>(random() % 1'000'000)});
    if (honest.allows(10)) honest.take(random() % 2000);
    TokenBucket again = honest;
    again.sanitize(honest.filled);
    ASSERT_EQ(again, honest);
  }
  for (int i = 0; i < 10'000; ++i) {
    TokenBucket any{random(), static_cast<std::int64_t>(random()), static_cast<std::int64_t>(random()), random(),
                    VmTime{static_cast<std::int64_t>(random())}};
    const VmTime now{1'000'000};
    any.sanitize(now);
    TokenBucket twice = any;
    twice.sanitize(now);
    ASSERT_EQ(twice, any);
    any.fill(now);
    ASSERT_LE(any.tokens, any.burst);
    ASSERT_LE(any.ready_at(1).ns - now.ns, TokenBucket::kLongestWait);
  }
}

}  // namespace
}  // namespace bulkhead::devproc
