// The VGA's registers, its memory behind the latches, and Bochs VBE.
#include "devproc/models/vga/vga.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "devproc/models/vga/spec.h"
#include "ipc/roles/vga_decl.h"
#include "tests/fakes/fake_wires.h"
#include "tests/fakes/register_access.h"

namespace bulkhead::devproc {
namespace {

using namespace vga;

class VgaTest : public ::testing::Test {
 protected:
  VgaTest() {
    vga.reset();
    out(kMiscOutputWrite, kMiscColour | kMiscRamEnable);
  }
  std::uint8_t in(std::uint32_t port) { return static_cast<std::uint8_t>(regs.in(port)); }
  void out(std::uint32_t port, std::uint8_t value) { EXPECT_TRUE(regs.out(port, value)) << std::hex << port; }
  void sequencer(std::size_t index, unsigned value) { indexed(kSequencerIndex, index, value); }
  void graphics(std::size_t index, unsigned value) { indexed(kGraphicsIndex, index, value); }
  void crtc(std::size_t index, unsigned value) { indexed(kColourCrtcIndex, index, value); }
  void indexed(std::uint32_t port, std::size_t index, unsigned value) {
    out(port, static_cast<std::uint8_t>(index));
    out(port + 1, static_cast<std::uint8_t>(value));
  }
  void attribute(std::uint8_t index, std::uint8_t value) {
    in(kColourStatus1);
    out(kAttribute, index);
    out(kAttribute, value);
  }
  void vbe(std::uint16_t index, std::uint16_t value) {
    EXPECT_TRUE(regs.out(0, index, 2, kVgaVbePorts));
    EXPECT_TRUE(regs.out(1, value, 2, kVgaVbePorts));
  }
  std::uint16_t vbe(std::uint16_t index) {
    EXPECT_TRUE(regs.out(0, index, 2, kVgaVbePorts));
    return static_cast<std::uint16_t>(regs.in(1, 2, kVgaVbePorts));
  }
  void mode(std::uint16_t width, std::uint16_t height, std::uint16_t bpp, std::uint16_t flags = screen::kVbeLfb) {
    vbe(screen::kVbeEnable, 0);
    vbe(screen::kVbeXres, width);
    vbe(screen::kVbeYres, height);
    vbe(screen::kVbeBpp, bpp);
    vbe(screen::kVbeEnable, screen::kVbeEnabled | flags);
  }
  // Planes one by one, at A0000h.
  void planar() {
    sequencer(kMemoryMode, kMemoryOddEvenOff | 2);
    sequencer(kMapMask, 0x0f);
    graphics(kMiscellaneous, kMiscellaneousGraphics | 1U << kMemoryMapShift);
    graphics(kGraphicsMode, 0);
    graphics(kBitMask, 0xff);
  }
  std::uint8_t peek(std::uint64_t offset) { return static_cast<std::uint8_t>(regs.in(offset, 1, kVgaLegacyMemory)); }
  bool poke(std::uint64_t offset, std::uint8_t value) { return regs.out(offset, value, 1, kVgaLegacyMemory); }
  std::uint8_t memory(std::size_t at) { return static_cast<std::uint8_t>(fakes.screen.memory()[at]); }

