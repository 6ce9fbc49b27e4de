// The block device's requests and configuration, each as a driver makes it: VIRTIO 1.2, section 5.2.
#include "devproc/models/virtio_blk/virtio_blk.h"

#include <gmock/gmock.h>

#include "tests/unit/devproc/models/virtio_blk_rig.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio;
using namespace virtio_blk_spec;
using ::testing::Each;

constexpr GuestPhys kAt = BlkRig::kRequests;
constexpr GuestPhys kData = kAt + 512;
constexpr GuestPhys kStatus = kAt + 256;
constexpr std::uint8_t kNoStatus = BlkRig::kNoStatus;

void fill(BlkRig& rig, GuestPhys at, std::size_t count, std::uint8_t value) {
  for (std::size_t i = 0; i < count; ++i) rig.fakes.memory.store<std::uint8_t>(at + i, value);
}

TEST(VirtioBlkConfig, tells_of_the_disk) {
  BlkRig rig({.queues = 3,
              .disk = {.bytes = 1 << 20,
                       .logical_block = 1024,
                       .physical_block = 4096,
                       .optimal_io = 64 * 1024,
                       .discard = true,
                       .write_zeroes = true}});
  EXPECT_EQ(rig.config(0, 8), 2048U);       // capacity, in sectors of 512 bytes
  EXPECT_EQ(rig.config(8, 4), 0U);          // size_max
  EXPECT_EQ(rig.config(12, 4), 254U);       // seg_max
  EXPECT_EQ(rig.config(20, 4), 1024U);      // blk_size
  EXPECT_EQ(rig.config(24, 1), 2U);         // physical_block_exp
  EXPECT_EQ(rig.config(26, 2), 4U);         // min_io_size
  EXPECT_EQ(rig.config(28, 4), 64U);        // opt_io_size
  EXPECT_EQ(rig.config(34, 2), 3U);         // num_queues
  EXPECT_EQ(rig.config(36, 4), 4U << 20);   // max_discard_sectors
  EXPECT_EQ(rig.config(40, 4), 1U);         // max_discard_seg
  EXPECT_EQ(rig.config(44, 4), 8U);         // discard_sector_alignment
  EXPECT_EQ(rig.config(48, 4), 64U << 10);  // max_write_zeroes_sectors
  EXPECT_EQ(rig.config(52, 4), 1U);         // max_write_zeroes_seg
  EXPECT_EQ(rig.config(56, 1), 1U);         // write_zeroes_may_unmap
  EXPECT_EQ(rig.config(60, 8), 0U);
  rig.set_common(kQueueSelect, 2, 2);
  rig.set_common(kQueueReset, 2, 1);
  EXPECT_GE(rig.common(kQueueSize, 2), VirtioBlk::kSegMax + 2) << "a request of seg_max segments has to fit";
}

TEST(VirtioBlkConfig, offers_what_the_disk_can_do) {
  const auto offers = [](BlkRig& rig, unsigned bit) { return (rig.offered() & feature_bit(bit)) != 0; };
  BlkRig all({.queues = 2});
  for (const unsigned bit : {kVirtioBlkFSegMax, kVirtioBlkFBlkSize, kVirtioBlkFTopology, kVirtioBlkFFlush,
                             kVirtioBlkFMq, kVirtioBlkFDiscard, kVirtioBlkFWriteZeroes})
    EXPECT_TRUE(offers(all, bit)) << bit;
  for (const unsigned bit : {kVirtioBlkFSizeMax, kVirtioBlkFRo, kVirtioBlkFConfigWce})
    EXPECT_FALSE(offers(all, bit)) << bit;
  BlkRig plain({.disk = {.bytes = 512}});
  for (const unsigned bit : {kVirtioBlkFMq, kVirtioBlkFDiscard, kVirtioBlkFWriteZeroes})
    EXPECT_FALSE(offers(plain, bit)) << bit;
  EXPECT_EQ(plain.config(36, 8), 0U);
  BlkRig read_only({.disk = {.bytes = 512, .read_only = true, .discard = true, .write_zeroes = true}});
  EXPECT_TRUE(offers(read_only, kVirtioBlkFRo));
  EXPECT_FALSE(offers(read_only, kVirtioBlkFDiscard));
  EXPECT_FALSE(offers(read_only, kVirtioBlkFWriteZeroes));
}

