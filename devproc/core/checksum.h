// Sums over the bytes of frames: what a network card computes for its driver. Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace bulkhead::devproc {

// The Internet checksum's sum (RFC 1071) of `bytes` as big-endian words, the last one filled up with a zero, added to
// `before` and folded to 16 bits. Its complement is the checksum; a range that holds its own checksum sums to ffffh.
[[nodiscard]] std::uint16_t internet_sum(std::span<const std::byte> bytes, std::uint32_t before = 0);

// The frame check sequence of an Ethernet frame (IEEE 802.3, 3.2.9), its first byte in the low bits.
[[nodiscard]] std::uint32_t frame_check_sequence(std::span<const std::byte> frame);

[[nodiscard]] inline std::uint16_t load_be16(std::span<const std::byte> bytes, std::size_t at) {
  return static_cast<std::uint16_t>(std::to_integer<unsigned>(bytes[at]) << 8 |
                                    std::to_integer<unsigned>(bytes[at + 1]));
}
inline void store_be16(std::span<std::byte> bytes, std::size_t at, std::uint32_t value) {
  bytes[at] = static_cast<std::byte>(value >> 8);
  bytes[at + 1] = static_cast<std::byte>(value);
}
[[nodiscard]] inline std::uint32_t load_be32(std::span<const std::byte> bytes, std::size_t at) {
  return std::uint32_t{load_be16(bytes, at)} << 16 | load_be16(bytes, at + 2);
}
inline void store_be32(std::span<std::byte> bytes, std::size_t at, std::uint32_t value) {
  store_be16(bytes, at, value >> 16);
  store_be16(bytes, at + 2, value);
}

}  // namespace bulkhead::devproc
