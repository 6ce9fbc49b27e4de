#include "ipc/screen/vga_registers.h"

#include <algorithm>

namespace bulkhead::screen {
namespace {

Geometry vbe_geometry(const VgaRegisters& registers) {
  const auto& vbe = registers.vbe;
  Geometry geometry;
  std::uint32_t bytes = 1;
  switch (vbe[kVbeBpp]) {
    case 4: geometry.mode = ScreenMode::kPlanar; break;
    case 8: geometry.mode = ScreenMode::kPacked; break;
    case 15: geometry.mode = ScreenMode::kTrue15, bytes = 2; break;
    case 16: geometry.mode = ScreenMode::kTrue16, bytes = 2; break;
    case 24: geometry.mode = ScreenMode::kTrue24, bytes = 3; break;
    case 32: geometry.mode = ScreenMode::kTrue32, bytes = 4; break;
    default: return geometry;
  }
  geometry.width = vbe[kVbeXres];
  geometry.height = vbe[kVbeYres];
  const std::uint32_t line = std::max(vbe[kVbeVirtWidth], vbe[kVbeXres]);
  const bool planar = geometry.mode == ScreenMode::kPlanar;
  geometry.pitch = planar ? line / 8 : line * bytes;
  const std::uint32_t aside = planar ? vbe[kVbeXOffset] / 8U : vbe[kVbeXOffset] * bytes;
  geometry.start = vbe[kVbeYOffset] * geometry.pitch + aside;
  return geometry;
}

Geometry vga_geometry(const VgaRegisters& registers) {
  const auto& crtc = registers.crtc;
  const std::uint8_t shift = registers.graphics[5] >> 5 & 3;
  Geometry geometry;
  if ((registers.graphics[6] & 1) == 0)
    geometry.mode = ScreenMode::kText;
  else
    geometry.mode = shift == 0 ? ScreenMode::kPlanar : shift == 1 ? ScreenMode::kCga4 : ScreenMode::kPacked;
  const std::uint32_t characters = crtc[1] + 1U;
  std::uint32_t dots = 8;
  if (geometry.mode == ScreenMode::kText && (registers.sequencer[1] & 1) == 0) dots = 9;
  if (geometry.mode == ScreenMode::kPacked) dots = 4;  // two dots make a pixel
  geometry.width = characters * dots;
  geometry.height = (crtc[0x12] | (crtc[7] & 0x02U) << 7 | (crtc[7] & 0x40U) << 3) + 1U;
  // Lines that only repeat the one above them are left out.
  if ((crtc[9] & 0x80) != 0) geometry.height /= 2;
  const bool rows_interleaved = (crtc[0x17] & 3) != 3;
  if (geometry.mode != ScreenMode::kText && !rows_interleaved) geometry.height /= (crtc[9] & 0x1fU) + 1;
  geometry.start = (crtc[0x0c] << 8 | crtc[0x0d]) + (crtc[8] >> 5 & 3U);
  geometry.pitch = crtc[0x13] * 2U;
  return geometry;
}

}  // namespace

Geometry geometry_of(const VgaRegisters& registers) {
  const bool blank = (registers.attribute_index & 0x20) == 0 || (registers.sequencer[1] & 0x20) != 0;
  Geometry geometry;
  if (registers.vbe_enabled())
    geometry = vbe_geometry(registers);
  else if (!blank)
    geometry = vga_geometry(registers);
  const bool drawn = geometry.mode != ScreenMode::kBlank && geometry.width != 0 && geometry.height != 0 &&
                     geometry.width <= kMostColumns && geometry.height <= kMostRows;
  return drawn ? geometry : Geometry{};
}

}  // namespace bulkhead::screen