class VirtioBlkLayout : public ::testing::TestWithParam<std::tuple<bool, bool>> {
 protected:
  BlkRig rig{{.packed = std::get<0>(GetParam())}};
  bool indirect = std::get<1>(GetParam());
};

TEST_P(VirtioBlkLayout, read) {
  EXPECT_EQ(rig.request(kVirtioBlkTIn, 5, 1024, indirect), kVirtioBlkSOk);
  EXPECT_EQ(rig.bytes(kData, 1024), rig.on_disk(5, 2));
  EXPECT_EQ(rig.used->written, 1025U);
}

TEST_P(VirtioBlkLayout, write) {
  fill(rig, kData, 1024, 0xa5);
  EXPECT_EQ(rig.request(kVirtioBlkTOut, 62, 1024, indirect), kVirtioBlkSOk);
  EXPECT_THAT(rig.on_disk(62, 2), Each(0xa5));
  EXPECT_EQ(rig.used->written, 1U);
  EXPECT_FALSE(rig.disk.performed[0].stable) << "the driver has flushes for that";
}

TEST_P(VirtioBlkLayout, flush) {
  EXPECT_EQ(rig.request(kVirtioBlkTFlush, 0, 0, indirect), kVirtioBlkSOk);
  ASSERT_EQ(rig.disk.performed.size(), 1U);
  EXPECT_EQ(rig.disk.performed[0].op, BlockOp::kFlush);
}

TEST_P(VirtioBlkLayout, device_id) {
  EXPECT_EQ(rig.request(kVirtioBlkTGetId, 0, 20, indirect), kVirtioBlkSOk);
  const auto id = rig.bytes(kData, 20);
  EXPECT_EQ(std::string(id.begin(), id.end()), std::string("disk-serial") + std::string(9, '\0'));
  EXPECT_EQ(rig.used->written, 21U);
  EXPECT_TRUE(rig.disk.performed.empty());
}

TEST_P(VirtioBlkLayout, discard) {
  rig.fakes.memory.store(kData, VirtioBlkRange{10, 4, 0});
  EXPECT_EQ(rig.request(kVirtioBlkTDiscard, 0, 16, indirect), kVirtioBlkSOk);
  EXPECT_THAT(rig.on_disk(10, 4), Each(0xdd));
  EXPECT_EQ(rig.on_disk(14), BlkRig().on_disk(14));
}

TEST_P(VirtioBlkLayout, write_zeroes) {
  rig.fakes.memory.store(kData, VirtioBlkRange{3, 2, kVirtioBlkRangeUnmap});
  EXPECT_EQ(rig.request(kVirtioBlkTWriteZeroes, 0, 16, indirect), kVirtioBlkSOk);
  EXPECT_THAT(rig.on_disk(3, 2), Each(0));
  EXPECT_TRUE(rig.disk.performed[0].unmap);
  rig.fakes.memory.store(kData, VirtioBlkRange{3, 2, 0});
  EXPECT_EQ(rig.request(kVirtioBlkTWriteZeroes, 0, 16, indirect), kVirtioBlkSOk);
  EXPECT_FALSE(rig.disk.performed[1].unmap);
}

INSTANTIATE_TEST_SUITE_P(Rings, VirtioBlkLayout, ::testing::Combine(::testing::Bool(), ::testing::Bool()));

// ---- Framing: "devices MUST NOT make assumptions about the particular arrangement of descriptors" (2.7.4.1) ----

TEST(VirtioBlkFraming, header_in_pieces) {
  BlkRig rig;
  rig.put_header(kAt, kVirtioBlkTOut, 9);
  fill(rig, kData, 512, 0x11);
  EXPECT_EQ(
      rig.raw({{kAt, 1, false}, {kAt + 1, 6, false}, {kAt + 7, 9, false}, {kData, 512, false}, {kStatus, 1, true}}),
      kVirtioBlkSOk);
  EXPECT_THAT(rig.on_disk(9), Each(0x11));
}

TEST(VirtioBlkFraming, header_and_data_in_one) {
  BlkRig rig;
  rig.put_header(kAt + 0x2000 - 16, kVirtioBlkTOut, 9);
  fill(rig, kAt + 0x2000, 1024, 0x22);
  rig.put_header(kAt, 0, 0);
  EXPECT_EQ(rig.raw({{kAt + 0x2000 - 16, 16 + 300, false}, {kAt + 0x2000 + 300, 724, false}, {kStatus, 1, true}}),
            kVirtioBlkSOk);
  EXPECT_THAT(rig.on_disk(9, 2), Each(0x22));
}

