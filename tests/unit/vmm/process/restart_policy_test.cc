#include "vmm/process/restart_policy.h"

#include <gtest/gtest.h>

namespace bulkhead::vmm {
namespace {

using Kind = RestartPolicy::Decision::Kind;
constexpr std::int64_t kSecond = 1'000'000'000;

TEST(RestartPolicy, the_first_deaths_cost_no_pause_and_the_next_ones_twice_as_much_each) {
  RestartPolicy policy(OnCrash::kRestart, false);
  std::int64_t now = kSecond;
  std::int64_t expected = RestartPolicy::kFirstPauseNs;
  for (std::uint32_t death = 1; death <= RestartPolicy::kBudget; ++death) {
    const RestartPolicy::Decision decision = policy.on_death(now += 1000, false);
    ASSERT_EQ(decision.kind, Kind::kRestart) << death;
    if (death <= RestartPolicy::kAtOnce) {
      EXPECT_EQ(decision.pause_ns, 0) << death;
      continue;
    }
    EXPECT_EQ(decision.pause_ns, expected) << death;
    expected = std::min(2 * expected, RestartPolicy::kLongestPauseNs);
  }
}

TEST(RestartPolicy, a_used_up_budget_isolates_a_device_and_stops_a_vm_that_cannot_be_without_it) {
  for (const bool essential : {false, true}) {
    RestartPolicy policy(OnCrash::kRestart, essential);
    for (std::uint32_t death = 0; death < RestartPolicy::kBudget; ++death)
      EXPECT_EQ(policy.on_death(death, false).kind, Kind::kRestart);
    EXPECT_EQ(policy.on_death(RestartPolicy::kBudget, false).kind, essential ? Kind::kStop : Kind::kIsolate);
  }
}

TEST(RestartPolicy, deaths_of_long_ago_are_forgotten) {
  RestartPolicy policy(OnCrash::kRestart, false);
  std::int64_t now = 0;
  // One death more than the budget in a little more than the window, over and over.
  const std::int64_t apart = RestartPolicy::kWindowNs / RestartPolicy::kBudget + 1;
  for (int death = 0; death < 1000; ++death)
    ASSERT_EQ(policy.on_death(now += apart, false).kind, Kind::kRestart) << death;
}

TEST(RestartPolicy, an_owner_may_want_no_restart_at_all) {
  EXPECT_EQ(RestartPolicy(OnCrash::kStop, false).on_death(0, false).kind, Kind::kStop);
  EXPECT_EQ(RestartPolicy(OnCrash::kIsolate, false).on_death(0, false).kind, Kind::kIsolate);
  EXPECT_EQ(RestartPolicy(OnCrash::kIsolate, true).on_death(0, false).kind, Kind::kStop) << "never isolated";
}

TEST(RestartPolicy, a_successor_that_cannot_play_the_role_is_not_tried_again) {
  EXPECT_EQ(RestartPolicy(OnCrash::kRestart, false).on_death(0, true).kind, Kind::kIsolate);
  EXPECT_EQ(RestartPolicy(OnCrash::kRestart, true).on_death(0, true).kind, Kind::kStop);
}

TEST(RestartPolicy, a_device_that_was_brought_back_starts_with_a_whole_budget) {
  RestartPolicy policy(OnCrash::kRestart, false);
  while (policy.on_death(0, false).kind == Kind::kRestart) {
  }
  policy.forgive();
  const RestartPolicy::Decision decision = policy.on_death(0, false);
  EXPECT_EQ(decision.kind, Kind::kRestart);
  EXPECT_EQ(decision.pause_ns, 0);
}

}  // namespace
}  // namespace bulkhead::vmm
