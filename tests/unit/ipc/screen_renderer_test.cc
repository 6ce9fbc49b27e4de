// The picture that registers and memory come to, and the block that carries the registers.
#include <gtest/gtest.h>

#include <memory>
#include <random>

#include "ipc/screen/renderer.h"
#include "ipc/screen/scan_out.h"

namespace bulkhead::screen {
namespace {

class RendererTest : public ::testing::Test {
 protected:
  RendererTest() {
    r.attribute_index = 0x20;
    r.pel_mask = 0xff;
    r.misc_output = 3;
    for (std::uint8_t i = 0; i < 16; ++i) r.attribute[i] = i;
    r.attribute[0x12] = 0x0f;
    for (std::size_t i = 0; i < 256; ++i) {  // red grows, green falls, blue is the index's low bits
      r.dac[3 * i] = static_cast<std::uint8_t>(i / 4);
      r.dac[3 * i + 1] = static_cast<std::uint8_t>(63 - i / 4);
      r.dac[3 * i + 2] = static_cast<std::uint8_t>(i & 63);
    }
    r.crtc[0x17] = 3;
    r.crtc[0x18] = 0xff;
    r.crtc[7] = 0x10;
    r.crtc[9] = 0x40;
  }
  void size(unsigned characters, unsigned lines) {
    r.crtc[1] = static_cast<std::uint8_t>(characters - 1);
    const unsigned last = lines - 1;
    r.crtc[0x12] = static_cast<std::uint8_t>(last);
    r.crtc[7] = static_cast<std::uint8_t>(0x10 | (last >> 8 & 1) << 1 | (last >> 9 & 1) << 6);
    r.crtc[0x13] = static_cast<std::uint8_t>(characters / 2);
  }
  void text(unsigned columns, unsigned rows, unsigned cell_height) {
    r.graphics[6] = 0;
    size(columns, rows * cell_height);
    r.crtc[9] = static_cast<std::uint8_t>(0x40 | (cell_height - 1));
    r.crtc[0x0a] = 0x20;  // no cursor
  }
  std::uint32_t colour(std::size_t dac) const {
    const auto wide = [](std::uint32_t v) { return v << 2 | v >> 4; };
    return wide(r.dac[3 * dac]) << 16 | wide(r.dac[3 * dac + 1]) << 8 | wide(r.dac[3 * dac + 2]);
  }
  std::uint32_t at(std::uint32_t x, std::uint32_t y) const { return picture.pixels.at(y * picture.width + x); }
  void draw(Blink blink = {}) { render(r, memory, blink, picture); }
  void put(std::size_t offset, unsigned value) { memory[offset] = static_cast<std::byte>(value); }

