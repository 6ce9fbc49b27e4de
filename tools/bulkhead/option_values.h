// A whole number and nothing else.
#pragma once

#include <charconv>
#include <optional>
#include <string_view>

namespace bulkhead::cli {

template <class T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

}  // namespace bulkhead::cli
