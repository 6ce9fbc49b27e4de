// Token for PolicyBuilder::allow(LoadFilterGrant): a standby process loads its role's filter over its own.
// A second filter can only take away, but the BPF program comes from the process's memory, so the grant
// belongs to stage 1 alone.
#pragma once

namespace bulkhead::sandbox {
struct LoadFilterGrant {};
}  // namespace bulkhead::sandbox
