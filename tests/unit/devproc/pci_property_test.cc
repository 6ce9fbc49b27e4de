// Properties of PciBus under random guests and random state.
#include <gtest/gtest.h>

#include "tests/unit/devproc/pci_fixture.h"

namespace bulkhead::devproc {
namespace {

constexpr std::array<std::uint8_t, 7> kFunctions{0x00,           0x08,          0x0b,        kTestFunction,
                                                 kPlainFunction, kWideFunction, kSixFunction};
// Registers whose writes have effects.
constexpr std::array<std::uint8_t, 22> kTelling{0x04, 0x05, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30, 0x40, 0x44,
                                                0x48, 0x4a, 0x4c, 0x50, 0x54, 0x58, 0x60, 0x62, 0x63, 0x72, 0x80};

std::uint32_t random_value(std::mt19937_64& random) {
  switch (random() % 4) {
    case 0: return 0xffffffff;
    case 1: return static_cast<std::uint32_t>(random() & 0xffff);
    case 2: return static_cast<std::uint32_t>(0xe0000000 | (random() & 0x00ffffff));
    default: return static_cast<std::uint32_t>(random());
  }
}

// One random write; its effects are in m.effects.emitted.
void random_write(PciMachine& m, std::mt19937_64& random) {
  if (random() % 4 == 0) {
    m.effects.clear();
    const auto region = static_cast<RegionIndex>(1 + random() % 3);
    const std::uint64_t length = m.bus->regions()[region].length;
    const std::uint8_t size = random() % 2 ? 4 : 8;
    m.bus->write({region, random() % (random() % 2 ? 256 : length) / size * size, size}, random());
    return;
  }
  const std::uint8_t function = kFunctions[random() % kFunctions.size()];
  const std::uint8_t size = std::array<std::uint8_t, 3>{1, 2, 4}[random() % 3];
  unsigned offset = random() % 2 ? kTelling[random() % kTelling.size()] : static_cast<unsigned>(random() % 256);
  offset = offset / size * size;
  m.write(function, offset, size, random_value(random));
}

bool is_power(const Effect& effect) { return effect.kind == static_cast<std::uint16_t>(EffectKind::kPower); }

TEST(PciProperties, replayed_effects_equal_the_desired_state) {
  for (const std::uint16_t pm_base : {0, 0x600}) {
    PciMachine m(test_config(pm_base));
    std::mt19937_64 random(pm_base + 1U);
    DesiredMap vmm = m.desired();
    EXPECT_EQ(vmm.size(), m.bus->desired_effect_count());
    std::size_t most = 0;
    for (int i = 0; i < 100'000; ++i) {
      random_write(m, random);
      most = std::max(most, m.effects.emitted.size());
      ASSERT_LE(m.effects.emitted.size(), kMaxEffects);
      for (const Effect& effect : m.effects.emitted) {
        ASSERT_TRUE(parse_effect(effect));
        if (!is_power(effect)) {
          ASSERT_TRUE(vmm.apply(effect)) << "an effect that changes nothing: kind " << effect.kind << " function "
                                         << effect.function << " index " << effect.index;
        }
      }
      if (i % 10'000 == 0) {
        ASSERT_EQ(vmm, m.desired()) << i;
      }
    }
    EXPECT_EQ(vmm, m.desired());
    EXPECT_EQ(m.effects.overflows, 0);
    EXPECT_GE(most, 6U) << "the random guest never opened a function's windows at once";
  }
}

TEST(PciProperties, desired_effects_are_those_of_a_reset_machine_after_reset) {
  for (const std::uint16_t pm_base : {0, 0x600}) {
    PciMachine m(test_config(pm_base));
    const DesiredMap fresh = m.desired();
    std::mt19937_64 random(7);
    for (int i = 0; i < 1000; ++i) random_write(m, random);
    m.effects.clear();
    m.bus->reset();
    EXPECT_EQ(m.desired(), fresh);
    EXPECT_TRUE(m.effects.emitted.empty()) << "both sides know the reset state";
  }
}

TEST(PciProperties, without_firmware_everything_is_off_after_reset) {
  PciMachine m;
  for (std::size_t i = 0; i < m.bus->desired_effect_count(); ++i) {
    const Effect effect = m.bus->desired_effect(i);
    ASSERT_TRUE(parse_effect(effect)) << i;
    if (effect.kind == static_cast<std::uint16_t>(EffectKind::kFunctionControl)) {
      EXPECT_EQ(effect.flags, 0U);
    } else {
      EXPECT_EQ(effect.flags & kEffectEnabled, 0U) << i;
      EXPECT_EQ(effect.address, 0U);
      EXPECT_EQ(effect.data, 0U);
    }
  }
  EXPECT_EQ(m.bus->desired_effect(m.bus->desired_effect_count()), Effect{});
}

TEST(PciProperties, a_successor_answers_as_its_predecessor_did) {
  PciMachine m(test_config(0x600));
  std::mt19937_64 random(11);
  for (int i = 0; i < 5000; ++i) random_write(m, random);
  const auto state = m.state.bytes();
  const DesiredMap wanted = m.desired();
  m.build();
  m.effects.clear();
  m.bus->restore();
  EXPECT_EQ(m.state.bytes(), state) << "restore() changed a state that an honest model wrote";
  EXPECT_EQ(m.desired(), wanted);
  EXPECT_TRUE(m.effects.emitted.empty());
}

TEST(PciProperties, random_state_is_brought_into_range) {
  PciMachine m;
  const auto identity = [&m](std::uint8_t function) {
    return std::array{m.read32(function, 0x00), m.read32(function, 0x08), m.read32(function, 0x2c),
                      m.read32(function, 0x34)};
  };
  std::vector<std::array<std::uint32_t, 4>> honest;
  for (const std::uint8_t function : kFunctions) honest.push_back(identity(function));
  std::mt19937_64 random(3);
  for (int round = 0; round < 200; ++round) {
    m.state.randomise(random);
    m.build();
    m.bus->restore();
    const auto once = m.state.bytes();
    m.bus->restore();
    ASSERT_EQ(m.state.bytes(), once);
    for (const std::uint8_t function : kFunctions) m.bus->on_function_presence(function, true);
    for (std::size_t i = 0; i < m.bus->desired_effect_count(); ++i)
      ASSERT_TRUE(parse_effect(m.bus->desired_effect(i))) << i;
    for (std::size_t i = 0; i < kFunctions.size(); ++i) ASSERT_EQ(identity(kFunctions[i]), honest[i]);
    DesiredMap vmm = m.desired();
    for (int i = 0; i < 200; ++i) {
      random_write(m, random);
      for (const Effect& effect : m.effects.emitted) {
        if (!is_power(effect)) vmm.apply(effect);
      }
    }
    ASSERT_EQ(vmm, m.desired());
    ASSERT_EQ(m.effects.refused, 0);
    ASSERT_EQ(m.effects.overflows, 0);
  }
}

TEST(PciProperties, state_that_no_guest_could_have_written_falls_back) {
  PciMachine m;
  std::mt19937_64 random(5);
  for (int round = 0; round < 100; ++round) {
    m.state.randomise(random);
    m.build();
    m.bus->restore();
    m.bus->on_function_presence(kTestFunction, true);
    const auto pm_state = m.read8(kTestFunction, 0x44) & 3;
    ASSERT_TRUE(pm_state == 0 || pm_state == 3);
    ASSERT_LE((m.read16(kTestFunction, 0x4a) >> 4) & 7, 2);
    const auto smram = m.read8(0, 0x72);
    ASSERT_FALSE((smram & 0x50) == 0x50) << "locked and open";
    ASSERT_EQ(m.msix_read(kTestFunction, 0x0c, 4) & ~1ULL, 0U);
    ASSERT_EQ(m.bus->read({0, 1, 1}).value() & ~6ULL, 0U);
  }
}

}  // namespace
}  // namespace bulkhead::devproc
