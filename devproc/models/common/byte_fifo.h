// ByteFifo: a ring of at most N bytes that can be part of a model's State.
//
// A plain value: no pointers, no padding, and no index that a hostile value could send outside of `bytes`.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bulkhead::devproc {

template <std::size_t N>
struct ByteFifo {
  static_assert(N >= 2 && N <= 128 && (N & (N - 1)) == 0, "a power of two that a byte can count");

  std::uint8_t head = 0;  // index of the oldest byte
  std::uint8_t count = 0;
  std::uint8_t bytes[N] = {};

  [[nodiscard]] bool empty() const { return count == 0; }
  [[nodiscard]] std::size_t room() const { return count >= N ? 0 : N - count; }
  // False when there is no room; the byte is then not taken.
  bool push(std::uint8_t byte) {
    if (room() == 0) return false;
    bytes[(head + count) % N] = byte;
    ++count;
    return true;
  }
  [[nodiscard]] std::uint8_t front() const { return bytes[head % N]; }
  // Takes the oldest byte; 0 when there is none.
  std::uint8_t pop() {
    if (empty()) return 0;
    const std::uint8_t byte = front();
    head = static_cast<std::uint8_t>((head + 1) % N);
    --count;
    return byte;
  }
  void clear() { *this = ByteFifo{}; }
  // Brings foreign values into range (Device::restore()).
  void sanitize() {
    head %= N;
    if (count > N) count = N;
  }

  bool operator==(const ByteFifo&) const = default;
};

}  // namespace bulkhead::devproc
