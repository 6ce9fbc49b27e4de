// FuzzScript: a fuzz input as a string of numbers, and require(), which ends the run.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>

namespace bulkhead::fuzz {

class FuzzScript {
 public:
  explicit FuzzScript(std::span<const std::uint8_t> bytes) : left_(bytes) {}
  [[nodiscard]] bool empty() const { return left_.empty(); }
  std::uint8_t byte() {
    if (left_.empty()) return 0;
    const std::uint8_t value = left_.front();
    left_ = left_.subspan(1);
    return value;
  }
  // Little-endian, at most 8 bytes; what is missing is 0.
  std::uint64_t number(std::size_t bytes) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < bytes; ++i) value |= std::uint64_t{byte()} << (8 * i);
    return value;
  }
  void fill(std::span<std::byte> out) {
    for (std::byte& one : out) one = static_cast<std::byte>(byte());
  }

 private:
  std::span<const std::uint8_t> left_;
};

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

}  // namespace bulkhead::fuzz
