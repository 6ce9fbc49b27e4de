// UserNetworkBackend: a user network as the host of a role sees it, and how a program that has one makes it.
// bulkhead-device has none; bulkhead-usernet brings its own (devproc/usernet), so that no other device process carries
// the library behind it.
#pragma once

#include <memory>

#include "devproc/backends/backend.h"
#include "devproc/core/user_network.h"
#include "ipc/base/result.h"
#include "ipc/roles/device_config.h"

namespace bulkhead::devproc {

class UserNetworkBackend : public UserNetwork, public Backend {};

// `resumed`: a predecessor may still hold what it listened on.
using MakeUserNetwork = Result<std::unique_ptr<UserNetworkBackend>> (*)(const UsernetConfig& config, bool resumed);

}  // namespace bulkhead::devproc
