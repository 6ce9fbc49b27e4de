// The vendor-specific capabilities of virtio functions, and the accesses of BARs that VIRTIO_PCI_CAP_PCI_CFG stands
// for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/devproc/pci_fixture.h"

namespace bulkhead::devproc {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

struct FoundCap {
  std::uint8_t at = 0;
  std::uint8_t length = 0;
  std::uint8_t bar = 0;
  std::uint32_t offset = 0;
  std::uint32_t bytes = 0;
};

// As virtio_pci_find_capability() and vp_modern_map_capability() of Linux do it: the first of a type, in a BAR that
// there is, with room for it.
std::optional<FoundCap> find_virtio(PciMachine& m, std::uint8_t function, VirtioPciCap type) {
  if ((m.read16(function, 0x06) & 0x10) == 0) return std::nullopt;
  std::uint8_t at = m.read8(function, 0x34);
  for (int hops = 0; at >= 0x40 && hops < 48; at = m.read8(function, at + 1U), ++hops) {
    if (m.read8(function, at) != 0x09 || m.read8(function, at + 3U) != static_cast<std::uint8_t>(type)) continue;
    const std::uint8_t bar = m.read8(function, at + 4U);
    if (bar > 5) continue;
    return FoundCap{at, m.read8(function, at + 2U), bar, m.read32(function, at + 8U), m.read32(function, at + 12U)};
  }
  return std::nullopt;
}

TEST(PciVirtioCap, linux_finds_every_structure) {
  PciMachine m;
  for (const VirtioCapDecl& decl : kWideVirtioCaps) {
    const auto found = find_virtio(m, kWideFunction, decl.cfg_type);
    ASSERT_TRUE(found) << int(decl.cfg_type);
    EXPECT_EQ(found->at % 4, 0);
    EXPECT_EQ(found->bar, decl.bar);
    EXPECT_EQ(found->offset, decl.offset);
    EXPECT_EQ(found->bytes, decl.length);
    EXPECT_EQ(m.read8(kWideFunction, found->at + 5U), 0) << "id";
    EXPECT_EQ(m.read16(kWideFunction, found->at + 6U), 0) << "padding";
    const bool longer = decl.cfg_type == VirtioPciCap::kNotifyCfg || decl.cfg_type == VirtioPciCap::kPciCfg;
    EXPECT_EQ(found->length, longer ? 20 : 16);
    if (decl.cfg_type == VirtioPciCap::kNotifyCfg) {
      EXPECT_EQ(m.read32(kWideFunction, found->at + 16U), 4U);
    }
  }
  EXPECT_FALSE(find_virtio(m, kSixFunction, VirtioPciCap::kCommonCfg));
  EXPECT_FALSE(find_virtio(m, kSixFunction, VirtioPciCap::kPciCfg));
  EXPECT_NE(m.capability(kWideFunction, 0x11), 0) << "MSI-X is still there";
}

TEST(PciVirtioCap, what_the_device_says_cannot_be_written) {
  PciMachine m;
  for (const VirtioCapDecl& decl : kWideVirtioCaps) {
    const FoundCap found = *find_virtio(m, kWideFunction, decl.cfg_type);
    const bool window = decl.cfg_type == VirtioPciCap::kPciCfg;
    for (unsigned at = found.at; at < found.at + unsigned{found.length}; ++at) {
      const std::uint8_t before = m.read8(kWideFunction, at);
      m.write8(kWideFunction, at, 0xff);
      const unsigned field = at - found.at;
      const bool free = window && (field == 4 || (field >= 8 && field < 16));
      if (!window || field < 16) {
        EXPECT_EQ(m.read8(kWideFunction, at), free ? 0xff : before) << int(decl.cfg_type) << "+" << field;
      }
      EXPECT_THAT(m.effects.emitted, IsEmpty());
    }
  }
}

// The window of one function, as a driver uses it.
struct Window {
  explicit Window(std::uint8_t of = kTestFunction) : function(of) {
    at = find_virtio(m, function, VirtioPciCap::kPciCfg)->at;
  }
  void aim(std::uint8_t bar, std::uint32_t offset, std::uint32_t length) {
    m.write8(function, at + 4U, bar);
    m.write32(function, at + 8U, offset);
    m.write32(function, at + 12U, length);
    m.redirect.bar_accesses.clear();
  }
  std::uint32_t read(unsigned byte, std::uint8_t size) { return m.read(function, at + 16U + byte, size); }
  void write(unsigned byte, std::uint8_t size, std::uint32_t v) { m.write(function, at + 16U + byte, size, v); }
  std::vector<BarAccess> take() { return std::exchange(m.redirect.bar_accesses, {}); }

