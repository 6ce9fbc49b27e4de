// RamPunch: RamRelease on mapped guest memory: madvise(MADV_REMOVE) makes holes in the memfd behind it, for every
// process that maps it, KVM included.
//
// It needs no descriptor, and can reach nothing but the guest memory that its process may write in any case. Pages of
// 4 KiB: guest memory is an ordinary memfd. Errors: none; the host's refusal costs memory, nothing else.
// Threading: single-threaded.
#pragma once

#include "devproc/backends/guest_ranges.h"
#include "devproc/core/ram_release.h"

namespace bulkhead::devproc {

class RamPunch final : public RamRelease {
 public:
  explicit RamPunch(GuestRanges& ranges) : ranges_(ranges) {}
  bool release(GuestPhys address, std::uint64_t length) override;

 private:
  GuestRanges& ranges_;
};

}  // namespace bulkhead::devproc
