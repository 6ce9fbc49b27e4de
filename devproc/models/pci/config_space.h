// The 256 bytes of one function's configuration space, and the rules by which software changes them.
//
// Document: PCI Local Bus Specification 3.0, chapter 6; PCI Bus Power Management Interface 1.2, chapter 3; VIRTIO 1.2,
//   section 4.1.4.
// Implemented: type 0 header, BARs (I/O, 32-bit and 64-bit memory, expansion ROM), power management
//   (D0 and D3hot), MSI (64-bit, per-vector masks), MSI-X, the vendor-specific capabilities of virtio.
// pci_cfg_data holds what was written last: what a read of a BAR brings goes to the reader and is not stored.
// Always 0: BIST, status bits that report bus errors, and the interrupt status bit (status bit 3): the
// level
//   of INTx is known to the function's own process and to KVM, not here; only drivers that mask a shared
//   line through the command register read it. MSI pending bits are the VMM's (PciBus asks it).
// Pure functions over values: what is derived from a declaration is rebuilt by each process, and only
// the bytes are committed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "ipc/roles/bar_access.h"
#include "ipc/roles/pci_decl.h"

namespace bulkhead::devproc {

using ConfigBytes = std::array<std::uint8_t, 256>;

enum class ChipsetPart : std::uint8_t { kNone, kHostBridge, kIsaBridge, kPm };

struct FunctionRules {
  const PciDecl* decl = nullptr;
  ChipsetPart part = ChipsetPart::kNone;
  ConfigBytes reset{};     // after reset; with direct boot, as firmware would have left it
  ConfigBytes writable{};  // bits that software can change
  std::uint8_t pm = 0;     // offsets of the capabilities; 0: the function has none
  std::uint8_t msi = 0;
  std::uint8_t msix = 0;
  std::uint8_t pci_cfg = 0;  // VIRTIO_PCI_CAP_PCI_CFG
};

// Rules of a function that `decl` describes. `decl` outlives the result.
[[nodiscard]] FunctionRules make_rules(const PciDecl& decl);
[[nodiscard]] FunctionRules make_chipset_rules(ChipsetPart part);

// The space after a write of the low `size` bytes (1-4) of `value` at `offset`; offset + size <= 256.
[[nodiscard]] ConfigBytes after_write(const FunctionRules& rules, const ConfigBytes& before, std::uint8_t offset,
                                      std::uint8_t size, std::uint32_t value);

// The nearest space that writes could have produced: equal to `bytes` if those are one already.
[[nodiscard]] ConfigBytes legalised(const FunctionRules& rules, const ConfigBytes& bytes);

// Whether `offset` is in pci_cfg_data, a dword of its own.
[[nodiscard]] bool is_pci_cfg_data(const FunctionRules& rules, std::uint8_t offset);

// The access of a BAR that an access to pci_cfg_data stands for (VIRTIO 1.2, section 4.1.4.9.1), without the function.
// nullopt: the capability names a length, a BAR or an offset that there is not.
[[nodiscard]] std::optional<BarAccess> pci_cfg_access(const FunctionRules& rules, const ConfigBytes& bytes);

[[nodiscard]] inline std::uint32_t load_config(const ConfigBytes& bytes, std::size_t offset, unsigned size) {
  std::uint32_t value = 0;
  for (unsigned i = 0; i < size; ++i) value |= std::uint32_t{bytes[(offset + i) & 0xff]} << (8 * i);
  return value;
}

inline void store_config(ConfigBytes& bytes, std::size_t offset, unsigned size, std::uint32_t value) {
  for (unsigned i = 0; i < size; ++i) bytes[(offset + i) & 0xff] = static_cast<std::uint8_t>(value >> (8 * i));
}

[[nodiscard]] inline std::uint16_t load_config16(const ConfigBytes& bytes, std::size_t offset) {
  return static_cast<std::uint16_t>(load_config(bytes, offset, 2));
}
[[nodiscard]] inline std::uint32_t load_config32(const ConfigBytes& bytes, std::size_t offset) {
  return load_config(bytes, offset, 4);
}

// Where a BAR register sits: BAR 0-5, or the expansion ROM (6).
[[nodiscard]] std::uint8_t bar_offset(std::uint8_t bar);

}  // namespace bulkhead::devproc
