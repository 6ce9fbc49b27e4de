// AwakeClock: time in which a thread that mostly sleeps was there to see what others did. What a sleep took beyond what
// it was to take at most (a frozen or overloaded host, a stopped process) does not count, so nobody is called late for
// an answer that could not have been seen. Freezes inside a sleep cannot be told from it: sleep in short pieces while
// somebody is watched; then a freeze counts for one piece at most.
//
// Units: nanoseconds. Threading: one thread. Errors: none. Trust: nothing foreign comes here.
#pragma once

#include <algorithm>
#include <cstdint>

namespace bulkhead::vmm {

class AwakeClock {
 public:
  // `now`: of the monotonic clock, here and below.
  void start(std::int64_t now) { last_ = now; }
  // The time since the last call, of which at most `most` counts.
  void advance(std::int64_t now, std::int64_t most) {
    awake_ += std::clamp<std::int64_t>(now - last_, 0, most);
    last_ = now;
  }
  // From 1 on: 0 stands for "no deadline" where deadlines are kept.
  [[nodiscard]] std::int64_t now() const { return awake_; }

 private:
  std::int64_t last_ = 0;
  std::int64_t awake_ = 1;
};

}  // namespace bulkhead::vmm
