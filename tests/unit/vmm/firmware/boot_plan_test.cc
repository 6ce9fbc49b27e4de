#include "vmm/firmware/boot_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/unit/vmm/firmware/images.h"
#include "vmm/firmware/boot_layout.h"

namespace bulkhead::vmm {
namespace {

using testing::HasSubstr;

AcpiConfig machine(std::uint64_t mib) {
  return {.memory = *plan_memory(mib * kMiB, 48), .apic_ids = {0}, .uarts = {{0x3F8, 4}}};
}

KernelImage bz(const setup_header& header = test::good_header()) {
  return *parse_bzimage(MemorySource(test::bzimage(header), "kernel"));
}

Result<BootPlan> plan(const KernelImage& image, std::uint64_t mib, std::optional<std::uint64_t> initrd,
                      std::size_t command_line = 0) {
  return plan_boot({.image = image,
                    .kernel_name = "kernel",
                    .initrd_name = "initrd",
                    .initrd_size = initrd,
                    .command_line_length = command_line},
                   machine(mib));
}

TEST(HighestGap, prefers_the_top) {
  const TakenRange taken[] = {{0x1000000, 0x1200000}};
  EXPECT_EQ(highest_gap(taken, 0x100000, 0x4000000, 0x1000), 0x3FFF000U);
  EXPECT_EQ(highest_gap(taken, 0x100000, 0x4000000, 0x1001), 0x3FFE000U);
}

TEST(HighestGap, falls_back_below_what_is_taken) {
  const TakenRange taken[] = {{0x1000000, 0x1200000}};
  EXPECT_EQ(highest_gap(taken, 0x100000, 0x1201000, 0x2000), 0xFFE000U);
  EXPECT_EQ(highest_gap(taken, 0x100000, 0x1100000, 0x2000), 0xFFE000U);
}

TEST(HighestGap, fills_a_gap_to_the_last_byte) {
  const TakenRange taken[] = {{0x200000, 0x300000}, {0x302000, 0x400000}};
  EXPECT_EQ(highest_gap(taken, 0x200000, 0x400000, 0x2000), 0x300000U);
  EXPECT_EQ(highest_gap(taken, 0x200000, 0x400000, 0x2001), std::nullopt);
}

TEST(HighestGap, finds_none_where_there_is_none) {
  EXPECT_EQ(highest_gap({}, 0x100000, 0x100000, 1), std::nullopt);
  EXPECT_EQ(highest_gap({}, 0x100000, 0x80000, 1), std::nullopt);
  EXPECT_EQ(highest_gap({}, 0x100000, 0x200000, UINT64_MAX), std::nullopt);
}

TEST(HighestGap, never_overlaps_what_is_taken) {
  std::mt19937_64 random(4);
  for (int n = 0; n < 20000; ++n) {
    std::vector<TakenRange> taken;
    std::uint64_t next = 0x100000;
    for (std::uint64_t count = random() % 4; count-- > 0;) {
      const std::uint64_t first = next + random() % 0x8000;
      next = first + 1 + random() % 0x8000;
      taken.push_back({first, next});
    }
    const std::uint64_t end = 0x100000 + random() % 0x20000;
    const std::uint64_t size = 1 + random() % 0x6000;
    const auto address = highest_gap(taken, 0x100000, end, size);
    if (!address) continue;
    ASSERT_EQ(*address % kPageSize, 0U);
    ASSERT_GE(*address, 0x100000U);
    ASSERT_LE(*address + size, end);
    for (const TakenRange& range : taken) ASSERT_TRUE(*address + size <= range.first || *address >= range.end);
  }
}

TEST(PlanBoot, puts_the_initrd_below_the_firmware_tables) {
  const auto result = plan(bz(), 64, 0x1234);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->initrd, result->firmware.acpi - 0x2000);
  EXPECT_EQ(result->initrd_size, 0x1234U);
  EXPECT_EQ(result->firmware.nvs + result->firmware.nvs_size, 64 * kMiB);
}

TEST(PlanBoot, respects_the_highest_address_for_an_initrd) {
  setup_header header = test::good_header();
  header.initrd_addr_max = 0x1FFFFFF;
  const auto result = plan(bz(header), 64, 0x1000);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->initrd, 0x1FFF000U);
}

TEST(PlanBoot, an_initrd_may_lie_below_the_kernel) {
  setup_header header = test::good_header();
  header.init_size = 44 * kMiB;  // from 16 MiB almost to the end of 64 MiB
  const auto result = plan(bz(header), 64, 8 * kMiB);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->initrd, 8 * kMiB);
}

TEST(PlanBoot, says_that_the_kernel_does_not_fit) {
  setup_header header = test::good_header();
  header.init_size = 100 * kMiB;
  const auto result = plan(bz(header), 64, std::nullopt);
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().message, testing::AllOf(HasSubstr("kernel needs memory"), HasSubstr("64 MiB")));
}

TEST(PlanBoot, says_that_the_initrd_does_not_fit) {
  const auto result = plan(bz(), 64, 60 * kMiB);
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().message, testing::AllOf(HasSubstr("initrd"), HasSubstr("does not fit")));
  EXPECT_FALSE(plan(bz(), 64, UINT64_MAX));
}

TEST(PlanBoot, refuses_an_empty_initrd) {
  const auto result = plan(bz(), 64, 0);
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().message, HasSubstr("initrd is empty"));
}

TEST(PlanBoot, refuses_a_command_line_that_is_too_long) {
  EXPECT_TRUE(plan(bz(), 64, std::nullopt, 2047));
  const auto result = plan(bz(), 64, std::nullopt, 2048);
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().message, testing::AllOf(HasSubstr("2048 characters"), HasSubstr("at most 2047")));
}

TEST(PlanBoot, a_pvh_kernel_takes_what_there_is_room_for) {
  const KernelImage image = *parse_pvh(MemorySource(test::elf(), "kernel"));
  EXPECT_TRUE(plan(image, 64, 0x1000, kBootCommandLineLimit - 1));
  EXPECT_FALSE(plan(image, 64, 0x1000, kBootCommandLineLimit));
}

}  // namespace
}  // namespace bulkhead::vmm