  PciMachine m;
  std::uint8_t function;
  std::uint8_t at = 0;
};

struct Piece {
  unsigned byte;
  std::uint8_t size;
};
constexpr std::array<Piece, 8> kPieces{{{0, 1}, {1, 1}, {2, 1}, {3, 1}, {0, 2}, {1, 2}, {2, 2}, {0, 4}}};

TEST(PciCfgWindow, every_read_of_its_data_is_one_read_of_the_bar) {
  Window window;
  window.aim(2, 0, 1);
  window.write(0, 4, 0xddccbbaa);
  for (const std::uint32_t length : {1U, 2U, 4U}) {
    window.aim(0, 0xffc, length);
    for (const Piece piece : kPieces) {
      window.read(piece.byte, piece.size);
      EXPECT_THAT(window.take(), ElementsAre(BarAccess{.offset = 0xffc,
                                                       .value = 0xddccbbaa,
                                                       .devfn = kTestFunction,
                                                       .bar = 0,
                                                       .size = static_cast<std::uint8_t>(length),
                                                       .first = static_cast<std::uint8_t>(piece.byte)}));
    }
  }
}

TEST(PciCfgWindow, every_write_of_its_data_is_one_write_to_the_bar) {
  Window window;
  for (const std::uint32_t length : {1U, 2U, 4U}) {
    std::uint32_t stored = 0x44332211;
    window.aim(0, 0x100, length);
    window.write(0, 4, stored);
    window.take();
    for (const Piece piece : kPieces) {
      for (const std::uint32_t value : {0x87654321U, 0x87654321U, 0U}) {  // the same value twice is written twice
        const auto mask = static_cast<std::uint32_t>(all_ones(piece.size));
        stored = (stored & ~(mask << (8 * piece.byte))) | (value & mask) << (8 * piece.byte);
        window.write(piece.byte, piece.size, value);
        EXPECT_THAT(window.take(), ElementsAre(BarAccess{.offset = 0x100,
                                                         .value = stored,
                                                         .devfn = kTestFunction,
                                                         .bar = 0,
                                                         .size = static_cast<std::uint8_t>(length)}));
      }
    }
  }
}

TEST(PciCfgWindow, a_read_that_begins_before_config_data_says_where_its_bytes_go) {
  Window window;
  window.aim(0, 0x10, 4);
  window.m.select(kTestFunction, window.at + 16U);
  EXPECT_EQ(window.m.bus->read({0, 2, 4}).value() & 0xffff, 0xffffU);
  EXPECT_THAT(window.take(),
              ElementsAre(BarAccess{.offset = 0x10, .devfn = kTestFunction, .bar = 0, .size = 4, .lead = 2}));
  EXPECT_EQ(window.m.bus->read({0, 1, 4}).value() & 0xffffff, 0xffffffU);
  EXPECT_THAT(window.take(),
              ElementsAre(BarAccess{.offset = 0x10, .devfn = kTestFunction, .bar = 0, .size = 4, .lead = 3}));
}

TEST(PciCfgWindow, ports_and_the_msix_bar_are_bars_too_and_none_needs_to_decode) {
  Window window;
  EXPECT_EQ(window.m.read16(kTestFunction, 0x04) & 3, 0);
  for (const std::uint8_t bar : {std::uint8_t{1}, std::uint8_t{2}, std::uint8_t{4}}) {
    window.aim(bar, 8, 4);
    window.read(0, 4);
    EXPECT_THAT(window.take(), ElementsAre(BarAccess{.offset = 8, .devfn = kTestFunction, .bar = bar, .size = 4}));
  }
}

TEST(PciCfgWindow, what_leads_nowhere_reads_ones_and_drops_writes) {
  struct Aim {
    std::uint8_t bar;
    std::uint32_t offset;
    std::uint32_t length;
  };
  const std::vector<Aim> wrong{{0, 0, 0},
                               {0, 0, 3},
                               {0, 0, 5},
                               {0, 0, 8},
                               {0, 0, 0x104},
                               {0, 0, 0x80000001},
                               {1, 0, 4},
                               {3, 0, 4},
                               {6, 0, 4},
                               {7, 0, 4},
                               {0xff, 0, 4},
                               {0, 1U << 24, 1},
                               {0, (1U << 24) - 1, 2},
                               {0, (1U << 24) - 3, 4},
                               {0, 0xffffffff, 1},
                               {0, 0xfffffffc, 4},
                               {4, 256, 1},
                               {4, 254, 4},
                               {5, 4, 1}};
  Window window(kWideFunction);
  for (const Aim& aim : wrong) {
    window.aim(aim.bar, aim.offset, aim.length);
    for (const Piece piece : kPieces) {
      EXPECT_EQ(window.read(piece.byte, piece.size), all_ones(piece.size));
      window.write(piece.byte, piece.size, 0x12345678);
    }
    EXPECT_THAT(window.take(), IsEmpty()) << int{aim.bar} << " " << aim.offset << " " << aim.length;
  }
  window.aim(0, (1U << 24) - 4, 4);
  window.read(0, 4);
  EXPECT_EQ(window.take().size(), 1U) << "the last dword is there";
}

TEST(PciCfgWindow, its_other_registers_are_ordinary_ones) {
  Window window;
  window.aim(0, 0, 4);
  for (unsigned field = 0; field < 16; ++field) {
    window.m.read8(kTestFunction, window.at + field);
    window.m.write8(kTestFunction, window.at + field, 0);
  }
  window.m.read32(kTestFunction, window.at + 12U);
  EXPECT_THAT(window.take(), IsEmpty());
}

TEST(PciCfgWindow, an_isolated_function_has_none) {
  Window window;
  window.aim(0, 0, 4);
  window.m.bus->on_function_presence(kTestFunction, false);
  window.aim(0, 0, 4);
  EXPECT_EQ(window.read(0, 4), 0xffffffffU);
  window.write(0, 4, 1);
  EXPECT_THAT(window.take(), IsEmpty());
  window.m.bus->on_function_presence(kTestFunction, true);
  EXPECT_EQ(window.read(0, 4), 0xffffffffU) << "it comes back from reset: a length of 0";
  EXPECT_THAT(window.take(), IsEmpty());
}

TEST(PciCfgWindow, a_successor_goes_on_with_what_the_driver_set) {
  Window window;
  window.aim(0, 0x20, 2);
  window.write(0, 4, 0xcafe);
  window.m.build();
  window.m.bus->restore();
  window.take();
  window.read(0, 2);
  EXPECT_THAT(window.take(),
              ElementsAre(BarAccess{.offset = 0x20, .value = 0xcafe, .devfn = kTestFunction, .bar = 0, .size = 2}));
}

TEST(PciCfgWindow, random_drivers_reach_what_the_function_has_and_nothing_else) {
  Window window(kWideFunction);
  std::mt19937_64 random(17);
  std::size_t reached = 0;
  for (int i = 0; i < 50'000; ++i) {
    const auto bar = static_cast<std::uint8_t>(random() % 8);
    const auto length = static_cast<std::uint32_t>(random() % 6);
    const auto offset = static_cast<std::uint32_t>(random() >> (32 + random() % 32));
    window.aim(bar, offset, length);
    const Piece piece = kPieces[random() % kPieces.size()];
    if (random() % 2 == 0) {
      window.read(piece.byte, piece.size);
    } else {
      window.write(piece.byte, piece.size, static_cast<std::uint32_t>(random()));
      ASSERT_THAT(window.m.effects.emitted, IsEmpty());
    }
    std::uint64_t size = 0;
    for (const BarDecl& decl : kWideBars) {
      if (decl.bar == bar && bar < 6) size = decl.size;
    }
    const bool good = (length == 1 || length == 2 || length == 4) && std::uint64_t{offset} + length <= size;
    const std::vector<BarAccess> accesses = window.take();
    ASSERT_EQ(accesses.size(), good ? 1U : 0U);
    if (!good) continue;
    ++reached;
    ASSERT_EQ(accesses[0].devfn, kWideFunction);
    ASSERT_EQ(accesses[0].bar, bar);
    ASSERT_EQ(accesses[0].offset, offset);
    ASSERT_EQ(accesses[0].size, length);
  }
  EXPECT_GT(reached, 1000U);
}

TEST(PciRules, impossible_virtio_capabilities_are_not_valid) {
  constexpr std::array<BarDecl, 3> bars{
      {{.bar = 0, .size = 4096}, {.bar = 1, .kind = BarKind::kIo, .size = 64}, {.bar = 2, .size = 4096, .msix = true}}};
  const auto with = [&](std::initializer_list<VirtioCapDecl> caps, bool others = false) {
    return pci_decl_valid(PciDecl{.msi_vectors = static_cast<std::uint8_t>(others ? 1 : 0),
                                  .msix_vectors = 1,
                                  .power_management = others,
                                  .bars = bars,
                                  .virtio_caps = {caps.begin(), caps.size()}});
  };
  using Type = VirtioPciCap;
  const VirtioCapDecl window{.cfg_type = Type::kPciCfg};
  const VirtioCapDecl isr{.cfg_type = Type::kIsrCfg, .bar = 0, .offset = 4095, .length = 1};
  EXPECT_TRUE(with({}));
  EXPECT_TRUE(with({{.bar = 0, .offset = 0, .length = 4096}, isr, window}));
  EXPECT_FALSE(with({{.bar = 3, .length = 4}})) << "there is no BAR 3";
  EXPECT_FALSE(with({{.bar = 1, .length = 4}})) << "ports";
  EXPECT_FALSE(with({{.bar = 2, .length = 4}})) << "the pci process answers there";
  EXPECT_FALSE(with({{.bar = 0, .offset = 4092, .length = 8}}));
  EXPECT_FALSE(with({{.bar = 0, .offset = 4100, .length = 4}}));
  EXPECT_FALSE(with({{.bar = 0, .offset = 8, .length = 0xfffffffc}}));
  EXPECT_FALSE(with({{.bar = 0, .offset = 0, .length = 0}}));
  EXPECT_FALSE(with({{.bar = 0, .offset = 2, .length = 4}})) << "common configuration is aligned to 4";
  EXPECT_FALSE(with({{.cfg_type = Type::kDeviceCfg, .bar = 0, .offset = 2, .length = 4}}));
  EXPECT_FALSE(with({{.cfg_type = static_cast<Type>(6), .bar = 0, .length = 4}}));
  EXPECT_FALSE(with({{.bar = 0, .length = 4, .notify_off_multiplier = 4}})) << "of notifications alone";
  const auto notify = [&](std::uint32_t offset, std::uint32_t length, std::uint32_t multiplier) {
    return with({{.cfg_type = Type::kNotifyCfg,
                  .bar = 0,
                  .offset = offset,
                  .length = length,
                  .notify_off_multiplier = multiplier}});
  };
  EXPECT_TRUE(notify(2, 2, 0));
  EXPECT_TRUE(notify(2, 2, 2));
  EXPECT_FALSE(notify(2, 2, 1));
  EXPECT_FALSE(notify(2, 2, 6));
  EXPECT_FALSE(notify(1, 2, 4));
  EXPECT_FALSE(notify(2, 1, 4));
  EXPECT_FALSE(with({window, window}));
  EXPECT_FALSE(with({{.cfg_type = Type::kPciCfg, .bar = 1}})) << "its fields are the driver's";
  EXPECT_TRUE(with({isr, isr, isr, isr, isr, isr, isr, isr, window}, true)) << "0x6c + 148 = 256";
  EXPECT_FALSE(with({isr, isr, isr, isr, isr, isr, isr, isr, window, isr}, true));
  EXPECT_TRUE(with({isr, isr, isr, isr, isr, isr, isr, isr, isr}, true));
}

}  // namespace
}  // namespace bulkhead::devproc
