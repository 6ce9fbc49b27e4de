// Where the loader puts what a directly booted kernel needs first. All below 60000h, inside the RAM that
// e820 calls usable: Linux leaves its first megabyte alone until it has read all of this.
// Units: guest-physical addresses. Errors, threading: constants. Trust: none needed.
#pragma once

#include <cstdint>

#include "vmm/memory/layout.h"

namespace bulkhead::vmm {

inline constexpr std::uint64_t kBootGdt = 0x1000;
inline constexpr std::uint64_t kBootStartInfo = 0x2000;   // PVH: two pages
inline constexpr std::uint64_t kBootZeroPage = 0x7000;    // bzImage: one page
inline constexpr std::uint64_t kBootStackTop = 0x9000;    // grows down into its own page
inline constexpr std::uint64_t kBootPageTables = 0x9000;  // six pages
inline constexpr std::uint64_t kBootCommandLine = 0x20000;
inline constexpr std::uint64_t kBootCommandLineLimit = 0x10000;  // bytes with the terminating zero
inline constexpr std::uint32_t kBootMappedGib = 4;
// Kernel segments and initrds start here at the lowest.
inline constexpr std::uint64_t kBootImageFloor = kExtendedMemory;

}  // namespace bulkhead::vmm
