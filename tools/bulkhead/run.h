// `bulkhead run`: starts a VMM, carries its console, and leaves with the VM's exit status.
#pragma once

#include "tools/bulkhead/options.h"

namespace bulkhead::cli {

[[nodiscard]] int run_vm(const RunOptions& options);

}  // namespace bulkhead::cli
