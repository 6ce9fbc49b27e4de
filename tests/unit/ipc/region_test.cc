// Regions: sealed, of the agreed size, and read-only for others when they are said to be.
#include "ipc/shm/region.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

namespace bulkhead::ipc {
namespace {

constexpr std::size_t kSize = 8192;

UniqueFd duplicate(const WritableRegion& region) { return UniqueFd::duplicate(region.fd()).value(); }

TEST(Region, a_new_region_is_zero_and_of_the_size_asked_for) {
  const auto region = WritableRegion::create("test", kSize, PeerRights::kReadWrite);
  ASSERT_TRUE(region);
  ASSERT_EQ(region->bytes().size(), kSize);
  for (const std::byte byte : region->bytes()) ASSERT_EQ(byte, std::byte{0});
}

TEST(Region, both_mappings_show_the_same_bytes) {
  const auto region = WritableRegion::create("test", kSize, PeerRights::kReadWrite).value();
  const auto other = WritableRegion::import(duplicate(region), kSize);
  const auto reader = ReadOnlyRegion::import(duplicate(region), kSize);
  ASSERT_TRUE(other);
  ASSERT_TRUE(reader);
  region.bytes()[5] = std::byte{1};
  EXPECT_EQ(other->bytes()[5], std::byte{1});
  other->bytes()[6] = std::byte{2};
  EXPECT_EQ(reader->bytes()[6], std::byte{2});
}

TEST(Region, nobody_can_change_its_size) {
  const auto region = WritableRegion::create("test", kSize, PeerRights::kReadWrite).value();
  EXPECT_NE(::ftruncate(region.fd().get(), 0), 0);
  EXPECT_NE(::ftruncate(region.fd().get(), 2 * kSize), 0);
  EXPECT_NE(::fcntl(region.fd().get(), F_ADD_SEALS, F_SEAL_WRITE), 0) << "nor add seals of its own";
}

TEST(Region, a_region_that_peers_may_read_can_be_written_by_none) {
  const auto region = WritableRegion::create("test", kSize, PeerRights::kReadOnly).value();
  EXPECT_FALSE(WritableRegion::import(duplicate(region), kSize));
  EXPECT_EQ(::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, region.fd().get(), 0), MAP_FAILED);
  char byte = 1;
  EXPECT_NE(::pwrite(region.fd().get(), &byte, 1, 0), 1);
  void* const readable = ::mmap(nullptr, kSize, PROT_READ, MAP_SHARED, region.fd().get(), 0);
  ASSERT_NE(readable, MAP_FAILED);
  EXPECT_NE(::mprotect(readable, kSize, PROT_READ | PROT_WRITE), 0) << "nor by changing its mind";
  ::munmap(readable, kSize);
  region.bytes()[0] = std::byte{1};  // its maker goes on writing
  EXPECT_TRUE(ReadOnlyRegion::import(duplicate(region), kSize));
}

TEST(Region, an_import_of_another_size_is_refused) {
  const auto region = WritableRegion::create("test", kSize, PeerRights::kReadWrite).value();
  EXPECT_FALSE(WritableRegion::import(duplicate(region), kSize / 2));
  EXPECT_FALSE(WritableRegion::import(duplicate(region), kSize * 2));
  EXPECT_FALSE(ReadOnlyRegion::import(duplicate(region), kSize * 2));
}

TEST(Region, an_import_that_could_shrink_under_us_is_refused) {
  UniqueFd fd(::memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(fd.get(), kSize), 0);
  EXPECT_FALSE(WritableRegion::import(UniqueFd::duplicate(fd.borrow()).value(), kSize));
  ASSERT_EQ(::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
  EXPECT_FALSE(WritableRegion::import(UniqueFd::duplicate(fd.borrow()).value(), kSize));
  ASSERT_EQ(::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_GROW), 0);
  EXPECT_TRUE(WritableRegion::import(UniqueFd::duplicate(fd.borrow()).value(), kSize));
}

TEST(Region, what_is_no_memfd_is_refused) {
  EXPECT_FALSE(WritableRegion::import(UniqueFd::create_eventfd().value(), kSize));
  EXPECT_FALSE(ReadOnlyRegion::import(UniqueFd::open("/dev/zero", O_RDWR).value(), kSize));
}

}  // namespace
}  // namespace bulkhead::ipc
