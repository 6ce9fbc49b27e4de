#include "vmm/hypervisor/gsi_table.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace bulkhead::vmm {
namespace {

const kvm_irq_routing_entry* find(const std::vector<kvm_irq_routing_entry>& entries, std::uint32_t gsi,
                                  std::uint32_t chip) {
  const auto found = std::ranges::find_if(entries, [&](const kvm_irq_routing_entry& entry) {
    return entry.gsi == gsi && entry.type == KVM_IRQ_ROUTING_IRQCHIP && entry.u.irqchip.irqchip == chip;
  });
  return found == entries.end() ? nullptr : &*found;
}

std::vector<kvm_irq_routing_entry> msi_entries(const GsiTable& table) {
  std::vector<kvm_irq_routing_entry> entries = table.entries();
  std::erase_if(entries, [](const kvm_irq_routing_entry& entry) { return entry.type != KVM_IRQ_ROUTING_MSI; });
  return entries;
}

TEST(GsiTable, routes_the_pit_to_ioapic_pin_2_and_pic_pin_0) {
  const auto entries = GsiTable(64).entries();
  ASSERT_NE(find(entries, 0, KVM_IRQCHIP_IOAPIC), nullptr);
  EXPECT_EQ(find(entries, 0, KVM_IRQCHIP_IOAPIC)->u.irqchip.pin, 2U);
  ASSERT_NE(find(entries, 0, KVM_IRQCHIP_PIC_MASTER), nullptr);
  EXPECT_EQ(find(entries, 0, KVM_IRQCHIP_PIC_MASTER)->u.irqchip.pin, 0U);
}

TEST(GsiTable, has_every_pin_of_a_pc_once) {
  const auto entries = GsiTable(64).entries();
  EXPECT_EQ(entries.size(), 15U + 23U);
  for (std::uint32_t gsi = 0; gsi < kIoapicPins; ++gsi) {
    EXPECT_EQ(find(entries, gsi, KVM_IRQCHIP_IOAPIC) != nullptr, gsi != 2) << gsi;
    EXPECT_EQ(find(entries, gsi, KVM_IRQCHIP_PIC_SLAVE) != nullptr, gsi >= 8 && gsi < 16) << gsi;
  }
}

TEST(GsiTable, hands_out_gsis_above_the_ioapic_until_the_limit) {
  GsiTable table(kIoapicPins + 2);
  EXPECT_EQ(table.allocate(), kIoapicPins);
  EXPECT_EQ(table.allocate(), kIoapicPins + 1);
  EXPECT_EQ(table.allocate(), std::nullopt);
  EXPECT_TRUE(table.free(kIoapicPins));
  EXPECT_EQ(table.allocate(), kIoapicPins);
}

TEST(GsiTable, a_fresh_gsi_has_no_route) {
  GsiTable table(64);
  ASSERT_TRUE(table.allocate());
  EXPECT_TRUE(msi_entries(table).empty());
}

TEST(GsiTable, a_route_carries_the_whole_message) {
  GsiTable table(64);
  const std::uint32_t gsi = *table.allocate();
  ASSERT_TRUE(table.set(gsi, MsiRoute::Message{0x1'FEE0'1000, 0x4041}));
  const auto entries = msi_entries(table);
  ASSERT_EQ(entries.size(), 1U);
  EXPECT_EQ(entries[0].gsi, gsi);
  EXPECT_EQ(entries[0].u.msi.address_lo, 0xFEE01000U);
  EXPECT_EQ(entries[0].u.msi.address_hi, 1U);
  EXPECT_EQ(entries[0].u.msi.data, 0x4041U);
}

TEST(GsiTable, a_freed_gsi_loses_its_route) {
  GsiTable table(64);
  const std::uint32_t gsi = *table.allocate();
  ASSERT_TRUE(table.set(gsi, MsiRoute::Message{0xFEE00000, 1}));
  ASSERT_TRUE(table.free(gsi));
  EXPECT_TRUE(msi_entries(table).empty());
  ASSERT_EQ(table.allocate(), gsi);
  EXPECT_TRUE(msi_entries(table).empty());
}

TEST(GsiTable, refuses_gsis_that_it_did_not_hand_out) {
  GsiTable table(64);
  const std::uint32_t gsi = *table.allocate();
  EXPECT_FALSE(table.set(9, MsiRoute::Message{}));
  EXPECT_FALSE(table.set(gsi + 1, MsiRoute::Message{}));
  EXPECT_FALSE(table.set(UINT32_MAX, MsiRoute::Message{}));
  EXPECT_FALSE(table.free(gsi + 1));
  ASSERT_TRUE(table.free(gsi));
  EXPECT_FALSE(table.free(gsi));
  EXPECT_FALSE(table.set(gsi, MsiRoute::Message{}));
}

}  // namespace
}  // namespace bulkhead::vmm
