// Configuration space of the VGA: the ids, BARs and ranges of the Bochs display adapter, which SeaBIOS's vgabios, OVMF
// and Linux's bochs-drm drive.
//
// Document: QEMU docs/specs/standard-vga.rst. BAR 0 is the video memory, BAR 2 the registers once more, BAR 6 the video
// BIOS.
#pragma once

#include <array>
#include <cstdint>

#include "ipc/roles/pci_decl.h"
#include "ipc/screen/vga_registers.h"

namespace bulkhead {

// Regions, by index.
inline constexpr std::uint16_t kVgaPorts = 0;         // 3B0h-3DFh
inline constexpr std::uint16_t kVgaVbePorts = 1;      // 1CEh-1D0h
inline constexpr std::uint16_t kVgaLegacyMemory = 2;  // A0000h-BFFFFh, posted
inline constexpr std::uint16_t kVgaVideoMemory = 3;   // BAR 0: what no memory slot serves
inline constexpr std::uint16_t kVgaRegisterBar = 4;   // BAR 2

inline constexpr std::uint16_t kVgaPortsBase = 0x3b0;
inline constexpr std::uint32_t kVgaPortsSize = 0x30;
inline constexpr std::uint16_t kVgaVbePortsBase = 0x1ce;
inline constexpr std::uint32_t kVgaVbePortsSize = 3;
inline constexpr std::uint64_t kVgaLegacyBase = 0xa0000;
inline constexpr std::uint32_t kVgaLegacySize = 0x20000;
inline constexpr std::uint32_t kVgaRegisterBarSize = 4096;
inline constexpr std::uint32_t kVgaBank = 0x10000;  // what a linear window at A0000h moves by

inline constexpr std::array<BarDecl, 2> kVgaBars{{
    {.bar = 0,
     .kind = BarKind::kMemory32,
     .size = screen::kVideoMemory,
     .prefetchable = true,
     .region = kVgaVideoMemory},
    {.bar = 2, .kind = BarKind::kMemory32, .size = kVgaRegisterBarSize, .region = kVgaRegisterBar},
}};

inline constexpr PciDecl kVgaDecl{
    .vendor_id = 0x1234,
    .device_id = 0x1111,
    .subsystem_vendor_id = 0x1af4,
    .subsystem_id = 0x1100,
    .revision_id = 2,
    .class_code = 0x030000,
    .legacy_io = true,
    .bars = kVgaBars,
};
static_assert(pci_decl_valid(kVgaDecl));

}  // namespace bulkhead
