#include "ipc/screen/renderer.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace bulkhead::screen {
namespace {

constexpr std::uint32_t kWords = 0xffff;  // a VGA's own memory is 64 Ki words, and its addresses wrap around there

std::uint32_t rgb(std::uint32_t red, std::uint32_t green, std::uint32_t blue) { return red << 16 | green << 8 | blue; }

// The DAC's 256 colours as pixels.
std::array<std::uint32_t, 256> colours_of(const VgaRegisters& registers) {
  const bool wide = registers.vbe_enabled() && (registers.vbe[kVbeEnable] & kVbe8BitDac) != 0;
  const auto level = [wide](std::uint8_t value) {
    return wide ? std::uint32_t{value} : (value & 0x3fU) << 2 | (value & 0x3fU) >> 4;
  };
  std::array<std::uint32_t, 256> all;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const std::uint8_t* entry = &registers.dac[3 * (i & registers.pel_mask)];
    all[i] = rgb(level(entry[0]), level(entry[1]), level(entry[2]));
  }
  return all;
}

// What the attribute controller makes of the 16 values that four planes give.
std::array<std::uint32_t, 16> palette_of(const VgaRegisters& registers) {
  const auto colours = colours_of(registers);
  const auto& attribute = registers.attribute;
  std::array<std::uint32_t, 16> palette;
  for (std::size_t i = 0; i < palette.size(); ++i) {
    std::uint32_t index = attribute[i & attribute[0x12]] & 0x3fU;
    if ((attribute[0x10] & 0x80) != 0) index = (index & 0x0fU) | (attribute[0x14] & 3U) << 4;
    index |= (attribute[0x14] & 0x0cU) << 4;
    palette[i] = colours[index];
  }
  return palette;
}

class Renderer {
 public:
  Renderer(const VgaRegisters& registers, std::span<const std::byte> memory, Blink blink)
      : registers_(registers), memory_(memory), blink_(blink), geometry_(geometry_of(registers)) {}

  void draw(Picture& picture) {
    picture.width = geometry_.width;
    picture.height = geometry_.height;
    picture.pixels.resize(std::size_t{picture.width} * picture.height);
    if (picture.pixels.empty()) return;
    if (geometry_.mode == ScreenMode::kPacked) colours_ = colours_of(registers_);
    if (geometry_.mode < ScreenMode::kPacked) palette_ = palette_of(registers_);
    for (std::uint32_t y = 0; y < picture.height; ++y)
      line(y, std::span(picture.pixels).subspan(std::size_t{y} * picture.width, picture.width));
  }

 private:
  [[nodiscard]] std::uint8_t byte_at(std::uint64_t at) const {
    return at < memory_.size() ? static_cast<std::uint8_t>(memory_[at]) : std::uint8_t{0};
  }
  [[nodiscard]] std::uint8_t plane(std::uint32_t word, std::uint32_t which) const {
    if (!registers_.vbe_enabled()) word &= kWords;
    return byte_at(std::uint64_t{word} * 4 + which);
  }

  void line(std::uint32_t y, std::span<std::uint32_t> out) {
    if (registers_.vbe_enabled() && geometry_.mode != ScreenMode::kPlanar) return vbe_line(y, out);
    // Where the line compare register is met the picture begins anew at word 0, without panning.
    const auto& crtc = registers_.crtc;
    std::uint32_t start = geometry_.start;
    std::uint32_t pan = registers_.attribute[0x13] & 0x0fU;
    const std::uint32_t repeats = lines_per_row();
    if (!registers_.vbe_enabled()) {
      const std::uint32_t compare = crtc[0x18] | (crtc[7] & 0x10U) << 4 | (crtc[9] & 0x40U) << 3;
      const std::uint32_t split = (compare + 1) / repeats;
      if (y >= split) {
        y -= split;
        start = 0;
        if ((registers_.attribute[0x10] & 0x20) != 0) pan = 0;
      } else if (geometry_.mode == ScreenMode::kText) {
        y += crtc[8] & 0x1fU;
      }
    } else {
      pan = 0;
    }
    switch (geometry_.mode) {
      case ScreenMode::kText: return text_line(start, y, pan, out);
      case ScreenMode::kPlanar: return planar_line(row_at(start, y), pan & 7, out);
      case ScreenMode::kCga4: return cga_line(row_at(start, y), out);
      default: return packed_line(row_at(start, y), pan >> 1 & 3, out);
    }
  }

