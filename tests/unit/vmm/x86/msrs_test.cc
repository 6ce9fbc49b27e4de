#include "vmm/x86/msrs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <set>

namespace bulkhead::vmm {
namespace {

std::optional<std::uint64_t> value_of(const std::vector<MsrValue>& msrs, std::uint32_t index) {
  const auto found = std::ranges::find(msrs, index, &MsrValue::index);
  return found == msrs.end() ? std::nullopt : std::optional(found->value);
}

TEST(InitialMsrs, memory_is_write_back_and_the_pci_hole_uncached) {
  const auto msrs = initial_msrs({.hole_base = 0xC0000000, .physical_address_bits = 40});
  EXPECT_EQ(value_of(msrs, 0x2FF), 0xC06U);
  EXPECT_EQ(value_of(msrs, 0x200), 0xC0000000U);
  EXPECT_EQ(value_of(msrs, 0x201), 0xFFC0000800U);
}

TEST(InitialMsrs, the_mask_follows_the_hole_and_the_address_width) {
  EXPECT_EQ(value_of(initial_msrs({.hole_base = 0x80000000, .physical_address_bits = 36}), 0x201), 0xF80000800U);
  EXPECT_EQ(value_of(initial_msrs({.hole_base = 0xE0000000, .physical_address_bits = 48}), 0x201), 0xFFFFE0000800U);
}

TEST(InitialMsrs, each_msr_has_one_value) {
  const auto msrs = initial_msrs({.hole_base = 0xC0000000});
  std::set<std::uint32_t> indices;
  for (const MsrValue& msr : msrs) indices.insert(msr.index);
  EXPECT_EQ(indices.size(), msrs.size());
}

TEST(SupportedMsrs, leaves_out_what_kvm_does_not_list) {
  const std::vector<MsrValue> wanted = {{0x1A0, 1}, {0x277, 2}};
  const std::vector<std::uint32_t> known = {0x10, 0x277};
  EXPECT_EQ(supported_msrs(wanted, known), (std::vector<MsrValue>{{0x277, 2}}));
}

TEST(SupportedMsrs, keeps_mtrrs_which_kvm_does_not_list) {
  EXPECT_EQ(supported_msrs(initial_msrs({.hole_base = 0xC0000000}), {}).size(),
            initial_msrs({.hole_base = 0xC0000000}).size() - 1);
}

TEST(Reset, does_not_turn_time_back) {
  EXPECT_TRUE(keeps_value_over_reset(0x10));
  EXPECT_TRUE(keeps_value_over_reset(0x3B));
  EXPECT_FALSE(keeps_value_over_reset(0x4B564D01));
}

}  // namespace
}  // namespace bulkhead::vmm
