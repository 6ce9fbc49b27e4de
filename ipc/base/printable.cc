#include "ipc/base/printable.h"

#include <cstddef>
#include <cstdint>

namespace bulkhead {
namespace {

struct Character {
  std::size_t length = 0;  // 0: the text does not begin with well-formed UTF-8
  std::uint32_t code = 0;
};

Character first_character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {1, lead};
  const std::size_t length = lead >> 5 == 6 ? 2 : lead >> 4 == 14 ? 3 : lead >> 3 == 30 ? 4 : 0;
  if (length == 0 || text.size() < length) return {};
  std::uint32_t code = lead & (0x7FU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0U) != 0x80) return {};
    code = code << 6 | (byte(i) & 0x3FU);
  }
  // Longer than need be, a surrogate, beyond Unicode: forms in which a control character could hide.
  constexpr std::uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  if (code < kLeast[length] || (code >= 0xD800 && code <= 0xDFFF) || code > 0x10FFFF) return {};
  return {length, code};
}

bool is_harmless(std::uint32_t code) {
  if (code < 0x20 || (code >= 0x7F && code <= 0x9F)) return false;
  return !(code >= 0x2028 && code <= 0x202E) && !(code >= 0x2066 && code <= 0x2069);
}

}  // namespace

std::string printable(std::string_view text, char replacement, Newlines newlines) {
  std::string out;
  while (!text.empty()) {
    const Character character = first_character(text);
    const std::size_t length = character.length == 0 ? 1 : character.length;
    const bool stays =
        (newlines == Newlines::kKeep && text.front() == '\n') || (character.length != 0 && is_harmless(character.code));
    if (stays)
      out += text.substr(0, length);
    else
      out += replacement;
    text.remove_prefix(length);
  }
  return out;
}

}  // namespace bulkhead