TEST(VirtioBlkFraming, data_and_status_in_one) {
  BlkRig rig;
  rig.put_header(kAt, kVirtioBlkTIn, 4);
  rig.fakes.memory.store<std::uint8_t>(kData + 512, kNoStatus);
  EXPECT_NE(rig.raw({{kAt, 16, false}, {kData, 200, true}, {kData + 200, 313, true}}), kVirtioBlkSOk)
      << "that place is not the status byte's here";
  EXPECT_EQ(rig.bytes(kData, 512), rig.on_disk(4));
  EXPECT_EQ(rig.bytes(kData + 512, 1)[0], kVirtioBlkSOk);
  EXPECT_EQ(rig.used->written, 513U);
}

TEST(VirtioBlkFraming, as_many_segments_as_are_allowed_and_one_more) {
  BlkRig rig({.queue_size = 256, .disk = {.bytes = 1 << 20}});
  for (const std::uint32_t extra : {0U, 1U}) {
    // The header shares the first one: else no chain would be long enough to be too long.
    rig.put_header(kAt, 0, 0);
    rig.put_header(kAt + 0x1000 - 16, kVirtioBlkTOut, 0);
    BlkRig::Buffers buffers = {{kAt + 0x1000 - 16, 16 + 512, false}};
    for (std::uint32_t i = 1; i < VirtioBlk::kSegMax + extra; ++i) buffers.push_back({kAt + 0x4000, 512, false});
    buffers.push_back({kStatus, 1, true});
    EXPECT_EQ(rig.raw(buffers), extra == 0 ? kVirtioBlkSOk : kVirtioBlkSIoErr);
  }
  ASSERT_EQ(rig.disk.performed.size(), 1U);
  EXPECT_EQ(rig.disk.performed[0].length, 254U * 512);
}

// ---- Mistakes ----

TEST(VirtioBlkMistake, unknown_type_is_unsupported) {
  BlkRig rig;
  for (const std::uint32_t type : {2U, 3U, 5U, 9U, 10U, 12U, 14U, 16U, 0x8000'0000U, 0xffff'ffffU})
    EXPECT_EQ(rig.request(type, 0, 0), kVirtioBlkSUnsupp) << type;
  EXPECT_EQ(rig.used->written, 1U);
  rig.put_header(kAt, 77, 0);
  EXPECT_EQ(rig.raw({{kAt, 16, false}, {kData, 512, true}, {kStatus, 1, true}}), kVirtioBlkSUnsupp);
  EXPECT_EQ(rig.used->written, 0U) << "what comes first was not written";
}

TEST(VirtioBlkMistake, short_header) {
  BlkRig rig;
  rig.put_header(kAt, kVirtioBlkTIn, 0);
  EXPECT_EQ(rig.raw({{kAt, 15, false}, {kData, 512, true}, {kStatus, 1, true}}), kVirtioBlkSIoErr);
  rig.put_header(kAt, kVirtioBlkTIn, 0);
  EXPECT_EQ(rig.raw({{kData, 512, true}, {kStatus, 1, true}}), kVirtioBlkSIoErr);
  EXPECT_FALSE(rig.needs_reset());
}

TEST(VirtioBlkMistake, header_outside_ram) {
  BlkRig rig;
  rig.put_header(kAt, kVirtioBlkTIn, 0);
  EXPECT_EQ(rig.raw({{BlkRig::kOutside, 16, false}, {kData, 512, true}, {kStatus, 1, true}}), kVirtioBlkSIoErr);
}

TEST(VirtioBlkMistake, no_place_for_the_status_needs_a_reset) {
  for (const BlkRig::Buffers& buffers :
       {BlkRig::Buffers{{kAt, 16, false}}, BlkRig::Buffers{{kAt, 16, false}, {BlkRig::kOutside, 1, true}}}) {
    BlkRig rig;
    rig.put_header(kAt, kVirtioBlkTFlush, 0);
    EXPECT_EQ(rig.raw(buffers), kNoStatus);
    EXPECT_TRUE(rig.needs_reset());
    EXPECT_TRUE(rig.disk.performed.empty());
  }
}

