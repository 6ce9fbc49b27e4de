// inspect_disk(): what a disk's file or block device is like, found out by the VMM before any guest runs; device
// processes probe nothing.
//
// It also locks the file (F_OFD_SETLK over all of it, shared for a read-only disk), so that no two VMs write one image;
// other monitors that lock images do it by the same calls. The lock lives as long as the open file description, which
// the VMM holds until it ends.
// Units: bytes. Errors: one sentence that names the path. Threading: pure but for the descriptor. Trust: the
// configuration is the user's; contents of the disk are the guest's, and are not looked at.
#pragma once

#include <string>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"
#include "ipc/roles/device_config.h"

namespace bulkhead::vmm {

// `disk` is open for reading, and for writing unless the disk is read-only; whether with O_DIRECT its flags tell.
// `path`: for messages.
[[nodiscard]] Result<DiskGeometry> inspect_disk(BorrowedFd disk, const std::string& path);

// Whether both are the same file or block device, however they were named.
[[nodiscard]] bool same_disk(BorrowedFd one, BorrowedFd other);

}  // namespace bulkhead::vmm
