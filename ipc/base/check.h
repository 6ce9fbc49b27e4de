// CHECK(condition, ...operands): stops the program on a bug of our own, printing the operands.
// Never for anything that a guest, a device process or the host can cause.
#pragma once

#include <fmt/format.h>

#include <string>

namespace bulkhead {

[[noreturn]] void check_failed(const char* file, int line, const char* condition, const std::string& operands);

namespace internal {
inline std::string join_operands() { return {}; }
template <class... T>
std::string join_operands(const T&... operands) {
  std::string out;
  ((out += fmt::format(" {}", operands)), ...);
  return out;
}
}  // namespace internal

}  // namespace bulkhead

#define CHECK(condition, ...)                                                                                     \
  do {                                                                                                            \
    if (!(condition)) [[unlikely]]                                                                                \
      ::bulkhead::check_failed(__FILE__, __LINE__, #condition, ::bulkhead::internal::join_operands(__VA_ARGS__)); \
  } while (false)
