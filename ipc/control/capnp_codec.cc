#include "ipc/control/capnp_codec.h"

#include <algorithm>

namespace bulkhead::control {
namespace {

bool is_letter_or_digit(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

}  // namespace

bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= kMaxNameLength && is_letter_or_digit(text.front()) &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return is_letter_or_digit(c) || c == '_' || c == '.' || c == '-'; });
}

namespace codec {

std::string read_name(capnp::Text::Reader text, const char* field) {
  if (!is_name(view(text))) refuse("{} is not a name", field);
  return std::string(view(text));
}

std::string read_optional_name(capnp::Text::Reader text, const char* field) {
  return text.size() == 0 ? std::string() : read_name(text, field);
}

std::string read_sentence(capnp::Text::Reader text, const char* field, std::size_t limit, bool lines) {
  if (text.size() > limit) refuse("{} has {} characters, at most {} allowed", field, text.size(), limit);
  std::string out(view(text));
  for (char& c : out) {
    if ((c < 0x20 || c > 0x7e) && !(lines && c == '\n')) c = '?';
  }
  return out;
}

std::string read_text(capnp::Text::Reader text, const char* field, std::size_t limit) {
  if (text.size() > limit) refuse("{} has {} bytes, at most {} allowed", field, text.size(), limit);
  if (view(text).find('\0') != std::string_view::npos) refuse("{} has a NUL inside", field);
  return std::string(view(text));
}

}  // namespace codec
}  // namespace bulkhead::control
