// The commands that talk to running VMs over their management sockets. Each returns an exit status.
#pragma once

#include "tools/bulkhead/options.h"

namespace bulkhead::cli {

[[nodiscard]] int manage(const ListOptions& options);
[[nodiscard]] int manage(const DevicesOptions& options);
[[nodiscard]] int manage(const InspectOptions& options);
[[nodiscard]] int manage(const ActionOptions& options);

}  // namespace bulkhead::cli
