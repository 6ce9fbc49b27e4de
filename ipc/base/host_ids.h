// The users and groups that device processes are on the host when their VMM runs as root (sandbox/spawn.h:
// host_identity()): ids of nobody else, [kFirstHostId, kFirstHostId + kHostIds). Linux has at most 2^22 pids, so they
// are clear of (uid_t)-1 and of what distributions use.
#pragma once

#include <cstdint>

namespace bulkhead {

inline constexpr std::uint32_t kMostPids = 1U << 22;
inline constexpr std::uint32_t kHostIdsPerVmm = 64;
inline constexpr std::uint32_t kFirstHostId = 0x4000'0000;
inline constexpr std::uint32_t kHostIds = kMostPids * kHostIdsPerVmm;

}  // namespace bulkhead
