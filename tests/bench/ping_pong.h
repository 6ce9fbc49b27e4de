// The base of the ring figures: a bare ping-pong of one cache line between two processes that both spin, each pinned
// to a core of its own.
#pragma once

#include <memory>

#include "ipc/base/result.h"

namespace bulkhead::bench {

class PingPong {
 public:
  // Forks the peer, pinned to `peer_cpu`. It sleeps until a round is asked for.
  static Result<std::unique_ptr<PingPong>> start(int peer_cpu);
  ~PingPong();
  PingPong(const PingPong&) = delete;
  PingPong& operator=(const PingPong&) = delete;

  // Median nanoseconds of one round trip, over `trips` of them.
  double round(int trips);

 private:
  struct Shared;
  PingPong() = default;
  Shared* shared_ = nullptr;
  int pid_ = -1;
};

// Pins a thread, 0: the calling one. CPUs are counted among those that this process may use; false when there are
// fewer.
bool pin_to(int cpu, int thread = 0);
void unpin();
[[nodiscard]] double ns_per_tsc_tick();
[[nodiscard]] inline unsigned long long read_tsc() {
  unsigned low = 0;
  unsigned high = 0;
  asm volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high)::"memory");
  return (static_cast<unsigned long long>(high) << 32) | low;
}

}  // namespace bulkhead::bench
