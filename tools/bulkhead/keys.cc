#include "tools/bulkhead/keys.h"

#include <fmt/format.h>
#include <linux/input-event-codes.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <utility>

#include "ipc/base/printable.h"

namespace bulkhead::cli {
namespace {

struct Named {
  std::string_view name;
  std::uint16_t code;
};

constexpr std::array kNames = {
    Named{"enter", KEY_ENTER},   Named{"ret", KEY_ENTER},
    Named{"esc", KEY_ESC},       Named{"tab", KEY_TAB},
    Named{"space", KEY_SPACE},   Named{"backspace", KEY_BACKSPACE},
    Named{"up", KEY_UP},         Named{"down", KEY_DOWN},
    Named{"left", KEY_LEFT},     Named{"right", KEY_RIGHT},
    Named{"home", KEY_HOME},     Named{"end", KEY_END},
    Named{"pgup", KEY_PAGEUP},   Named{"pgdn", KEY_PAGEDOWN},
    Named{"insert", KEY_INSERT}, Named{"del", KEY_DELETE},
    Named{"ctrl", KEY_LEFTCTRL}, Named{"shift", KEY_LEFTSHIFT},
    Named{"alt", KEY_LEFTALT},   Named{"altgr", KEY_RIGHTALT},
    Named{"meta", KEY_LEFTMETA}, Named{"capslock", KEY_CAPSLOCK},
    Named{"print", KEY_SYSRQ},   Named{"pause", KEY_PAUSE},
    Named{"f1", KEY_F1},         Named{"f2", KEY_F2},
    Named{"f3", KEY_F3},         Named{"f4", KEY_F4},
    Named{"f5", KEY_F5},         Named{"f6", KEY_F6},
    Named{"f7", KEY_F7},         Named{"f8", KEY_F8},
    Named{"f9", KEY_F9},         Named{"f10", KEY_F10},
    Named{"f11", KEY_F11},       Named{"f12", KEY_F12},
};

// Rows of a US keyboard: the first key's code, what the keys type, and what they type with shift.
struct Row {
  std::uint16_t first;
  std::string_view plain;
  std::string_view shifted;
};
constexpr std::array kRows = {
    Row{KEY_1, "1234567890-=", "!@#$%^&*()_+"},
    Row{KEY_Q, "qwertyuiop[]\n", "QWERTYUIOP{}"},
    Row{KEY_A, "asdfghjkl;'`", "ASDFGHJKL:\"~"},
    Row{KEY_BACKSLASH, "\\zxcvbnm,./", "|ZXCVBNM<>?"},
    Row{KEY_SPACE, " ", ""},
    Row{KEY_TAB, "\t", ""},
};

KeyStroke stroke(const std::vector<std::uint16_t>& codes) {
  KeyStroke events;
  const auto add = [&](std::uint16_t code, std::uint8_t flags) {
    InputEvent event;
    event.type = static_cast<std::uint8_t>(InputEventType::kKey);
    event.flags = flags;
    event.code = code;
    events.push_back(event);
  };
  for (const std::uint16_t code : codes) add(code, kKeyPressed);
  for (std::size_t i = codes.size(); i-- != 0;) add(codes[i], 0);
  return events;
}

// The keys that type a character; empty: none.
std::vector<std::uint16_t> keys_of(char character) {
  for (const Row& row : kRows) {
    if (const std::size_t at = row.plain.find(character); at != std::string_view::npos)
      return {static_cast<std::uint16_t>(row.first + at)};
    if (const std::size_t at = row.shifted.find(character); at != std::string_view::npos)
      return {KEY_LEFTSHIFT, static_cast<std::uint16_t>(row.first + at)};
  }
  return {};
}

Result<std::vector<std::uint16_t>> keys_in(std::string_view names) {
  std::vector<std::uint16_t> codes;
  const std::string_view all = names;
  while (!names.empty()) {
    std::string_view name = names.substr(0, names.find('-', 1));  // "-" itself may be a name
    names.remove_prefix(std::min(name.size() + 1, names.size()));
    const auto found = std::find_if(kNames.begin(), kNames.end(), [&](const Named& one) { return one.name == name; });
    if (found != kNames.end()) {
      codes.push_back(found->code);
      continue;
    }
    const auto typed = name.size() == 1 ? keys_of(name[0]) : std::vector<std::uint16_t>();
    if (typed.empty()) return make_error(fmt::format("<{}>: there is no key \"{}\"", printable(all), printable(name)));
    codes.insert(codes.end(), typed.begin(), typed.end());
  }
  if (codes.empty() || codes.size() > 8) return make_error("<> must have the names of 1 to 8 keys");
  return codes;
}

}  // namespace

Result<std::vector<KeyStroke>> parse_keys(std::string_view text) {
  std::vector<KeyStroke> strokes;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '<' || text.substr(i).starts_with("<<")) {
      const auto codes = keys_of(text[i]);
      if (codes.empty()) return make_error(fmt::format("no key types '{}'", printable(text.substr(i, 1))));
      strokes.push_back(stroke(codes));
      i += text[i] == '<' ? 1 : 0;
      continue;
    }
    const std::size_t end = text.find('>', i);
    if (end == std::string_view::npos)
      return make_error("there is a < without a >; the character itself is written <<");
    ASSIGN_OR_RETURN(const auto codes, keys_in(text.substr(i + 1, end - i - 1)));
    strokes.push_back(stroke(codes));
    i = end;
  }
  return strokes;
}

}  // namespace bulkhead::cli
