// The picture that a VGA's registers and memory come to: bytes in, pixels out.
//
// Pure. Units: pixels are 0x00RRGGBB. Errors: none; whatever the registers say, nothing outside of `memory` is read and
// nothing outside of the picture written. Trust: both come from a device process and a guest.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ipc/screen/vga_registers.h"

namespace bulkhead::screen {

struct Picture {
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  std::vector<std::uint32_t> pixels;  // width * height
};

// The phases of what blinks, which whoever draws derives from its own clock: the cursor at half the rate of characters.
struct Blink {
  bool cursor = true;
  bool characters = true;
};
inline constexpr std::uint64_t kCursorBlinkNs = 266'000'000;     // on, then off: 16 frames of 60 Hz
inline constexpr std::uint64_t kCharacterBlinkNs = 533'000'000;  // 32 frames

// Draws into `picture`, whose storage is used again.
void render(const VgaRegisters& registers, std::span<const std::byte> memory, Blink blink, Picture& picture);
// Whether anything in it blinks now.
[[nodiscard]] bool blinks(const VgaRegisters& registers);

// The characters of a text mode, code page 437 as UTF-8, a line a row without the spaces at its end. Empty: no text
// mode.
[[nodiscard]] std::string text_of(const VgaRegisters& registers, std::span<const std::byte> memory);

}  // namespace bulkhead::screen
