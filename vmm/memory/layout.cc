#include "vmm/memory/layout.h"

#include <fmt/format.h>

#include <algorithm>

#include "ipc/base/checked.h"

namespace bulkhead::vmm {

namespace {

constexpr std::uint64_t kLowRamLimit = 0xE0000000;  // all of RAM below 4 GiB, when it fits
constexpr std::uint64_t kLowRamSplit = 0xC0000000;  // else this much
constexpr std::uint64_t kPciWindowBases[] = {0x80000000, 0xC0000000, 0xE0000000};
constexpr std::uint64_t kPci64WindowMost = 256 * kGiB;

}  // namespace

Result<MemoryLayout> plan_memory(std::uint64_t ram, std::uint32_t physical_address_bits) {
  if (ram < kMinRam || ram > kMaxRam)
    return make_error(fmt::format("a machine can have {} MiB to {} GiB of memory, not {} MiB", kMinRam / kMiB,
                                  kMaxRam / kGiB, ram / kMiB));
  if (ram % kMiB != 0) return make_error(fmt::format("{} bytes of memory are not a whole number of MiB", ram));

  MemoryLayout layout;
  layout.low_ram = ram <= kLowRamLimit ? ram : kLowRamSplit;
  layout.high_ram = ram - layout.low_ram;
  layout.pci_window =
      *std::ranges::find_if(kPciWindowBases, [&](std::uint64_t base) { return base >= layout.low_ram; });

  const std::uint64_t limit = std::uint64_t{1} << std::clamp<std::uint32_t>(physical_address_bits, 32, 52);
  const std::uint64_t top = kFourGiB + layout.high_ram;
  if (layout.high_ram != 0 && top > limit)
    return make_error(fmt::format("{} MiB of memory are more than this host's CPU lets a guest address ({} bits)",
                                  ram / kMiB, physical_address_bits));
  const std::uint64_t base = align_up(top, kGiB);
  if (base < limit) {
    layout.pci64_window = base;
    layout.pci64_window_size = std::min(kPci64WindowMost, limit - base);
  }
  return layout;
}

std::vector<RamRange> ram_ranges(const MemoryLayout& layout) {
  std::vector<RamRange> ranges = {
      {0, kVgaWindow, 0},
      {kShadowWindow, kExtendedMemory - kShadowWindow, kShadowWindow},
      {kExtendedMemory, layout.low_ram - kExtendedMemory, kExtendedMemory},
  };
  if (layout.high_ram != 0) ranges.push_back({kFourGiB, layout.high_ram, layout.low_ram});
  return ranges;
}

}  // namespace bulkhead::vmm
