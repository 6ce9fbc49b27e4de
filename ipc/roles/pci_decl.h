// What config space says of each PCI device type: ids, BARs, capabilities. Plain data, read by the `pci`
// process (which owns the config space of every function) and by the VMM (which checks its effects).
// Source of the fields: PCI Local Bus Specification 3.0, chapter 6.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace bulkhead {

enum class BarKind : std::uint8_t { kIo, kMemory32, kMemory64 };

struct BarDecl {
  std::uint8_t bar = 0;        // 0-5
  BarKind kind = BarKind::kMemory32;
  std::uint32_t size = 0;      // bytes, a power of two; memory >= 16, I/O 4 to 256
  bool prefetchable = false;
  std::uint16_t region = 0;    // the region of the owning device that the BAR decodes to
  bool msix = false;           // holds the MSI-X table and PBA: decodes to the `pci` process instead
};

struct PciDecl {
  std::uint16_t vendor_id = 0;
  std::uint16_t device_id = 0;
  std::uint16_t subsystem_vendor_id = 0;
  std::uint16_t subsystem_id = 0;
  std::uint8_t revision_id = 0;
  std::uint32_t class_code = 0;       // base class << 16 | sub-class << 8 | programming interface
  bool multi_function = false;
  std::uint8_t interrupt_pin = 0;     // 0 none, 1 INTA# ... 4 INTD#
  std::uint8_t msi_vectors = 0;       // 0 none, else 1, 2, 4 ... 32
  std::uint16_t msix_vectors = 0;     // 0 none, at most kMaxVectors; needs a BAR with .msix
  bool power_management = false;      // PCI power management capability, D0 and D3hot
  std::span<const BarDecl> bars{};
};

// Layout of a BAR marked .msix: the table at offset 0, the pending bit array in the upper half.
[[nodiscard]] constexpr std::uint32_t msix_pba_offset(const BarDecl& bar) { return bar.size / 2; }

}  // namespace bulkhead
