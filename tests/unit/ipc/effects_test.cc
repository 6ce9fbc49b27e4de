// parse_effect(): what an honest device may send, field by field; and the roles' declarations.
#include "ipc/state/effects.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "ipc/roles/device_types.h"

namespace bulkhead {
namespace {

Effect effect(EffectKind kind) { return {.kind = static_cast<std::uint16_t>(kind)}; }

Effect window(std::uint64_t address, std::uint64_t size) {
  Effect e = effect(EffectKind::kWindow);
  e.address = address;
  e.size = size;
  e.flags = kEffectEnabled;
  return e;
}

TEST(ParseEffect, kinds_that_nobody_knows_are_refused) {
  EXPECT_FALSE(parse_effect(effect(EffectKind::kNone)));
  for (std::uint32_t kind = 9; kind <= 0xffff; ++kind)
    ASSERT_FALSE(parse_effect({.kind = static_cast<std::uint16_t>(kind), .size = 16, .data = 1}));
}

TEST(ParseEffect, a_vga_window_is_one_or_two_banks_or_nothing) {
  Effect e = effect(EffectKind::kVgaWindow);
  EXPECT_TRUE(parse_effect(e)) << "off";
  e.size = 0x10000;
  EXPECT_FALSE(parse_effect(e)) << "off, and yet somewhere";
  e.flags = kEffectEnabled;
  EXPECT_TRUE(parse_effect(e));
  e.address = 0x30000;
  e.size = 0x20000;
  EXPECT_TRUE(parse_effect(e));
  e.address = 0x38000;
  EXPECT_FALSE(parse_effect(e)) << "between two banks";
  e.address = 0x30000;
  for (const std::uint64_t size : {0ULL, 0x8000ULL, 0x18000ULL, 0x40000ULL, ~0ULL}) {
    e.size = size;
    EXPECT_FALSE(parse_effect(e)) << size;
  }
  e.size = 0x10000;
  e.flags |= kEffectIoSpace;
  EXPECT_FALSE(parse_effect(e));
}

TEST(ParseEffect, a_function_has_eight_bits) {
  Effect e = effect(EffectKind::kFunctionControl);
  e.function = 0xff;
  EXPECT_TRUE(parse_effect(e));
  e.function = 0x100;
  EXPECT_FALSE(parse_effect(e));
}

TEST(ParseEffect, a_window_is_a_power_of_two_and_aligned_to_it) {
  EXPECT_TRUE(parse_effect(window(0x1000, 0x1000)));
  EXPECT_FALSE(parse_effect(window(0x1000, 0)));
  EXPECT_FALSE(parse_effect(window(0x1000, 0x1001)));
  EXPECT_FALSE(parse_effect(window(0x800, 0x1000)));
  EXPECT_TRUE(parse_effect(window(0, std::uint64_t{1} << 63)));
  Effect e = window(0, 16);
  e.index = kBarCount;
  EXPECT_FALSE(parse_effect(e));
  e.index = kBarCount - 1;
  EXPECT_TRUE(parse_effect(e));
  e.flags = kEffectMsix;
  EXPECT_FALSE(parse_effect(e));
}

// No pin of a PCI function reaches the timer, the cascade, the RTC or the FPU: their numbers are reserved in PIRQRC.
TEST(ParseEffect, an_intx_route_goes_only_where_pirqrc_can_send_it) {
  for (std::uint32_t irq = 0; irq < 20; ++irq) {
    Effect e = effect(EffectKind::kIntxRoute);
    e.data = irq;
    e.flags = kEffectEnabled;
    const bool reserved = irq == 0 || irq == 1 || irq == 2 || irq == 8 || irq == 13 || irq > 15;
    EXPECT_EQ(parse_effect(e).has_value(), !reserved) << irq;
  }
  Effect off = effect(EffectKind::kIntxRoute);
  EXPECT_TRUE(parse_effect(off)) << "a pin that is routed nowhere";
  off.index = kPirqCount;
  EXPECT_FALSE(parse_effect(off));
}

TEST(ParseEffect, function_control_has_the_bits_that_are_named) {
  Effect e = effect(EffectKind::kFunctionControl);
  e.flags = kControlAll;
  EXPECT_TRUE(parse_effect(e));
  e.flags = kControlAll + 1;
  EXPECT_FALSE(parse_effect(e));
}

TEST(ParseEffect, an_msix_vector_is_in_range_and_its_address_aligned) {
  Effect e = effect(EffectKind::kMsiRoute);
  e.flags = kEffectMsix | kEffectEnabled;
  e.index = kMaxVectors - 1;
  e.address = 0xfee00000;
  EXPECT_TRUE(parse_effect(e));
  e.address |= 2;
  EXPECT_FALSE(parse_effect(e));
  e.address = 0;
  e.index = kMaxVectors;
  EXPECT_FALSE(parse_effect(e));
  e.index = 0;
  e.size = 1;
  EXPECT_FALSE(parse_effect(e));
}

TEST(ParseEffect, msi_data_leaves_the_vector_bits_clear) {
  Effect e = effect(EffectKind::kMsiRoute);
  e.flags = kEffectEnabled;
  e.index = 3;
  e.data = 0x40;
  EXPECT_TRUE(parse_effect(e));
  e.data = 0x44;
  EXPECT_FALSE(parse_effect(e));
  e.data = 0x10000;
  EXPECT_FALSE(parse_effect(e));
  e.data = 0;
  e.index = kMaxMsiLog2 + 1;
  EXPECT_FALSE(parse_effect(e));
  e.index = 0;
  e.size = std::uint64_t{1} << 32;
  EXPECT_FALSE(parse_effect(e));
}

TEST(ParseEffect, power_has_three_actions) {
  for (std::uint32_t action = 0; action < 6; ++action) {
    Effect e = effect(EffectKind::kPower);
    e.data = action;
    EXPECT_EQ(parse_effect(e).has_value(), action >= 1 && action <= 3);
  }
}

TEST(ParseEffect, a_pause_has_one_reason) {
  for (std::uint32_t reason = 0; reason < 6; ++reason) {
    Effect e = effect(EffectKind::kPause);
    e.data = reason;
    EXPECT_EQ(parse_effect(e).has_value(), reason == 1);
  }
}

TEST(ParseEffect, what_is_accepted_is_the_record_itself) {
  std::mt19937_64 random(1);
  int accepted = 0;
  for (int i = 0; i < 200'000; ++i) {
    Effect e;
    std::uint64_t words[4];
    for (std::uint64_t& word : words) word = random() & random() & random();
    std::memcpy(&e, words, sizeof e);
    e.kind = static_cast<std::uint16_t>(random() % 7);
    e.function &= random() % 2 == 0 ? 0xff : 0xffff;
    const auto parsed = parse_effect(e);
    if (!parsed) continue;
    ++accepted;
    ASSERT_EQ(*parsed, e);
    ASSERT_LE(parsed->function, 0xff);
  }
  EXPECT_GT(accepted, 100);
}

TEST(MsiMessage, each_vector_has_its_own_data_and_mask) {
  Effect e = effect(EffectKind::kMsiRoute);
  e.flags = kEffectEnabled;
  e.index = 2;
  e.address = 0xfee01000;
  e.data = 0x40;
  e.size = 0b0100;
  for (std::uint32_t vector = 0; vector < 4; ++vector) {
    const auto message = msi_message(e, vector);
    ASSERT_TRUE(message);
    EXPECT_EQ(message->address, 0xfee01000U);
    EXPECT_EQ(message->data, 0x40U + vector);
    EXPECT_EQ(message->masked, vector == 2);
  }
  EXPECT_FALSE(msi_message(e, 4));
  e.flags = 0;
  EXPECT_FALSE(msi_message(e, 0));
}

// --- ipc/roles ---

TEST(DeviceTypes, every_type_is_found_by_its_name_and_declares_whole_regions) {
  for (const DeviceTypeDecl& type : all_device_types()) {
    EXPECT_EQ(find_device_type(type.type), &type);
    EXPECT_FALSE(type.purpose.empty()) << type.type;
    // Those that no guest reaches have none.
    EXPECT_EQ(type.regions.empty(), type.type == "usernet" || type.type == "vsock_relay") << type.type;
    for (const RegionDecl& region : type.regions) {
      EXPECT_GT(region.length, 0U) << type.type;
      EXPECT_TRUE(region.memory || !region.posted) << "only memory writes can be posted";
    }
    if (type.pci != nullptr) {
      EXPECT_TRUE(pci_decl_valid(*type.pci)) << type.type;
      for (const BarDecl& bar : type.pci->bars) {
        if (bar.msix) continue;
        ASSERT_LT(bar.region, type.regions.size()) << type.type;
        EXPECT_EQ(bar.size, type.regions[bar.region].length) << type.type;
        EXPECT_EQ(bar.kind != BarKind::kIo, type.regions[bar.region].memory) << type.type;
      }
      EXPECT_EQ(type.pci->interrupt_pin != 0, !type.lines.empty()) << type.type;
      EXPECT_GE(type.messages, std::max<std::uint16_t>(type.pci->msi_vectors, type.pci->msix_vectors)) << type.type;
    }
  }
  EXPECT_EQ(find_device_type("floppy"), nullptr);
  EXPECT_EQ(find_pci_decl("uart16550"), nullptr);
}

// Only the chipset moves windows and routes; no device that takes guest data can.
TEST(DeviceTypes, only_the_pci_bus_may_ask_for_windows_and_routes) {
  const std::uint32_t placement = effect_bit(EffectKind::kWindow) | effect_bit(EffectKind::kIntxRoute) |
                                  effect_bit(EffectKind::kMsiRoute) | effect_bit(EffectKind::kFunctionControl);
  for (const DeviceTypeDecl& type : all_device_types()) {
    if (type.type == "pci_bus") continue;
    EXPECT_EQ(type.effects & placement, 0U) << type.type;
  }
}

}  // namespace
}  // namespace bulkhead
