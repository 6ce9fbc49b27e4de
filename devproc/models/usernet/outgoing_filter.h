// Which of its guest's frames a user network may see: none that would reach the host's own loopback interface.
//
// libslirp connects to whatever address a frame names, and a guest may name 127.0.0.1 as well as any other. It takes
// the name server's address for the host's resolver at every port, and that resolver is often at 127.0.0.53, where all
// services listen that listen everywhere. So frames to loopback addresses are dropped, and of those to the name server
// all but DNS. The gateway's address, which stands for 127.0.0.1, libslirp's own option keeps shut.
// With host_loopback in the configuration everything passes. Pure. Trust: frames are hostile.
#pragma once

#include <cstddef>
#include <span>

#include "ipc/roles/device_config.h"

namespace bulkhead::devproc {

enum class Outgoing : std::uint8_t { kPass, kTooShort, kForbidden };

// `frame` begins with its Ethernet header.
[[nodiscard]] Outgoing judge_outgoing(std::span<const std::byte> frame, const UsernetConfig& config);

}  // namespace bulkhead::devproc