  FakeWires fakes;
  Persistent<VgaState> state = allocate_state<VgaState>(fakes.state);
  Vga vga{state, VgaConfig{}, fakes.screen, fakes.clock, fakes.effects};
  RegisterAccess regs{vga, fakes};
};

// ---- Registers ----

TEST_F(VgaTest, crtc_is_where_the_misc_output_register_says) {
  crtc(0x0c, 0x12);
  EXPECT_EQ(in(kColourCrtcData), 0x12);
  EXPECT_EQ(in(kMonoCrtcData), 0xff);
  out(kMiscOutputWrite, 0);
  EXPECT_EQ(in(kColourCrtcData), 0xff);
  EXPECT_EQ(in(kMonoCrtcData), 0x12);
  EXPECT_FALSE(regs.out(kColourCrtcIndex, 1));
}

TEST_F(VgaTest, crtc_registers_0_to_7_can_be_protected_but_for_line_compare) {
  for (std::size_t i = 0; i < 8; ++i) crtc(i, 0x55);
  crtc(kVerticalRetraceEnd, kCrtcProtect);
  for (std::size_t i = 0; i < 8; ++i) crtc(i, 0xaa);
  for (std::uint8_t i = 0; i < 7; ++i) {
    out(kColourCrtcIndex, i);
    EXPECT_EQ(in(kColourCrtcData), 0x55) << int{i};
  }
  out(kColourCrtcIndex, 7);
  EXPECT_EQ(in(kColourCrtcData), 0x45) << "0x55 with bit 4 of 0xaa";
}

TEST_F(VgaTest, attribute_port_takes_index_and_data_by_turns_and_status_begins_anew) {
  attribute(0x10, 0x41);
  out(kAttribute, 0x10);
  EXPECT_EQ(in(kAttributeRead), 0x41);
  out(kColourCrtcIndex, kCrtcAttributeState);
  EXPECT_EQ(in(kColourCrtcData), 0x90);
  in(kColourStatus1);
  EXPECT_EQ(in(kColourCrtcData), 0x10);
  attribute(0x20 | 3, 0x3f);  // the palette is the display's
  out(kAttribute, 3);
  EXPECT_EQ(in(kAttributeRead), 0);
  attribute(3, 0x2a);
  out(kAttribute, 3);
  EXPECT_EQ(in(kAttributeRead), 0x2a);
}

TEST_F(VgaTest, dac_takes_three_bytes_a_colour_and_counts_on) {
  out(kDacWriteIndex, 0xff);
  for (const std::uint8_t value : {1, 2, 3, 4, 5, 0xff}) out(kDacData, value);
  EXPECT_EQ(in(kDacReadIndex), 0) << "writing";
  out(kDacReadIndex, 0xff);
  EXPECT_EQ(in(kDacReadIndex), 3) << "reading";
  for (const std::uint8_t value : {1, 2, 3, 4, 5, 0x3f}) EXPECT_EQ(in(kDacData), value);
  out(kDacWriteIndex, 7);
  out(kDacData, 9);
  out(kDacData, 9);
  EXPECT_EQ(state->registers.dac[21], 0) << "not before the third";
}

TEST_F(VgaTest, retrace_comes_and_goes_with_time) {
  std::array<int, 16> seen{};
  for (int i = 0; i < 2000; ++i) {
    ++seen[in(kColourStatus1)];
    fakes.clock.set_now(VmTime{fakes.clock.now().ns + 10'007});
  }
  EXPECT_GT(seen[0], 1000);
  EXPECT_GT(seen[kStatus1Blank], 200);
  EXPECT_GT(seen[kStatus1Blank | kStatus1Retrace], 2);
}

TEST_F(VgaTest, bar_2_has_the_ports_and_vbe_once_more) {
  sequencer(kMapMask, 5);
  EXPECT_EQ(regs.in(kPortsOffset + 4, 2, kVgaRegisterBar), 0x0502U);
  EXPECT_TRUE(regs.out(kPortsOffset + 4, 0x0902, 2, kVgaRegisterBar));
  EXPECT_EQ(in(kSequencerData), 9);
  EXPECT_TRUE(regs.out(kVbeOffset + 2 * screen::kVbeXres, 1280, 2, kVgaRegisterBar));
  EXPECT_EQ(vbe(screen::kVbeXres), 1280);
  EXPECT_EQ(regs.in(kVbeOffset, 2, kVgaRegisterBar), kVbeIdLast);
  EXPECT_EQ(regs.in(kExtensionOffset, 4, kVgaRegisterBar), kExtensionSize);
  EXPECT_EQ(regs.in(kExtensionOffset + 4, 4, kVgaRegisterBar), kLittleEndian);
  EXPECT_EQ(regs.in(0x700, 4, kVgaRegisterBar), 0xffffffffU);
}

TEST_F(VgaTest, edid_is_whole_and_prefers_what_was_configured) {
  const auto edid = vga_edid(1920, 1080);
  EXPECT_EQ(std::accumulate(edid.begin(), edid.end(), 0U) % 256, 0U);
  EXPECT_EQ(edid[54 + 2] | (edid[54 + 4] >> 4) << 8, 1920);
  EXPECT_EQ(edid[54 + 5] | (edid[54 + 7] >> 4) << 8, 1080);
  const unsigned clock = edid[54] | edid[55] << 8;
  const unsigned dots = (1920 + edid[54 + 3]) * (1080 + edid[54 + 6]);
  EXPECT_NEAR(clock * 10'000.0 / dots, 60.0, 0.1) << "frames a second";
  const auto own = vga_edid(VgaConfig{}.width, VgaConfig{}.height);
  for (std::uint32_t i = 0; i < own.size(); ++i) ASSERT_EQ(regs.in(i, 1, kVgaRegisterBar), own[i]) << i;
}

// ---- Planes ----

// What a plane gets, bit by bit, as the data sheets have it.
std::uint8_t expected(const screen::VgaRegisters& r, std::array<std::uint8_t, 4> latch, unsigned plane,
                      std::uint8_t value) {
  const auto& g = r.graphics;
  const unsigned mode = g[kGraphicsMode] & 3;
  const unsigned rotate = g[kDataRotate] & 7;
  std::uint8_t result = 0;
  for (unsigned bit = 0; bit < 8; ++bit) {
    const unsigned rotated = value >> ((bit + rotate) % 8) & 1;
    const unsigned old = latch[plane] >> bit & 1;
    const unsigned set = g[kSetReset] >> plane & 1;
    unsigned data = 0;
    bool through = (g[kBitMask] >> bit & 1) != 0;
    if (mode == 0) data = (g[kEnableSetReset] >> plane & 1) != 0 ? set : rotated;
    if (mode == 2) data = value >> plane & 1;
    if (mode == 3) {
      data = set;
      through = through && rotated != 0;
    }
    const unsigned function = g[kDataRotate] >> 3 & 3;
    if (function == 1) data &= old;
    if (function == 2) data |= old;
    if (function == 3) data ^= old;
    if (mode == 1 || !through) data = old;
    result = static_cast<std::uint8_t>(result | data << bit);
  }
  return result;
}

TEST_F(VgaTest, every_write_mode_does_what_its_bits_say) {
  std::mt19937 random(1);
  const auto any = [&] { return static_cast<std::uint8_t>(random()); };
  for (int round = 0; round < 20'000; ++round) {
    planar();
    const std::uint32_t at = random() % 0x10000;
    for (std::size_t plane = 0; plane < 4; ++plane) fakes.screen.memory()[at * 4 + plane] = std::byte{any()};
    const std::uint32_t other = random() % 0x10000;
    for (std::size_t plane = 0; plane < 4; ++plane) fakes.screen.memory()[other * 4 + plane] = std::byte{any()};
    peek(other);  // fills the latches
    const auto latch = state->latch;
    for (const std::size_t index : {kSetReset, kEnableSetReset, kDataRotate, kBitMask}) graphics(index, any());
    graphics(kGraphicsMode, random() % 4);
    sequencer(kMapMask, any());
    std::array<std::uint8_t, 4> before;
    for (std::size_t plane = 0; plane < 4; ++plane) before[plane] = memory(at * 4 + plane);
    const std::uint8_t value = any();
    for (int twice = 0; twice < 2; ++twice) {  // a successor does it again
      EXPECT_TRUE(poke(at, value));
      for (unsigned plane = 0; plane < 4; ++plane) {
        const bool open = (state->registers.sequencer[kMapMask] >> plane & 1) != 0;
        ASSERT_EQ(memory(at * 4 + plane), open ? expected(state->registers, latch, plane, value) : before[plane])
            << "round " << round << " plane " << plane;
      }
    }
  }
}

TEST_F(VgaTest, read_mode_1_compares_colours) {
  std::mt19937 random(2);
  for (int round = 0; round < 2000; ++round) {
    planar();
    const std::uint32_t at = random() % 0x10000;
    for (std::size_t plane = 0; plane < 4; ++plane)
      fakes.screen.memory()[at * 4 + plane] = static_cast<std::byte>(random());
    graphics(kColourCompare, random() & 15);
    graphics(kColourDontCare, random() & 15);
    graphics(kGraphicsMode, kModeRead1);
    const std::uint8_t found = peek(at);
    for (unsigned bit = 0; bit < 8; ++bit) {
      bool same = true;
      for (std::size_t plane = 0; plane < 4; ++plane) {
        if ((state->registers.graphics[kColourDontCare] >> plane & 1) == 0) continue;
        same = same && (memory(at * 4 + plane) >> bit & 1) == (state->registers.graphics[kColourCompare] >> plane & 1);
      }
      ASSERT_EQ(found >> bit & 1, same ? 1 : 0);
    }
  }
}

TEST_F(VgaTest, odd_even_and_chain_4_choose_planes_by_address) {
  planar();
  sequencer(kMemoryMode, 2);  // odd/even
  graphics(kGraphicsMode, kModeOddEven);
  graphics(kMiscellaneous, 3U << kMemoryMapShift);
  sequencer(kMapMask, 3);
  EXPECT_TRUE(regs.out(0x18000 + 10, 0x1f41, 2, kVgaLegacyMemory)) << "a character and its attribute, at B8000h";
  EXPECT_EQ(memory(5 * 4), 0x41);
  EXPECT_EQ(memory(5 * 4 + 1), 0x1f);
  EXPECT_EQ(regs.in(0x18000 + 10, 2, kVgaLegacyMemory), 0x1f41U);
  EXPECT_EQ(peek(0), 0xff) << "nothing at A0000h";
  EXPECT_FALSE(poke(0, 1));
  planar();
  sequencer(kMemoryMode, kMemoryOddEvenOff | kMemoryChain4);
  EXPECT_TRUE(regs.out(0x1234, 0x0807060504030201, 8, kVgaLegacyMemory));
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(memory(0x1234 + i), i + 1);
  EXPECT_EQ(regs.in(0x1236, 4, kVgaLegacyMemory), 0x06050403U);
}

TEST_F(VgaTest, memory_map_has_four_places) {
  const std::pair<std::uint64_t, std::uint64_t> places[] = {
      {0, 0x20000}, {0, 0x10000}, {0x10000, 0x8000}, {0x18000, 0x8000}};
  for (unsigned map = 0; map < 4; ++map) {
    planar();
    graphics(kMiscellaneous, map << kMemoryMapShift);
    for (std::uint64_t offset = 0; offset < 0x20000; offset += 0x4000)
      EXPECT_EQ(poke(offset, 1), offset >= places[map].first && offset < places[map].first + places[map].second)
          << map << ' ' << offset;
  }
  out(kMiscOutputWrite, kMiscColour);
  EXPECT_FALSE(poke(0x18000, 1)) << "the CPU does not reach the memory";
}

TEST_F(VgaTest, linear_window_is_asked_for_where_every_byte_is_one_of_the_memory) {
  const auto asked = [&] { return fakes.effects.emitted.empty() ? Effect{} : fakes.effects.emitted.back(); };
  planar();
  EXPECT_TRUE(fakes.effects.emitted.empty());
  sequencer(kMemoryMode, kMemoryOddEvenOff | kMemoryChain4);
  ASSERT_EQ(fakes.effects.emitted.size(), 1U);
  EXPECT_EQ(asked().kind, static_cast<std::uint16_t>(EffectKind::kVgaWindow));
  EXPECT_EQ(asked().flags, kEffectEnabled);
  EXPECT_EQ(asked().size, kVgaBank);
  EXPECT_EQ(vga.desired_effect(0), asked());
  // Each of these makes a byte something else, and back.
  const auto both_ways = [&](auto change, auto back) {
    change();
    EXPECT_EQ(asked().flags, 0U);
    back();
    EXPECT_EQ(asked().flags, kEffectEnabled);
  };
  both_ways([&] { sequencer(kMapMask, 7); }, [&] { sequencer(kMapMask, 15); });
  both_ways([&] { graphics(kGraphicsMode, 1); }, [&] { graphics(kGraphicsMode, 0); });
  both_ways([&] { graphics(kGraphicsMode, kModeRead1); }, [&] { graphics(kGraphicsMode, 0); });
  both_ways([&] { graphics(kEnableSetReset, 1); }, [&] { graphics(kEnableSetReset, 0); });
  both_ways([&] { graphics(kDataRotate, 1); }, [&] { graphics(kDataRotate, 0); });
  both_ways([&] { graphics(kBitMask, 0xfe); }, [&] { graphics(kBitMask, 0xff); });
  both_ways([&] { out(kMiscOutputWrite, kMiscColour); }, [&] { out(kMiscOutputWrite, kMiscColour | kMiscRamEnable); });
  both_ways([&] { graphics(kMiscellaneous, 3U << kMemoryMapShift); },
            [&] { graphics(kMiscellaneous, 1U << kMemoryMapShift); });
  graphics(kMiscellaneous, 0);
  EXPECT_EQ(asked().size, kVgaLegacySize);
  mode(1024, 768, 8, 0);
  vbe(screen::kVbeBank, 5);
  EXPECT_EQ(asked().address, 5 * kVgaBank);
  EXPECT_EQ(fakes.effects.refused, 0);
  vga.reset();
  EXPECT_EQ(vga.desired_effect(0).flags, 0U);
}

// ---- VBE ----

TEST_F(VgaTest, vbe_says_what_it_can_do) {
  EXPECT_EQ(vbe(screen::kVbeId), kVbeIdLast);
  vbe(screen::kVbeId, 0xb0c2);
  EXPECT_EQ(vbe(screen::kVbeId), 0xb0c2);
  vbe(screen::kVbeId, 0x1234);
  EXPECT_EQ(vbe(screen::kVbeId), 0xb0c2);
  EXPECT_EQ(vbe(screen::kVbeVideoMemory64k), 512);
  vbe(screen::kVbeEnable, screen::kVbeGetCaps);
  EXPECT_EQ(vbe(screen::kVbeXres), screen::kMostColumns);
  EXPECT_EQ(vbe(screen::kVbeYres), screen::kMostRows);
  EXPECT_EQ(vbe(screen::kVbeBpp), 32);
}

TEST_F(VgaTest, modes_up_to_4k_and_their_lines) {
  for (const auto& [width, height, bpp, pitch] : {std::array<std::uint16_t, 4>{640, 480, 4, 80},
                                                  {800, 600, 8, 800},
                                                  {1024, 768, 15, 2048},
                                                  {1024, 768, 16, 2048},
                                                  {1280, 1024, 24, 3840},
                                                  {3840, 2160, 32, 15360}}) {
    mode(width, height, bpp);
    const screen::Geometry geometry = screen::geometry_of(state->registers);
    EXPECT_EQ(geometry.width, width);
    EXPECT_EQ(geometry.height, height);
    EXPECT_EQ(geometry.pitch, pitch);
    EXPECT_EQ(vbe(screen::kVbeVirtWidth), width);
  }
}

TEST_F(VgaTest, mode_clears_the_screen_unless_told_not_to) {
  fakes.screen.memory()[1000] = std::byte{7};
  mode(640, 480, 32, screen::kVbeLfb | screen::kVbeNoClear);
  EXPECT_EQ(memory(1000), 7);
  mode(640, 480, 32);
  EXPECT_EQ(memory(1000), 0);
}

TEST_F(VgaTest, panning_stays_inside_of_the_memory) {
  mode(640, 480, 32);
  vbe(screen::kVbeVirtWidth, 1280);
  EXPECT_EQ(vbe(screen::kVbeVirtHeight), 6553);
  vbe(screen::kVbeXOffset, 0xffff);
  EXPECT_EQ(vbe(screen::kVbeXOffset), 640);
  vbe(screen::kVbeYOffset, 0xffff);
  EXPECT_EQ(vbe(screen::kVbeYOffset), 6553 - 480);
  const screen::Geometry geometry = screen::geometry_of(state->registers);
  EXPECT_EQ(geometry.start, (6553U - 480) * 5120 + 640 * 4);
}

TEST_F(VgaTest, whatever_is_written_to_vbe_a_picture_lies_in_the_memory) {
  std::mt19937 random(3);
  for (int i = 0; i < 200'000; ++i) {
    vbe(static_cast<std::uint16_t>(random() % 12), static_cast<std::uint16_t>(random() >> (random() % 16)));
    const screen::Geometry geometry = screen::geometry_of(state->registers);
    if (!state->registers.vbe_enabled()) continue;
    const std::uint64_t unit = geometry.mode == screen::ScreenMode::kPlanar ? 4 : 1;
    ASSERT_LE((geometry.start + std::uint64_t{geometry.height - 1} * geometry.pitch) * unit, screen::kVideoMemory);
    ASSERT_NE(geometry.width, 0U);
    ASSERT_LE(geometry.width, screen::kMostColumns);
  }
}

// ---- What others see ----

TEST_F(VgaTest, registers_are_shown_when_they_changed) {
  FakeMsiSender none;
  vga.show(false, none);
  const int before = fakes.screen.shows;
  in(kColourStatus1);
  peek(0);
  vga.show(false, none);
  EXPECT_EQ(fakes.screen.shows, before);
  crtc(0x0c, 0x12);
  vga.show(false, none);
  EXPECT_EQ(fakes.screen.shows, before + 1);
  EXPECT_EQ(fakes.screen.shown, state->registers);
  vga.show(true, none);
  EXPECT_EQ(fakes.screen.shows, before + 2) << "a successor shows it again";
}

TEST_F(VgaTest, restore_brings_a_liars_state_into_range) {
  std::mt19937 random(4);
  for (int i = 0; i < 500; ++i) {
    auto* bytes = reinterpret_cast<std::uint8_t*>(&state.mut());
    for (std::size_t n = 0; n < sizeof(VgaState); ++n) bytes[n] = static_cast<std::uint8_t>(random());
    vga.restore();
    const VgaState once = state.get();
    vga.restore();
    EXPECT_EQ(state.get(), once);
    for (std::uint32_t port = 0; port < kVgaPortsSize; ++port) regs.out(port, static_cast<std::uint8_t>(random()));
    for (std::uint32_t port = 0; port < kVgaPortsSize; ++port) regs.in(port);
    poke(random() % kVgaLegacySize, 1);
    peek(random() % kVgaLegacySize);
  }
  EXPECT_EQ(fakes.effects.refused, 0);
}

}  // namespace
}  // namespace bulkhead::devproc
