// DeviceConfig (ipc/roles/device_config.h) on the wire: device_config.capnp. Internal to ipc/control.
#pragma once

#include "ipc/control/device_config.capnp.h"
#include "ipc/roles/device_config.h"

namespace bulkhead::control::codec {

void write_device_config(schema::DeviceConfig::Builder out, const DeviceConfig& config);
[[nodiscard]] DeviceConfig read_device_config(schema::DeviceConfig::Reader in);

}  // namespace bulkhead::control::codec
