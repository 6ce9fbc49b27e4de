// Overflow-checked arithmetic on untrusted numbers, and Range: a non-empty interval that cannot wrap.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>

namespace bulkhead {

template <std::unsigned_integral T>
[[nodiscard]] constexpr std::optional<T> checked_add(T a, T b) {
  T sum{};
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

template <std::unsigned_integral T>
[[nodiscard]] constexpr std::optional<T> checked_mul(T a, T b) {
  T product{};
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

// True when [offset, offset + length) lies within [0, limit), for any values of the three.
[[nodiscard]] constexpr bool fits(std::uint64_t offset, std::uint64_t length, std::uint64_t limit) {
  return length <= limit && offset <= limit - length;
}

[[nodiscard]] constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) {
  return (value + alignment - 1) & ~(alignment - 1);
}

// [base, base + length), length >= 1, whose last address does not pass 2^64 - 1.
class Range {
 public:
  [[nodiscard]] static constexpr std::optional<Range> make(std::uint64_t base, std::uint64_t length) {
    if (length == 0 || length - 1 > UINT64_MAX - base) return std::nullopt;
    return Range(base, base + (length - 1));
  }

  [[nodiscard]] constexpr std::uint64_t first() const { return first_; }
  [[nodiscard]] constexpr std::uint64_t last() const { return last_; }
  [[nodiscard]] constexpr bool contains(std::uint64_t address) const { return address >= first_ && address <= last_; }
  [[nodiscard]] constexpr bool overlaps(const Range& other) const {
    return first_ <= other.last_ && other.first_ <= last_;
  }
  constexpr bool operator==(const Range&) const = default;

 private:
  constexpr Range(std::uint64_t first, std::uint64_t last) : first_(first), last_(last) {}
  std::uint64_t first_;
  std::uint64_t last_;  // inclusive, so that a range may end at the top of the address space
};

}  // namespace bulkhead
