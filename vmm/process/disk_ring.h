// DiskRing: an io_uring for one disk, made by the VMM, used by the device processes of the disk's role one after the
// other (DESIGN.md, section 4.2).
//
// I/O may outlive the process that asked for it; so its completion has to come to somewhere that outlives the process
// as well. The ring can do nothing but read, write, flush and allocate on the one registered file: its restrictions are
// in force before any device process has it, and cannot be widened. The VMM neither maps the ring nor looks into it.
// Guest memory is not registered: that would pin all of it.
//
// Threading: a value. Errors: one sentence with the kernel's reason; most often the host forbids io_uring.
// Sources: io_uring_setup(2), io_uring_register(2).
#pragma once

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"
#include "ipc/control/device_messages.h"

namespace bulkhead::vmm {

class DiskRing {
 public:
  static Result<DiskRing> create(BorrowedFd disk);

  [[nodiscard]] BorrowedFd fd() const { return fd_.borrow(); }
  // The memory of ipc/state/ring_notes.h.
  [[nodiscard]] BorrowedFd notes() const { return notes_.borrow(); }
  [[nodiscard]] control::RingGrant grant(std::uint32_t descriptor, std::uint32_t backing) const;

 private:
  UniqueFd fd_;
  UniqueFd notes_;
  control::RingGrant params_;
};

}  // namespace bulkhead::vmm
