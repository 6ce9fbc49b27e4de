// What config space and the jail must know of a virtio function: ids, queues, the places of its structures.
//
// Document: Virtual I/O Device (VIRTIO) Version 1.2, sections 4.1.2 (PCI device discovery) and 4.1.4 (virtio structure
// PCI capabilities). Every virtio device here is laid out alike: BAR 0 holds the common, ISR and device-specific
// configuration, BAR 1 the notification area (one dword a queue), BAR 2 the MSI-X table.
#pragma once

#include <array>
#include <cstdint>

#include "ipc/roles/device_types.h"

namespace bulkhead {

// Regions of a virtio function, by index.
inline constexpr std::uint16_t kVirtioRegisters = 0;  // BAR 0
inline constexpr std::uint16_t kVirtioDoorbells = 1;  // BAR 1, posted

inline constexpr std::uint32_t kVirtioRegistersSize = 0x4000;
inline constexpr std::uint32_t kVirtioDoorbellsSize = 0x1000;
inline constexpr std::uint32_t kVirtioCommonOffset = 0x0000;
inline constexpr std::uint32_t kVirtioCommonLength = 0x40;
inline constexpr std::uint32_t kVirtioIsrOffset = 0x1000;
inline constexpr std::uint32_t kVirtioIsrLength = 4;
inline constexpr std::uint32_t kVirtioDeviceOffset = 0x2000;
inline constexpr std::uint32_t kVirtioDeviceLength = 0x1000;  // more than any device has: the rest reads zero

inline constexpr std::uint16_t kVirtioVendor = 0x1af4;
inline constexpr std::uint16_t kVirtioFirstDevice = 0x1040;  // + virtio device id: modern only
inline constexpr std::uint16_t kVirtioSubsystem = 0x1100;

inline constexpr std::array<RegionDecl, 2> kVirtioRegions{{
    {"configuration", true, kVirtioRegistersSize},
    {"doorbells", true, kVirtioDoorbellsSize, true},
}};
inline constexpr std::array<LineDecl, 1> kVirtioLines{{{"intx", LineKind::kLevel}}};
inline constexpr std::array<BarDecl, 3> kVirtioBars{{
    {.bar = 0, .kind = BarKind::kMemory32, .size = kVirtioRegistersSize, .region = kVirtioRegisters},
    {.bar = 1, .kind = BarKind::kMemory32, .size = kVirtioDoorbellsSize, .region = kVirtioDoorbells},
    {.bar = 2, .kind = BarKind::kMemory32, .size = 0x1000, .msix = true},
}};

inline constexpr std::array<VirtioCapDecl, 5> kVirtioCaps{{
    {.cfg_type = VirtioPciCap::kCommonCfg, .bar = 0, .offset = kVirtioCommonOffset, .length = kVirtioCommonLength},
    {.cfg_type = VirtioPciCap::kNotifyCfg,
     .bar = 1,
     .offset = 0,
     .length = kVirtioDoorbellsSize,
     .notify_off_multiplier = kDoorbellStride},
    {.cfg_type = VirtioPciCap::kIsrCfg, .bar = 0, .offset = kVirtioIsrOffset, .length = kVirtioIsrLength},
    {.cfg_type = VirtioPciCap::kDeviceCfg, .bar = 0, .offset = kVirtioDeviceOffset, .length = kVirtioDeviceLength},
    {.cfg_type = VirtioPciCap::kPciCfg},
}};

// One vector for configuration changes and one a queue.
constexpr PciDecl virtio_pci_decl(std::uint16_t virtio_id, std::uint32_t class_code, std::uint16_t queues) {
  return {.vendor_id = kVirtioVendor,
          .device_id = static_cast<std::uint16_t>(kVirtioFirstDevice + virtio_id),
          .subsystem_vendor_id = kVirtioVendor,
          .subsystem_id = kVirtioSubsystem,
          .revision_id = 1,
          .class_code = class_code,
          .interrupt_pin = 1,
          .msix_vectors = static_cast<std::uint16_t>(queues + 1),
          .power_management = true,
          .bars = kVirtioBars,
          .virtio_caps = kVirtioCaps};
}

// Entropy device (section 5.4).
inline constexpr std::uint16_t kVirtioRngQueues = 1;
inline constexpr PciDecl kVirtioRngDecl = virtio_pci_decl(4, 0x00ff00, kVirtioRngQueues);
static_assert(pci_decl_valid(kVirtioRngDecl));

// Block device (section 5.2).
inline constexpr std::uint16_t kVirtioBlkMaxQueues = 4;
inline constexpr std::uint16_t kVirtioBlkTimers = 2;  // VirtioBlk::kRetryTimer, kLimitTimer
inline constexpr PciDecl kVirtioBlkDecl = virtio_pci_decl(2, 0x010000, kVirtioBlkMaxQueues);
static_assert(pci_decl_valid(kVirtioBlkDecl));

// Console device (section 5.3): receiveq and transmitq of port 0.
inline constexpr std::uint16_t kVirtioConsoleQueues = 2;
inline constexpr PciDecl kVirtioConsoleDecl = virtio_pci_decl(3, 0x078000, kVirtioConsoleQueues);
static_assert(pci_decl_valid(kVirtioConsoleDecl));

// Memory balloon device (section 5.5): inflateq, deflateq, statsq, free_page_vq (not used here), reporting_vq.
inline constexpr std::uint16_t kVirtioBalloonQueues = 5;
inline constexpr PciDecl kVirtioBalloonDecl = virtio_pci_decl(5, 0x00ff00, kVirtioBalloonQueues);
static_assert(pci_decl_valid(kVirtioBalloonDecl));

// Socket device (section 5.10): receive, transmit and event queue.
inline constexpr std::uint16_t kVirtioVsockQueues = 3;
inline constexpr PciDecl kVirtioVsockDecl = virtio_pci_decl(19, 0x078000, kVirtioVsockQueues);
static_assert(pci_decl_valid(kVirtioVsockDecl));

// Network device (section 5.1): receiveq and transmitq of each pair, then the control queue.
inline constexpr std::uint16_t kVirtioNetMaxPairs = 4;
inline constexpr std::uint16_t kVirtioNetMaxQueues = 2 * kVirtioNetMaxPairs + 1;
inline constexpr PciDecl kVirtioNetDecl = virtio_pci_decl(1, 0x020000, kVirtioNetMaxQueues);
static_assert(pci_decl_valid(kVirtioNetDecl));

}  // namespace bulkhead