  // Of the monitor, for each of the picture.
  [[nodiscard]] std::uint32_t lines_per_row() const {
    const auto& crtc = registers_.crtc;
    const std::uint32_t doubled = (crtc[9] & 0x80) != 0 ? 2 : 1;
    const bool repeated = geometry_.mode != ScreenMode::kText && (crtc[0x17] & 3) == 3;
    return repeated ? doubled * ((crtc[9] & 0x1fU) + 1) : doubled;
  }

  // The word at which a line begins. Where rows are interleaved, bits of the row counter are bits of the address.
  [[nodiscard]] std::uint32_t row_at(std::uint32_t start, std::uint32_t y) const {
    const auto& crtc = registers_.crtc;
    if (registers_.vbe_enabled() || (crtc[0x17] & 3) == 3) return start + y * geometry_.pitch;
    const std::uint32_t rows = (crtc[9] & 0x1fU) + 1;
    std::uint32_t at = start + y / rows * geometry_.pitch;
    const std::uint32_t row = y % rows;
    const std::uint32_t first = (crtc[0x17] & 0x40) != 0 ? 13 : 12;  // byte or word mode
    if ((crtc[0x17] & 1) == 0) at = (at & ~(1U << first)) | (row & 1) << first;
    if ((crtc[0x17] & 2) == 0) at = (at & ~(2U << first)) | (row >> 1 & 1) << (first + 1);
    return at;
  }

  void text_line(std::uint32_t start, std::uint32_t y, std::uint32_t pan, std::span<std::uint32_t> out) const {
    const auto& crtc = registers_.crtc;
    const std::uint32_t cell_height = (crtc[9] & 0x1fU) + 1;
    const std::uint32_t cell_width = (registers_.sequencer[1] & 1) != 0 ? 8 : 9;
    // With nine dots, 8 means none and 0-7 one more than they say.
    pan = cell_width == 9 ? (pan >= 8 ? 0 : pan + 1) : pan & 7;
    const std::uint32_t row = y % cell_height;
    const std::uint32_t first = start + y / cell_height * geometry_.pitch;
    std::uint32_t x = 0;
    for (std::uint32_t column = 0; x < out.size(); ++column) {
      const std::uint32_t dots = cell_dots(first + column, row);
      const auto [ink, paper] = cell_colours(plane(first + column, 1));
      for (std::uint32_t dot = column == 0 ? pan : 0; dot < cell_width && x < out.size(); ++dot)
        out[x++] = (dots >> (8 - dot) & 1) != 0 ? ink : paper;
    }
  }

  // A row of a character, nine dots, the leftmost one highest.
  [[nodiscard]] std::uint32_t cell_dots(std::uint32_t word, std::uint32_t row) const {
    const auto& crtc = registers_.crtc;
    const std::uint8_t character = plane(word, 0);
    const std::uint8_t attribute = plane(word, 1);
    const std::uint8_t maps = registers_.sequencer[3];
    const std::uint32_t map =
        (attribute & 8) != 0 ? (maps >> 2 & 3U) | (maps >> 5 & 1U) << 2 : (maps & 3U) | (maps >> 4 & 1U) << 2;
    const std::uint32_t font = (map & 3) * 0x4000 + (map >> 2) * 0x2000;
    std::uint32_t dots = std::uint32_t{plane(font + character * 32U + row, 2)} << 1;
    // The box-drawing characters reach into the ninth dot.
    if ((registers_.attribute[0x10] & 4) != 0 && character >= 0xc0 && character <= 0xdf) dots |= dots >> 1 & 1;
    const bool monochrome = (registers_.attribute[0x10] & 2) != 0;
    if (monochrome && (attribute & 7) == 1 && row == (crtc[0x14] & 0x1fU)) dots = 0x1ff;
    const bool blinking = (registers_.attribute[0x10] & 8) != 0 && (attribute & 0x80) != 0;
    if (blinking && !blink_.characters) dots = 0;
    const bool cursor_row = row >= (crtc[0x0a] & 0x1fU) && row <= (crtc[0x0b] & 0x1fU);
    const std::uint32_t cursor = crtc[0x0e] << 8 | crtc[0x0f];
    if ((crtc[0x0a] & 0x20) == 0 && blink_.cursor && cursor_row && cursor == (word & kWords)) dots = 0x1ff;
    return dots;
  }

