// read_request(): what one --device (or --disk) asks for, checked: type, slot, and the type's own configuration.
//
// Properties: slot=N for every PCI device; virtio_blk: path=TEXT (for messages), serial=TEXT, queues=N, and readonly
// and direct, which were honoured where the file was opened. Errors: one sentence that names what is wrong. Threading:
// pure. Trust: the configuration is the user's.
#pragma once

#include <cstdint>
#include <optional>

#include "ipc/control/vm_config.h"
#include "ipc/roles/device_types.h"

namespace bulkhead::vmm {

inline constexpr std::uint8_t kFirstFreeSlot = 3;  // 0 host bridge, 1 PIIX3, 2 is where VGA goes
inline constexpr std::uint8_t kSlots = 32;

struct FunctionRequest {
  const DeviceTypeDecl* type = nullptr;
  std::optional<std::uint8_t> slot;  // nullopt: any will do
  DeviceConfig config;
};

// `disk`: of a device type with BackingKind::kDisk, what its file is like.
[[nodiscard]] Result<FunctionRequest> read_request(const control::DeviceRequest& request,
                                                   const std::optional<DiskGeometry>& disk);

}  // namespace bulkhead::vmm
