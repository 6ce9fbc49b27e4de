// RamRelease: gives pages of guest memory back to the host. They read zero from then on, and take memory again when
// they are next touched.
//
// It happens while an input is handled, at once. That is right only for pages that the guest has given away and does
// not yet know to be taken: a kill makes a successor do it again, until the guest is told. Doing it twice is harmless.
// Threading: single-threaded. Trust: addresses are the guest's.
#pragma once

#include <cstdint>

#include "devproc/core/guest_memory.h"

namespace bulkhead::devproc {

class RamRelease {
 public:
  virtual ~RamRelease() = default;
  // The host's pages that lie wholly in [address, address + length). False: a part of that is not RAM; the rest is
  // released all the same. A host that does not take pages back loses nothing but memory.
  virtual bool release(GuestPhys address, std::uint64_t length) = 0;
};

}  // namespace bulkhead::devproc
