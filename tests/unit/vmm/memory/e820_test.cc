#include "vmm/memory/e820.h"

#include <gtest/gtest.h>

#include <random>

#include "vmm/hypervisor/kvm_vm.h"

namespace bulkhead::vmm {
namespace {

FirmwareArea area_at_top(const MemoryLayout& layout, std::uint64_t pages) {
  const std::uint64_t size = pages * kPageSize;
  const std::uint64_t base = layout.low_ram - size - kPageSize;
  return {.acpi = base, .acpi_size = size, .nvs = base + size, .nvs_size = kPageSize};
}

std::uint64_t total(const std::vector<E820Entry>& map, std::uint64_t first, std::uint64_t end) {
  std::uint64_t bytes = 0;
  for (const E820Entry& entry : map) {
    if (entry.address >= first && entry.address + entry.size <= end) bytes += entry.size;
  }
  return bytes;
}

void check_map(const MemoryLayout& layout, const std::vector<E820Entry>& map) {
  std::uint64_t next = 0;
  for (const E820Entry& entry : map) {
    ASSERT_GT(entry.size, 0U);
    ASSERT_GE(entry.address, next) << "overlap or disorder";
    next = entry.address + entry.size;
  }
  // Every byte of RAM is described, once: disjoint entries that lie in it and add up to it.
  ASSERT_EQ(total(map, 0, layout.low_ram), layout.low_ram);
  ASSERT_EQ(total(map, kFourGiB, UINT64_MAX), layout.high_ram);
}

TEST(E820, describes_all_of_ram_once_for_any_size) {
  std::mt19937_64 random(1);
  for (int n = 0; n < 2000; ++n) {
    const std::uint64_t mib = 16 + random() % (n % 2 == 0 ? 4096 : 1 << 20);
    const MemoryLayout layout = *plan_memory(mib * kMiB, 52);
    const auto map = build_e820(layout, area_at_top(layout, 1 + random() % 16));
    ASSERT_NO_FATAL_FAILURE(check_map(layout, map)) << mib << " MiB";
  }
}

TEST(E820, works_without_a_firmware_area) {
  const MemoryLayout layout = *plan_memory(64 * kMiB);
  const auto map = build_e820(layout, {});
  check_map(layout, map);
}

TEST(E820, keeps_firmware_tables_and_the_legacy_area_from_the_kernel) {
  const MemoryLayout layout = *plan_memory(64 * kMiB);
  const FirmwareArea area = area_at_top(layout, 2);
  for (const E820Entry& entry : build_e820(layout, area)) {
    if (entry.type != E820Type::kRam) continue;
    EXPECT_FALSE(entry.address < kExtendedMemory && entry.address + entry.size > kEbda);
    EXPECT_LE(entry.address + entry.size, area.acpi);
  }
}

TEST(E820, reserves_the_pages_that_intel_hosts_take) {
  const auto map = build_e820(*plan_memory(64 * kMiB), {});
  const E820Entry wanted{kIdentityMapAddress, 4 * kPageSize, E820Type::kReserved};
  EXPECT_NE(std::ranges::find(map, wanted), map.end());
  EXPECT_EQ(kIdentityMapAddress, 0xFEFFC000U);
  EXPECT_EQ(kTssAddress + 3 * kPageSize, 0xFF000000U);
}

TEST(E820, names_acpi_and_nvs_areas) {
  const MemoryLayout layout = *plan_memory(64 * kMiB);
  const FirmwareArea area = area_at_top(layout, 2);
  const auto map = build_e820(layout, area);
  const E820Entry acpi{area.acpi, area.acpi_size, E820Type::kAcpi};
  const E820Entry nvs{area.nvs, area.nvs_size, E820Type::kNvs};
  EXPECT_NE(std::ranges::find(map, acpi), map.end());
  EXPECT_NE(std::ranges::find(map, nvs), map.end());
}

}  // namespace
}  // namespace bulkhead::vmm
