// InputEvent: what a key or the mouse did, as it travels on an input stream to the device that shows it to
// the guest. Written by whoever has the user's keyboard (the CLI, a display), read by the i8042 model.
//
// Eight bytes each, back to back, little-endian; a stream ends between two of them or not at all.
// Trust: the reader checks every field; a record of an unknown type is dropped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace bulkhead {

enum class InputEventType : std::uint8_t {
  kKey = 1,
  kMouse = 2,
};

// InputEvent::flags of kKey.
inline constexpr std::uint8_t kKeyPressed = 1U << 0;  // else released; a press again is an auto-repeat

// InputEvent::flags of kMouse: the buttons that are down now.
inline constexpr std::uint8_t kButtonLeft = 1U << 0;
inline constexpr std::uint8_t kButtonRight = 1U << 1;
inline constexpr std::uint8_t kButtonMiddle = 1U << 2;
inline constexpr std::uint8_t kButtonSide = 1U << 3;
inline constexpr std::uint8_t kButtonExtra = 1U << 4;
inline constexpr std::uint8_t kButtonMask = 0x1f;

struct InputEvent {
  std::uint8_t type = 0;  // InputEventType
  std::uint8_t flags = 0;
  std::uint16_t code = 0;  // kKey: Linux KEY_* code; kMouse: wheel steps away from the user, signed
  std::int16_t dx = 0;     // kMouse: movement to the right
  std::int16_t dy = 0;     // kMouse: movement towards the user (down)
  bool operator==(const InputEvent&) const = default;
};
static_assert(sizeof(InputEvent) == 8 && alignof(InputEvent) == 2);
static_assert(offsetof(InputEvent, type) == 0 && offsetof(InputEvent, flags) == 1);
static_assert(offsetof(InputEvent, code) == 2);
static_assert(offsetof(InputEvent, dx) == 4 && offsetof(InputEvent, dy) == 6);
static_assert(std::is_trivially_copyable_v<InputEvent>);
static_assert(std::has_unique_object_representations_v<InputEvent>);

}  // namespace bulkhead
