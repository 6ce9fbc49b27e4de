// Statistics and inspection results on the wire, which device.capnp and management.capnp share.
// Internal to ipc/control and vmm/api.
#pragma once

#include <vector>

#include "ipc/control/device.capnp.h"
#include "ipc/control/device_messages.h"

namespace bulkhead::control::codec {

void write_statistics(schema::Statistics::Builder out, const Statistics& statistics);
[[nodiscard]] Statistics read_statistics(schema::Statistics::Reader in);

void write_inspected(capnp::List<schema::InspectedInstance>::Builder out,
                     const std::vector<InspectedInstance>& instances);
[[nodiscard]] std::vector<InspectedInstance> read_inspected(capnp::List<schema::InspectedInstance>::Reader in);

}  // namespace bulkhead::control::codec
