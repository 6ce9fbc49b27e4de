// MappedGuestMemory: copies within RAM that lies in several ranges, against a picture byte by byte.
#include "devproc/host/mapped_guest_memory.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace bulkhead::devproc {
namespace {

constexpr std::size_t kSize = 4 * 4096;
constexpr GuestPhys kHigh = 0x1'0000'0000;

class MappedGuestMemoryTest : public ::testing::Test {
 protected:
  MappedGuestMemoryTest() {
    EXPECT_TRUE(memory.add(0, 4096, 0, region));
    EXPECT_TRUE(memory.add(4096, 4096, 2 * 4096, region));  // adjoins the first, but lies elsewhere
    EXPECT_TRUE(memory.add(kHigh, 4096, 4096, region));
  }
  bool write(GuestPhys address, const std::string& bytes) {
    return memory.write(address, std::as_bytes(std::span(bytes)));
  }
  std::string read(GuestPhys address, std::size_t size) {
    std::string bytes(size, '?');
    return memory.read(address, std::as_writable_bytes(std::span(bytes))) ? bytes : "refused";
  }
  ipc::WritableRegion region = ipc::WritableRegion::create("ram", kSize, ipc::PeerRights::kReadWrite).value();
  MappedGuestMemory memory;
};

TEST_F(MappedGuestMemoryTest, an_access_may_cross_from_one_range_into_the_next) {
  ASSERT_TRUE(write(4094, "abcd"));
  EXPECT_EQ(read(4094, 4), "abcd");
  EXPECT_EQ(region.bytes()[4095], std::byte{'b'});
  EXPECT_EQ(region.bytes()[2 * 4096], std::byte{'c'});
  EXPECT_EQ(region.bytes()[4096], std::byte{0}) << "that page is high RAM";
}

TEST_F(MappedGuestMemoryTest, an_access_that_leaves_ram_touches_nothing) {
  EXPECT_FALSE(write(8190, "xyz"));
  EXPECT_EQ(read(8190, 2), std::string(2, '\0'));
  EXPECT_FALSE(write(kHigh - 1, "xy"));
  EXPECT_EQ(read(kHigh, 1), std::string(1, '\0'));
  EXPECT_FALSE(write(UINT64_MAX, "x"));
  EXPECT_FALSE(write(UINT64_MAX - 1, "xyz"));
  EXPECT_EQ(read(8192, 1), "refused");
}

TEST_F(MappedGuestMemoryTest, nothing_at_all_fits_anywhere) {
  EXPECT_TRUE(write(0, ""));
  EXPECT_TRUE(write(0x5000'0000, ""));
}

TEST_F(MappedGuestMemoryTest, a_range_must_lie_within_its_region) {
  MappedGuestMemory other;
  EXPECT_FALSE(other.add(0, kSize + 1, 0, region));
  EXPECT_FALSE(other.add(0, 4096, kSize - 4095, region));
  EXPECT_FALSE(other.add(0, 0, 0, region));
  EXPECT_FALSE(other.add(UINT64_MAX - 100, 4096, 0, region)) << "and not wrap in the guest's addresses";
  EXPECT_FALSE(other.add(0, 4096, UINT64_MAX, region));
  EXPECT_TRUE(other.add(0, kSize, 0, region));
}

TEST_F(MappedGuestMemoryTest, random_copies_agree_with_a_byte_by_byte_picture) {
  std::map<GuestPhys, std::byte> picture;
  for (GuestPhys a = 0; a < 8192; ++a) picture[a] = std::byte{0};
  for (GuestPhys a = kHigh; a < kHigh + 4096; ++a) picture[a] = std::byte{0};
  std::mt19937_64 random(1);
  for (int i = 0; i < 20'000; ++i) {
    const GuestPhys bases[] = {0, 4000, 8100, kHigh - 50, kHigh + 4000};
    const GuestPhys address = bases[random() % 5] + random() % 200;
    std::vector<std::byte> bytes(random() % 150);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    bool inside = true;
    for (std::size_t b = 0; b < bytes.size(); ++b) inside = inside && picture.contains(address + b);
    if (random() % 2 == 0) {
      ASSERT_EQ(memory.write(address, bytes), inside);
      for (std::size_t b = 0; inside && b < bytes.size(); ++b) picture[address + b] = bytes[b];
    } else {
      ASSERT_EQ(memory.read(address, bytes), inside);
      for (std::size_t b = 0; inside && b < bytes.size(); ++b) ASSERT_EQ(bytes[b], picture[address + b]);
    }
  }
}

TEST_F(MappedGuestMemoryTest, host_range_ends_where_a_piece_of_ram_does) {
  const auto range = [&](GuestPhys address, std::uint64_t length) { return memory.host_range(address, length); };
  EXPECT_EQ(range(16, 100).data(), region.bytes().data() + 16);
  EXPECT_EQ(range(16, 100).size(), 100U);
  EXPECT_EQ(range(4000, 4096).size(), 96U) << "the next piece lies elsewhere";
  EXPECT_EQ(range(4096, UINT64_MAX).size(), 4096U);
  EXPECT_EQ(range(4096, 1).data(), region.bytes().data() + 2 * 4096);
  EXPECT_EQ(range(kHigh + 4095, 2).size(), 1U);
  EXPECT_TRUE(range(2 * 4096, 1).empty());
  EXPECT_TRUE(range(kHigh + 4096, 1).empty());
  EXPECT_TRUE(range(UINT64_MAX, 1).empty());
}

}  // namespace
}  // namespace bulkhead::devproc
