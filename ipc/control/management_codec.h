// VmStatus, DeviceInfo and DeviceEvent (management.h) on the wire. Internal to the management client and server.
#pragma once

#include "ipc/control/management.capnp.h"
#include "ipc/control/management.h"
#include "ipc/control/vm_config.h"

namespace bulkhead::control::codec {

void write_status(schema::VmStatus::Builder out, const VmStatus& status);
[[nodiscard]] VmStatus read_status(schema::VmStatus::Reader in);

void write_devices(capnp::List<schema::DeviceInfo>::Builder out, const std::vector<DeviceInfo>& devices);
[[nodiscard]] std::vector<DeviceInfo> read_devices(capnp::List<schema::DeviceInfo>::Reader in);

void write_events(capnp::List<schema::DeviceEvent>::Builder out, const std::vector<DeviceEvent>& events);
[[nodiscard]] std::vector<DeviceEvent> read_events(capnp::List<schema::DeviceEvent>::Reader in);

void write_properties(capnp::List<schema::LimitProperty>::Builder out, const std::vector<Property>& properties);
[[nodiscard]] std::vector<Property> read_properties(capnp::List<schema::LimitProperty>::Reader in);

}  // namespace bulkhead::control::codec
