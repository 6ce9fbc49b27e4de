// The debug-exit port: a device of virtual machines alone, by which a test guest ends its VM with a value
// (QEMU calls its own isa-debug-exit). No chip, no data sheet.
#pragma once

#include <cstdint>

namespace bulkhead::devproc::debug_exit {

inline constexpr std::uint64_t kValue = 0;  // write: 1, 2 or 4 bytes
inline constexpr std::uint64_t kPorts = 4;

}  // namespace bulkhead::devproc::debug_exit
