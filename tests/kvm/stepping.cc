// The part of stepping.h that only stepping_vmm has.
#include "sandbox/stepping.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <random>

namespace bulkhead::sandbox::stepping {

std::uint64_t draw(pid_t pid) {
  // Requests of these devices take from some 300 to 3,000 instructions, a wake-up from sleep included.
  constexpr std::uint64_t kMost = 3'000;
  static std::minstd_rand numbers([] {
    const char* seed = std::getenv("BULKHEAD_STEPPING_SEED");
    return static_cast<std::minstd_rand::result_type>(seed == nullptr ? 1 : std::strtoul(seed, nullptr, 10));
  }());
  const std::uint64_t steps = 1 + numbers() % kMost;
  fmt::print(stderr, "stepping: process {} dies after {} instructions\n", pid, steps);
  return steps;
}

}  // namespace bulkhead::sandbox::stepping
