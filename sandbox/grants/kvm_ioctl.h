// Token for PolicyBuilder::allow_ioctls(): ioctl is as wide as the kernel's drivers. For threads of the VMM
// that hold KVM descriptors; never for a device process.
#pragma once

namespace bulkhead::sandbox {
struct KvmIoctlGrant {};
}  // namespace bulkhead::sandbox