TEST(VirtioBlkMistake, data_of_no_or_a_broken_number_of_blocks) {
  BlkRig rig;
  for (const std::uint32_t type : {kVirtioBlkTIn, kVirtioBlkTOut}) {
    for (const std::uint32_t length : {0U, 1U, 511U, 513U}) {
      EXPECT_EQ(rig.request(type, 0, length), kVirtioBlkSIoErr) << type << ' ' << length;
    }
  }
  EXPECT_TRUE(rig.disk.performed.empty());
}

TEST(VirtioBlkMistake, sectors_that_are_no_whole_blocks) {
  BlkRig rig({.disk = {.bytes = 64 * 512, .logical_block = 4096, .physical_block = 4096}});
  EXPECT_EQ(rig.request(kVirtioBlkTIn, 8, 4096), kVirtioBlkSOk);
  EXPECT_EQ(rig.request(kVirtioBlkTIn, 4, 4096), kVirtioBlkSIoErr);
  EXPECT_EQ(rig.request(kVirtioBlkTIn, 8, 2048), kVirtioBlkSIoErr);
}

TEST(VirtioBlkMistake, beyond_the_end) {
  BlkRig rig;
  for (const std::uint32_t type : {kVirtioBlkTIn, kVirtioBlkTOut}) {
    EXPECT_EQ(rig.request(type, 63, 512), kVirtioBlkSOk);
    EXPECT_EQ(rig.request(type, 63, 1024), kVirtioBlkSIoErr);
    EXPECT_EQ(rig.request(type, 64, 512), kVirtioBlkSIoErr);
    EXPECT_EQ(rig.request(type, UINT64_MAX, 512), kVirtioBlkSIoErr);
    EXPECT_EQ(rig.request(type, std::uint64_t{1} << 55, 512), kVirtioBlkSIoErr) << "times 512 it is 0";
  }
  EXPECT_EQ(rig.used->written, 1U);
}

TEST(VirtioBlkMistake, data_outside_ram) {
  BlkRig rig;
  rig.put_header(kAt, kVirtioBlkTIn, 0);
  EXPECT_EQ(rig.raw({{kAt, 16, false}, {BlkRig::kOutside, 512, true}, {kStatus, 1, true}}), kVirtioBlkSIoErr);
  EXPECT_EQ(rig.used->written, 0U);
  EXPECT_FALSE(rig.needs_reset());
}

TEST(VirtioBlkMistake, write_to_a_read_only_disk) {
  BlkRig rig({.disk = {.bytes = 64 * 512, .read_only = true, .discard = true, .write_zeroes = true}});
  rig.fakes.memory.store(kData, VirtioBlkRange{0, 1, 0});
  EXPECT_EQ(rig.request(kVirtioBlkTOut, 0, 512), kVirtioBlkSIoErr);
  EXPECT_EQ(rig.request(kVirtioBlkTDiscard, 0, 16), kVirtioBlkSIoErr);
  EXPECT_EQ(rig.request(kVirtioBlkTWriteZeroes, 0, 16), kVirtioBlkSIoErr);
  EXPECT_EQ(rig.request(kVirtioBlkTIn, 0, 512), kVirtioBlkSOk);
  EXPECT_EQ(rig.request(kVirtioBlkTFlush, 0, 0), kVirtioBlkSOk);
}

