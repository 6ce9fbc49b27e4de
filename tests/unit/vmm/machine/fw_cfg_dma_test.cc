#include "vmm/machine/fw_cfg_dma.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/fakes/fw_cfg_data.h"

namespace bulkhead::vmm {
namespace {

constexpr std::uint64_t kAccess = 0x1000;
constexpr std::uint64_t kTo = 0x2000;
constexpr std::uint32_t kError = 1;
constexpr std::uint32_t kRead = 2;
constexpr std::uint32_t kSkip = 4;
constexpr std::uint32_t kSelect = 8;
constexpr std::uint32_t kWrite = 16;
constexpr std::uint16_t kItem = kFwCfgFirstFile;

class FwCfgDmaTest : public ::testing::Test {
 protected:
  std::string item = "0123456789";
  std::vector<std::byte> region = fw_cfg_data({{kFwCfgSignature, "QEMU"}, {kItem, item}});
  GuestRam ram = *GuestRam::create(*plan_memory(16 * kMiB));
  FwCfgDma dma{region, ram};

  // What the control word is afterwards.
  std::uint32_t ask(std::uint32_t control, std::uint32_t length, std::uint64_t address, FwCfgTransfer from = {}) {
    from.address = kAccess;
    ram.store<std::uint32_t>(kAccess, __builtin_bswap32(control));
    ram.store<std::uint32_t>(kAccess + 4, __builtin_bswap32(length));
    ram.store<std::uint64_t>(kAccess + 8, __builtin_bswap64(address));
    at = dma.transfer(from);
    return __builtin_bswap32(*ram.load<std::uint32_t>(kAccess));
  }
  std::string text(std::uint64_t address, std::size_t size) {
    std::string out(size, '\0');
    EXPECT_TRUE(ram.read(address, std::as_writable_bytes(std::span(out))));
    return out;
  }
  void fill(std::uint64_t address, std::size_t size) {
    const std::string ones(size, '\xff');
    ram.write(address, std::as_bytes(std::span(ones)));
  }
  FwCfgTransfers::Position at{};
};

TEST_F(FwCfgDmaTest, select_and_read_copies_the_item) {
  EXPECT_EQ(ask(std::uint32_t{kItem} << 16 | kSelect | kRead, 4, kTo), 0U);
  EXPECT_EQ(text(kTo, 4), "0123");
  EXPECT_EQ(at.selector, kItem);
  EXPECT_EQ(at.offset, 4U);
}

TEST_F(FwCfgDmaTest, a_read_goes_on_where_the_item_stands) {
  EXPECT_EQ(ask(kRead, 3, kTo, {.offset = 4, .selector = kItem}), 0U);
  EXPECT_EQ(text(kTo, 3), "456");
  EXPECT_EQ(at.offset, 7U);
}

TEST_F(FwCfgDmaTest, what_lies_behind_an_item_reads_as_zero) {
  fill(kTo, 8);
  EXPECT_EQ(ask(kRead, 6, kTo, {.offset = 8, .selector = kItem}), 0U);
  EXPECT_EQ(text(kTo, 8), std::string("89\0\0\0\0\xff\xff", 8));
  EXPECT_EQ(at.offset, 10U);
}

TEST_F(FwCfgDmaTest, an_item_that_is_not_there_reads_as_zero) {
  fill(kTo, 4);
  EXPECT_EQ(ask(0x77770000U | kSelect | kRead, 4, kTo), 0U);
  EXPECT_EQ(text(kTo, 4), std::string(4, '\0'));
}

TEST_F(FwCfgDmaTest, skip_passes_bytes_by_and_stops_at_the_end) {
  EXPECT_EQ(ask(std::uint32_t{kItem} << 16 | kSelect | kSkip, 6, 0), 0U);
  EXPECT_EQ(at.offset, 6U);
  EXPECT_EQ(ask(kSkip, UINT32_MAX, 0, {.offset = 6, .selector = kItem}), 0U);
  EXPECT_EQ(at.offset, 10U);
}

TEST_F(FwCfgDmaTest, select_alone_moves_nothing) {
  EXPECT_EQ(ask(std::uint32_t{kItem} << 16 | kSelect, 100, kTo, {.offset = 3, .selector = 0}), 0U);
  EXPECT_EQ(at.selector, kItem);
  EXPECT_EQ(at.offset, 0U);
  EXPECT_EQ(text(kTo, 4), std::string(4, '\0'));
}

TEST_F(FwCfgDmaTest, a_write_is_refused) {
  EXPECT_EQ(ask(kWrite, 4, kTo, {.offset = 1, .selector = kItem}), kError);
  EXPECT_EQ(at.offset, 1U);
}

TEST_F(FwCfgDmaTest, what_is_not_all_ram_is_refused_and_nothing_is_touched) {
  for (const std::uint64_t address : {16 * kMiB - 2, std::uint64_t{0xfffc0000}, UINT64_MAX - 1, UINT64_MAX})
    EXPECT_EQ(ask(kRead, 4, address, {.offset = 0, .selector = kItem}), kError) << address;
  EXPECT_EQ(text(16 * kMiB - 2, 2), std::string(2, '\0'));
  EXPECT_EQ(ask(kRead, UINT32_MAX, kTo, {.offset = 0, .selector = kItem}), kError);
  EXPECT_EQ(at.offset, 0U);
}

TEST_F(FwCfgDmaTest, an_access_that_is_not_in_ram_does_nothing) {
  for (const std::uint64_t address : {16 * kMiB - 8, std::uint64_t{0xffffffff}, UINT64_MAX}) {
    at = dma.transfer({.address = address, .offset = 5, .selector = kItem});
    EXPECT_EQ(at.selector, kItem);
    EXPECT_EQ(at.offset, 5U);
  }
}

// Positions come from a process that may be hostile.
TEST_F(FwCfgDmaTest, no_position_reads_beyond_the_item) {
  for (const std::uint32_t offset : {10U, 11U, UINT32_MAX}) {
    fill(kTo, 4);
    EXPECT_EQ(ask(kRead, 4, kTo, {.offset = offset, .selector = kItem}), 0U);
    EXPECT_EQ(text(kTo, 4), std::string(4, '\0')) << offset;
  }
}

// Done once or twice, the guest sees the same: the vCPU that asked waits meanwhile.
TEST_F(FwCfgDmaTest, doing_it_again_changes_nothing) {
  ask(kRead, 4, kTo, {.offset = 2, .selector = kItem});
  const auto first = at;
  ask(kRead, 4, kTo, {.offset = 2, .selector = kItem});
  EXPECT_EQ(text(kTo, 4), "2345");
  EXPECT_EQ(at.offset, first.offset);
}

}  // namespace
}  // namespace bulkhead::vmm