  [[nodiscard]] std::pair<std::uint32_t, std::uint32_t> cell_colours(std::uint8_t attribute) const {
    const std::uint32_t paper = (registers_.attribute[0x10] & 8) != 0 ? attribute >> 4 & 7U : attribute >> 4;
    return {palette_[attribute & 0x0f], palette_[paper]};
  }

  void planar_line(std::uint32_t word, std::uint32_t pan, std::span<std::uint32_t> out) const {
    std::uint32_t x = 0;
    for (std::uint32_t n = 0; x < out.size(); ++n) {
      const std::array<std::uint32_t, 4> planes{plane(word + n, 0), plane(word + n, 1), plane(word + n, 2),
                                                plane(word + n, 3)};
      for (std::uint32_t dot = n == 0 ? pan : 0; dot < 8 && x < out.size(); ++dot) {
        const std::uint32_t bit = 7 - dot;
        out[x++] = palette_[(planes[0] >> bit & 1) | (planes[1] >> bit & 1) << 1 | (planes[2] >> bit & 1) << 2 |
                            (planes[3] >> bit & 1) << 3];
      }
    }
  }

  // Two bits of planes 0 and 1 by turns, and two of planes 2 and 3 above them.
  void cga_line(std::uint32_t word, std::span<std::uint32_t> out) const {
    for (std::uint32_t x = 0; x < out.size(); ++x) {
      const std::uint32_t at = word + x / 8;
      const std::uint32_t which = x / 4 % 2;
      const std::uint32_t shift = 6 - 2 * (x % 4);
      out[x] = palette_[(plane(at, which) >> shift & 3U) | (plane(at, which + 2) >> shift & 3U) << 2];
    }
  }

  void packed_line(std::uint32_t word, std::uint32_t pan, std::span<std::uint32_t> out) const {
    for (std::uint32_t x = 0; x < out.size(); ++x) out[x] = colours_[plane(word + (x + pan) / 4, (x + pan) % 4)];
  }

  void vbe_line(std::uint32_t y, std::span<std::uint32_t> out) const {
    std::uint64_t at = geometry_.start + std::uint64_t{y} * geometry_.pitch;
    for (std::uint32_t& pixel : out) {
      switch (geometry_.mode) {
        case ScreenMode::kPacked:
          pixel = colours_[byte_at(at)];
          at += 1;
          break;
        case ScreenMode::kTrue15:
        case ScreenMode::kTrue16:
          pixel = high_colour(byte_at(at) | byte_at(at + 1) << 8U);
          at += 2;
          break;
        default:
          pixel = rgb(byte_at(at + 2), byte_at(at + 1), byte_at(at));
          at += geometry_.mode == ScreenMode::kTrue24 ? 3 : 4;
          break;
      }
    }
  }
  [[nodiscard]] std::uint32_t high_colour(std::uint32_t value) const {
    const auto five = [](std::uint32_t bits) { return (bits & 31) << 3 | (bits & 31) >> 2; };
    if (geometry_.mode == ScreenMode::kTrue15) return rgb(five(value >> 10), five(value >> 5), five(value));
    const std::uint32_t green = value >> 5 & 63;
    return rgb(five(value >> 11), green << 2 | green >> 4, five(value));
  }

