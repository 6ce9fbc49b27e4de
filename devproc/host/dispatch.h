// Runs one register access on a model: splits what is wider than the register, as the bus does, and answers
// ones for what no register answers. Pure: used by the jailed process and by the in-process baseline alike.
#pragma once

#include <cstdint>
#include <span>

#include "devproc/core/device.h"
#include "ipc/wire/io_message.h"

namespace bulkhead::devproc {

// One element. False when the access, or a part of it, hit no register (reads then have ones there).
bool dispatch_read(Device& device, const Access& access, std::uint64_t& value);
bool dispatch_write(Device& device, const Access& access, std::uint64_t value);

// A whole read or write request, string I/O included, with the answer in reply.payload. False as above;
// a request that fits no region answers ones.
bool dispatch_access(Device& device, const ipc::Request& request, ipc::Reply& reply);

}  // namespace bulkhead::devproc
