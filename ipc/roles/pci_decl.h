// What config space says of each PCI device type: ids, BARs, capabilities. Plain data, read by the `pci`
// process (which owns the config space of every function) and by the VMM (which checks its effects).
// Source of the fields: PCI Local Bus Specification 3.0, chapter 6; VIRTIO 1.2, section 4.1.4.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "ipc/roles/device_config.h"

namespace bulkhead {

enum class BarKind : std::uint8_t { kIo, kMemory32, kMemory64 };

struct BarDecl {
  std::uint8_t bar = 0;  // 0-5; 6 is the expansion ROM (kMemory32, at least 2 KiB)
  BarKind kind = BarKind::kMemory32;
  std::uint32_t size = 0;  // bytes, a power of two; memory >= 16, I/O 4 to 256
  bool prefetchable = false;
  std::uint16_t region = 0;  // the region of the owning device that the BAR decodes to
  bool msix = false;         // holds the MSI-X table and PBA: decodes to the `pci` process instead
};

// What a vendor-specific capability of a virtio function points to (VIRTIO 1.2, section 4.1.4: cfg_type).
enum class VirtioPciCap : std::uint8_t {
  kCommonCfg = 1,
  kNotifyCfg = 2,
  kIsrCfg = 3,
  kDeviceCfg = 4,
  kPciCfg = 5,  // a window to every BAR of the function: bar, offset and length are the driver's, 0 here
};

struct VirtioCapDecl {
  VirtioPciCap cfg_type = VirtioPciCap::kCommonCfg;
  std::uint8_t bar = 0;  // 0-5, memory, not the .msix one
  std::uint32_t offset = 0;
  std::uint32_t length = 0;
  std::uint32_t notify_off_multiplier = 0;  // kNotifyCfg
};

struct PciDecl {
  std::uint16_t vendor_id = 0;
  std::uint16_t device_id = 0;
  std::uint16_t subsystem_vendor_id = 0;
  std::uint16_t subsystem_id = 0;
  std::uint8_t revision_id = 0;
  std::uint32_t class_code = 0;  // base class << 16 | sub-class << 8 | programming interface
  bool multi_function = false;
  bool legacy_io = false;          // decodes ports that no BAR has: its I/O Space bit can be set
  std::uint8_t interrupt_pin = 0;  // 0 none, 1 INTA# ... 4 INTD#
  std::uint8_t msi_vectors = 0;    // 0 none, else 1, 2, 4 ... 32
  std::uint16_t msix_vectors = 0;  // 0 none, at most kMaxVectors; needs a BAR with .msix
  bool power_management = false;   // PCI power management capability, D0 and D3hot
  std::span<const BarDecl> bars{};
  std::span<const VirtioCapDecl> virtio_caps{};  // in the order of the capability list
};

// Lengths of the capabilities in configuration space, which begin at 40h in the order PM, MSI, MSI-X, virtio.
inline constexpr std::uint32_t kPciCapabilitiesStart = 0x40;
inline constexpr std::uint32_t kPciPmLength = 8;
inline constexpr std::uint32_t kPciMsiLength = 24;
inline constexpr std::uint32_t kPciMsixLength = 12;
[[nodiscard]] constexpr std::uint8_t virtio_cap_length(VirtioPciCap type) {
  return type == VirtioPciCap::kNotifyCfg || type == VirtioPciCap::kPciCfg ? 20 : 16;
}
[[nodiscard]] constexpr std::uint64_t pci_capabilities_end(const PciDecl& decl) {
  std::uint64_t end = kPciCapabilitiesStart;
  if (decl.power_management) end += kPciPmLength;
  if (decl.msi_vectors != 0) end += kPciMsiLength;
  if (decl.msix_vectors != 0) end += kPciMsixLength;
  for (const VirtioCapDecl& cap : decl.virtio_caps) end += virtio_cap_length(cap.cfg_type);
  return end;
}

// Whether the driver reaches the function's BARs through configuration space.
[[nodiscard]] constexpr bool has_pci_cfg(const PciDecl& decl) {
  for (const VirtioCapDecl& cap : decl.virtio_caps) {
    if (cap.cfg_type == VirtioPciCap::kPciCfg) return true;
  }
  return false;
}

// Layout of a BAR marked .msix: the table at offset 0, the pending bit array in the upper half.
[[nodiscard]] constexpr std::uint32_t msix_pba_offset(const BarDecl& bar) { return bar.size / 2; }

[[nodiscard]] constexpr const BarDecl* msix_bar(const PciDecl& decl) {
  if (decl.msix_vectors == 0) return nullptr;
  for (const BarDecl& bar : decl.bars) {
    if (bar.msix) return &bar;
  }
  return nullptr;
}

// The declaration of a device type; nullptr for a type that is no PCI function.
using PciDeclLookup = const PciDecl* (*)(std::string_view type);

// Functions of the chipset that the `pci` process always has (MACHINE.md); PciBusConfig names the others.
inline constexpr std::uint8_t kHostBridgeDevfn = 0x00;  // 00.0 i440FX
inline constexpr std::uint8_t kIsaBridgeDevfn = 0x08;   // 01.0 PIIX3
inline constexpr std::uint8_t kPmDevfn = 0x0b;          // 01.3 PIIX4 power management
inline constexpr std::uint32_t kPmWindow = 0;           // Effect::index of the window at PMBASE
inline constexpr std::uint32_t kPmWindowSize = 64;      // bytes of I/O space

// The region of the `pci` process that the MSI-X BAR of function `devfn` decodes to: region 0 is the
// configuration ports, then comes one region for each function with MSI-X, in the order of
// config.functions. nullopt: the function is not there or has no MSI-X.
[[nodiscard]] inline std::optional<std::uint16_t> msix_region_of(const PciBusConfig& config, PciDeclLookup lookup,
                                                                 std::uint8_t devfn) {
  std::uint16_t region = 1;
  for (const PciFunctionConfig& function : config.functions) {
    const PciDecl* decl = lookup(function.type);
    if (decl == nullptr || msix_bar(*decl) == nullptr) continue;
    if (function.devfn == devfn) return region;
    ++region;
  }
  return std::nullopt;
}

// The PIRQ (0-3, PIRQA#-PIRQD#) that pin 1-4 (INTA#-INTD#) of a function is wired to: one further for
// each slot, from PIRQA# at slot 1, as on every i440FX board that firmware knows.
[[nodiscard]] constexpr std::uint32_t pirq_of(std::uint8_t devfn, std::uint8_t interrupt_pin) {
  return (std::uint32_t{devfn} / 8 + 3 + interrupt_pin - 1) & 3;
}

// The IRQs that firmware routes PIRQA#-PIRQD# to.
inline constexpr std::uint8_t kFirmwarePirqRoutes[4] = {10, 10, 11, 11};

// True for a capability that VIRTIO 1.2, section 4.1.4 allows: its structure lies in a BAR of the function's process,
// aligned as the structure's own section asks.
[[nodiscard]] constexpr bool virtio_cap_valid(const PciDecl& decl, const VirtioCapDecl& cap) {
  const std::uint32_t multiplier = cap.notify_off_multiplier;
  if (cap.cfg_type != VirtioPciCap::kNotifyCfg && multiplier != 0) return false;
  std::uint32_t alignment = 4;
  switch (cap.cfg_type) {
    case VirtioPciCap::kPciCfg: return cap.bar == 0 && cap.offset == 0 && cap.length == 0;
    case VirtioPciCap::kNotifyCfg:
      // Section 4.1.4.4.1: an even power of 2, or 0; a notification is 2 bytes wide.
      if (multiplier == 1 || (multiplier & (multiplier - 1)) != 0 || cap.length < 2) return false;
      alignment = 2;
      break;
    case VirtioPciCap::kIsrCfg: alignment = 1; break;
    case VirtioPciCap::kCommonCfg:
    case VirtioPciCap::kDeviceCfg: break;
    default: return false;
  }
  if (cap.length == 0 || cap.offset % alignment != 0) return false;
  for (const BarDecl& bar : decl.bars) {
    if (bar.bar != cap.bar) continue;
    if (bar.bar > 5 || bar.kind == BarKind::kIo || bar.msix) return false;
    return cap.offset <= bar.size && cap.length <= bar.size - cap.offset;
  }
  return false;
}

[[nodiscard]] constexpr bool virtio_caps_valid(const PciDecl& decl) {
  std::uint32_t windows = 0;
  for (const VirtioCapDecl& cap : decl.virtio_caps) {
    if (!virtio_cap_valid(decl, cap)) return false;
    if (cap.cfg_type == VirtioPciCap::kPciCfg) ++windows;
  }
  return windows <= 1 && pci_capabilities_end(decl) <= 256;
}

// True for a declaration that config space can be built from; checked at compile time where it is written.
[[nodiscard]] constexpr bool pci_decl_valid(const PciDecl& decl) {
  const auto power_of_two = [](std::uint32_t n) { return n != 0 && (n & (n - 1)) == 0; };
  std::uint32_t used = 0;  // BARs, as bits
  std::uint32_t msix_bars = 0;
  for (const BarDecl& bar : decl.bars) {
    const bool wide = bar.kind == BarKind::kMemory64;
    if (bar.bar > 6 || (wide && bar.bar > 4)) return false;
    if (bar.bar == 6 && (bar.kind != BarKind::kMemory32 || bar.size < 2048 || bar.msix)) return false;
    const std::uint32_t taken = (wide ? 3U : 1U) << bar.bar;
    if ((used & taken) != 0 || !power_of_two(bar.size)) return false;
    used |= taken;
    if (bar.kind == BarKind::kIo ? bar.size < 4 || bar.size > 256 : bar.size < 16) return false;
    if (!bar.msix) continue;
    if (bar.kind == BarKind::kIo || bar.size < 32) return false;
    const std::uint64_t table = 16 * std::uint64_t{decl.msix_vectors};
    const std::uint64_t pba = (std::uint64_t{decl.msix_vectors} + 63) / 64 * 8;
    if (table > msix_pba_offset(bar) || pba > msix_pba_offset(bar)) return false;
    ++msix_bars;
  }
  if (decl.interrupt_pin > 4 || decl.msix_vectors > 2048) return false;
  if (decl.msi_vectors != 0 && (!power_of_two(decl.msi_vectors) || decl.msi_vectors > 32)) return false;
  return msix_bars == (decl.msix_vectors != 0 ? 1U : 0U) && virtio_caps_valid(decl);
}

}  // namespace bulkhead
