// Adaptive wait: spin for a bounded, measured time, then sleep.
//
// A spinning peer on another core answers in about 0.1 us; waking a sleeping one costs 5 us on the same
// core and 50 us across cores. A spin pays only while what it waits for comes within the window, and never
// when the peer needs this very core. Both are learned when a sleep ends: the waker notes when and where
// it was. An idle waiter therefore settles at "sleep at once" and burns nothing.
//
// Threading: one object per waiting thread and peer.
#pragma once

#include <sched.h>
#include <time.h>

#include <cstdint>

#include "ipc/ring/layout.h"

namespace bulkhead::ipc {

inline std::int64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

inline void cpu_relax() { __builtin_ia32_pause(); }

class AdaptiveWait {
 public:
  static constexpr std::int64_t kWindowNs =
      100'000;  // an exit takes 25-30 us here, and not every exit is this device's

  // Spins until done() or until the budget is used up. True when done() was.
  template <class Done>
  bool spin(Done&& done) {
    if (!spinning_) {
      began_ = monotonic_ns();
      return false;
    }
    // The first turns read no clock: the usual answer comes within them.
    for (int i = 0; i < 256; ++i) {
      if (done()) return true;
      cpu_relax();
    }
    began_ = monotonic_ns();
    do {
      for (int i = 0; i < 64; ++i) {
        if (done()) return true;
        cpu_relax();
      }
    } while (monotonic_ns() - began_ < kWindowNs);
    return false;
  }

  // After a sleep that followed a spin(): whether a spin would have won, by the waker's own note.
  void learn(const WakeNote& note) {
    // The note may be a hostile device's: any number, so the difference is taken modulo 2^64.
    const auto gap = static_cast<std::int64_t>(
        static_cast<std::uint64_t>(note.time_ns.load(std::memory_order_relaxed)) - static_cast<std::uint64_t>(began_));
    const bool same_cpu = static_cast<int>(note.cpu.load(std::memory_order_relaxed)) == ::sched_getcpu();
    spinning_ = gap >= 0 && gap < kWindowNs && !same_cpu;
  }

  // The sleep ended by what a spin cannot see, and would only have kept waiting.
  void in_vain() { spinning_ = false; }

  [[nodiscard]] bool spinning() const { return spinning_; }

 private:
  bool spinning_ = true;
  std::int64_t began_ = 0;
};

// What the waking side writes before it wakes a sleeper.
inline void leave_wake_note(WakeNote& note) {
  note.cpu.store(static_cast<std::uint32_t>(::sched_getcpu()), std::memory_order_relaxed);
  note.time_ns.store(monotonic_ns(), std::memory_order_relaxed);
}

}  // namespace bulkhead::ipc
