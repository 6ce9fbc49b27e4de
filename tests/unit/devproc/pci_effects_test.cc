// What writes to configuration space and MSI-X tables ask of the VMM.
#include <gmock/gmock.h>

#include "tests/unit/devproc/pci_fixture.h"

namespace bulkhead::devproc {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

constexpr std::uint32_t kOn = kEffectEnabled;
constexpr std::uint32_t kIoOn = kEffectEnabled | kEffectIoSpace;

Effect msix(std::uint8_t function, std::uint32_t vector, std::uint64_t address, std::uint32_t data, bool on) {
  return Effect{.kind = static_cast<std::uint16_t>(EffectKind::kMsiRoute),
                .function = function,
                .index = vector,
                .address = address,
                .data = data,
                .flags = kEffectMsix | (on ? kEffectEnabled : 0U)};
}

void assign_test_bars(PciMachine& m) {
  m.write32(kTestFunction, 0x10, 0xe0000000);
  m.write32(kTestFunction, 0x14, 0xe0001000);
  m.write32(kTestFunction, 0x18, 0xc000);
  m.write32(kTestFunction, 0x20, 0xe0002000);
  m.write32(kTestFunction, 0x24, 0x1);
}

TEST(PciWindows, bars_written_while_decode_is_off_have_no_effect) {
  PciMachine m;
  for (const unsigned bar : {0x10, 0x14, 0x18, 0x20, 0x24}) {
    m.write32(kTestFunction, bar, 0xe1000000);
    EXPECT_THAT(m.effects.emitted, IsEmpty()) << bar;
  }
}

TEST(PciWindows, memory_enable_opens_every_memory_bar_and_tells_the_owner) {
  PciMachine m;
  assign_test_bars(m);
  m.write16(kTestFunction, 0x04, 0x0002);
  EXPECT_THAT(m.effects.emitted, UnorderedElementsAre(window(kTestFunction, 0, 0xe0000000, 4096, kOn),
                                                      window(kTestFunction, 1, 0xe0001000, 4096, kOn),
                                                      window(kTestFunction, 4, 0x1e0002000, 4096, kOn),
                                                      control(kTestFunction, kControlMemoryEnable)));
}

TEST(PciWindows, io_enable_opens_io_bars_alone) {
  PciMachine m;
  assign_test_bars(m);
  m.write16(kTestFunction, 0x04, 0x0001);
  EXPECT_THAT(m.effects.emitted, UnorderedElementsAre(window(kTestFunction, 2, 0xc000, 64, kIoOn),
                                                      control(kTestFunction, kControlIoEnable)));
}

TEST(PciWindows, a_bar_moved_under_traffic_is_one_effect) {
  PciMachine m;
  assign_test_bars(m);
  m.write16(kTestFunction, 0x04, 0x0007);
  m.write32(kTestFunction, 0x10, 0xe0008000);
  EXPECT_THAT(m.effects.emitted, ElementsAre(window(kTestFunction, 0, 0xe0008000, 4096, kOn)));
  m.write32(kTestFunction, 0x10, 0xe0008123);  // the low bits are not writable
  EXPECT_THAT(m.effects.emitted, IsEmpty());
}

TEST(PciWindows, command_off_closes_what_was_open) {
  PciMachine m;
  assign_test_bars(m);
  m.write16(kTestFunction, 0x04, 0x0007);
  m.write16(kTestFunction, 0x04, 0x0000);
  EXPECT_THAT(m.effects.emitted,
              UnorderedElementsAre(window(kTestFunction, 0, 0, 4096, 0), window(kTestFunction, 1, 0, 4096, 0),
                                   window(kTestFunction, 2, 0, 64, kEffectIoSpace),
                                   window(kTestFunction, 4, 0, 4096, 0), control(kTestFunction, 0)));
}

TEST(PciWindows, an_unassigned_bar_does_not_decode_at_0) {
  PciMachine m;
  m.write16(kTestFunction, 0x04, 0x0003);
  EXPECT_THAT(m.effects.emitted, ElementsAre(control(kTestFunction, kControlIoEnable | kControlMemoryEnable)));
}

TEST(PciWindows, io_beyond_64_kib_does_not_decode_and_the_last_port_does) {
  PciMachine m;
  m.write16(kTestFunction, 0x04, 0x0001);
  m.write32(kTestFunction, 0x18, 0x10000);
  EXPECT_THAT(m.effects.emitted, IsEmpty());
  m.write32(kTestFunction, 0x18, 0xffffffff);
  EXPECT_THAT(m.effects.emitted, IsEmpty());
  m.write32(kTestFunction, 0x18, 0xffc0);
  EXPECT_THAT(m.effects.emitted, ElementsAre(window(kTestFunction, 2, 0xffc0, 64, kIoOn)));
}

TEST(PciWindows, the_rom_needs_its_own_enable_bit_and_memory_decode) {
  PciMachine m;
  m.write32(kWideFunction, 0x30, 0xe2000001);
  EXPECT_THAT(m.effects.emitted, IsEmpty());
  m.write16(kWideFunction, 0x04, 0x0002);
  EXPECT_THAT(m.effects.emitted, UnorderedElementsAre(window(kWideFunction, 6, 0xe2000000, 65536, kOn),
                                                      control(kWideFunction, kControlMemoryEnable)));
  m.write32(kWideFunction, 0x30, 0xe2000000);
  EXPECT_THAT(m.effects.emitted, ElementsAre(window(kWideFunction, 6, 0, 65536, 0)));
}

TEST(PciWindows, d3hot_closes_the_windows_and_d0_opens_them_again) {
  PciMachine m;
  assign_test_bars(m);
  m.write16(kTestFunction, 0x04, 0x0007);
  m.write16(kTestFunction, 0x44, 3);
  EXPECT_THAT(
      m.effects.emitted,
      UnorderedElementsAre(
          window(kTestFunction, 0, 0, 4096, 0), window(kTestFunction, 1, 0, 4096, 0),
          window(kTestFunction, 2, 0, 64, kEffectIoSpace), window(kTestFunction, 4, 0, 4096, 0),
          control(kTestFunction, kControlIoEnable | kControlMemoryEnable | kControlBusMaster | kControlPowerD3)));
  m.write16(kTestFunction, 0x44, 0);
  EXPECT_EQ(m.effects.emitted.size(), 5U);
  EXPECT_EQ(m.effects.emitted[0], window(kTestFunction, 0, 0xe0000000, 4096, kOn));
}

TEST(PciWindows, control_word_carries_bus_master_and_intx_disable) {
  PciMachine m;
  m.write16(kTestFunction, 0x04, 0x0404);
  EXPECT_THAT(m.effects.emitted, ElementsAre(control(kTestFunction, kControlBusMaster | kControlIntxDisable)));
  m.write16(kTestFunction, 0x04, 0x0544);  // SERR# and parity are nobody's business
  EXPECT_THAT(m.effects.emitted, IsEmpty());
}

TEST(PciChipset, pm_block_is_a_window_once_pmiose_is_set) {
  PciMachine m;
  m.write32(0x0b, 0x40, 0xb000);
  EXPECT_THAT(m.effects.emitted, IsEmpty());
  m.write8(0x0b, 0x80, 0x01);
  EXPECT_THAT(m.effects.emitted, ElementsAre(window(0x0b, 0, 0xb000, 64, kIoOn)));
  m.write32(0x0b, 0x40, 0x601);
  EXPECT_THAT(m.effects.emitted, ElementsAre(window(0x0b, 0, 0x600, 64, kIoOn)));
  m.write8(0x0b, 0x80, 0x00);
  EXPECT_THAT(m.effects.emitted, ElementsAre(window(0x0b, 0, 0, 64, kEffectIoSpace)));
}

TEST(PciChipset, pirq_routes_follow_pirqrc) {
  PciMachine m;
  m.write8(0x08, 0x60, 0x0a);
  EXPECT_THAT(m.effects.emitted, ElementsAre(pirq(0, 10, true)));
  m.write8(0x08, 0x60, 0x8a);
  EXPECT_THAT(m.effects.emitted, ElementsAre(pirq(0, 0, false)));
  m.write32(0x08, 0x60, 0x0b0b0a0a);
  EXPECT_THAT(m.effects.emitted,
              ElementsAre(pirq(0, 10, true), pirq(1, 10, true), pirq(2, 11, true), pirq(3, 11, true)));
}

TEST(PciChipset, reserved_irqs_route_nowhere) {
  for (unsigned irq = 0; irq < 16; ++irq) {
    const bool reserved = irq <= 2 || irq == 8 || irq == 13;
    PciMachine m;
    m.write8(0x08, 0x63, irq);
    if (reserved)
      EXPECT_THAT(m.effects.emitted, IsEmpty()) << irq;
    else
      EXPECT_THAT(m.effects.emitted, ElementsAre(pirq(3, irq, true))) << irq;
  }
}

// msi_capability_init() in Linux: mask, address, data, then the enable bit.
TEST(PciMsi, programming_as_linux_does_it_is_one_route_and_one_control_word) {
  PciMachine m;
  const unsigned cap = m.capability(kTestFunction, 0x05);
  m.write32(kTestFunction, cap + 16, 0xf);
  m.write32(kTestFunction, cap + 4, 0xfee01000);
  m.write32(kTestFunction, cap + 8, 0);
  m.write16(kTestFunction, cap + 12, 0x4022);
  EXPECT_THAT(m.effects.emitted, IsEmpty());
  m.write16(kTestFunction, cap + 2, 0x0185 | 1 << 4);
  const Effect route{.kind = static_cast<std::uint16_t>(EffectKind::kMsiRoute),
                     .function = kTestFunction,
                     .index = 1,
                     .address = 0xfee01000,
                     .size = 0xf,
                     .data = 0x4022,
                     .flags = kEffectEnabled};
  EXPECT_THAT(m.effects.emitted, UnorderedElementsAre(control(kTestFunction, kControlMsiEnable), route));
  m.write32(kTestFunction, cap + 16, 0xd);
  ASSERT_EQ(m.effects.emitted.size(), 1U);
  EXPECT_EQ(m.effects.emitted[0].size, 0xdU);
}

TEST(PciMsi, vectors_share_the_base_message_and_differ_in_its_low_bits) {
  PciMachine m;
  const unsigned cap = m.capability(kWideFunction, 0x05);
  m.write32(kWideFunction, cap + 4, 0xfee00000);
  m.write16(kWideFunction, cap + 12, 0x4037);  // low bits that the function replaces
  m.write32(kWideFunction, cap + 16, 0x80000004);
  m.write16(kWideFunction, cap + 2, 1 | 5 << 4);
  ASSERT_EQ(m.effects.emitted.size(), 2U);
  const Effect route = parse_effect(m.effects.emitted[1]).value();
  EXPECT_EQ(route.index, 5U);
  for (std::uint32_t vector = 0; vector < 32; ++vector) {
    const auto message = msi_message(route, vector);
    ASSERT_TRUE(message);
    EXPECT_EQ(message->data, 0x4020 + vector);
    EXPECT_EQ(message->masked, vector == 2 || vector == 31);
  }
  EXPECT_EQ(msi_message(route, 32), std::nullopt);
}

TEST(PciMsi, turning_msi_off_takes_the_routes_away) {
  PciMachine m;
  const unsigned cap = m.capability(kTestFunction, 0x05);
  m.write32(kTestFunction, cap + 4, 0xfee00000);
  m.write16(kTestFunction, cap + 2, 1);
  m.write16(kTestFunction, cap + 2, 0);
  const Effect off{.kind = static_cast<std::uint16_t>(EffectKind::kMsiRoute), .function = kTestFunction};
  EXPECT_THAT(m.effects.emitted, UnorderedElementsAre(control(kTestFunction, 0), off));
  EXPECT_EQ(msi_message(off, 0), std::nullopt);
}

TEST(PciMsi, pending_bits_are_redirected_while_msi_is_on) {
  PciMachine m;
  const unsigned cap = m.capability(kTestFunction, 0x05);
  EXPECT_EQ(m.read32(kTestFunction, cap + 20), 0U);
  EXPECT_THAT(m.redirect.asked, IsEmpty());
  m.write16(kTestFunction, cap + 2, 1);
  m.read32(kTestFunction, cap + 20);
  m.read8(kTestFunction, cap + 22);
  EXPECT_THAT(m.redirect.asked, ElementsAre(FakeRedirect::PendingBits{kTestFunction, 0, 0},
                                            FakeRedirect::PendingBits{kTestFunction, 0, 2}));
}

// pci_msix_prepare / __pci_write_msi_msg in Linux: enable with all masked, write entries, unmask.
TEST(PciMsix, programming_as_linux_does_it) {
  PciMachine m;
  const unsigned cap = m.capability(kTestFunction, 0x11);
  m.write16(kTestFunction, cap + 2, 0xc007);
  EXPECT_THAT(m.effects.emitted, ElementsAre(control(kTestFunction, kControlMsixEnable | kControlMsixMask)));
  m.msix_write(kTestFunction, 0x10, 4, 0xfee02000);
  m.msix_write(kTestFunction, 0x14, 4, 0);
  m.msix_write(kTestFunction, 0x18, 4, 0x4044);
  EXPECT_THAT(m.effects.emitted, IsEmpty());
  m.msix_write(kTestFunction, 0x1c, 4, 0);
  EXPECT_THAT(m.effects.emitted, ElementsAre(msix(kTestFunction, 1, 0xfee02000, 0x4044, true)));
  m.write16(kTestFunction, cap + 2, 0x8007);
  EXPECT_THAT(m.effects.emitted, ElementsAre(control(kTestFunction, kControlMsixEnable)));
  m.msix_write(kTestFunction, 0x1c, 4, 1);
  EXPECT_THAT(m.effects.emitted, ElementsAre(msix(kTestFunction, 1, 0, 0, false)));
}

TEST(PciMsix, a_quadword_write_is_one_effect) {
  PciMachine m;
  m.msix_write(kTestFunction, 0x28, 8, 0x00000000'00004055);  // data and control: unmasked
  EXPECT_THAT(m.effects.emitted, ElementsAre(msix(kTestFunction, 2, 0, 0x4055, true)));
  m.msix_write(kTestFunction, 0x20, 8, 0x00000001'fee00003);
  EXPECT_THAT(m.effects.emitted, ElementsAre(msix(kTestFunction, 2, 0x1fee00000, 0x4055, true)));
  EXPECT_EQ(m.msix_read(kTestFunction, 0x20, 8), 0x00000001'fee00000ULL);
}

TEST(PciMsix, enabling_2048_unmasked_vectors_is_one_effect) {
  PciMachine m;
  for (unsigned vector = 0; vector < 2048; ++vector) m.msix_write(kSixFunction, vector * 16 + 12, 4, 0);
  const unsigned cap = m.capability(kSixFunction, 0x11);
  m.write16(kSixFunction, cap + 2, 0x8000);
  EXPECT_THAT(m.effects.emitted, ElementsAre(control(kSixFunction, kControlMsixEnable)));
}

TEST(PciMsix, table_reads_back_and_vectors_start_masked) {
  PciMachine m;
  for (unsigned vector = 0; vector < 8; ++vector) EXPECT_EQ(m.msix_read(kTestFunction, vector * 16 + 12, 4), 1U);
  m.msix_write(kTestFunction, 0, 4, 0xffffffff);
  m.msix_write(kTestFunction, 12, 4, 0xffffffff);
  EXPECT_EQ(m.msix_read(kTestFunction, 0, 8), 0xfffffffcU);
  EXPECT_EQ(m.msix_read(kTestFunction, 8, 8), 0x00000001'00000000ULL);
}

TEST(PciMsix, beyond_the_table_reads_0_and_drops_writes) {
  PciMachine m;
  const auto before = m.state.bytes();
  for (std::uint64_t offset = 8 * 16; offset < 4096; offset += 4) {
    m.msix_write(kTestFunction, offset, 4, 0xffffffff);
    EXPECT_EQ(m.msix_read(kTestFunction, offset, 4), 0U);
    EXPECT_THAT(m.effects.emitted, IsEmpty());
  }
  EXPECT_EQ(m.state.bytes(), before);
}

TEST(PciMsix, narrow_and_unaligned_accesses_find_no_register) {
  PciMachine m;
  const std::uint16_t region = m.msix_region(kTestFunction);
  EXPECT_EQ(m.bus->read({region, 0, 1}), std::nullopt);
  EXPECT_EQ(m.bus->read({region, 0, 2}), std::nullopt);
  EXPECT_EQ(m.bus->read({region, 2, 4}), std::nullopt);
  EXPECT_EQ(m.bus->read({region, 4, 8}), std::nullopt);
  EXPECT_FALSE(m.bus->write({region, 1, 4}, 0));
  EXPECT_FALSE(m.bus->write({region, 12, 2}, 0));
}

TEST(PciMsix, pending_bits_are_redirected_by_quadword_while_msix_is_on) {
  PciMachine m;
  EXPECT_EQ(m.msix_read(kWideFunction, 4096, 8), 0U);
  EXPECT_THAT(m.redirect.asked, IsEmpty());
  m.write16(kWideFunction, m.capability(kWideFunction, 0x11) + 2U, 0x8000);
  m.msix_read(kWideFunction, 4096, 8);
  m.msix_read(kWideFunction, 4096 + 12, 4);
  m.msix_read(kWideFunction, 4096 + 16, 8);  // 100 vectors: two quadwords
  EXPECT_THAT(m.redirect.asked, ElementsAre(FakeRedirect::PendingBits{kWideFunction, 0, 0},
                                            FakeRedirect::PendingBits{kWideFunction, 64, 4}));
}

TEST(PciMsix, a_table_write_commits_16_vectors) {
  PciMachine m;
  m.state.commit();
  m.msix_write(kSixFunction, 2047 * 16, 4, 0x1234);
  EXPECT_EQ(m.state.dirty_bytes(), 256U);
}

TEST(PciMsix, regions_follow_the_order_of_the_configuration) {
  PciMachine m;
  EXPECT_EQ(m.msix_region(kTestFunction), 1);
  EXPECT_EQ(m.msix_region(kWideFunction), 2);
  EXPECT_EQ(m.msix_region(kSixFunction), 3);
  EXPECT_EQ(m.msix_region(kPlainFunction), 0xffff);
  ASSERT_EQ(m.bus->regions().size(), 4U);
  EXPECT_EQ(m.bus->regions()[0].length, 8U);
  EXPECT_EQ(m.bus->regions()[1].length, 4096U);
  EXPECT_EQ(m.bus->regions()[2].length, 8192U);
  EXPECT_EQ(m.bus->regions()[3].length, 65536U);
  for (const RegionSpec& region : m.bus->regions()) EXPECT_FALSE(region.posted);
  EXPECT_EQ(m.bus->regions()[1].name, "00:03.0");
}

}  // namespace
}  // namespace bulkhead::devproc
