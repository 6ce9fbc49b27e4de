// BusyLook: looks that pay go on, and those that do not soon cost nothing.
#include "devproc/host/busy_look.h"

#include <gtest/gtest.h>

namespace bulkhead::devproc {
namespace {

constexpr std::int64_t kWindow = BusyLook::kWindowNs;

TEST(BusyLook, the_first_one_is_worth_it_and_one_that_won_makes_the_next_so) {
  BusyLook look;
  ASSERT_TRUE(look.worth_it(0));
  look.learn(0, kWindow - 1, true);
  EXPECT_TRUE(look.worth_it(kWindow));
}

TEST(BusyLook, in_vain_it_is_worth_it_again_after_a_pause_that_doubles_up_to_its_most) {
  BusyLook look;
  std::int64_t now = 0;
  std::int64_t expected = BusyLook::kLeastPauseNs;
  for (int i = 0; i < 20; ++i) {
    look.learn(now, now + kWindow, false);
    now += kWindow;
    EXPECT_FALSE(look.worth_it(now + expected - 1)) << i;
    ASSERT_TRUE(look.worth_it(now + expected)) << i;
    now += expected;
    expected = std::min(2 * expected, BusyLook::kMostPauseNs);
  }
}

TEST(BusyLook, one_that_won_makes_the_pause_short_again) {
  BusyLook look;
  for (int i = 0; i < 5; ++i) look.learn(0, kWindow, false);
  look.learn(0, 0, true);
  look.learn(0, kWindow, false);
  EXPECT_TRUE(look.worth_it(kWindow + BusyLook::kLeastPauseNs));
}

TEST(BusyLook, what_comes_when_somebody_else_had_the_processor_is_no_win) {
  BusyLook look;
  look.learn(0, kWindow, true);
  EXPECT_FALSE(look.worth_it(kWindow));
}

TEST(BusyLook, a_guest_that_never_comes_in_time_costs_next_to_nothing) {
  BusyLook look;
  std::int64_t spent = 0;
  constexpr std::int64_t kSecond = 1'000'000'000;
  for (std::int64_t now = 0; now < 100 * kSecond; now += 2 * kWindow) {
    if (!look.worth_it(now)) continue;
    look.learn(now, now + kWindow, false);
    spent += kWindow;
  }
  EXPECT_LT(spent, 100 * kSecond / 2000);
}

}  // namespace
}  // namespace bulkhead::devproc
