// read_once: a copy of a record in shared memory, each word of it loaded exactly once.
//
// A plain copy leaves the compiler free to load a field again later, after it was checked (a double fetch). These
// loads are volatile: what is checked is what is used.
// Trust: the writer may be hostile; the copy is coherent only as far as the caller proves it.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace bulkhead::ipc {

template <class T>
[[nodiscard]] T read_once(const T& shared) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % 8 == 0 && alignof(T) >= 8);
  std::uint64_t words[sizeof(T) / 8];
  const auto* from = reinterpret_cast<const volatile std::uint64_t*>(&shared);
  for (std::size_t i = 0; i < sizeof(T) / 8; ++i) words[i] = from[i];
  T copy;
  std::memcpy(static_cast<void*>(&copy), words, sizeof copy);
  return copy;
}

// The same where even an honest writer may be at work: the caller finds out afterwards and throws the copy away.
// ThreadSanitizer would call that a race, so it does not look in here.
template <class T>
[[nodiscard]] __attribute__((no_sanitize("thread"), noinline)) T read_once_racing(const T& shared) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % 8 == 0 && alignof(T) >= 8);
  const auto* from = reinterpret_cast<const volatile std::uint64_t*>(&shared);
  T copy;
  auto* to = reinterpret_cast<volatile std::uint64_t*>(&copy);
  for (std::size_t i = 0; i < sizeof(T) / 8; ++i) to[i] = from[i];
  return copy;
}

}  // namespace bulkhead::ipc
