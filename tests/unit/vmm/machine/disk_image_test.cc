// inspect_disk(): what a file is like as a disk, which are refused, and who locks out whom.
#include "vmm/machine/disk_image.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>

namespace bulkhead::vmm {
namespace {

// A file, removed with its folder.
class Image {
 public:
  explicit Image(std::int64_t bytes) {
    std::string pattern = testing::TempDir() + "/bulkhead-disk-XXXXXX";
    const UniqueFd made(::mkstemp(pattern.data()));
    EXPECT_TRUE(made.valid());
    EXPECT_EQ(::ftruncate(made.get(), bytes), 0);
    path_ = pattern;
  }
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;
  ~Image() { ::unlink(path_.c_str()); }
  [[nodiscard]] const std::string& path() const { return path_; }
  // A new open file description.
  [[nodiscard]] UniqueFd open(int flags = O_RDWR) const { return UniqueFd(::open(path_.c_str(), flags | O_CLOEXEC)); }

 private:
  std::string path_;
};

DiskGeometry geometry_of(const UniqueFd& disk) {
  const Result<DiskGeometry> geometry = inspect_disk(disk.borrow(), "D");
  EXPECT_TRUE(geometry) << geometry.error().message;
  return geometry ? *geometry : DiskGeometry{};
}
std::string refusal(const UniqueFd& disk) {
  EXPECT_TRUE(disk.valid());
  const Result<DiskGeometry> geometry = inspect_disk(disk.borrow(), "D");
  return geometry ? "accepted" : geometry.error().message;
}

constexpr const char* kInUse = "disk D is in use: another process has locked it";

TEST(DiskImage, regular_file) {
  const Image image(3 * 512);
  const UniqueFd disk = image.open();
  const DiskGeometry geometry = geometry_of(disk);
  EXPECT_EQ(geometry.bytes, 3U * 512);
  EXPECT_EQ(geometry.logical_block, 512U);
  struct stat info {};
  ASSERT_EQ(::fstat(disk.get(), &info), 0);
  EXPECT_EQ(geometry.physical_block, static_cast<std::uint32_t>(info.st_blksize)) << "of an ordinary file system";
  EXPECT_EQ(geometry.memory_align, 1U) << "the page cache takes anything";
  EXPECT_FALSE(geometry.read_only);
  EXPECT_TRUE(geometry.discard);
  EXPECT_TRUE(geometry.write_zeroes);
  EXPECT_TRUE(geometry.volatile_cache);
}

TEST(DiskImage, file_open_for_reading_is_a_read_only_disk) {
  const Image image(4096);
  const DiskGeometry geometry = geometry_of(image.open(O_RDONLY));
  EXPECT_TRUE(geometry.read_only);
  EXPECT_FALSE(geometry.discard);
  EXPECT_FALSE(geometry.write_zeroes);
  EXPECT_EQ(geometry.bytes, 4096U);
}

TEST(DiskImage, large_sparse_file) {
  const Image image(std::int64_t{5} << 30);
  EXPECT_EQ(geometry_of(image.open()).bytes, std::uint64_t{5} << 30);
}

TEST(DiskImage, length_has_to_be_whole_sectors) {
  for (const std::int64_t bytes : {0, 1, 511})
    EXPECT_EQ(refusal(Image(bytes).open()), "disk D is shorter than a sector of 512 bytes") << bytes;
  for (const std::int64_t bytes : {513, 1023, 4095})
    EXPECT_EQ(refusal(Image(bytes).open()),
              fmt::format("disk D has {} bytes, which is not a whole number of sectors of 512 bytes", bytes));
  EXPECT_EQ(refusal(Image(512).open()), "accepted");
  EXPECT_EQ(refusal(Image(511).open(O_RDONLY)), "disk D is shorter than a sector of 512 bytes");
}

// A disk that is refused is left as it was.
TEST(DiskImage, what_is_refused_is_not_locked) {
  const Image image(513);
  const UniqueFd refused = image.open();
  EXPECT_NE(refusal(refused), "accepted");
  ASSERT_EQ(::truncate(image.path().c_str(), 512), 0);
  EXPECT_EQ(refusal(image.open()), "accepted");
}

TEST(DiskImage, what_is_no_disk_is_refused) {
  const std::string sentence = "disk D is neither a regular file nor a block device";
  EXPECT_EQ(refusal(UniqueFd(::open("/tmp", O_RDONLY | O_CLOEXEC))), sentence);
  for (const char* device : {"/dev/null", "/dev/zero"}) {
    EXPECT_EQ(refusal(UniqueFd(::open(device, O_RDWR | O_CLOEXEC))), sentence) << device;
    EXPECT_EQ(refusal(UniqueFd(::open(device, O_RDONLY | O_CLOEXEC))), sentence) << device;
  }
  const Image image(0);
  ASSERT_EQ(::unlink(image.path().c_str()), 0);
  ASSERT_EQ(::mkfifo(image.path().c_str(), 0600), 0);
  EXPECT_EQ(refusal(image.open(O_RDWR | O_NONBLOCK)), sentence);
}

TEST(DiskImage, one_writer_and_nobody_else) {
  const Image image(4096);
  for (const int second : {O_RDWR, O_RDONLY}) {
    const UniqueFd first = image.open();
    geometry_of(first);
    EXPECT_EQ(refusal(image.open(second)), kInUse);
  }
  // The first is gone, and its lock with it.
  const UniqueFd reader = image.open(O_RDONLY);
  geometry_of(reader);
  EXPECT_EQ(refusal(image.open()), kInUse) << "a writer beside a reader";
}

TEST(DiskImage, readers_share_a_disk) {
  const Image image(4096);
  const UniqueFd first = image.open(O_RDONLY);
  const UniqueFd second = image.open(O_RDONLY);
  EXPECT_TRUE(geometry_of(first).read_only);
  EXPECT_TRUE(geometry_of(second).read_only);
}

TEST(DiskImage, lock_covers_what_a_disk_grows_by) {
  const Image image(4096);
  const UniqueFd first = image.open();
  geometry_of(first);
  ASSERT_EQ(::truncate(image.path().c_str(), 1 << 20), 0);
  struct flock end {};
  end.l_type = F_WRLCK;
  end.l_whence = SEEK_SET;
  end.l_start = 1 << 19;
  end.l_len = 1;
  const UniqueFd other = image.open();
  EXPECT_EQ(::fcntl(other.get(), F_OFD_SETLK, &end), -1);
}

// Device processes hold descriptors of the same open file: neither they nor their ends change anything.
TEST(DiskImage, lock_belongs_to_the_open_file) {
  const Image image(4096);
  const UniqueFd first = image.open();
  geometry_of(first);
  EXPECT_EQ(refusal(UniqueFd::duplicate(first.borrow()).value()), "accepted");
  EXPECT_EQ(refusal(image.open()), kInUse);
}

TEST(DiskImage, direct_disk_tells_what_its_blocks_must_be_like) {
  const Image image(1 << 20);
  const UniqueFd disk = image.open(O_RDWR | O_DIRECT);
  if (!disk.valid()) GTEST_SKIP() << "no O_DIRECT here";
  const DiskGeometry geometry = geometry_of(disk);
  EXPECT_TRUE(std::has_single_bit(geometry.logical_block)) << geometry.logical_block;
  EXPECT_GE(geometry.logical_block, 512U);
  EXPECT_LE(geometry.logical_block, 4096U);
  EXPECT_GE(geometry.physical_block, geometry.logical_block);
  EXPECT_LE(geometry.memory_align, 4096U);
  EXPECT_TRUE(std::has_single_bit(geometry.memory_align)) << geometry.memory_align;
  // It holds: a block moves to such an address.
  const auto align = std::align_val_t{std::max<std::size_t>(geometry.memory_align, geometry.logical_block)};
  auto* const bytes = static_cast<std::byte*>(::operator new(8192 + 4096, align));
  EXPECT_EQ(::pread(disk.get(), bytes + geometry.memory_align % 4096, geometry.logical_block, geometry.logical_block),
            geometry.logical_block);
  ::operator delete(bytes, align);
#ifdef STATX_DIOALIGN
  struct statx info {};
  if (::statx(disk.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) != 0 || (info.stx_mask & STATX_DIOALIGN) == 0)
    return;
  EXPECT_EQ(geometry.memory_align, info.stx_dio_mem_align);
  EXPECT_EQ(geometry.logical_block, std::max(512U, info.stx_dio_offset_align));
#endif
}

TEST(DiskImage, length_of_a_direct_disk_is_whole_blocks_of_its_file_system) {
  const Image image(4096 + 512);
  const UniqueFd disk = image.open(O_RDONLY | O_DIRECT);
  if (!disk.valid()) GTEST_SKIP() << "no O_DIRECT here";
  const std::string said = refusal(disk);
  if (said == "accepted") GTEST_SKIP() << "this file system takes 512 bytes";
  EXPECT_EQ(said, "disk D has 4608 bytes, which is not a whole number of sectors of 4096 bytes");
}

}  // namespace
}  // namespace bulkhead::vmm
