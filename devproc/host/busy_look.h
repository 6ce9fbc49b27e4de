// BusyLook: whether it pays to look at a queue for a while instead of sleeping until its driver kicks.
//
// A kick costs the guest an exit, and waking a sleeping process costs more than most requests; a guest that is at work
// comes back within a few microseconds. But where it needs this very processor, looking only keeps it from coming. So
// each look that was in vain makes the time without looks twice as long, up to a length at which looks cost nothing
// that shows; one that was not makes an end of that. An idle guest is not looked at: a look follows work only.
// Units: nanoseconds of CLOCK_MONOTONIC. Threading: single-threaded.
#pragma once

#include <algorithm>
#include <cstdint>

namespace bulkhead::devproc {

class BusyLook {
 public:
  static constexpr std::int64_t kWindowNs = 50'000;  // to wake a sleeper on another processor takes as long
  static constexpr std::int64_t kLeastPauseNs = 200'000;
  static constexpr std::int64_t kMostPauseNs = 200'000'000;

  [[nodiscard]] bool worth_it(std::int64_t now) const { return now >= not_before_; }
  // A look from `began` on ended because something `came`, or not. What came late came because somebody else had the
  // processor meanwhile.
  void learn(std::int64_t began, std::int64_t now, bool came) {
    if (came && now - began < kWindowNs) {
      pause_ = 0;
      return;
    }
    pause_ = std::clamp(2 * pause_, kLeastPauseNs, kMostPauseNs);
    not_before_ = now + pause_;
  }

 private:
  std::int64_t pause_ = 0;
  std::int64_t not_before_ = INT64_MIN;
};

}  // namespace bulkhead::devproc
