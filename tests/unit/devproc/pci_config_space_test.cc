// Every function's configuration space: which bits software can change, and the sequences by which Linux
// finds out about BARs and capabilities.
#include <gmock/gmock.h>

#include <utility>

#include "devproc/models/pci/chipset_spec.h"
#include "tests/unit/devproc/pci_fixture.h"

namespace bulkhead::devproc {
namespace {

using Bytes = std::array<std::uint8_t, 256>;

constexpr std::array<std::uint8_t, 7> kFunctions{0x00,           0x08,          0x0b,        kTestFunction,
                                                 kPlainFunction, kWideFunction, kSixFunction};

Bytes all_bytes(PciMachine& m, std::uint8_t function) {
  Bytes bytes;
  for (unsigned i = 0; i < 256; ++i) bytes[i] = m.read8(function, i);
  return bytes;
}

// Bits of each byte that change when each unit of `size` bytes is written with ones, then with zeros.
Bytes writable_bits(std::uint8_t function, std::uint8_t size) {
  Bytes mask{};
  for (unsigned at = 0; at < 256; at += size) {
    PciMachine m;
    m.write(function, at, size, 0xffffffff);
    const Bytes ones = all_bytes(m, function);
    m.write(function, at, size, 0);
    const Bytes zeros = all_bytes(m, function);
    for (unsigned i = at; i < at + size; ++i) mask[i] = ones[i] ^ zeros[i];
  }
  return mask;
}

struct Expected {
  unsigned offset;
  unsigned size;
  std::uint32_t mask;
};

Bytes expected_mask(std::initializer_list<Expected> fields) {
  Bytes mask{};
  for (const Expected& field : fields) {
    for (unsigned i = 0; i < field.size; ++i) mask[field.offset + i] = static_cast<std::uint8_t>(field.mask >> (8 * i));
  }
  return mask;
}

TEST(PciConfigSpace, writes_of_each_width_change_the_same_bits) {
  for (const std::uint8_t function : kFunctions) {
    const Bytes by_bytes = writable_bits(function, 1);
    Bytes by_words = writable_bits(function, 2);
    Bytes by_dwords = writable_bits(function, 4);
    EXPECT_EQ(by_words, by_bytes) << int{function};
    EXPECT_EQ(by_dwords, by_bytes) << int{function};
  }
}

TEST(PciConfigSpace, pci_test_has_exactly_its_writable_bits) {
  EXPECT_EQ(writable_bits(kTestFunction, 4), expected_mask({{0x04, 2, 0x0547},
                                                            {0x0c, 1, 0xff},
                                                            {0x0d, 1, 0xf8},
                                                            {0x10, 4, 0xfffff000},
                                                            {0x14, 4, 0xfffff000},
                                                            {0x18, 4, 0xffffffc0},
                                                            {0x20, 4, 0xfffff000},
                                                            {0x24, 4, 0xffffffff},
                                                            {0x3c, 1, 0xff},
                                                            {0x44, 1, 0x03},
                                                            {0x4a, 2, 0x0021},  // 4 vectors asked for: 0-2
                                                            {0x4c, 4, 0xfffffffc},
                                                            {0x50, 4, 0xffffffff},
                                                            {0x54, 2, 0xffff},
                                                            {0x58, 4, 0x0000000f},
                                                            {0x62, 2, 0xc000},
                                                            {0x80, 1, 0xff},
                                                            {0x84, 4, 0xffffffff},
                                                            {0x88, 4, 0xffffffff}}))
      << "pci_cfg_data shows what is at the place that the registers before it name: nothing";
}

TEST(PciConfigSpace, a_function_that_declares_nothing_has_only_the_common_header) {
  EXPECT_EQ(writable_bits(kPlainFunction, 4), expected_mask({{0x04, 2, 0x0144}, {0x0c, 1, 0xff}, {0x0d, 1, 0xf8}}));
}

// MSTAT, PIRQRC and so on as the data sheets of QEMU-known machines list them; SMRAM has a test of its own.
TEST(PciConfigSpace, chipset_functions_have_the_bits_that_firmware_programs) {
  Bytes host = writable_bits(0x00, 1);
  EXPECT_EQ(host[0x59], 0x30);
  for (unsigned pam = 0x5a; pam <= 0x5f; ++pam) EXPECT_EQ(host[pam], 0x33);
  for (unsigned drb = 0x60; drb <= 0x67; ++drb) EXPECT_EQ(host[drb], 0xff);
  EXPECT_EQ(host[0x04], 0x42);
  EXPECT_EQ(host[0x05], 0x01);
  EXPECT_EQ(host[0x10], 0x00);
  Bytes isa = writable_bits(0x08, 1);
  for (unsigned link = 0x60; link <= 0x63; ++link) EXPECT_EQ(isa[link], 0x8f);
  EXPECT_EQ(isa[0x04], 0x08);
  EXPECT_EQ(isa[0x4e], 0xff);
  EXPECT_EQ(isa[0x4f], 0x01);
  EXPECT_EQ(isa[0x3c], 0x00);
  Bytes pm = writable_bits(0x0b, 1);
  EXPECT_EQ(pm[0x40], 0xc0);
  EXPECT_EQ(pm[0x41], 0xff);
  EXPECT_EQ(pm[0x42], 0x00);
  EXPECT_EQ(pm[0x5b], 0x03);
  EXPECT_EQ(pm[0x80], 0x01);
  EXPECT_EQ(pm[0x3c], 0xff);
}

TEST(PciConfigSpace, registers_of_the_chipset_tables_do_not_overlap) {
  const auto check = [](std::span<const chipset_spec::Register> registers) {
    Bytes used{};
    for (const auto& r : registers) {
      for (unsigned i = 0; i < r.size; ++i) EXPECT_EQ(used[r.offset + i]++, 0) << r.name;
      if (r.size < 4) {
        EXPECT_EQ((r.reset | r.writable) >> (8 * r.size), 0U) << r.name;
      }
    }
  };
  check(chipset_spec::kHostBridgeRegisters);
  check(chipset_spec::kIsaBridgeRegisters);
  check(chipset_spec::kPmRegisters);
}

TEST(PciConfigSpace, read_only_identity_survives_every_write) {
  for (const std::uint8_t function : kFunctions) {
    PciMachine m;
    const Bytes before = all_bytes(m, function);
    for (const std::uint32_t pattern : {0xffffffffU, 0U, 0xa5a5a5a5U, 0x5a5a5a5aU}) {
      for (unsigned at = 0; at < 256; at += 4) m.write32(function, at, pattern);
    }
    const Bytes after = all_bytes(m, function);
    for (const unsigned at : {0x00, 0x01, 0x02, 0x03, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b,
                              0x0e, 0x0f, 0x2c, 0x2d, 0x2e, 0x2f, 0x34, 0x3d, 0x3e, 0x3f})
      EXPECT_EQ(after[at], before[at]) << int{function} << " " << at;
  }
}

TEST(PciConfigSpace, writing_one_function_leaves_the_others_alone) {
  PciMachine m;
  std::array<Bytes, kFunctions.size()> before;
  for (std::size_t i = 0; i < kFunctions.size(); ++i) before[i] = all_bytes(m, kFunctions[i]);
  for (unsigned at = 0; at < 256; at += 4) m.write32(kWideFunction, at, 0x5aa5c33c);
  for (std::size_t i = 0; i < kFunctions.size(); ++i) {
    if (kFunctions[i] == kWideFunction) continue;
    EXPECT_EQ(all_bytes(m, kFunctions[i]), before[i]) << int{kFunctions[i]};
  }
}

TEST(PciConfigSpace, chipset_functions_identify_themselves) {
  PciMachine m;
  EXPECT_EQ(m.read32(0x00, 0x00), 0x12378086U);
  EXPECT_EQ(m.read32(0x00, 0x08), 0x06000002U);
  EXPECT_EQ(m.read16(0x00, 0x04), 0x0006);
  EXPECT_EQ(m.read32(0x08, 0x00), 0x70008086U);
  EXPECT_EQ(m.read32(0x08, 0x08), 0x06010000U);
  EXPECT_EQ(m.read16(0x08, 0x04), 0x0007);
  EXPECT_EQ(m.read8(0x08, 0x0e), 0x80);
  EXPECT_EQ(m.read32(0x0b, 0x00), 0x71138086U);
  EXPECT_EQ(m.read32(0x0b, 0x08), 0x06800003U);
  EXPECT_EQ(m.read8(0x0b, 0x3d), 0x01);
  EXPECT_EQ(m.read32(0x0b, 0x40), 0x00000001U);
}

TEST(PciConfigSpace, function_0_is_multi_function_when_its_slot_has_others) {
  PciMachine m;
  EXPECT_EQ(m.read8(kPlainFunction, 0x0e), 0x80);
  EXPECT_EQ(m.read8(kSixFunction, 0x0e), 0x00);
  EXPECT_EQ(m.read8(kTestFunction, 0x0e), 0x00);
  EXPECT_EQ(m.read8(0x00, 0x0e), 0x00);
}

TEST(PciConfigSpace, apmc_enable_reads_1_after_every_reset) {
  PciMachine m;
  EXPECT_EQ(m.read8(0x0b, 0x5b), 0x02);
  m.write8(0x0b, 0x5b, 0);
  EXPECT_EQ(m.read8(0x0b, 0x5b), 0x00);
  m.bus->reset();
  EXPECT_EQ(m.read32(0x0b, 0x58), 0x02000000U);
}

TEST(PciConfigSpace, smram_lock_holds_until_reset) {
  PciMachine m;
  m.write8(0, 0x72, 0x48);
  EXPECT_EQ(m.read8(0, 0x72), 0x4a);
  m.write8(0, 0x72, 0x5a);  // lock: D_OPEN falls
  EXPECT_EQ(m.read8(0, 0x72), 0x1a);
  m.write8(0, 0x72, 0x00);
  EXPECT_EQ(m.read8(0, 0x72), 0x1a);
  m.write8(0, 0x72, 0x70);
  EXPECT_EQ(m.read8(0, 0x72), 0x3a);
  m.bus->reset();
  EXPECT_EQ(m.read8(0, 0x72), 0x02);
}

// pci_read_bases() in Linux: save, write ones, read, restore.
std::uint32_t size_bar(PciMachine& m, std::uint8_t function, unsigned offset) {
  const std::uint32_t saved = m.read32(function, offset);
  m.write32(function, offset, 0xffffffff);
  const std::uint32_t size = m.read32(function, offset);
  m.write32(function, offset, saved);
  EXPECT_EQ(m.read32(function, offset), saved);
  return size;
}

TEST(PciConfigSpace, bar_sizing_as_linux_does_it) {
  PciMachine m;
  EXPECT_EQ(size_bar(m, kTestFunction, 0x10), 0xfffff000U);
  EXPECT_EQ(size_bar(m, kTestFunction, 0x14), 0xfffff000U);
  EXPECT_EQ(size_bar(m, kTestFunction, 0x18), 0xffffffc1U);
  EXPECT_EQ(size_bar(m, kTestFunction, 0x1c), 0U);
  EXPECT_EQ(size_bar(m, kTestFunction, 0x20), 0xfffff004U);
  EXPECT_EQ(size_bar(m, kTestFunction, 0x24), 0xffffffffU);
  EXPECT_EQ(size_bar(m, kTestFunction, 0x30), 0U);
  EXPECT_EQ(size_bar(m, kWideFunction, 0x10), 0xff00000cU);
  EXPECT_EQ(size_bar(m, kWideFunction, 0x14), 0xffffffffU);
  EXPECT_EQ(size_bar(m, kWideFunction, 0x20), 0xffffff01U);
  EXPECT_EQ(size_bar(m, kWideFunction, 0x24), 0xfffffffdU);
  EXPECT_EQ(size_bar(m, kWideFunction, 0x30), 0xffff0001U);
  EXPECT_EQ(size_bar(m, kSixFunction, 0x10), 0xfffffff0U);
  EXPECT_EQ(size_bar(m, kSixFunction, 0x18), 0x80000000U);
  EXPECT_TRUE(m.effects.emitted.empty());
}

TEST(PciConfigSpace, rom_bar_reads_0_unless_declared) {
  PciMachine m;
  for (const std::uint8_t function : kFunctions) {
    if (function == kWideFunction) continue;
    m.write32(function, 0x30, 0xffffffff);
    EXPECT_EQ(m.read32(function, 0x30), 0U) << int{function};
  }
}

TEST(PciConfigSpace, capability_list_ends_and_names_what_was_declared) {
  PciMachine m;
  EXPECT_EQ(m.capability(kTestFunction, 0x01), 0x40);
  EXPECT_EQ(m.capability(kTestFunction, 0x05), 0x48);
  EXPECT_EQ(m.capability(kTestFunction, 0x11), 0x60);
  EXPECT_EQ(m.capability(kTestFunction, 0x09), 0x6c);
  EXPECT_EQ(m.read8(kTestFunction, 0x6d), 0x7c);
  EXPECT_EQ(m.read8(kTestFunction, 0x7d), 0x00);
  EXPECT_EQ(m.capability(kTestFunction, 0x10), 0);
  for (const std::uint8_t function : {std::uint8_t{0}, std::uint8_t{8}, std::uint8_t{11}, kPlainFunction}) {
    EXPECT_EQ(m.read16(function, 0x06) & 0x10, 0) << int{function};
    EXPECT_EQ(m.read8(function, 0x34), 0) << int{function};
  }
}

TEST(PciConfigSpace, msix_capability_says_where_table_and_pba_are) {
  PciMachine m;
  const unsigned at = m.capability(kTestFunction, 0x11);
  EXPECT_EQ(m.read16(kTestFunction, at + 2), 7);
  EXPECT_EQ(m.read32(kTestFunction, at + 4), 0x00000004U);
  EXPECT_EQ(m.read32(kTestFunction, at + 8), 0x00000804U);
}

TEST(PciConfigSpace, power_states_other_than_d0_and_d3hot_are_discarded) {
  PciMachine m;
  const unsigned pmcsr = m.capability(kTestFunction, 0x01) + 4U;
  EXPECT_EQ(m.read16(kTestFunction, pmcsr), 0x0008);  // D0, no_soft_reset
  m.write16(kTestFunction, pmcsr, 1);
  EXPECT_EQ(m.read16(kTestFunction, pmcsr), 0x0008);
  m.write16(kTestFunction, pmcsr, 3);
  EXPECT_EQ(m.read16(kTestFunction, pmcsr), 0x000b);
  m.write16(kTestFunction, pmcsr, 2);
  EXPECT_EQ(m.read16(kTestFunction, pmcsr), 0x000b);
}

TEST(PciConfigSpace, d3hot_to_d0_keeps_the_configuration) {
  PciMachine m;
  const unsigned pmcsr = m.capability(kTestFunction, 0x01) + 4U;
  m.write32(kTestFunction, 0x10, 0xe0001000);
  m.write16(kTestFunction, 0x04, 0x0407);
  const Bytes before = all_bytes(m, kTestFunction);
  m.write16(kTestFunction, pmcsr, 3);
  m.write16(kTestFunction, pmcsr, 0);
  EXPECT_EQ(all_bytes(m, kTestFunction), before);
}

TEST(PciConfigSpace, more_msi_vectors_than_asked_for_are_not_given) {
  PciMachine m;
  const unsigned control = m.capability(kTestFunction, 0x05) + 2U;
  EXPECT_EQ(m.read16(kTestFunction, control), 0x0184);  // 64-bit, maskable, 4 asked for
  m.write16(kTestFunction, control, 5 << 4);
  EXPECT_EQ((m.read16(kTestFunction, control) >> 4) & 7, 2);
}

TEST(PciConfigSpace, reset_twice_equals_reset_once_and_undoes_every_write) {
  for (const std::uint16_t pm_base : {0, 0x600}) {
    PciMachine m(test_config(pm_base));
    const auto fresh = m.state.bytes();
    for (const std::uint8_t function : kFunctions) {
      for (unsigned at = 0; at < 256; at += 4) m.write32(function, at, 0x96969696);
    }
    EXPECT_NE(m.state.bytes(), fresh);
    m.bus->reset();
    EXPECT_EQ(m.state.bytes(), fresh);
    m.bus->reset();
    EXPECT_EQ(m.state.bytes(), fresh);
  }
}

TEST(PciConfigSpace, inspect_shows_functions_and_changes_nothing) {
  class Names final : public Inspector {
   public:
    void field(std::string_view name, std::uint64_t value) override { fields[std::string(name)] = value; }
    std::map<std::string, std::uint64_t> fields;
  };
  PciMachine m(test_config(0x600));
  const auto before = m.state.bytes();
  Names names;
  m.bus->inspect(names);
  EXPECT_EQ(names.fields.at("00:00.0 id"), 0x12378086U);
  EXPECT_EQ(names.fields.at("00:01.3 window 0"), 0x600U);
  EXPECT_EQ(names.fields.at("pirq A"), 10U);
  EXPECT_EQ(m.state.bytes(), before);
}

}  // namespace
}  // namespace bulkhead::devproc
