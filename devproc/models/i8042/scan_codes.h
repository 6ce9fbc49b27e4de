// Scan codes: which bytes a key sends, and how the controller translates set 2 to set 1.
// Source: Microsoft Keyboard Scan Code Specification 1.3a, appendix A; key codes are Linux's KEY_*.
#pragma once

#include <cstddef>
#include <cstdint>

#include "devproc/models/i8042/spec.h"

namespace bulkhead::devproc::i8042 {

// The bytes of one press or release. Empty: this key, or its release, sends nothing.
struct ScanSequence {
  std::uint8_t bytes[kLongestSequence] = {};
  std::uint8_t count = 0;
};

// `set` is 1 or 2.
[[nodiscard]] ScanSequence scan_sequence(std::uint16_t key, bool pressed, std::uint8_t set);

// One byte from the keyboard as the controller hands it on while it translates; F0h is not handed on.
[[nodiscard]] std::uint8_t translate_to_set1(std::uint8_t byte);

}  // namespace bulkhead::devproc::i8042
