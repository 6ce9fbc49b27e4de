#include "vmm/memory/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bulkhead::vmm {
namespace {

TEST(PlanMemory, small_ram_lies_all_below_the_hole) {
  const auto layout = plan_memory(512 * kMiB);
  ASSERT_TRUE(layout);
  EXPECT_EQ(layout->low_ram, 512 * kMiB);
  EXPECT_EQ(layout->high_ram, 0U);
  EXPECT_EQ(layout->pci_window, 0x80000000U);
}

TEST(PlanMemory, the_window_starts_at_the_first_base_above_low_ram) {
  EXPECT_EQ(plan_memory(2 * kGiB)->pci_window, 0x80000000U);
  EXPECT_EQ(plan_memory(2 * kGiB + kMiB)->pci_window, 0xC0000000U);
  EXPECT_EQ(plan_memory(3 * kGiB)->pci_window, 0xC0000000U);
  EXPECT_EQ(plan_memory(3 * kGiB + kMiB)->pci_window, 0xE0000000U);
}

TEST(PlanMemory, splits_ram_that_does_not_fit_below_the_hole) {
  const auto whole = plan_memory(3584 * kMiB);
  EXPECT_EQ(whole->low_ram, 0xE0000000U);
  EXPECT_EQ(whole->high_ram, 0U);
  const auto split = plan_memory(3585 * kMiB);
  EXPECT_EQ(split->low_ram, 0xC0000000U);
  EXPECT_EQ(split->high_ram, 513 * kMiB);
  EXPECT_EQ(split->pci_window, 0xC0000000U);
}

TEST(PlanMemory, refuses_sizes_that_no_machine_has) {
  EXPECT_FALSE(plan_memory(0));
  EXPECT_FALSE(plan_memory(kMinRam - kMiB));
  EXPECT_FALSE(plan_memory(kMaxRam + kMiB));
  EXPECT_FALSE(plan_memory(kMinRam + 1));
  EXPECT_FALSE(plan_memory(UINT64_MAX));
  EXPECT_TRUE(plan_memory(kMinRam));
  EXPECT_TRUE(plan_memory(kMaxRam, 52));
}

TEST(PlanMemory, refuses_more_than_the_cpu_can_address) {
  const auto layout = plan_memory(64 * kGiB, 36);
  ASSERT_FALSE(layout);
  EXPECT_THAT(layout.error().message, testing::HasSubstr("36 bits"));
}

TEST(PlanMemory, puts_the_64_bit_window_above_all_ram) {
  const auto layout = plan_memory(8 * kGiB, 40);
  EXPECT_EQ(layout->pci64_window, 9 * kGiB);
  EXPECT_EQ(layout->pci64_window_size, 256 * kGiB);
  const auto narrow = plan_memory(8 * kGiB, 36);
  EXPECT_EQ(narrow->pci64_window + narrow->pci64_window_size, 64 * kGiB);
  EXPECT_EQ(plan_memory(512 * kMiB, 32)->pci64_window_size, 0U);
}

TEST(RamRanges, cover_the_file_without_the_vga_window) {
  for (const std::uint64_t mib : {16ULL, 512ULL, 3072ULL, 3584ULL, 4096ULL, 65536ULL}) {
    const MemoryLayout layout = *plan_memory(mib * kMiB, 48);
    std::uint64_t covered = kShadowWindow - kVgaWindow;
    for (const RamRange& range : ram_ranges(layout)) {
      EXPECT_EQ(range.guest_address % kPageSize, 0U);
      EXPECT_EQ(range.size % kPageSize, 0U);
      EXPECT_EQ(range.offset, range.guest_address < kFourGiB ? range.guest_address
                                                             : layout.low_ram + (range.guest_address - kFourGiB));
      covered += range.size;
    }
    EXPECT_EQ(covered, layout.ram());
  }
}

}  // namespace
}  // namespace bulkhead::vmm
