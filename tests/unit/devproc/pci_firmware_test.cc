// Direct boot: what reset() leaves when no firmware will run. And the rules that the VMM shares.
#include <gmock/gmock.h>

#include <algorithm>

#include "devproc/models/pci/firmware.h"
#include "tests/unit/devproc/pci_fixture.h"

namespace bulkhead::devproc {
namespace {

TEST(PciFirmware, pm_block_decodes_at_its_base) {
  PciMachine m(test_config(0x600));
  EXPECT_EQ(m.read32(0x0b, 0x40), 0x601U);
  EXPECT_EQ(m.read8(0x0b, 0x80), 0x01);
  EXPECT_EQ(m.read8(0x0b, 0x3c), 9);
  EXPECT_EQ(m.read8(0x0b, 0x5b), 0x02);
  const DesiredMap wanted = m.desired();
  DesiredMap with = wanted;
  EXPECT_FALSE(with.apply(window(0x0b, 0, 0x600, 64, kEffectEnabled | kEffectIoSpace)));
}

TEST(PciFirmware, pirqs_are_routed_to_10_10_11_11) {
  PciMachine m(test_config(0x600));
  EXPECT_EQ(m.read32(0x08, 0x60), 0x0b0b0a0aU);
  DesiredMap wanted = m.desired();
  EXPECT_FALSE(wanted.apply(pirq(0, 10, true)));
  EXPECT_FALSE(wanted.apply(pirq(1, 10, true)));
  EXPECT_FALSE(wanted.apply(pirq(2, 11, true)));
  EXPECT_FALSE(wanted.apply(pirq(3, 11, true)));
}

TEST(PciFirmware, interrupt_lines_follow_the_swizzle) {
  PciMachine m(test_config(0x600));
  EXPECT_EQ(m.read8(kTestFunction, 0x3c), 11);  // slot 3, INTA# -> PIRQC
  EXPECT_EQ(m.read8(kWideFunction, 0x3c), 11);  // slot 4, INTD# -> PIRQC
  EXPECT_EQ(m.read8(kSixFunction, 0x3c), 10);   // slot 5, INTB# -> PIRQB
  EXPECT_EQ(m.read8(kPlainFunction, 0x3c), 0);  // no pin
}

TEST(PciFirmware, bars_lie_in_the_hole_aligned_and_apart_and_decode) {
  PciMachine m(test_config(0x600));
  std::vector<std::pair<std::uint64_t, std::uint64_t>> memory;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ports;
  for (std::size_t i = 0; i < m.bus->desired_effect_count(); ++i) {
    const Effect e = m.bus->desired_effect(i);
    if (e.kind != static_cast<std::uint16_t>(EffectKind::kWindow) || e.function == 0x0b) continue;
    if (e.function == kSixFunction && (e.flags & kEffectIoSpace) == 0) continue;  // 2 GiB: does not fit
    if (e.index == kRomBar) {
      EXPECT_EQ(e.flags, 0U);
      continue;
    }
    ASSERT_NE(e.flags & kEffectEnabled, 0U) << e.function << " bar " << e.index;
    EXPECT_EQ(e.address % e.size, 0U);
    const bool io = (e.flags & kEffectIoSpace) != 0;
    EXPECT_GE(e.address, io ? 0xc000U : 0xe0000000U);
    EXPECT_LE(e.address + e.size, io ? 0x10000U : 0xfec00000U);
    (io ? ports : memory).emplace_back(e.address, e.size);
  }
  EXPECT_EQ(memory.size(), 5U);
  EXPECT_EQ(ports.size(), 5U);
  for (auto* list : {&memory, &ports}) {
    std::sort(list->begin(), list->end());
    for (std::size_t i = 1; i < list->size(); ++i)
      EXPECT_LE((*list)[i - 1].first + (*list)[i - 1].second, (*list)[i].first);
  }
}

TEST(PciFirmware, a_function_whose_bars_do_not_fit_keeps_that_space_off) {
  PciMachine m(test_config(0x600));
  EXPECT_EQ(m.read16(kSixFunction, 0x04) & 3, 0x0001);
  EXPECT_EQ(m.read32(kSixFunction, 0x18), 0U);
}

TEST(PciFirmware, commands_are_as_seabios_leaves_them) {
  PciMachine m(test_config(0x600));
  EXPECT_EQ(m.read16(kTestFunction, 0x04), 0x0103);
  EXPECT_EQ(m.read16(kPlainFunction, 0x04), 0x0100);
  EXPECT_EQ(m.read16(0x00, 0x04), 0x0106);
  EXPECT_EQ(m.read8(0x00, 0x59), 0x30);
  EXPECT_EQ(m.read8(0x00, 0x5f), 0x33);
}

TEST(PciFirmware, more_ram_pushes_the_bars_up) {
  PciBusConfig config = test_config(0x600);
  config.ram_below_4g = 0xe8000000;
  PciMachine m(config);
  EXPECT_GE(m.read32(kTestFunction, 0x10), 0xe8000000U);
}

TEST(PciFirmware, the_largest_bar_comes_first) {
  PciMachine m(test_config(0x600));
  EXPECT_EQ(m.read32(kWideFunction, 0x10), 0xe000000cU);
  EXPECT_EQ(m.read32(kWideFunction, 0x20), 0xc001U);
  EXPECT_EQ(m.read32(kTestFunction, 0x18), 0xc101U);
}

TEST(PciFirmware, bars_are_aligned_wherever_ram_ends) {
  PciBusConfig config = test_config(0x600);
  config.ram_below_4g = 0xe0001800;
  PciMachine m(config);
  EXPECT_EQ(m.read32(kWideFunction, 0x10), 0xe100000cU);
  EXPECT_EQ(m.read32(kTestFunction, 0x10) & 0xfff, 0U);
}

TEST(PciFirmware, a_full_hole_leaves_bars_at_0) {
  PciBusConfig config = test_config(0x600);
  config.ram_below_4g = 0xfec00000;
  PciMachine m(config);
  EXPECT_EQ(m.read32(kTestFunction, 0x10), 0U);
  EXPECT_EQ(m.read16(kTestFunction, 0x04) & 3, 1);
}

TEST(PciFirmware, two_processes_leave_the_same) {
  PciMachine a(test_config(0xb000));
  PciMachine b(test_config(0xb000));
  EXPECT_EQ(a.state.bytes(), b.state.bytes());
}

TEST(PciFirmware, with_pm_base_0_the_bus_is_as_after_reset) {
  PciMachine m;
  EXPECT_EQ(m.read32(0x08, 0x60), 0x80808080U);
  EXPECT_EQ(m.read8(0x0b, 0x80), 0);
  EXPECT_EQ(m.read16(kTestFunction, 0x04), 0);
  EXPECT_EQ(m.read32(kTestFunction, 0x10), 0U);
  EXPECT_EQ(m.read8(0x00, 0x59), 0);
}

TEST(PciRules, intx_swizzle_is_that_of_the_pc) {
  EXPECT_EQ(pirq_of(devfn(1), 1), 0U);
  EXPECT_EQ(pirq_of(devfn(1), 4), 3U);
  EXPECT_EQ(pirq_of(devfn(2), 1), 1U);
  EXPECT_EQ(pirq_of(devfn(5), 1), 0U);
  EXPECT_EQ(pirq_of(devfn(4, 7), 2), 0U);
  EXPECT_EQ(pirq_of(devfn(0), 1), 3U);
}

TEST(PciRules, impossible_declarations_are_not_valid) {
  const auto with = [](BarDecl bar, std::uint16_t vectors = 0) {
    const std::array<BarDecl, 2> bars{{bar, {.bar = 1, .size = 4096}}};
    return pci_decl_valid(PciDecl{.msix_vectors = vectors, .bars = bars});
  };
  EXPECT_TRUE(with({.bar = 0, .size = 4096}));
  EXPECT_FALSE(with({.bar = 1, .size = 4096})) << "used twice";
  EXPECT_FALSE(with({.bar = 0, .kind = BarKind::kMemory64, .size = 4096})) << "its upper half is BAR 1";
  EXPECT_FALSE(with({.bar = 5, .kind = BarKind::kMemory64, .size = 4096})) << "has no upper half";
  EXPECT_FALSE(with({.bar = 7, .size = 4096}));
  EXPECT_FALSE(with({.bar = 0, .size = 4095}));
  EXPECT_FALSE(with({.bar = 0, .size = 0}));
  EXPECT_FALSE(with({.bar = 0, .size = 8}));
  EXPECT_FALSE(with({.bar = 0, .kind = BarKind::kIo, .size = 512}));
  EXPECT_FALSE(with({.bar = 6, .size = 1024}));
  EXPECT_FALSE(with({.bar = 0, .size = 4096}, 8)) << "MSI-X without a BAR";
  EXPECT_FALSE(with({.bar = 0, .size = 4096, .msix = true})) << "a BAR without MSI-X";
  EXPECT_TRUE(with({.bar = 0, .size = 4096, .msix = true}, 128));
  EXPECT_FALSE(with({.bar = 0, .size = 4096, .msix = true}, 129)) << "the table meets the PBA";
  EXPECT_FALSE(pci_decl_valid(PciDecl{.interrupt_pin = 5}));
  EXPECT_FALSE(pci_decl_valid(PciDecl{.msi_vectors = 3}));
  EXPECT_FALSE(pci_decl_valid(PciDecl{.msi_vectors = 64}));
}

TEST(PciRules, msi_effects_that_no_honest_bus_sends_are_refused) {
  const Effect good{.kind = static_cast<std::uint16_t>(EffectKind::kMsiRoute),
                    .function = 0x18,
                    .index = 2,
                    .address = 0xfee00000,
                    .size = 0xf,
                    .data = 0x4020,
                    .flags = kEffectEnabled};
  EXPECT_TRUE(parse_effect(good));
  const auto refused = [&good](auto change) {
    Effect bad = good;
    change(bad);
    return !parse_effect(bad);
  };
  EXPECT_TRUE(refused([](Effect& e) { e.index = 6; }));
  EXPECT_TRUE(refused([](Effect& e) { e.address |= 2; }));
  EXPECT_TRUE(refused([](Effect& e) { e.size = 0x1'0000'0000; }));
  EXPECT_TRUE(refused([](Effect& e) { e.data = 0x4021; }));
  EXPECT_TRUE(refused([](Effect& e) { e.data = 0x10000; }));
  EXPECT_TRUE(refused([](Effect& e) { e.flags |= kEffectIoSpace; }));
  EXPECT_TRUE(refused([](Effect& e) { e.flags |= kEffectMsix; })) << "mask bits on an MSI-X vector";
  EXPECT_TRUE(refused([](Effect& e) { e.function = 0x100; }));
}

}  // namespace
}  // namespace bulkhead::devproc
