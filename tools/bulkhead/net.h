// --net: network cards of a VM. The TAP's queues are opened with the rights of the user, or are the launcher's own
// descriptors; the VMM and the device processes get them open.
//
// No interface is made here: one that does not exist is refused (TUNSETIFF would make it).
// Errors: one sentence that names the option.
#pragma once

#include <string_view>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"
#include "ipc/control/vm_config.h"
#include "tools/bulkhead/new_files.h"

namespace bulkhead::cli {

// Whether it is a request of parse_net().
[[nodiscard]] bool is_net(const control::DeviceRequest& request);

// tap=NAME[,queues=N][,KEY=VALUE...], fd=N[:N...][,KEY=VALUE...], ring=PATH[,KEY=VALUE...] or user[,KEY=VALUE...] as a
// request for a virtio_net, or for what model= names. Several hostfwd= become one, with ';' between them.
[[nodiscard]] Result<control::DeviceRequest> parse_net(std::string_view text);

[[nodiscard]] bool has_user_network(const control::DeviceRequest& request);

// The queues of the TAP, or the socket, that a request of parse_net() names, `request.files` of them, behind what is in
// `files`. `made` gets to know of a socket that was not there before.
[[nodiscard]] Status open_net(const control::DeviceRequest& request, std::vector<UniqueFd>& files, NewFiles& made);

}  // namespace bulkhead::cli
