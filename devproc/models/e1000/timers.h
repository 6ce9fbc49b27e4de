// What the parts of E1000 share among themselves.
#pragma once

#include <cstdint>

#include "devproc/core/device.h"

namespace bulkhead::devproc {

inline constexpr TimerId kThrottleTimer = 0;
inline constexpr TimerId kReceiveTimer = 1;
inline constexpr TimerId kTransmitTimer = 2;
inline constexpr TimerId kWorkTimer = 3;  // more to transmit than fitted an input

// What can be written to RDBAL and TDBAL, RDLEN and TDLEN, RDH and the like.
inline constexpr std::uint32_t kRingAddressMask = 0xffff'fff0;
inline constexpr std::uint32_t kRingLengthMask = 0x000f'ff80;
inline constexpr std::uint32_t kRingIndexMask = 0xffff;

}  // namespace bulkhead::devproc
