// Configuration space of the PCI test function (devproc/models/pci_test): every kind of BAR and interrupt.
//
// Vendor BEEFh and device B41Ch are assigned to nobody. The function is in no machine that does not ask for
// it by name, so no guest meets it by accident.
#pragma once

#include <array>
#include <cstdint>

#include "ipc/roles/pci_decl.h"

namespace bulkhead {

// Regions of the test function, by index.
inline constexpr std::uint16_t kPciTestRegisters = 0;  // BAR 0
inline constexpr std::uint16_t kPciTestDoorbells = 1;  // BAR 1, posted
inline constexpr std::uint16_t kPciTestPorts = 2;      // BAR 2

inline constexpr std::uint32_t kPciTestRegistersSize = 4096;
inline constexpr std::uint32_t kPciTestDoorbellsSize = 4096;
inline constexpr std::uint32_t kPciTestPortsSize = 64;
inline constexpr std::uint8_t kPciTestMsiVectors = 4;
inline constexpr std::uint16_t kPciTestMsixVectors = 8;

inline constexpr std::array<BarDecl, 4> kPciTestBars{{
    {.bar = 0, .kind = BarKind::kMemory32, .size = kPciTestRegistersSize, .region = kPciTestRegisters},
    {.bar = 1, .kind = BarKind::kMemory32, .size = kPciTestDoorbellsSize, .region = kPciTestDoorbells},
    {.bar = 2, .kind = BarKind::kIo, .size = kPciTestPortsSize, .region = kPciTestPorts},
    {.bar = 4, .kind = BarKind::kMemory64, .size = 4096, .msix = true},
}};

// No virtio device; it has the window of configuration space to its BARs, and what that window needs to be of use.
inline constexpr std::array<VirtioCapDecl, 2> kPciTestVirtioCaps{{
    {.cfg_type = VirtioPciCap::kDeviceCfg, .bar = 0, .offset = 0, .length = kPciTestRegistersSize},
    {.cfg_type = VirtioPciCap::kPciCfg},
}};

inline constexpr PciDecl kPciTestDecl{
    .vendor_id = 0xbeef,
    .device_id = 0xb41c,
    .subsystem_vendor_id = 0xbeef,
    .subsystem_id = 0x0001,
    .revision_id = 1,
    .class_code = 0xff0000,  // fits in no defined class
    .interrupt_pin = 1,
    .msi_vectors = kPciTestMsiVectors,
    .msix_vectors = kPciTestMsixVectors,
    .power_management = true,
    .bars = kPciTestBars,
    .virtio_caps = kPciTestVirtioCaps,
};
static_assert(pci_decl_valid(kPciTestDecl));

}  // namespace bulkhead
