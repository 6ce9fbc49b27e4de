#include "devproc/core/checksum.h"

#include <array>
#include <cstring>

namespace bulkhead::devproc {
namespace {

constexpr std::size_t kSlices = 8;
using CrcTables = std::array<std::array<std::uint32_t, 256>, kSlices>;

// The reflected polynomial of IEEE 802.3; table n is for a byte that n others follow.
constexpr CrcTables make_crc_tables() {
  CrcTables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xedb8'8320U : 0U);
    tables[0][byte] = crc;
  }
  for (std::size_t n = 1; n < kSlices; ++n) {
    for (std::uint32_t byte = 0; byte < 256; ++byte)
      tables[n][byte] = tables[0][tables[n - 1][byte] & 0xff] ^ (tables[n - 1][byte] >> 8);
  }
  return tables;
}
constexpr CrcTables kCrc = make_crc_tables();

}  // namespace

std::uint16_t internet_sum(std::span<const std::byte> bytes, std::uint32_t before) {
  // One's complement sums do not care for the order of bytes within words, as long as the result is turned round: this
  // host adds little-endian words, four bytes at a time.
  std::uint64_t sum = 0;
  while (bytes.size() >= 4) {
    std::uint32_t word = 0;
    std::memcpy(&word, bytes.data(), 4);
    sum += word;
    bytes = bytes.subspan(4);
  }
  std::uint32_t rest = 0;
  if (!bytes.empty()) std::memcpy(&rest, bytes.data(), bytes.size());
  sum += rest;
  sum = (sum & 0xffff'ffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  std::uint64_t total = std::uint64_t{__builtin_bswap16(static_cast<std::uint16_t>(sum))} + before;
  while (total > 0xffff) total = (total & 0xffff) + (total >> 16);
  return static_cast<std::uint16_t>(total);
}

std::uint32_t frame_check_sequence(std::span<const std::byte> frame) {
  std::uint32_t crc = 0xffff'ffff;
  for (; frame.size() >= 8; frame = frame.subspan(8)) {
    std::uint32_t low = 0;
    std::uint32_t high = 0;
    std::memcpy(&low, frame.data(), 4);
    std::memcpy(&high, frame.data() + 4, 4);
    low ^= crc;
    crc = kCrc[7][low & 0xff] ^ kCrc[6][low >> 8 & 0xff] ^ kCrc[5][low >> 16 & 0xff] ^ kCrc[4][low >> 24] ^
          kCrc[3][high & 0xff] ^ kCrc[2][high >> 8 & 0xff] ^ kCrc[1][high >> 16 & 0xff] ^ kCrc[0][high >> 24];
  }
  for (const std::byte byte : frame) crc = kCrc[0][(crc ^ std::to_integer<std::uint32_t>(byte)) & 0xff] ^ (crc >> 8);
  return ~crc;
}

}  // namespace bulkhead::devproc
