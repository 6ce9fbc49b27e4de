// VgaRegisters: all that decides which picture a VGA's memory is. The model's committed state and what it shows to
// those who draw (scan_out.h) are this one value; the picture is a pure function of it, of the video memory and of the
// time (renderer.h).
//
// Indexes are those of the chip's own registers. Documents: IBM Personal System/2 Hardware Interface Technical
// Reference, "Video Subsystem"; OSDev and FreeVGA for what clones agree on; Bochs VBE extensions (vbe_display_api.txt).
// Trust: bytes of a device process; whoever reads them checks what they are used for.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace bulkhead::screen {

// Of video memory. Word n of it (4 bytes) has the bytes of planes 0-3 at address n; the linear modes see it byte by
// byte.
inline constexpr std::uint32_t kVideoMemory = 32 * 1024 * 1024;
inline constexpr std::uint32_t kMostColumns = 4096;  // pixels
inline constexpr std::uint32_t kMostRows = 4096;

inline constexpr std::size_t kSequencerCount = 5;
inline constexpr std::size_t kCrtcCount = 25;
inline constexpr std::size_t kGraphicsCount = 9;
inline constexpr std::size_t kAttributeCount = 21;
inline constexpr std::size_t kVbeCount = 10;

// Bochs VBE, by index.
enum VbeIndex : std::uint16_t {
  kVbeId = 0,
  kVbeXres = 1,
  kVbeYres = 2,
  kVbeBpp = 3,
  kVbeEnable = 4,
  kVbeBank = 5,
  kVbeVirtWidth = 6,
  kVbeVirtHeight = 7,
  kVbeXOffset = 8,
  kVbeYOffset = 9,
  kVbeVideoMemory64k = 10,  // read-only, not stored
};
inline constexpr std::uint16_t kVbeEnabled = 0x01;
inline constexpr std::uint16_t kVbeGetCaps = 0x02;
inline constexpr std::uint16_t kVbe8BitDac = 0x20;
inline constexpr std::uint16_t kVbeLfb = 0x40;
inline constexpr std::uint16_t kVbeNoClear = 0x80;

struct VgaRegisters {
  std::array<std::uint8_t, kSequencerCount> sequencer{};
  std::array<std::uint8_t, kCrtcCount> crtc{};
  std::array<std::uint8_t, kGraphicsCount> graphics{};
  std::array<std::uint8_t, kAttributeCount> attribute{};
  std::uint8_t attribute_index = 0;  // as last written; bit 5: the palette belongs to the display
  std::uint8_t misc_output = 0;
  std::uint8_t feature_control = 0;
  std::uint8_t pel_mask = 0;
  std::array<std::uint8_t, 768> dac{};  // red, green, blue; 6 bits each, or 8 with kVbe8BitDac
  std::array<std::uint16_t, kVbeCount> vbe{};
  bool operator==(const VgaRegisters&) const = default;

  [[nodiscard]] bool vbe_enabled() const { return (vbe[kVbeEnable] & kVbeEnabled) != 0; }
};
static_assert(sizeof(VgaRegisters) == 852);

// A mode's name for people, and what a picture of it takes.
enum class ScreenMode : std::uint8_t {
  kBlank,   // nothing is displayed
  kText,    // characters of plane 2's font
  kCga4,    // 2 bits a pixel, shifted out of interleaved bytes
  kPlanar,  // 4 planes, 16 colours (or fewer)
  kPacked,  // 8 bits a pixel, with the DAC's 256 colours
  kTrue15,
  kTrue16,
  kTrue24,
  kTrue32,
};

struct Geometry {
  ScreenMode mode = ScreenMode::kBlank;
  std::uint32_t width = 0;   // pixels of the picture
  std::uint32_t height = 0;  // at most kMostColumns x kMostRows, and 0 x 0 for nothing
  std::uint32_t start = 0;   // where its first line begins in video memory: a word of 4 planes, or a byte with VBE
  std::uint32_t pitch = 0;   // from line to line, in the same unit
  bool operator==(const Geometry&) const = default;
};

// What is to be drawn. Any value of the registers has an answer.
[[nodiscard]] Geometry geometry_of(const VgaRegisters& registers);

}  // namespace bulkhead::screen
