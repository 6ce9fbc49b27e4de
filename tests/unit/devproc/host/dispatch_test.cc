// dispatch: how an access becomes calls of a model, against a register file that takes only some widths.
#include "devproc/host/dispatch.h"

#include <gtest/gtest.h>

#include <array>
#include <random>
#include <vector>

namespace bulkhead::devproc {
namespace {

// 64 bytes of memory behind each region; remembers each access, knows no register at kHole.
class Registers final : public Device {
 public:
  static constexpr std::uint64_t kHole = 40;
  struct Call {
    RegionIndex region;
    std::uint64_t offset;
    std::uint8_t size;
    bool write;
    std::uint64_t value;
    bool operator==(const Call&) const = default;
  };

  [[nodiscard]] std::string_view name() const override { return "registers"; }
  [[nodiscard]] std::span<const RegionSpec> regions() const override { return kRegions; }
  std::optional<std::uint64_t> read(const Access& access) override {
    calls.push_back({access.region, access.offset, access.size, false, 0});
    if (access.offset == kHole) return std::nullopt;
    std::uint64_t value = 0;
    for (std::uint8_t i = 0; i < access.size; ++i) value |= std::uint64_t{bytes[access.offset + i]} << (8 * i);
    return value | ~devproc::all_ones(access.size);  // bits beyond the access are nobody's business
  }
  bool write(const Access& access, std::uint64_t value) override {
    calls.push_back({access.region, access.offset, access.size, true, value});
    if (access.offset == kHole) return false;
    for (std::uint8_t i = 0; i < access.size; ++i)
      bytes[access.offset + i] = static_cast<std::uint8_t>(value >> (8 * i));
    return true;
  }
  void reset() override {}
  void restore() override {}

