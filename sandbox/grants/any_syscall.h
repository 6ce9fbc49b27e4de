// Token for PolicyBuilder::allow_syscall(): a call without any check of its arguments. For the VMM's own
// threads, and for tests of the builder; a device process's needs get a named grant in sandbox/policy.h
// instead.
#pragma once

namespace bulkhead::sandbox {
struct AnySyscallGrant {};
}  // namespace bulkhead::sandbox
