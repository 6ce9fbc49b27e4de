// The e820 map of a directly booted machine: what firmware would tell the kernel about RAM.
//
// Sorted, without overlap; every byte of RAM is in exactly one entry. Pure.
// Units: bytes. Errors: none. Threading: pure. Trust: configuration.
// Source: ACPI 6.4, section 15 "System Address Map Interfaces".
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/memory/layout.h"

namespace bulkhead::vmm {

enum class E820Type : std::uint32_t { kRam = 1, kReserved = 2, kAcpi = 3, kNvs = 4 };

struct E820Entry {
  std::uint64_t address = 0;
  std::uint64_t size = 0;
  E820Type type = E820Type::kRam;
  bool operator==(const E820Entry&) const = default;
};

// Ranges of low RAM that firmware keeps, at its top: [acpi, nvs) tables, [nvs, nvs_end) the FACS.
struct FirmwareArea {
  std::uint64_t acpi = 0;
  std::uint64_t acpi_size = 0;
  std::uint64_t nvs = 0;
  std::uint64_t nvs_size = 0;
};

inline constexpr std::uint64_t kEbda = 0x9FC00;  // 1 KiB, below the VGA window

[[nodiscard]] std::vector<E820Entry> build_e820(const MemoryLayout& layout, const FirmwareArea& area);

}  // namespace bulkhead::vmm
