// Firmware and option ROM files, checked and read.
//
// Units: bytes. Errors: one sentence that names the file. Threading: pure but for the file. Trust: files are the
// user's; what is in them is guest code, of which only the few header fields below are looked at, bounds-checked.
// Sources: PCI Firmware Specification 3.1, chapter 5 (expansion ROM and PCI data structure).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "vmm/firmware/byte_source.h"

namespace bulkhead::vmm {

inline constexpr std::uint64_t kBiosUnit = 64 * 1024;
inline constexpr std::uint64_t kLargestBios = 1024 * 1024;

// A PC BIOS: what lies below 4 GiB, whose last 16 bytes are where a processor starts.
[[nodiscard]] Result<std::vector<std::byte>> read_bios(const FileSource& file);

struct OptionRom {
  std::vector<std::byte> bytes;
  std::uint64_t bar_size = 0;  // a power of two, whole pages
  struct Id {
    std::uint16_t vendor = 0;
    std::uint16_t device = 0;
    bool operator==(const Id&) const = default;
  };
  std::optional<Id> pc;  // which function its image for PC firmware says that it is for; nullopt: it has none
};

[[nodiscard]] Result<OptionRom> read_option_rom(const FileSource& file);

}  // namespace bulkhead::vmm
