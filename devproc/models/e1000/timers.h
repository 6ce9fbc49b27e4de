// What the parts of E1000 share among themselves.
#pragma once

#include <cstdint>

#include "devproc/core/device.h"
#include "devproc/core/limited_frames.h"
#include "ipc/roles/e1000_decl.h"

namespace bulkhead::devproc {

inline constexpr TimerId kThrottleTimer = LimitedFrames::kTimers;
inline constexpr TimerId kReceiveTimer = kThrottleTimer + 1;
inline constexpr TimerId kTransmitTimer = kReceiveTimer + 1;
inline constexpr TimerId kWorkTimer = kTransmitTimer + 1;  // more to transmit than fitted an input
static_assert(kWorkTimer + 1 == kE1000Timers);

// What can be written to RDBAL and TDBAL, RDLEN and TDLEN, RDH and the like.
inline constexpr std::uint32_t kRingAddressMask = 0xffff'fff0;
inline constexpr std::uint32_t kRingLengthMask = 0x000f'ff80;
inline constexpr std::uint32_t kRingIndexMask = 0xffff;

}  // namespace bulkhead::devproc
