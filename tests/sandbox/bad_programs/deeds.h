// The deeds that jail_probe can be asked to do. Each returns only if the jail let it: then the number is
// the exit status (0 for everyday deeds, which must be let; kSurvived for forbidden ones, which must not).
#pragma once

#include <span>

namespace bulkhead::sandbox::probe {

inline constexpr int kSurvived = 42;

// How probes and tests number the descriptors of a probe.
inline constexpr int kControl = 3;
inline constexpr int kStandbyFilter = 4;
inline constexpr int kRoleFilter = 5;
inline constexpr int kRegion = 6;  // a sealed memfd of one page
inline constexpr int kTimer = 7;   // a timerfd
inline constexpr int kEpoll = 8;   // an epoll descriptor

struct Deed {
  const char* name;
  int (*perform)();
};

std::span<const Deed> file_deeds();
std::span<const Deed> process_deeds();
std::span<const Deed> memory_deeds();
std::span<const Deed> kernel_deeds();
std::span<const Deed> everyday_deeds();
std::span<const Deed> escape_deeds();

}  // namespace bulkhead::sandbox::probe
