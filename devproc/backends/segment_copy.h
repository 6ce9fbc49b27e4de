// copy_segments(): between a buffer of ours and the scattered guest memory of a request.
//
// Units: bytes. Threading: any, as the ranges allow. Errors: false when a byte is not RAM, or the segments end before
// the buffer does. Trust: segments are the guest's; each byte is looked up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "devproc/backends/guest_ranges.h"
#include "devproc/core/guest_memory.h"

namespace bulkhead::devproc {

// From `skip` bytes into the segments on, as much as `buffer` has.
[[nodiscard]] bool copy_segments(GuestRanges& memory, std::span<const Segment> segments, std::uint64_t skip,
                                 std::span<std::byte> buffer, bool to_guest);

}  // namespace bulkhead::devproc