  VgaRegisters r;
  std::vector<std::byte> memory = std::vector<std::byte>(1 << 20);
  Picture picture;
};

TEST_F(RendererTest, nothing_is_drawn_before_the_palette_is_the_displays) {
  size(80, 25);
  r.attribute_index = 0;
  draw();
  EXPECT_EQ(picture.width, 0U);
  r.attribute_index = 0x20;
  draw();
  EXPECT_NE(picture.width, 0U);
  r.sequencer[1] = 0x20;
  draw();
  EXPECT_EQ(picture.width, 0U);
}

TEST_F(RendererTest, character_has_its_font_its_colours_and_a_ninth_dot) {
  text(80, 25, 16);
  r.attribute[0x13] = 8;                    // no panning, as nine dots have it
  put(4 * 81, 'A'), put(4 * 81 + 1, 0x1e);  // row 1, column 1: yellow on blue
  for (std::size_t line = 0; line < 16; ++line) put(('A' * 32 + line) * 4 + 2, 0x81);
  draw();
  ASSERT_EQ(picture.width, 720U);
  ASSERT_EQ(picture.height, 400U);
  EXPECT_EQ(at(9, 16), colour(14));
  EXPECT_EQ(at(10, 16), colour(1));
  EXPECT_EQ(at(16, 16), colour(14));
  EXPECT_EQ(at(17, 16), colour(1)) << "the ninth dot of a letter is paper";
  put(4 * 81, 0xc4);
  for (std::size_t line = 0; line < 16; ++line) put((0xc4 * 32 + line) * 4 + 2, 0x81);
  r.attribute[0x10] = 4;
  draw();
  EXPECT_EQ(at(17, 16), colour(14)) << "of a line it is ink";
  r.sequencer[1] = 1;
  r.attribute[0x13] = 0;
  draw();
  EXPECT_EQ(picture.width, 640U) << "eight dots";
}

TEST_F(RendererTest, bit_3_of_an_attribute_chooses_between_two_fonts) {
  text(80, 25, 16);
  r.sequencer[1] = 1;
  r.sequencer[3] = 0x04;  // A at 4000h, B at 0
  put(('x' * 32) * 4 + 2, 0x80);
  put((0x4000 + 'x' * 32) * 4 + 2, 0x01);
  put(0, 'x'), put(1, 0x07);
  put(4, 'x'), put(5, 0x0f);
  draw();
  EXPECT_EQ(at(0, 0), colour(7));
  EXPECT_EQ(at(7, 0), colour(0));
  EXPECT_EQ(at(8, 0), colour(0));
  EXPECT_EQ(at(15, 0), colour(15));
}

TEST_F(RendererTest, what_blinks) {
  text(80, 25, 16);
  r.sequencer[1] = 1;
  EXPECT_FALSE(blinks(r));
  r.attribute[0x10] = 8;
  EXPECT_TRUE(blinks(r));
  put(('x' * 32) * 4 + 2, 0xff);
  put(0, 'x'), put(1, 0x87);
  draw({.characters = true});
  EXPECT_EQ(at(0, 0), colour(7));
  draw({.characters = false});
  EXPECT_EQ(at(0, 0), colour(0));
  r.crtc[0x0a] = 14, r.crtc[0x0b] = 15, r.crtc[0x0f] = 2;
  put(9, 0x07);
  draw({.cursor = true});
  EXPECT_EQ(at(16, 13), colour(0));
  EXPECT_EQ(at(16, 14), colour(7));
  EXPECT_EQ(at(24, 14), colour(0));
  draw({.cursor = false});
  EXPECT_EQ(at(16, 14), colour(0));
}

TEST_F(RendererTest, planes_make_16_colours_through_the_palette) {
  r.graphics[6] = 1;
  size(80, 480);
  put(4 * 81 + 0, 0x80), put(4 * 81 + 2, 0x80);  // colour 5 in line 1
  r.attribute[5] = 0x3f;
  draw();
  ASSERT_EQ(picture.width, 640U);
  ASSERT_EQ(picture.height, 480U);
  EXPECT_EQ(at(8, 1), colour(0x3f));
  r.attribute[0x12] = 1;
  draw();
  EXPECT_EQ(at(8, 1), colour(1)) << "only plane 0 is enabled";
  r.attribute[0x13] = 3;
  draw();
  EXPECT_EQ(at(5, 1), colour(1)) << "panned by three";
}

TEST_F(RendererTest, split_screen_begins_again_at_word_0) {
  r.graphics[6] = 1;
  size(80, 480);
  r.crtc[0x0c] = 0x40;
  put(0, 0x80);
  r.crtc[0x18] = 99, r.crtc[7] = static_cast<std::uint8_t>(r.crtc[7] & ~0x10), r.crtc[9] = 0;
  draw();
  EXPECT_EQ(at(0, 99), colour(0));
  EXPECT_EQ(at(0, 100), colour(1));
}

TEST_F(RendererTest, mode_13h_and_mode_x_have_256_colours_in_200_lines) {
  r.graphics[6] = 1;
  r.graphics[5] = 0x40;
  size(80, 400);
  r.crtc[9] = 0x41;
  put(320 + 5, 200);
  draw();
  ASSERT_EQ(picture.width, 320U);
  ASSERT_EQ(picture.height, 200U);
  EXPECT_EQ(at(5, 1), colour(200));
  r.pel_mask = 0x0f;
  draw();
  EXPECT_EQ(at(5, 1), colour(200 & 0x0f));
}

TEST_F(RendererTest, cga_rows_are_interleaved) {
  r.graphics[6] = 1;
  r.graphics[5] = 0x20;
  size(40, 400);
  r.crtc[0x13] = 20;
  r.crtc[9] = 0xc1;
  r.crtc[0x17] = 0xa2;
  put(0, 0x40);           // row 0
  put(0x1000 * 4, 0x80);  // row 1, 8 KiB further for the CPU
  put(40 * 4 + 1, 0xc0);  // row 2, its fifth pixel
  draw();
  ASSERT_EQ(picture.width, 320U);
  ASSERT_EQ(picture.height, 200U);
  EXPECT_EQ(at(0, 0), colour(1));
  EXPECT_EQ(at(0, 1), colour(2));
  EXPECT_EQ(at(4, 2), colour(3));
}

TEST_F(RendererTest, true_colour_of_every_depth) {
  r.vbe[kVbeEnable] = kVbeEnabled;
  r.vbe[kVbeXres] = 64, r.vbe[kVbeYres] = 32, r.vbe[kVbeVirtWidth] = 128, r.vbe[kVbeXOffset] = 2,
  r.vbe[kVbeYOffset] = 1;
  const struct {
    std::uint16_t bpp;
    unsigned bytes;
    std::uint32_t raw, pixel;
  } depths[] = {
      {15, 2, 0x7c1f, 0xff00ff}, {16, 2, 0x07e0, 0x00ff00}, {24, 3, 0x123456, 0x123456}, {32, 4, 0xff123456, 0x123456}};
  for (const auto& depth : depths) {
    r.vbe[kVbeBpp] = depth.bpp;
    std::ranges::fill(memory, std::byte{0});
    const std::size_t where = (1 + 3) * 128 * depth.bytes + (2 + 4) * depth.bytes;
    for (unsigned i = 0; i < depth.bytes; ++i) put(where + i, depth.raw >> (8 * i));
    draw();
    ASSERT_EQ(picture.width, 64U);
    EXPECT_EQ(at(4, 3), depth.pixel) << depth.bpp;
    EXPECT_EQ(at(5, 3), 0U);
  }
  r.vbe[kVbeBpp] = 8;
  r.vbe[kVbeEnable] = kVbeEnabled | kVbe8BitDac;
  r.dac[3 * 9] = 0xab, r.dac[3 * 9 + 1] = 0xcd, r.dac[3 * 9 + 2] = 0xef;
  put(128 + 2, 9);
  draw();
  EXPECT_EQ(at(0, 0), 0xabcdefU);
}

TEST_F(RendererTest, text_can_be_read) {
  text(80, 25, 16);
  const char* words = "GNU GRUB";
  for (std::size_t i = 0; words[i] != 0; ++i) put(4 * (80 * 2 + 3 + i), static_cast<unsigned char>(words[i]));
  put(4 * (80 * 24), 0xc9);
  const std::string all = text_of(r, memory);
  EXPECT_NE(all.find("\n   GNU GRUB\n"), std::string::npos) << all;
  EXPECT_NE(all.find("\n\xe2\x95\x94\n"), std::string::npos);
  r.graphics[6] = 1;
  EXPECT_EQ(text_of(r, memory), "");
}

TEST_F(RendererTest, any_registers_have_a_picture) {
  std::mt19937 random(5);
  for (int round = 0; round < 300; ++round) {
    auto* bytes = reinterpret_cast<std::uint8_t*>(&r);
    for (std::size_t i = 0; i < sizeof r; ++i) bytes[i] = static_cast<std::uint8_t>(random());
    if (round % 2 == 0)
      r.vbe[kVbeEnable] = 0;
    else
      r.vbe[kVbeBpp] = std::array<std::uint16_t, 6>{4, 8, 15, 16, 24, 32}[random() % 6], r.vbe[kVbeXres] &= 0xfff,
      r.vbe[kVbeYres] &= 0x1ff;
    draw();
    EXPECT_EQ(picture.pixels.size(), std::size_t{picture.width} * picture.height);
    (void)text_of(r, memory);
  }
}

// ---- The block ----

TEST(ScanOut, reader_has_what_was_written_or_nothing) {
  const auto block = std::make_unique<ScanOut>();
  VgaRegisters r;
  for (int i = 0; i < 3; ++i) {
    r.crtc[3] = static_cast<std::uint8_t>(i + 1);
    write_scan_out(*block, r);
    EXPECT_EQ(read_scan_out(*block), r);
  }
  block->sequence |= 1;  // its writer died in the middle
  EXPECT_FALSE(read_scan_out(*block));
  write_scan_out(*block, r);
  EXPECT_EQ(read_scan_out(*block), r) << "its successor wrote it again";
}

}  // namespace
}  // namespace bulkhead::screen
