// What a firmware is told of its machine by fw_cfg: the files that SeaBIOS reads.
//
// Pure. Units: bytes. Errors: Result. Trust: the user's configuration.
// Sources: QEMU, docs/specs/fw_cfg.rst; SeaBIOS, docs/Runtime_config.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "vmm/firmware/fw_cfg_image.h"
#include "vmm/firmware/rom_image.h"
#include "vmm/machine/plan.h"

namespace bulkhead::vmm {

// The boot order as firmware reads it: one Open Firmware path a line.
[[nodiscard]] std::string boot_order_text(std::span<const BootDevice> devices);

// `roms`: of each of config.devices. One whose own id is another than its function's is also a file: SeaBIOS runs that
// without a look at the id, which it would not do with the BAR.
[[nodiscard]] Result<std::vector<std::byte>> firmware_data(const MachinePlan& plan, const control::VmConfig& config,
                                                           std::span<const std::optional<OptionRom>> roms);

}  // namespace bulkhead::vmm
