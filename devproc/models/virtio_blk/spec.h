// The block device as its driver sees it. The specification's names, spelled as constants are here. All fields are
// little-endian, as is this host.
//
// Document: Virtual I/O Device (VIRTIO) Version 1.2, sections 5.2.3 (feature bits), 5.2.4 (configuration) and 5.2.6
// (requests).
#pragma once

#include <cstddef>
#include <cstdint>

namespace bulkhead::devproc::virtio_blk_spec {

// Feature bits, as numbers of bits: section 5.2.3.
inline constexpr unsigned kVirtioBlkFSizeMax = 1;
inline constexpr unsigned kVirtioBlkFSegMax = 2;
inline constexpr unsigned kVirtioBlkFRo = 5;
inline constexpr unsigned kVirtioBlkFBlkSize = 6;
inline constexpr unsigned kVirtioBlkFFlush = 9;
inline constexpr unsigned kVirtioBlkFTopology = 10;
inline constexpr unsigned kVirtioBlkFConfigWce = 11;
inline constexpr unsigned kVirtioBlkFMq = 12;
inline constexpr unsigned kVirtioBlkFDiscard = 13;
inline constexpr unsigned kVirtioBlkFWriteZeroes = 14;

// "capacity ... is always expressed in 512-byte sectors", and so is every sector number, whatever blk_size says.
inline constexpr std::uint32_t kSectorBytes = 512;

// struct virtio_blk_config: section 5.2.4. What lies behind it (secure erase) reads zero.
struct VirtioBlkDeviceConfig {
  std::uint64_t capacity = 0;
  std::uint32_t size_max = 0;
  std::uint32_t seg_max = 0;
  std::uint16_t cylinders = 0;
  std::uint8_t heads = 0;
  std::uint8_t sectors = 0;
  std::uint32_t blk_size = 0;
  std::uint8_t physical_block_exp = 0;
  std::uint8_t alignment_offset = 0;
  std::uint16_t min_io_size = 0;  // in logical blocks
  std::uint32_t opt_io_size = 0;  // in logical blocks
  std::uint8_t writeback = 0;
  std::uint8_t unused0 = 0;
  std::uint16_t num_queues = 0;
  std::uint32_t max_discard_sectors = 0;
  std::uint32_t max_discard_seg = 0;
  std::uint32_t discard_sector_alignment = 0;
  std::uint32_t max_write_zeroes_sectors = 0;
  std::uint32_t max_write_zeroes_seg = 0;
  std::uint8_t write_zeroes_may_unmap = 0;
  std::uint8_t unused1[3] = {};
};
static_assert(sizeof(VirtioBlkDeviceConfig) == 64 && offsetof(VirtioBlkDeviceConfig, blk_size) == 20 &&
              offsetof(VirtioBlkDeviceConfig, num_queues) == 34 &&
              offsetof(VirtioBlkDeviceConfig, write_zeroes_may_unmap) == 56);

// The header of struct virtio_blk_req: section 5.2.6. Data follows, and last the status byte.
struct VirtioBlkHeader {
  std::uint32_t type = 0;
  std::uint32_t reserved = 0;
  std::uint64_t sector = 0;
};
static_assert(sizeof(VirtioBlkHeader) == 16);

inline constexpr std::uint32_t kVirtioBlkTIn = 0;
inline constexpr std::uint32_t kVirtioBlkTOut = 1;
inline constexpr std::uint32_t kVirtioBlkTFlush = 4;
inline constexpr std::uint32_t kVirtioBlkTGetId = 8;
inline constexpr std::uint32_t kVirtioBlkTDiscard = 11;
inline constexpr std::uint32_t kVirtioBlkTWriteZeroes = 13;

inline constexpr std::uint32_t kIdBytes = 20;

// struct virtio_blk_discard_write_zeroes.
struct VirtioBlkRange {
  std::uint64_t sector = 0;
  std::uint32_t num_sectors = 0;
  std::uint32_t flags = 0;
};
static_assert(sizeof(VirtioBlkRange) == 16);
inline constexpr std::uint32_t kVirtioBlkRangeUnmap = 1U << 0;

inline constexpr std::uint8_t kVirtioBlkSOk = 0;
inline constexpr std::uint8_t kVirtioBlkSIoErr = 1;
inline constexpr std::uint8_t kVirtioBlkSUnsupp = 2;

}  // namespace bulkhead::devproc::virtio_blk_spec
