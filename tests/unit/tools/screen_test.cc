// `bulkhead screenshot`, `sendkeys` and `console` against a served VM, and what they refuse.
#include <gmock/gmock.h>
#include <png.h>

#include <fstream>

#include "ipc/screen/renderer.h"
#include "tests/unit/tools/served_vm.h"
#include "tools/bulkhead/keys.h"

namespace bulkhead::vmm {
namespace {

using cli::test::Finished;
using cli::test::run_program;
using cli::test::Running;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// An 80 by 25 text screen with a word on it.
void show_text(FakeControl& vm, const std::string& word) {
  screen::VgaRegisters& r = vm.registers;
  r.attribute_index = 0x20;
  r.misc_output = 3;
  r.sequencer[1] = 1;
  r.crtc[1] = 79;
  r.crtc[7] = 0x12;
  r.crtc[9] = 0x4f;
  r.crtc[0x12] = 0x8f;
  r.crtc[0x13] = 40;
  r.crtc[0x17] = 3;
  r.crtc[0x18] = 0xff;
  for (std::size_t i = 0; i < word.size(); ++i) vm.memory[4 * i] = static_cast<std::byte>(word[i]);
}

TEST(Screenshot, text_can_be_printed) {
  Server server([](FakeControl& vm) { show_text(vm, "GNU GRUB  version 2.06"); });
  const Finished finished = run_program({"screenshot", "alpha", "--text"});
  EXPECT_EQ(finished.status, 0) << finished.err;
  EXPECT_TRUE(finished.out.starts_with("GNU GRUB  version 2.06\n\n")) << finished.out;
}

TEST(Screenshot, picture_is_a_png_with_the_pixels_of_the_renderer) {
  constexpr std::uint16_t kWidth = 1600;
  constexpr std::uint16_t kHeight = 900;
  Server server([](FakeControl& vm) {
    auto& vbe = vm.registers.vbe;
    vbe[screen::kVbeEnable] = screen::kVbeEnabled;
    vbe[screen::kVbeXres] = vbe[screen::kVbeVirtWidth] = kWidth;
    vbe[screen::kVbeYres] = kHeight;
    vbe[screen::kVbeBpp] = 32;
    vbe[screen::kVbeYOffset] = 7;
    for (std::size_t i = 0; i < std::size_t{kWidth} * (kHeight + 7) * 4; ++i)
      vm.memory[i] = static_cast<std::byte>(i * 2654435761U >> 13);
  });
  const std::string file = server.scratch_.path("screen.png");
  const Finished finished = run_program({"screenshot", "alpha", file});
  ASSERT_EQ(finished.status, 0) << finished.err;
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  ASSERT_NE(png_image_begin_read_from_file(&image, file.c_str()), 0) << image.message;
  image.format = PNG_FORMAT_RGB;
  std::vector<png_byte> pixels(PNG_IMAGE_SIZE(image));
  ASSERT_NE(png_image_finish_read(&image, nullptr, pixels.data(), 0, nullptr), 0) << image.message;
  screen::Picture wanted;
  screen::render(server.vm.registers, server.vm.memory, {}, wanted);
  ASSERT_EQ(image.width, wanted.width);
  ASSERT_EQ(image.height, wanted.height);
  for (std::size_t i = 0; i < wanted.pixels.size(); ++i) {
    const std::uint32_t found = pixels[3 * i] << 16 | pixels[3 * i + 1] << 8 | pixels[3 * i + 2];
    ASSERT_EQ(found, wanted.pixels[i]) << i;
  }
}

TEST(Screenshot, what_cannot_be_is_one_sentence) {
  Server server([](FakeControl& vm) { show_text(vm, "x"); });
  const auto sentence = [](const std::vector<std::string>& arguments, int status, const std::string& text) {
    const Finished finished = run_program(arguments);
    EXPECT_EQ(finished.status, status) << text;
    EXPECT_THAT(finished.err, HasSubstr(text));
    EXPECT_EQ(std::ranges::count(finished.err, '\n'), 1) << finished.err;
  };
  sentence({"screenshot", "alpha"}, 2, "either a FILE or --text is needed");
  sentence({"screenshot", "alpha", "/tmp/x.png", "--text"}, 2, "either a FILE or --text is needed");
  sentence({"screenshot", "alpha", "/no/such/folder/x.png"}, 1, "cannot write /no/such/folder/x.png");
  sentence({"screenshot", "beta", "--text"}, 1, "no VM named beta");
  server.vm.set(&FakeControl::failure, "this VM has no screen");
  sentence({"screenshot", "alpha", "--text"}, 1, "this VM has no screen");
}

TEST(Screenshot, blank_and_graphics_have_no_text) {
  Server server([](FakeControl& vm) {
    show_text(vm, "x");
    vm.registers.graphics[6] = 1;
  });
  EXPECT_THAT(run_program({"screenshot", "alpha", "--text"}).err, HasSubstr("it shows 640 by"));
  Server blank;
  EXPECT_THAT(run_program({"screenshot", "alpha", "--text"}).err, HasSubstr("the screen is blank"));
}

// ---- Keys ----

std::string events_of(const std::string& text) {
  const auto strokes = cli::parse_keys(text);
  if (!strokes) return strokes.error().message;
  std::string all;
  for (const cli::KeyStroke& stroke : *strokes) {
    for (const InputEvent& event : stroke) all += (event.flags != 0 ? "+" : "-") + std::to_string(event.code) + " ";
  }
  return all;
}

TEST(Keys, characters_and_names) {
  EXPECT_EQ(events_of("a"), "+30 -30 ");
  EXPECT_EQ(events_of("A"), "+42 +30 -30 -42 ");
  EXPECT_EQ(events_of("<enter>"), "+28 -28 ");
  EXPECT_EQ(events_of("\n"), "+28 -28 ");
  EXPECT_EQ(events_of("<<"), "+42 +51 -51 -42 ");
  EXPECT_EQ(events_of("<ctrl-alt-del>"), "+29 +56 +111 -111 -56 -29 ");
  EXPECT_EQ(events_of("<ctrl-->"), "+29 +12 -12 -29 ");
  EXPECT_EQ(events_of("<ctrl-c>"), "+29 +46 -46 -29 ");
  EXPECT_EQ(events_of(">|"), "+42 +52 -52 -42 +42 +43 -43 -42 ");
}

TEST(Keys, every_printable_character_has_a_key) {
  for (char c = ' '; c <= '~'; ++c) {
    const std::string text = c == '<' ? "<<" : std::string(1, c);
    EXPECT_TRUE(cli::parse_keys(text)) << text;
  }
}

TEST(Keys, what_is_no_key_is_named) {
  EXPECT_EQ(events_of("<hyper>"), "<hyper>: there is no key \"hyper\"");
  EXPECT_EQ(events_of("<>"), "<> must have the names of 1 to 8 keys");
  EXPECT_EQ(events_of("<f1"), "there is a < without a >; the character itself is written <<");
  EXPECT_THAT(events_of("\x01"), HasSubstr("no key types"));
  EXPECT_THAT(events_of("\xc3\xa4"), HasSubstr("no key types"));
}

TEST(Keys, arrive_one_stroke_after_the_other) {
  Server server;
  EXPECT_EQ(run_program({"sendkeys", "alpha", "B<up>"}).status, 0);
  EXPECT_THAT(server.vm.calls(), ElementsAre("input +42 +48 -48 -42", "input +103 -103"));
  EXPECT_EQ(run_program({"sendkeys", "alpha", "<nokey>"}).status, 2);
}

// ---- The serial port ----

TEST(Console, several_look_on_from_whenever_they_came) {
  Server server([](FakeControl& vm) { vm.console_log.append(std::vector<std::uint8_t>{'o', 'n', 'e', '\n'}); });
  EXPECT_EQ(run_program({"console", "alpha", "--no-follow"}).out, "one\n");
  Running first = Running::on_pipes({"console", "alpha"});
  EXPECT_TRUE(first.expect("one"));
  server.vm.console_log.append(std::vector<std::uint8_t>{'t', 'w', 'o', '\n'});
  Running second = Running::on_pipes({"console", "alpha"});
  EXPECT_TRUE(first.expect("one\ntwo\n"));
  EXPECT_TRUE(second.expect("one\ntwo\n"));
  second.type("hello\x01\x01\x01x");
  EXPECT_EQ(second.wait(), 0);
  EXPECT_THAT(server.vm.calls(), ElementsAre("type hello\x01"));
  first.type("\x01x");
  EXPECT_EQ(first.wait(), 0);
}

TEST(Console, ends_with_its_vm) {
  Server server;
  Running viewer = Running::on_pipes({"console", "alpha"});
  server.vm.console_log.append(std::vector<std::uint8_t>{'.'});
  EXPECT_TRUE(viewer.expect("."));
  server.stop();
  EXPECT_EQ(viewer.wait(), 0);
}

}  // namespace
}  // namespace bulkhead::vmm
