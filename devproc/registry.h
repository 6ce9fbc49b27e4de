// The explicit table of device types: which models exist, and how one is made from its wires.
// No static constructors: the table is data, and a name that is not in it is an error that lists those that are.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "devproc/core/device.h"
#include "devproc/core/wires.h"
#include "ipc/base/result.h"
#include "ipc/roles/device_types.h"

namespace bulkhead::devproc {

struct DeviceType {
  std::string_view name;        // as in ipc/roles/device_types.cc
  std::uint32_t state_version;  // of the model's State; a successor must have the same
  // Allocates the model's state from wires.state and builds it. Does not reset it.
  Result<std::unique_ptr<Device>> (*create)(const DeviceConfig& config, const Wires& wires);
};

[[nodiscard]] std::span<const DeviceType> builtin_device_types();
[[nodiscard]] const DeviceType* find_builtin(std::string_view name);

}  // namespace bulkhead::devproc
