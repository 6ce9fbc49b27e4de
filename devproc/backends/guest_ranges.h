// GuestRanges: where guest RAM lies in this process, for backends that hand it to the kernel without a copy.
//
// Models never see it: they read what the guest may change as copies (devproc/core/guest_memory.h). A backend passes
// these bytes on to read(2) and write(2), and looks at none of them. Threading: single-threaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "devproc/core/guest_memory.h"

namespace bulkhead::devproc {

class GuestRanges {
 public:
  virtual ~GuestRanges() = default;
  // The bytes from `address` on, at most `length`; fewer where a piece of RAM ends, whether or not another adjoins.
  // Empty: `address` is not RAM. Valid as long as guest memory is mapped.
  virtual std::span<std::byte> host_range(GuestPhys address, std::uint64_t length) = 0;
  // Now and then, while nothing here looks at any of it: lets pages go that were used, if they have become many. They
  // stay what they are, and come back when they are used. A process is not over before the last is unmapped.
  virtual void trim() {}
};

}  // namespace bulkhead::devproc