  static constexpr std::array<RegionSpec, 5> kRegions{
      {{"bytes", AddressKind::kPort, 64, kSize1},
       {"up to words", AddressKind::kPort, 64, kSizeUpTo2},
       {"dwords", AddressKind::kMemory, 64, kSize4},
       {"dwords and quadwords", AddressKind::kMemory, 64, static_cast<AccessSizes>(kSize4 | kSize8)},
       {"all", AddressKind::kMemory, 64, kSizeUpTo8}}};
  std::array<std::uint8_t, 64> bytes{};
  std::vector<Call> calls;
};

class DispatchTest : public ::testing::Test {
 protected:
  DispatchTest() {
    for (std::size_t i = 0; i < 64; ++i) device.bytes[i] = static_cast<std::uint8_t>(0x80 + i);
  }
  std::uint64_t read(RegionIndex region, std::uint64_t offset, std::uint8_t size) {
    device.calls.clear();
    std::uint64_t value = 0;
    known = dispatch_read(device, {region, offset, size}, value);
    return value;
  }
  std::string widths() const {
    std::string text;
    for (const Registers::Call& call : device.calls)
      text += std::to_string(call.offset) + ":" + std::to_string(call.size) + " ";
    return text;
  }
  Registers device;
  bool known = false;
};

TEST_F(DispatchTest, an_access_that_the_region_takes_goes_through_whole) {
  EXPECT_EQ(read(4, 3, 8), 0x8a89888786858483U);
  EXPECT_EQ(widths(), "3:8 ");
  EXPECT_EQ(read(2, 4, 4), 0x87868584U);
  EXPECT_EQ(widths(), "4:4 ");
  EXPECT_EQ(read(0, 9, 1), 0x89U);
  EXPECT_TRUE(known);
}

TEST_F(DispatchTest, a_wider_access_is_split_into_the_widest_aligned_pieces) {
  EXPECT_EQ(read(0, 0, 4), 0x83828180U);
  EXPECT_EQ(widths(), "0:1 1:1 2:1 3:1 ");
  EXPECT_EQ(read(1, 0, 4), 0x83828180U);
  EXPECT_EQ(widths(), "0:2 2:2 ");
  EXPECT_EQ(read(1, 1, 4), 0x84838281U);
  EXPECT_EQ(widths(), "1:1 2:2 4:1 ");
  EXPECT_EQ(read(2, 8, 8), 0x8f8e8d8c8b8a8988U);
  EXPECT_EQ(widths(), "8:4 12:4 ");
  EXPECT_TRUE(known);
}

TEST_F(DispatchTest, a_hole_reads_ones_and_only_there) {
  EXPECT_EQ(read(0, 38, 4), 0xa9ffa7a6U);
  EXPECT_FALSE(known);
  EXPECT_EQ(read(4, Registers::kHole, 4), 0xffffffffU);
  EXPECT_FALSE(known);
}

TEST_F(DispatchTest, what_is_written_in_pieces_arrives_whole) {
  EXPECT_TRUE(dispatch_write(device, {1, 1, 4}, 0x44332211));
  EXPECT_EQ(widths(), "1:1 2:2 4:1 ");
  for (std::uint8_t i = 0; i < 4; ++i) EXPECT_EQ(device.bytes[1U + i], 0x11 * (i + 1));
  EXPECT_EQ(device.bytes[5], 0x85);
  EXPECT_FALSE(dispatch_write(device, {0, 39, 2}, 0x1234)) << "the hole did not take its part";
  EXPECT_EQ(device.bytes[39], 0x34);
}

TEST_F(DispatchTest, a_model_sees_no_bits_beyond_the_access) {
  dispatch_write(device, {4, 0, 2}, 0xdeadbeef);
  EXPECT_EQ(device.calls.back().value, 0xbeefU);
}

// Any access against a byte-wise picture of the same registers; every piece is one that the region takes, or one byte.
TEST_F(DispatchTest, any_access_reads_and_writes_the_bytes_that_it_covers) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 50'000; ++i) {
    const auto region = static_cast<RegionIndex>(random() % 5);
    const auto size = static_cast<std::uint8_t>(1U << random() % 4);
    const std::uint64_t offset = random() % (Registers::kHole - size);
    const RegionSpec& spec = Registers::kRegions[region];
    auto wanted = device.bytes;
    device.calls.clear();
    if (random() % 2 == 0) {
      const std::uint64_t value = random();
      ASSERT_TRUE(dispatch_write(device, {region, offset, size}, value));
      for (std::uint8_t b = 0; b < size; ++b) wanted[offset + b] = static_cast<std::uint8_t>(value >> (8 * b));
      ASSERT_EQ(device.bytes, wanted);
    } else {
      std::uint64_t value = 0;
      ASSERT_TRUE(dispatch_read(device, {region, offset, size}, value));
      for (std::uint8_t b = 0; b < 8; ++b) ASSERT_EQ(value >> (8 * b) & 0xff, b < size ? wanted[offset + b] : 0U);
    }
    std::uint64_t covered = 0;
    for (const Registers::Call& call : device.calls) {
      ASSERT_EQ(call.offset, offset + covered);
      ASSERT_TRUE((spec.sizes & call.size) != 0 || call.size == 1);
      covered += call.size;
    }
    ASSERT_EQ(covered, size);
  }
}

// A model that asks the VMM to complete its answer has filled the payload itself; the value it returned is noise.
TEST(Dispatch, the_payload_of_a_redirect_is_left_alone) {
  class Redirecting final : public Device {
   public:
    explicit Redirecting(ipc::Reply& reply) : reply_(reply) {}
    [[nodiscard]] std::string_view name() const override { return "redirecting"; }
    [[nodiscard]] std::span<const RegionSpec> regions() const override { return Registers::kRegions; }
    std::optional<std::uint64_t> read(const Access&) override {
      reply_.status = ipc::ReplyStatus::kPendingBits;
      reply_.payload[0] = 0x12;
      reply_.payload[1] = 0x34;
      reply_.payload[2] = 4;
      return 0;
    }
    bool write(const Access&, std::uint64_t) override { return true; }
    void reset() override {}
    void restore() override {}

   private:
    ipc::Reply& reply_;
  };
  ipc::Reply reply;
  reply.status = ipc::ReplyStatus::kDone;
  Redirecting device(reply);
  ipc::Request request;
  request.kind = ipc::RequestKind::kRead;
  request.region = 2;
  request.size = 4;
  request.count = 1;
  EXPECT_TRUE(dispatch_access(device, request, reply));
  EXPECT_EQ(reply.payload[0], 0x12);
  EXPECT_EQ(reply.payload[1], 0x34);
  EXPECT_EQ(reply.payload[2], 4);
}

}  // namespace
}  // namespace bulkhead::devproc
