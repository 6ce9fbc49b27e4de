// Configuration space of the 82540EM.
//
// Document: PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual, 317453, section 4.1. What is
// left out: MSI, which this controller's errata forbid, PCI-X and the flash BAR, which boards without flash switch off.
#pragma once

#include <array>
#include <cstdint>

#include "ipc/roles/device_config.h"
#include "ipc/roles/pci_decl.h"

namespace bulkhead {

// Regions, by index.
inline constexpr std::uint16_t kE1000Registers = 0;  // BAR 0, posted
inline constexpr std::uint16_t kE1000Ports = 1;      // BAR 2

inline constexpr std::uint32_t kE1000RegistersSize = 128 * 1024;
inline constexpr std::uint32_t kE1000PortsSize = 64;

inline constexpr std::uint16_t kE1000Timers = kNetTimers + 4;

inline constexpr std::array<BarDecl, 2> kE1000Bars{{
    {.bar = 0, .kind = BarKind::kMemory32, .size = kE1000RegistersSize, .region = kE1000Registers},
    {.bar = 2, .kind = BarKind::kIo, .size = kE1000PortsSize, .region = kE1000Ports},
}};

inline constexpr PciDecl kE1000Decl{
    .vendor_id = 0x8086,
    .device_id = 0x100e,
    .subsystem_vendor_id = 0x8086,
    .subsystem_id = 0x001e,
    .revision_id = 2,
    .class_code = 0x020000,
    .interrupt_pin = 1,
    .power_management = true,
    .bars = kE1000Bars,
};
static_assert(pci_decl_valid(kE1000Decl));

}  // namespace bulkhead
