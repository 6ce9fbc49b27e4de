// AdaptiveWait: when it spins, and what it learns from a sleep.
#include "ipc/ring/adaptive_wait.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <thread>

namespace bulkhead::ipc {
namespace {

// The calling thread on one CPU, so that "which CPU am I on" has one answer.
class PinnedThread {
 public:
  PinnedThread() {
    ::sched_getaffinity(0, sizeof before_, &before_);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &before_)) continue;
      cpu_ = cpu;
      break;
    }
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu_, &one);
    ::sched_setaffinity(0, sizeof one, &one);
  }
  ~PinnedThread() { ::sched_setaffinity(0, sizeof before_, &before_); }
  [[nodiscard]] std::uint32_t cpu() const { return static_cast<std::uint32_t>(cpu_); }
  [[nodiscard]] std::uint32_t other_cpu() const { return cpu() + 1; }

 private:
  cpu_set_t before_{};
  int cpu_ = 0;
};

// A spin that fails, then a wake-up `gap_ns` after its start by a peer on `cpu`.
void sleep_that_ended(AdaptiveWait& wait, std::int64_t gap_ns, std::uint32_t cpu) {
  const std::int64_t before = monotonic_ns();
  EXPECT_FALSE(wait.spin([] { return false; }));
  // The spin's start lies between these two looks at the clock, less the spin itself.
  const std::int64_t began = wait.spinning() ? monotonic_ns() - AdaptiveWait::kWindowNs : before;
  WakeNote note{};
  note.time_ns.store(began + gap_ns);
  note.cpu.store(cpu);
  wait.learn(note);
}

TEST(AdaptiveWait, it_spins_until_the_peer_is_done) {
  AdaptiveWait wait;
  int looks = 0;
  EXPECT_TRUE(wait.spin([&] { return ++looks == 100; }));
  EXPECT_EQ(looks, 100);
}

TEST(AdaptiveWait, a_spin_in_vain_ends_after_the_window) {
  AdaptiveWait wait;
  const std::int64_t before = monotonic_ns();
  std::int64_t looks = 0;
  EXPECT_FALSE(wait.spin([&] { return ++looks < 0; }));
  EXPECT_GE(monotonic_ns() - before, AdaptiveWait::kWindowNs);
  EXPECT_GE(looks, 256 + 64);
}

TEST(AdaptiveWait, a_peer_that_came_after_the_window_is_not_spun_for) {
  const PinnedThread pinned;
  AdaptiveWait wait;
  sleep_that_ended(wait, 100 * AdaptiveWait::kWindowNs, pinned.other_cpu());
  EXPECT_FALSE(wait.spinning());
  int looks = 0;
  EXPECT_FALSE(wait.spin([&] { return ++looks != 0; })) << "it sleeps at once: not a single look";
  EXPECT_EQ(looks, 0);
}

TEST(AdaptiveWait, a_peer_that_came_within_the_window_is_spun_for_again) {
  const PinnedThread pinned;
  AdaptiveWait wait;
  sleep_that_ended(wait, 100 * AdaptiveWait::kWindowNs, pinned.other_cpu());
  ASSERT_FALSE(wait.spinning());
  // The deadline of the test's own clock is loose, so try until one look at the clock was not interrupted.
  for (int i = 0; i < 1000 && !wait.spinning(); ++i) {
    ASSERT_FALSE(wait.spin([] { return false; }));
    WakeNote note{};
    note.time_ns.store(monotonic_ns());
    note.cpu.store(pinned.other_cpu());
    wait.learn(note);
  }
  EXPECT_TRUE(wait.spinning());
}

TEST(AdaptiveWait, a_peer_on_this_very_cpu_is_never_spun_for) {
  const PinnedThread pinned;
  AdaptiveWait wait;
  for (int i = 0; i < 100; ++i) {
    (void)wait.spin([] { return false; });
    WakeNote note{};
    note.time_ns.store(monotonic_ns());
    note.cpu.store(pinned.cpu());
    wait.learn(note);
    ASSERT_FALSE(wait.spinning());
  }
}

TEST(AdaptiveWait, a_note_from_before_the_wait_teaches_not_to_spin) {
  const PinnedThread pinned;
  AdaptiveWait wait;
  WakeNote note{};
  note.time_ns.store(monotonic_ns() - 1);
  note.cpu.store(pinned.other_cpu());
  EXPECT_FALSE(wait.spin([] { return false; }));
  wait.learn(note);
  EXPECT_FALSE(wait.spinning());
}

TEST(AdaptiveWait, the_wake_note_says_when_and_where) {
  const PinnedThread pinned;
  WakeNote note{};
  const std::int64_t before = monotonic_ns();
  leave_wake_note(note);
  EXPECT_GE(note.time_ns.load(), before);
  EXPECT_LE(note.time_ns.load(), monotonic_ns());
  EXPECT_EQ(note.cpu.load(), pinned.cpu());
}

TEST(AdaptiveWait, after_a_wake_up_that_it_cannot_see_it_does_not_spin_until_one_pays_again) {
  const PinnedThread pinned;
  AdaptiveWait wait;
  wait.in_vain();
  EXPECT_FALSE(wait.spinning());
  sleep_that_ended(wait, AdaptiveWait::kWindowNs / 2, pinned.other_cpu());
  EXPECT_TRUE(wait.spinning());
}

}  // namespace
}  // namespace bulkhead::ipc