TEST(VirtioBlkMistake, ranges) {
  BlkRig rig;
  const auto with = [&](std::uint32_t type, VirtioBlkRange range, std::uint32_t bytes = 16) {
    rig.fakes.memory.store(kData, range);
    return rig.request(type, 0, bytes);
  };
  for (const std::uint32_t type : {kVirtioBlkTDiscard, kVirtioBlkTWriteZeroes}) {
    EXPECT_EQ(with(type, {0, 1, 2}), kVirtioBlkSUnsupp) << "an unknown flag";
    EXPECT_EQ(with(type, {0, 1, 0x8000'0000}), kVirtioBlkSUnsupp);
    EXPECT_EQ(with(type, {0, 1, 0}, 32), kVirtioBlkSUnsupp) << "more ranges than allowed";
    EXPECT_EQ(with(type, {0, 1, 0}, 0), kVirtioBlkSIoErr);
    EXPECT_EQ(with(type, {0, 1, 0}, 15), kVirtioBlkSIoErr);
    EXPECT_EQ(with(type, {0, 65, 0}), kVirtioBlkSIoErr);
    EXPECT_EQ(with(type, {64, 1, 0}), kVirtioBlkSIoErr);
    EXPECT_EQ(with(type, {UINT64_MAX, 2, 0}), kVirtioBlkSIoErr);
    EXPECT_EQ(with(type, {0, 0, 0}), kVirtioBlkSOk) << "nothing to do";
  }
  EXPECT_EQ(with(kVirtioBlkTDiscard, {0, 1, kVirtioBlkRangeUnmap}), kVirtioBlkSUnsupp);
  EXPECT_TRUE(rig.disk.performed.empty());
  BlkRig big({.disk = {.bytes = 64 << 20, .write_zeroes = true}});
  big.fakes.memory.store(kData, VirtioBlkRange{0, VirtioBlk::kMaxWriteZeroesSectors + 1, 0});
  EXPECT_EQ(big.request(kVirtioBlkTWriteZeroes, 0, 16), kVirtioBlkSIoErr);
  EXPECT_EQ(big.request(kVirtioBlkTDiscard, 0, 16), kVirtioBlkSUnsupp) << "not offered";
}

TEST(VirtioBlkMistake, unmap_without_discard_only_writes_zeroes) {
  BlkRig rig({.disk = {.bytes = 64 * 512, .write_zeroes = true}});
  rig.fakes.memory.store(kData, VirtioBlkRange{3, 2, kVirtioBlkRangeUnmap});
  EXPECT_EQ(rig.request(kVirtioBlkTWriteZeroes, 0, 16), kVirtioBlkSOk);
  EXPECT_FALSE(rig.disk.performed[0].unmap);
}

TEST(VirtioBlkMistake, device_id_of_another_length) {
  BlkRig rig;
  EXPECT_EQ(rig.request(kVirtioBlkTGetId, 0, 4), kVirtioBlkSOk);
  EXPECT_EQ(rig.used->written, 5U);
  fill(rig, kData, 64, 0x77);
  EXPECT_EQ(rig.request(kVirtioBlkTGetId, 0, 24), kVirtioBlkSOk);
  EXPECT_EQ(rig.bytes(kData + 20, 1)[0], 0x77);
  EXPECT_EQ(rig.used->written, 20U) << "the bytes behind it were not written";
}

// ---- The host's answers ----

TEST(VirtioBlkHost, errors_reach_the_guest) {
  BlkRig rig;
  BlockStatus fate = BlockStatus::kError;
  rig.disk.fate = [&](const BlockRequest&) { return fate; };
  EXPECT_EQ(rig.request(kVirtioBlkTIn, 0, 512), kVirtioBlkSIoErr);
  EXPECT_EQ(rig.used->written, 0U);
  fate = BlockStatus::kNoSpace;
  EXPECT_EQ(rig.request(kVirtioBlkTOut, 0, 512), kVirtioBlkSIoErr);
  fate = BlockStatus::kUnsupported;
  rig.fakes.memory.store(kData, VirtioBlkRange{3, 2, 0});
  EXPECT_EQ(rig.request(kVirtioBlkTDiscard, 0, 16), kVirtioBlkSUnsupp);
  fate = BlockStatus::kOk;
  EXPECT_EQ(rig.request(kVirtioBlkTIn, 0, 512), kVirtioBlkSOk) << "the device goes on";
}

TEST(VirtioBlkHost, driver_without_flush_gets_a_write_through_disk) {
  const std::uint64_t flush = feature_bit(kVirtioBlkFFlush);
  BlkRig rig({.without = flush});
  rig.fakes.memory.store(kData, VirtioBlkRange{3, 2, 0});
  EXPECT_EQ(rig.request(kVirtioBlkTOut, 0, 512), kVirtioBlkSOk);
  EXPECT_EQ(rig.request(kVirtioBlkTWriteZeroes, 0, 16), kVirtioBlkSOk);
  EXPECT_EQ(rig.request(kVirtioBlkTIn, 0, 512), kVirtioBlkSOk);
  EXPECT_TRUE(rig.disk.performed[0].stable);
  EXPECT_TRUE(rig.disk.performed[1].stable);
  EXPECT_FALSE(rig.disk.performed[2].stable);
  BlkRig no_cache({.without = flush, .disk = {.bytes = 64 * 512, .volatile_cache = false}});
  EXPECT_EQ(no_cache.request(kVirtioBlkTOut, 0, 512), kVirtioBlkSOk);
  EXPECT_FALSE(no_cache.disk.performed[0].stable) << "it is so in any case";
}

}  // namespace
}  // namespace bulkhead::devproc
