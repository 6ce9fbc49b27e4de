// futex(2) on words in shared memory: the process-shared forms, with absolute deadlines.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>

namespace bulkhead {

// Sleeps while *word == expected, at most until `deadline_ns` (CLOCK_MONOTONIC). May wake early.
inline void futex_wait_until(const std::atomic<std::uint32_t>* word, std::uint32_t expected, std::int64_t deadline_ns) {
  const timespec until{deadline_ns / 1'000'000'000, deadline_ns % 1'000'000'000};
  ::syscall(SYS_futex, word, FUTEX_WAIT_BITSET, expected, &until, nullptr, FUTEX_BITSET_MATCH_ANY);
}

inline void futex_wake_all(const std::atomic<std::uint32_t>* word) {
  ::syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace bulkhead
