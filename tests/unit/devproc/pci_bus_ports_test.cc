// Ports CF8h-CFFh: who answers which access, and the reset control register.
#include <gmock/gmock.h>

#include "tests/unit/devproc/pci_fixture.h"

namespace bulkhead::devproc {
namespace {

using testing::ElementsAre;

TEST(PciBusPorts, dword_at_cf8_is_the_address_register_without_its_reserved_bits) {
  PciMachine m;
  EXPECT_TRUE(m.bus->write({0, 0, 4}, 0xffffffff));
  EXPECT_EQ(m.bus->read({0, 0, 4}), 0x80fffffcU);
}

TEST(PciBusPorts, byte_and_word_accesses_at_cf8_pass_it_by) {
  PciMachine m;
  m.select(0, 0x40);
  for (const Access access :
       {Access{0, 0, 1}, Access{0, 0, 2}, Access{0, 2, 1}, Access{0, 2, 2}, Access{0, 3, 1}, Access{0, 1, 2}}) {
    EXPECT_FALSE(m.bus->write(access, 0)) << access.offset << " " << int{access.size};
    EXPECT_EQ(m.bus->read(access), all_ones(access.size)) << access.offset;
  }
  EXPECT_EQ(m.bus->read({0, 0, 4}), 0x80000040U);
}

TEST(PciBusPorts, linux_probe_of_mechanism_1_succeeds) {
  PciMachine m;
  m.bus->write({0, 3, 1}, 0x01);  // outb(1, 0xcfb): no mechanism 2 here
  const auto saved = m.bus->read({0, 0, 4}).value();
  m.bus->write({0, 0, 4}, 0x80000000);
  EXPECT_EQ(m.bus->read({0, 0, 4}), 0x80000000U);
  m.bus->write({0, 0, 4}, saved);
  EXPECT_EQ(m.read16(0, 0x0a), 0x0600);  // and its sanity check: a host bridge at 00:00.0
}

TEST(PciBusPorts, data_ports_answer_nothing_while_the_enable_bit_is_clear) {
  PciMachine m;
  m.bus->write({0, 0, 4}, 0x00000000);
  EXPECT_EQ(m.bus->read({0, 4, 4}), 0xffffffffU);
  EXPECT_FALSE(m.bus->write({0, 4, 4}, 0));
}

TEST(PciBusPorts, absent_functions_and_other_buses_read_all_ones) {
  PciMachine m;
  for (unsigned function = 0; function < 256; ++function) {
    const bool there = function == 0 || function == 0x08 || function == 0x0b || function == kTestFunction ||
                       function == kWideFunction || function == kSixFunction || function == kPlainFunction;
    EXPECT_EQ(m.read32(static_cast<std::uint8_t>(function), 0) != 0xffffffff, there) << function;
    m.select(static_cast<std::uint8_t>(function), 0, 1);
    EXPECT_EQ(m.bus->read({0, 4, 4}), 0xffffffffU);
    EXPECT_EQ(m.bus->read({0, 6, 2}), 0xffffU);
    EXPECT_EQ(m.bus->read({0, 7, 1}), 0xffU);
  }
}

TEST(PciBusPorts, writes_to_absent_functions_are_refused_and_change_nothing) {
  PciMachine m;
  const auto before = m.state.bytes();
  for (const std::uint8_t function : {devfn(2), devfn(0, 1), devfn(31, 7)}) {
    m.select(function, 4);
    EXPECT_FALSE(m.bus->write({0, 4, 4}, 0xffffffff));
  }
  m.bus->write({0, 0, 4}, 0);
  EXPECT_EQ(m.state.bytes(), before);
  EXPECT_TRUE(m.effects.emitted.empty());
}

TEST(PciBusPorts, data_bytes_are_reached_at_every_width_and_offset) {
  PciMachine m;
  const std::uint32_t id = m.read32(0, 0);
  EXPECT_EQ(id, 0x12378086U);
  m.select(0, 0);
  for (std::uint8_t offset = 0; offset < 4; ++offset) {
    for (const std::uint8_t size : {1, 2}) {
      if (offset + size > 4) continue;
      EXPECT_EQ(m.bus->read({0, 4ULL + offset, size}), (id >> (8 * offset)) & all_ones(size));
    }
  }
}

TEST(PciBusPorts, an_access_across_cfc_is_split_at_the_dword) {
  PciMachine m;
  m.select(0, 0);
  EXPECT_EQ(m.bus->read({0, 3, 2}), 0x86ffU);      // CFBh nobody, CFCh data
  EXPECT_EQ(m.bus->read({0, 1, 4}), 0x86ffffffU);  // CF9h-CFBh three bytes nobody, CFCh data
  EXPECT_EQ(m.bus->read({0, 2, 4}), 0x8086ffffU);
  m.select(kTestFunction, 0x3c);
  EXPECT_TRUE(m.bus->write({0, 3, 2}, 0x5a01));
  EXPECT_EQ(m.read8(kTestFunction, 0x3c), 0x5a);
  EXPECT_EQ(m.effects.count(PowerAction::kReset), 0U);
}

TEST(PciBusPorts, accesses_beyond_the_region_find_nothing) {
  PciMachine m;
  m.select(0, 0);
  EXPECT_EQ(m.bus->read({0, 6, 4}), std::nullopt);
  EXPECT_EQ(m.bus->read({0, 8, 1}), std::nullopt);
  EXPECT_EQ(m.bus->read({0, 0, 8}), std::nullopt);
  EXPECT_EQ(m.bus->read({99, 0, 4}), std::nullopt);
  EXPECT_FALSE(m.bus->write({0, 7, 2}, 0));
  EXPECT_FALSE(m.bus->write({99, 0, 4}, 0));
}

TEST(PciBusPorts, rising_rcpu_at_cf9_asks_for_one_reset) {
  PciMachine m;
  m.bus->write({0, 1, 1}, 0x02);
  EXPECT_TRUE(m.effects.emitted.empty());
  m.bus->write({0, 1, 1}, 0x06);
  EXPECT_THAT(m.effects.emitted, ElementsAre(Effect{.kind = static_cast<std::uint16_t>(EffectKind::kPower),
                                                    .data = static_cast<std::uint32_t>(PowerAction::kReset)}));
  m.bus->write({0, 1, 1}, 0x06);
  EXPECT_EQ(m.effects.count(PowerAction::kReset), 1U);
  m.bus->write({0, 1, 1}, 0x00);
  m.bus->write({0, 1, 1}, 0x04);
  EXPECT_EQ(m.effects.count(PowerAction::kReset), 2U);
}

TEST(PciBusPorts, cf9_reads_back_its_two_bits_and_reset_clears_them) {
  PciMachine m;
  m.bus->write({0, 1, 1}, 0xff);
  EXPECT_EQ(m.bus->read({0, 1, 1}), 0x06U);
  m.bus->reset();
  EXPECT_EQ(m.bus->read({0, 1, 1}), 0x00U);
}

TEST(PciBusPorts, a_dword_write_to_cf8_never_resets) {
  PciMachine m;
  m.bus->write({0, 0, 4}, 0x80000600);
  EXPECT_TRUE(m.effects.emitted.empty());
  EXPECT_EQ(m.bus->read({0, 1, 1}), 0x00U);
}

TEST(PciBusPorts, rcpu_in_trc_of_the_host_bridge_resets_too) {
  PciMachine m;
  m.write8(0, 0x93, 0x02);
  EXPECT_TRUE(m.effects.emitted.empty());
  m.write8(0, 0x93, 0x06);
  EXPECT_EQ(m.effects.count(PowerAction::kReset), 1U);
}

TEST(PciBusPorts, selecting_a_register_commits_the_bus_state_alone) {
  PciMachine m;
  m.state.commit();
  m.select(kTestFunction, 0x10);
  EXPECT_LE(m.state.dirty_bytes(), 8U);
  m.state.commit();
  m.bus->read({0, 4, 4});
  EXPECT_EQ(m.state.dirty_bytes(), 0U);
}

TEST(PciBusPorts, an_isolated_function_reads_all_ones_and_comes_back_from_reset) {
  PciMachine m;
  const std::uint32_t id = m.read32(kTestFunction, 0);
  const std::uint32_t bar = m.read32(kTestFunction, 0x10);
  m.write32(kTestFunction, 0x10, 0xc0000000);
  m.effects.clear();
  m.bus->on_function_presence(kTestFunction, false);
  for (const int offset : {0, 4, 0x10, 0x40, 0xfc})
    EXPECT_EQ(m.read32(kTestFunction, static_cast<std::uint8_t>(offset)), ~0U) << offset;
  m.write32(kTestFunction, 0x10, 0xd0000000);
  m.bus->reset();
  EXPECT_EQ(m.read32(kTestFunction, 0), ~0U) << "a reset of the machine brings nothing back";
  m.bus->restore();
  EXPECT_EQ(m.read32(kTestFunction, 0), ~0U);
  m.bus->on_function_presence(kTestFunction, true);
  EXPECT_EQ(m.read32(kTestFunction, 0), id);
  EXPECT_EQ(m.read32(kTestFunction, 0x10), bar);
  EXPECT_TRUE(m.effects.emitted.empty()) << "the VMM takes its windows away by itself";
}

TEST(PciBusPorts, the_chipset_cannot_be_isolated) {
  PciMachine m;
  for (const std::uint8_t function : {0x00, 0x08, 0x0b}) {
    const std::uint32_t id = m.read32(function, 0);
    m.bus->on_function_presence(function, false);
    EXPECT_EQ(m.read32(function, 0), id);
  }
  for (int function = 0; function < 256; ++function)
    m.bus->on_function_presence(static_cast<std::uint8_t>(function), true);
}

}  // namespace
}  // namespace bulkhead::devproc