  const VgaRegisters& registers_;
  std::span<const std::byte> memory_;
  Blink blink_;
  Geometry geometry_;
  std::array<std::uint32_t, 16> palette_{};
  std::array<std::uint32_t, 256> colours_{};
};

// Code page 437, as Unicode; a zero looks like a space.
constexpr std::u16string_view kCodePage =
    u" \u263a\u263b\u2665\u2666\u2663\u2660\u2022\u25d8\u25cb\u25d9\u2642\u2640\u266a\u266b\u263c"
    u"\u25ba\u25c4\u2195\u203c\u00b6\u00a7\u25ac\u21a8\u2191\u2193\u2192\u2190\u221f\u2194\u25b2\u25bc"
    u" !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~\u2302"
    u"\u00c7\u00fc\u00e9\u00e2\u00e4\u00e0\u00e5\u00e7\u00ea\u00eb\u00e8\u00ef\u00ee\u00ec\u00c4\u00c5"
    u"\u00c9\u00e6\u00c6\u00f4\u00f6\u00f2\u00fb\u00f9\u00ff\u00d6\u00dc\u00a2\u00a3\u00a5\u20a7\u0192"
    u"\u00e1\u00ed\u00f3\u00fa\u00f1\u00d1\u00aa\u00ba\u00bf\u2310\u00ac\u00bd\u00bc\u00a1\u00ab\u00bb"
    u"\u2591\u2592\u2593\u2502\u2524\u2561\u2562\u2556\u2555\u2563\u2551\u2557\u255d\u255c\u255b\u2510"
    u"\u2514\u2534\u252c\u251c\u2500\u253c\u255e\u255f\u255a\u2554\u2569\u2566\u2560\u2550\u256c\u2567"
    u"\u2568\u2564\u2565\u2559\u2558\u2552\u2553\u256b\u256a\u2518\u250c\u2588\u2584\u258c\u2590\u2580"
    u"\u03b1\u00df\u0393\u03c0\u03a3\u03c3\u00b5\u03c4\u03a6\u0398\u03a9\u03b4\u221e\u03c6\u03b5\u2229"
    u"\u2261\u00b1\u2265\u2264\u2320\u2321\u00f7\u2248\u00b0\u2219\u00b7\u221a\u207f\u00b2\u25a0\u00a0";
static_assert(kCodePage.size() == 256);

void append_utf8(std::string& text, char16_t code) {
  const auto put = [&](unsigned bits) { text.push_back(static_cast<char>(bits)); };
  if (code < 0x80) return put(code);
  if (code < 0x800) return put(0xc0U | code >> 6), put(0x80U | (code & 0x3fU));
  put(0xe0U | code >> 12), put(0x80U | (code >> 6 & 0x3fU)), put(0x80U | (code & 0x3fU));
}

}  // namespace

void render(const VgaRegisters& registers, std::span<const std::byte> memory, Blink blink, Picture& picture) {
  Renderer(registers, memory, blink).draw(picture);
}

bool blinks(const VgaRegisters& registers) {
  if (geometry_of(registers).mode != ScreenMode::kText) return false;
  return (registers.crtc[0x0a] & 0x20) == 0 || (registers.attribute[0x10] & 8) != 0;
}

std::string text_of(const VgaRegisters& registers, std::span<const std::byte> memory) {
  const Geometry geometry = geometry_of(registers);
  if (geometry.mode != ScreenMode::kText) return {};
  const std::uint32_t rows = geometry.height / ((registers.crtc[9] & 0x1fU) + 1);
  const std::uint32_t columns = registers.crtc[1] + 1U;
  std::string text;
  for (std::uint32_t row = 0; row < rows; ++row) {
    std::string line;
    for (std::uint32_t column = 0; column < columns; ++column) {
      const std::uint64_t at = std::uint64_t{(geometry.start + row * geometry.pitch + column) & kWords} * 4;
      const auto character = at < memory.size() ? static_cast<std::uint8_t>(memory[at]) : std::uint8_t{0};
      append_utf8(line, kCodePage[character]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

}  // namespace bulkhead::screen
