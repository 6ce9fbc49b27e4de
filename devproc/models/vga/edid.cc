// The monitor's description.
#include <algorithm>
#include <cstring>

#include "devproc/models/vga/vga.h"

namespace bulkhead::devproc {
namespace {

constexpr std::size_t kDescriptor = 18;
constexpr std::size_t kFirstDescriptor = 54;

// Section 3.10.2, a Detailed Timing Descriptor, with the blanking that digital monitors ask for (CVT, reduced).
void put_timing(std::uint8_t* at, std::uint32_t width, std::uint32_t height) {
  constexpr std::uint32_t kHorizontalBlank = 160;
  constexpr std::uint32_t kHorizontalFront = 48;
  constexpr std::uint32_t kHorizontalSync = 32;
  constexpr std::uint32_t kVerticalFront = 3;
  constexpr std::uint32_t kVerticalSync = 6;
  const std::uint32_t vertical_blank = std::max<std::uint32_t>(height / 32, 16);
  const std::uint32_t clock = (width + kHorizontalBlank) * (height + vertical_blank) * 60 / 10'000;  // in 10 kHz
  const std::uint32_t millimetres_wide = std::min<std::uint32_t>(width * 254 / 1000, 4095);          // 100 dots an inch
  const std::uint32_t millimetres_high = std::min<std::uint32_t>(height * 254 / 1000, 4095);
  const auto put = [&](std::size_t index, std::uint32_t value) { at[index] = static_cast<std::uint8_t>(value); };
  put(0, std::min<std::uint32_t>(clock, 0xffff)), put(1, std::min<std::uint32_t>(clock, 0xffff) >> 8);
  put(2, width), put(3, kHorizontalBlank), put(4, (width >> 8 & 15) << 4 | kHorizontalBlank >> 8);
  put(5, height), put(6, vertical_blank), put(7, (height >> 8 & 15) << 4 | vertical_blank >> 8);
  put(8, kHorizontalFront), put(9, kHorizontalSync), put(10, kVerticalFront << 4 | kVerticalSync), put(11, 0);
  put(12, millimetres_wide), put(13, millimetres_high);
  put(14, (millimetres_wide >> 8) << 4 | millimetres_high >> 8);
  put(17, 0x1a);  // digital separate sync, horizontal positive
}

// Section 3.10.3, display descriptors.
void put_text(std::uint8_t* at, std::uint8_t tag, const char* text) {
  at[3] = tag;
  const std::size_t length = std::strlen(text);
  for (std::size_t i = 0; i < 13; ++i)
    at[5 + i] = i < length ? static_cast<std::uint8_t>(text[i]) : i == length ? std::uint8_t{'\n'} : std::uint8_t{' '};
}

}  // namespace

std::array<std::uint8_t, Vga::kEdidBytes> vga_edid(std::uint16_t width, std::uint16_t height) {
  std::array<std::uint8_t, Vga::kEdidBytes> edid{};
  std::fill_n(edid.begin() + 1, 6, std::uint8_t{0xff});
  constexpr std::uint16_t kMaker = ('B' - '@') << 10 | ('L' - '@') << 5 | ('K' - '@');
  edid[8] = kMaker >> 8;
  edid[9] = kMaker & 0xff;
  edid[10] = 1;                                                              // product
  edid[17] = 2026 - 1990;                                                    // year
  edid[18] = 1, edid[19] = 4;                                                // version
  edid[20] = 0xa5;                                                           // digital, 8 bits a colour, DisplayPort
  edid[21] = static_cast<std::uint8_t>(std::min(width * 254 / 10000, 255));  // centimetres
  edid[22] = static_cast<std::uint8_t>(std::min(height * 254 / 10000, 255));
  edid[23] = 120;   // gamma 2.2
  edid[24] = 0x06;  // sRGB; the first timing is the preferred one
  constexpr std::array<std::uint8_t, 10> kSrgb = {0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54};
  std::ranges::copy(kSrgb, edid.begin() + 25);
  edid[35] = 0x21;                                      // 640x480 and 800x600 at 60 Hz
  edid[36] = 0x08;                                      // 1024x768 at 60 Hz
  std::fill_n(edid.begin() + 38, 16, std::uint8_t{1});  // no standard timings
  put_timing(&edid[kFirstDescriptor], width, height);
  std::uint8_t* limits = &edid[kFirstDescriptor + kDescriptor];
  limits[3] = 0xfd;
  constexpr std::array<std::uint8_t, 13> kLimits = {50, 125, 30, 160, 255, 1, '\n', ' ', ' ', ' ', ' ', ' ', ' '};
  std::ranges::copy(kLimits, limits + 5);
  put_text(&edid[kFirstDescriptor + 2 * kDescriptor], 0xfc, "Bulkhead");
  edid[kFirstDescriptor + 3 * kDescriptor + 3] = 0x10;
  std::uint8_t sum = 0;
  for (const std::uint8_t byte : edid) sum = static_cast<std::uint8_t>(sum + byte);
  edid[127] = static_cast<std::uint8_t>(0U - sum);
  return edid;
}

}  // namespace bulkhead::devproc
