#include "vmm/memory/e820.h"

#include <algorithm>

#include "ipc/base/check.h"
#include "vmm/hypervisor/kvm_vm.h"

namespace bulkhead::vmm {

std::vector<E820Entry> build_e820(const MemoryLayout& layout, const FirmwareArea& area) {
  std::vector<E820Entry> map;
  const auto add = [&](std::uint64_t first, std::uint64_t end, E820Type type) {
    if (first < end) map.push_back({first, end - first, type});
  };
  // What the firmware keeps of low RAM, in order of address; the rest is the guest's.
  std::vector<E820Entry> kept;
  if (area.acpi_size != 0) kept.push_back({area.acpi, area.acpi_size, E820Type::kAcpi});
  if (area.nvs_size != 0) kept.push_back({area.nvs, area.nvs_size, E820Type::kNvs});
  std::ranges::sort(kept, {}, &E820Entry::address);

  add(0, kEbda, E820Type::kRam);
  add(kEbda, kVgaWindow, E820Type::kReserved);
  add(kVgaWindow, kExtendedMemory, E820Type::kReserved);
  std::uint64_t next = kExtendedMemory;
  for (const E820Entry& entry : kept) {
    CHECK(entry.address >= next && entry.address + entry.size <= layout.low_ram, entry.address, entry.size);
    add(next, entry.address, E820Type::kRam);
    map.push_back(entry);
    next = entry.address + entry.size;
  }
  add(next, layout.low_ram, E820Type::kRam);
  add(kIdentityMapAddress, kTssAddress + 3 * kPageSize, E820Type::kReserved);
  add(kFourGiB, kFourGiB + layout.high_ram, E820Type::kRam);
  return map;
}

}  // namespace bulkhead::vmm
