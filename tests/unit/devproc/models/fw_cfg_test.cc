#include "devproc/models/fw_cfg/fw_cfg.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "tests/fakes/fake_wires.h"
#include "tests/fakes/register_access.h"

namespace bulkhead::devproc {
namespace {

constexpr std::uint16_t kShort = kFwCfgFirstFile;
constexpr std::uint16_t kEmpty = kFwCfgFirstFile + 1;
constexpr std::uint16_t kLong = 0x8002;

class FwCfgTest : public ::testing::Test {
 protected:
  std::map<std::uint16_t, std::string> items = {
      {kFwCfgSignature, "QEMU"}, {kShort, "abc"}, {kEmpty, ""}, {kLong, std::string(5000, 'l')}};
  FakeWires fakes;
  std::vector<std::byte> region = fw_cfg_data({items.begin(), items.end()});
  FwCfg device{allocate_state<FwCfgState>(fakes.state), region, fakes.redirect};

  void select(std::uint16_t selector) { EXPECT_TRUE(device.write({FwCfg::kSelectorAndData, 0, 2}, selector)); }
  char next() {
    const auto byte = device.read({FwCfg::kSelectorAndData, 1, 1});
    EXPECT_TRUE(byte.has_value());
    return static_cast<char>(byte.value_or(0));
  }
  std::string read(std::size_t count) {
    std::string text;
    while (text.size() < count) text.push_back(next());
    return text;
  }
  void write_address(std::uint64_t address) {
    EXPECT_TRUE(device.write({FwCfg::kDmaAddress, 0, 4}, __builtin_bswap32(static_cast<std::uint32_t>(address >> 32))));
    EXPECT_TRUE(device.write({FwCfg::kDmaAddress, 4, 4}, __builtin_bswap32(static_cast<std::uint32_t>(address))));
  }
};

TEST_F(FwCfgTest, the_signature_is_selected_after_reset) {
  device.reset();
  EXPECT_EQ(read(4), "QEMU");
}

TEST_F(FwCfgTest, an_item_comes_byte_by_byte_and_then_zeroes) {
  select(kShort);
  EXPECT_EQ(read(5), std::string("abc\0\0", 5));
}

TEST_F(FwCfgTest, selecting_starts_an_item_again) {
  select(kShort);
  next();
  select(kShort);
  EXPECT_EQ(read(3), "abc");
}

TEST_F(FwCfgTest, items_that_are_not_there_or_empty_read_as_zero) {
  for (const std::uint16_t selector : {std::uint16_t{0x7777}, std::uint16_t{0xffff}, kEmpty}) {
    select(selector);
    EXPECT_EQ(read(3), std::string(3, '\0')) << selector;
  }
}

// Against the items themselves, whatever the order.
TEST_F(FwCfgTest, random_selections_and_reads_agree_with_the_items) {
  std::mt19937 random(7);
  const std::uint16_t selectors[] = {kFwCfgSignature, kShort, kEmpty, kLong, 0x1234};
  std::uint16_t selector = kFwCfgSignature;
  std::size_t at = 0;
  for (int step = 0; step < 20'000; ++step) {
    if (random() % 50 == 0) {
      selector = selectors[random() % std::size(selectors)];
      at = 0;
      select(selector);
    } else {
      const std::string& item = items[selector];
      ASSERT_EQ(next(), at < item.size() ? item[at] : '\0') << selector << " at " << at;
      ++at;
    }
  }
}

TEST_F(FwCfgTest, the_address_register_reads_as_the_signature_of_dma) {
  std::string text;
  for (std::uint64_t port = 0; port < 8; ++port)
    text.push_back(static_cast<char>(*device.read({FwCfg::kDmaAddress, port, 1})));
  EXPECT_EQ(text, "QEMU CFG");
  EXPECT_EQ(*device.read({FwCfg::kDmaAddress, 4, 4}), 0x47464320U);
}

TEST_F(FwCfgTest, the_low_half_of_the_address_starts_a_transfer_from_where_the_item_stands) {
  select(kShort);
  next();
  write_address(0x1'2345'6780);
  ASSERT_EQ(fakes.redirect.transfers.size(), 1U);
  EXPECT_EQ(fakes.redirect.transfers[0], (FwCfgTransfer{.address = 0x1'2345'6780, .offset = 1, .selector = kShort}));
}

TEST_F(FwCfgTest, the_high_half_is_zero_again_after_a_transfer) {
  write_address(0x1'0000'0000);
  EXPECT_TRUE(device.write({FwCfg::kDmaAddress, 4, 4}, __builtin_bswap32(0x5000)));
  ASSERT_EQ(fakes.redirect.transfers.size(), 2U);
  EXPECT_EQ(fakes.redirect.transfers[1].address, 0x5000U);
}

TEST_F(FwCfgTest, the_next_byte_follows_what_a_transfer_took) {
  write_address(0x1000);
  device.on_transfer_done(kShort, 2);
  EXPECT_EQ(read(2), std::string("c\0", 2));
}

TEST_F(FwCfgTest, narrow_and_foreign_accesses_start_nothing) {
  for (const std::uint8_t size : {1, 2}) EXPECT_FALSE(device.write({FwCfg::kDmaAddress, 4, size}, 0));
  EXPECT_FALSE(device.write({FwCfg::kDmaAddress, 2, 4}, 0));
  EXPECT_FALSE(device.write({FwCfg::kSelectorAndData, 0, 1}, kShort));
  EXPECT_EQ(device.read({FwCfg::kSelectorAndData, 0, 2}), std::nullopt);
  EXPECT_TRUE(fakes.redirect.transfers.empty());
  EXPECT_EQ(read(4), "QEMU") << "the selection is what it was";
}

TEST_F(FwCfgTest, writes_to_the_data_port_are_ignored) {
  select(kShort);
  EXPECT_TRUE(device.write({FwCfg::kSelectorAndData, 1, 1}, 'x'));
  EXPECT_EQ(read(3), "abc");
}

// A process that is only asked for its layout has no region.
TEST(FwCfgWithoutData, reads_zeroes) {
  FakeWires fakes;
  FwCfg device{allocate_state<FwCfgState>(fakes.state), {}, fakes.redirect};
  EXPECT_EQ(*device.read({FwCfg::kSelectorAndData, 1, 1}), 0U);
}

TEST(FwCfgData, items_that_reach_beyond_the_region_are_none) {
  std::vector<std::byte> region = fw_cfg_data({{kShort, "abc"}});
  FwCfgCatalogue catalogue;
  std::memcpy(&catalogue, region.data(), sizeof catalogue);
  for (const auto& [offset, size] : {std::pair<std::uint32_t, std::uint32_t>(sizeof catalogue, 4),
                                     std::pair<std::uint32_t, std::uint32_t>(UINT32_MAX, 1),
                                     std::pair<std::uint32_t, std::uint32_t>(1, UINT32_MAX)}) {
    catalogue.items[0].offset = offset;
    catalogue.items[0].size = size;
    std::memcpy(region.data(), &catalogue, sizeof catalogue);
    EXPECT_TRUE(fw_cfg_item(region, kShort).empty()) << offset << " " << size;
  }
  catalogue.count = UINT32_MAX;
  std::memcpy(region.data(), &catalogue, sizeof catalogue);
  EXPECT_TRUE(fw_cfg_item(region, 0x4321).empty());
}

}  // namespace
}  // namespace bulkhead::devproc
