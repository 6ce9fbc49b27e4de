#include "devproc/backends/segment_copy.h"

#include <algorithm>
#include <cstring>

namespace bulkhead::devproc {

bool copy_segments(GuestRanges& memory, std::span<const Segment> segments, std::uint64_t skip,
                   std::span<std::byte> buffer, bool to_guest) {
  for (const Segment& segment : segments) {
    if (skip >= segment.length) {
      skip -= segment.length;
      continue;
    }
    for (std::uint64_t at = skip; at < segment.length && !buffer.empty();) {
      const auto guest =
          memory.host_range(segment.address + at, std::min<std::uint64_t>(segment.length - at, buffer.size()));
      if (guest.empty()) return false;
      std::memcpy(to_guest ? guest.data() : buffer.data(), to_guest ? buffer.data() : guest.data(), guest.size());
      buffer = buffer.subspan(guest.size());
      at += guest.size();
    }
    skip = 0;
  }
  return buffer.empty();
}

}  // namespace bulkhead::devproc
