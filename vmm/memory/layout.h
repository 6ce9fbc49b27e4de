// MemoryLayout: where a machine's RAM and PCI windows lie, as a pure function of the RAM size.
//
// As on QEMU's pc: RAM that fits below E0000000h lies all below it; more than that is split at C0000000h
// and the rest begins at 4 GiB. The PCI memory window starts at 80000000h, C0000000h or E0000000h, the
// first of these that is at or above the end of low RAM, and ends below the IOAPIC at FEC00000h. A second
// window for 64-bit BARs lies above all RAM.
// Units: bytes. Errors: Result for a size that no machine can have. Threading: pure. Trust: configuration.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ipc/base/result.h"

namespace bulkhead::vmm {

inline constexpr std::uint64_t kKiB = 1024;
inline constexpr std::uint64_t kMiB = 1024 * kKiB;
inline constexpr std::uint64_t kGiB = 1024 * kMiB;
inline constexpr std::uint64_t kPageSize = 4096;
inline constexpr std::uint64_t kFourGiB = 4 * kGiB;

inline constexpr std::uint64_t kMinRam = 16 * kMiB;
inline constexpr std::uint64_t kMaxRam = 16 * kKiB * kGiB;
inline constexpr std::uint64_t kVgaWindow = 0xA0000;     // to BFFFFh: never RAM for the guest
inline constexpr std::uint64_t kShadowWindow = 0xC0000;  // to FFFFFh: RAM or not as the PAM registers say
inline constexpr std::uint64_t kExtendedMemory = 0x100000;
inline constexpr std::uint64_t kPciWindowEnd = 0xFEC00000;  // exclusive

struct MemoryLayout {
  std::uint64_t low_ram = 0;            // [0, low_ram)
  std::uint64_t high_ram = 0;           // [4 GiB, 4 GiB + high_ram)
  std::uint64_t pci_window = 0;         // [pci_window, kPciWindowEnd)
  std::uint64_t pci64_window = 0;       // base; above all RAM
  std::uint64_t pci64_window_size = 0;  // 0: none fits the CPU's physical addresses

  [[nodiscard]] std::uint64_t ram() const { return low_ram + high_ram; }
  bool operator==(const MemoryLayout&) const = default;
};

// `ram`: a multiple of 1 MiB, kMinRam to kMaxRam. `physical_address_bits`: of the guest's CPUs.
[[nodiscard]] Result<MemoryLayout> plan_memory(std::uint64_t ram, std::uint32_t physical_address_bits = 36);

// A piece of RAM as KVM gets it: VGA and shadow windows are left out or apart, so that they can change.
struct RamRange {
  std::uint64_t guest_address = 0;
  std::uint64_t size = 0;
  std::uint64_t offset = 0;  // in the RAM file
  bool operator==(const RamRange&) const = default;
};
// [0, A0000h), [C0000h, 100000h) (shadow RAM), [100000h, low_ram), [4 GiB, ...).
[[nodiscard]] std::vector<RamRange> ram_ranges(const MemoryLayout& layout);

}  // namespace bulkhead::vmm
