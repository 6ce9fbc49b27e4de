// FileBlock on real files: with and without O_DIRECT, at odd addresses, across pieces of RAM, and on files that fail.
#include "devproc/backends/file_block.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <random>
#include <string>

#include "devproc/host/mapped_guest_memory.h"

namespace bulkhead::devproc {
namespace {

using ::testing::Each;

constexpr std::size_t kDisk = 24 << 20;
constexpr std::size_t kRam = 16 << 20;
constexpr GuestPhys kHigh = 0x1'0000'0000;  // the second half of RAM
constexpr GuestPhys kLow = kRam / 2;        // how much lies below

// A file without a name.
UniqueFd temporary(const char* folder, int flags = 0) {
  return UniqueFd(::open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC | flags, 0600));
}

class FileBlockTest : public ::testing::TestWithParam<bool> {
 protected:
  FileBlockTest() {
    EXPECT_TRUE(memory.add(0, kLow / 2, 0, region));
    EXPECT_TRUE(memory.add(kLow / 2, kLow / 2, kLow / 2, region));  // adjoins: a segment may lie in both
    EXPECT_TRUE(memory.add(kHigh, kRam - kLow, kLow, region));
    std::mt19937_64 random(7);
    picture.resize(kDisk);
    for (std::byte& b : picture) b = static_cast<std::byte>(random());
    for (std::byte& b : region.bytes()) b = static_cast<std::byte>(random());
  }
  // False: this file system has no O_DIRECT.
  bool open() {
    file = temporary("/var/tmp", direct ? O_DIRECT : 0);
    if (!file.valid()) return false;
    UniqueFd plain(::open(("/proc/self/fd/" + std::to_string(file.get())).c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_TRUE(plain.valid());
    EXPECT_EQ(::pwrite(plain.get(), picture.data(), picture.size(), 0), static_cast<ssize_t>(kDisk));
    EXPECT_EQ(::fsync(plain.get()), 0);
    use(file.borrow(), direct ? 512 : 1);
    return true;
  }
  void use(BorrowedFd fd, std::uint32_t memory_align = 1) {
    block.emplace(
        fd, BlockGeometry{.bytes = kDisk, .memory_align = memory_align, .discard = true, .write_zeroes = true}, memory);
  }
  // One request to its end.
  BlockStatus run(BlockRequest request, std::vector<Segment> segments = {}) {
    request.tag = ++tag;
    request.memory = segments;
    EXPECT_TRUE(block->submit(request));
    EXPECT_FALSE(block->ready());
    steps = 1;
    while (block->begin_submitted()) ++steps;
    const auto done = block->complete();
    EXPECT_TRUE(done && done->tag == tag);
    EXPECT_FALSE(block->complete());
    return done ? done->status : BlockStatus::kError;
  }
  BlockStatus transfer(BlockOp op, std::uint64_t offset, const std::vector<Segment>& segments, bool stable = false) {
    std::uint64_t bytes = 0;
    for (const Segment& segment : segments) bytes += segment.length;
    return run({.op = op, .stable = stable, .offset = offset, .length = bytes}, segments);
  }
  std::vector<std::byte> guest(const std::vector<Segment>& segments) {
    std::vector<std::byte> all;
    for (const Segment& segment : segments) {
      std::vector<std::byte> part(segment.length);
      EXPECT_TRUE(memory.read(segment.address, part));
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }
  std::vector<std::byte> contents() {
    std::vector<std::byte> all(kDisk);
    UniqueFd plain(::open(("/proc/self/fd/" + std::to_string(file.get())).c_str(), O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(::pread(plain.get(), all.data(), all.size(), 0), static_cast<ssize_t>(kDisk));
    return all;
  }
  std::span<std::byte> part(std::uint64_t offset, std::uint64_t length) {
    return std::span(picture).subspan(offset, length);
  }

  const bool direct = GetParam();
  ipc::WritableRegion region = ipc::WritableRegion::create("ram", kRam, ipc::PeerRights::kReadWrite).value();
  MappedGuestMemory memory;
  std::vector<std::byte> picture;
  UniqueFd file;
  std::optional<FileBlock> block;
  std::uint32_t tag = 0;
  int steps = 0;
};

INSTANTIATE_TEST_SUITE_P(Direct, FileBlockTest, ::testing::Bool());

TEST_P(FileBlockTest, random_requests_as_in_the_picture) {
  if (!open()) GTEST_SKIP() << "no O_DIRECT here";
  std::mt19937_64 random(direct ? 3 : 4);
  const auto below = [&](std::uint64_t limit) { return random() % limit; };
  for (int round = 0; round < 300; ++round) {
    const std::uint64_t bytes = 512 * (1 + below(below(8) == 0 ? 4000 : 40));
    const std::uint64_t offset = 512 * below((kDisk - bytes) / 512 + 1);
    const bool odd = below(2) == 0;  // else it fits O_DIRECT
    std::vector<Segment> segments;
    for (std::uint64_t left = bytes, guest_at = 0; left != 0 && segments.size() < 200;) {
      std::uint64_t piece = segments.size() == 199 ? left : std::min<std::uint64_t>(left, 1 + below(left));
      if (!odd) piece = std::max<std::uint64_t>(piece / 512, 1) * 512;
      // Each in a part of RAM of its own, so that reads do not write over each other.
      const GuestPhys at =
          (below(4) == 0 && guest_at == 0 ? kLow / 2 - bytes / 1024 * 512 : 512 + guest_at) + (odd ? below(2) : 0);
      segments.push_back({(random() & 1) != 0 && guest_at != 0 ? kHigh + at : at, static_cast<std::uint32_t>(piece)});
      guest_at += piece + 1024;
      guest_at -= guest_at % 512;
      left -= std::min(left, piece);
    }
    if (below(2) == 0) {
      ASSERT_EQ(transfer(BlockOp::kWrite, offset, segments, below(8) == 0), BlockStatus::kOk);
      std::ranges::copy(guest(segments), part(offset, bytes).begin());
    } else {
      // Segments that overlap are the driver's mistake.
      ASSERT_EQ(transfer(BlockOp::kRead, offset, {{1024, static_cast<std::uint32_t>(bytes)}}), BlockStatus::kOk);
      ASSERT_TRUE(std::ranges::equal(guest({{1024, static_cast<std::uint32_t>(bytes)}}), part(offset, bytes)));
      const auto half = static_cast<std::uint32_t>(bytes / 2 + (odd ? 1 : 0));
      const std::vector<Segment> two = {{kLow / 2 - half / 2, half}, {kHigh, static_cast<std::uint32_t>(bytes) - half}};
      ASSERT_EQ(transfer(BlockOp::kRead, offset, two), BlockStatus::kOk);
      ASSERT_TRUE(std::ranges::equal(guest(two), part(offset, bytes)));
    }
  }
  EXPECT_EQ(contents(), picture);
}

TEST_P(FileBlockTest, long_request_is_done_in_steps) {
  if (!open()) GTEST_SKIP();
  const std::vector<Segment> most = {{0, kLow}, {kHigh + 512, kRam - kLow - 1024}};
  EXPECT_EQ(transfer(BlockOp::kWrite, 512, most), BlockStatus::kOk);
  EXPECT_EQ(steps, 2);
  const auto written = guest(most);
  std::ranges::copy(written, part(512, written.size()).begin());
  EXPECT_EQ(contents(), picture);
}

TEST_P(FileBlockTest, zeroes_and_holes) {
  if (!open()) GTEST_SKIP();
  const auto blocks = [&] {
    struct stat now {};
    EXPECT_EQ(::fstat(file.get(), &now), 0);
    EXPECT_EQ(now.st_size, static_cast<off_t>(kDisk));
    return now.st_blocks;
  };
  const auto all = blocks();
  EXPECT_EQ(run({.op = BlockOp::kWriteZeroes, .offset = 4096, .length = 8192}), BlockStatus::kOk);
  EXPECT_GE(blocks(), all) << "the place stays taken, and the file system may need some for its own map";
  EXPECT_EQ(run({.op = BlockOp::kWriteZeroes, .unmap = true, .stable = true, .offset = 1 << 20, .length = 1 << 20}),
            BlockStatus::kOk);
  const auto less = blocks();
  EXPECT_LT(less, all);
  std::ranges::fill(part(4096, 8192), std::byte{0});
  std::ranges::fill(part(1 << 20, 1 << 20), std::byte{0});
  EXPECT_EQ(contents(), picture);
  EXPECT_EQ(run({.op = BlockOp::kDiscard, .offset = 8 << 20, .length = 4 << 20}), BlockStatus::kOk);
  EXPECT_LT(blocks(), less);
}

TEST_P(FileBlockTest, zeroes_are_written_where_nothing_else_does_it) {
  if (direct) GTEST_SKIP();
  file = temporary("/dev/shm");  // tmpfs makes holes, but zeroes no ranges
  if (!file.valid()) GTEST_SKIP();
  ASSERT_EQ(::pwrite(file.get(), picture.data(), picture.size(), 0), static_cast<ssize_t>(kDisk));
  use(file.borrow());
  for (int i = 0; i < 2; ++i)
    EXPECT_EQ(run({.op = BlockOp::kWriteZeroes, .offset = 512, .length = kDisk - 1024}), BlockStatus::kOk);
  EXPECT_EQ(steps, 3) << "8 MiB each";
  std::ranges::fill(part(512, kDisk - 1024), std::byte{0});
  EXPECT_EQ(contents(), picture);
}

TEST_P(FileBlockTest, memory_that_is_not_ram_is_an_error_and_moves_nothing) {
  if (!open()) GTEST_SKIP();
  const auto before = guest({{0, 4096}});
  for (const BlockOp op : {BlockOp::kRead, BlockOp::kWrite}) {
    EXPECT_EQ(transfer(op, 0, {{0, 512}, {kLow, 512}}), BlockStatus::kError);
    EXPECT_EQ(transfer(op, 0, {{0, 512}, {kLow - 512, 1024}}), BlockStatus::kError);
    EXPECT_EQ(transfer(op, 0, {{0, 512}, {UINT64_MAX - 511, 512}}), BlockStatus::kError);
  }
  // Behind what one system call takes.
  std::vector<Segment> many(100, Segment{512, 512});
  many.push_back({kLow, 512});
  for (const BlockOp op : {BlockOp::kRead, BlockOp::kWrite}) EXPECT_EQ(transfer(op, 0, many), BlockStatus::kError);
  EXPECT_EQ(guest({{0, 4096}}), before);
  EXPECT_EQ(contents(), picture);
}

TEST_P(FileBlockTest, file_that_became_shorter_is_an_error) {
  if (!open()) GTEST_SKIP();
  ASSERT_EQ(::ftruncate(file.get(), 8192), 0);
  EXPECT_EQ(transfer(BlockOp::kRead, 4096, {{0, 4096}}), BlockStatus::kOk);
  EXPECT_EQ(transfer(BlockOp::kRead, 4096, {{0, 8192}}), BlockStatus::kError);
  EXPECT_EQ(transfer(BlockOp::kRead, 8192, {{1, 512}}), BlockStatus::kError);
}

TEST_P(FileBlockTest, errors_of_the_host) {
  if (direct) GTEST_SKIP();
  UniqueFd full = UniqueFd::open("/dev/full", O_RDWR).value();
  use(full.borrow());
  EXPECT_EQ(transfer(BlockOp::kWrite, 0, {{0, 512}}), BlockStatus::kNoSpace);
  EXPECT_EQ(run({.op = BlockOp::kWriteZeroes, .length = 512}), BlockStatus::kNoSpace) << "fell back to writing";
  EXPECT_EQ(run({.op = BlockOp::kDiscard, .length = 512}), BlockStatus::kUnsupported);
  EXPECT_EQ(run({.op = BlockOp::kFlush}), BlockStatus::kError);
  UniqueFd no_sync = UniqueFd::open("/dev/zero", O_RDWR).value();
  use(no_sync.borrow());
  for (const bool stable : {false, true}) {
    const BlockStatus expected = stable ? BlockStatus::kError : BlockStatus::kOk;
    EXPECT_EQ(transfer(BlockOp::kWrite, 0, {{0, 512}}, stable), expected) << "a write that cannot be made stable";
    EXPECT_EQ(run({.op = BlockOp::kWriteZeroes, .stable = stable, .length = 512}), expected);
  }
  UniqueFd read_only = UniqueFd::open("/dev/zero", O_RDONLY).value();
  use(read_only.borrow());
  EXPECT_EQ(transfer(BlockOp::kWrite, 0, {{0, 512}}), BlockStatus::kError);
  EXPECT_EQ(transfer(BlockOp::kRead, 0, {{0, 512}}), BlockStatus::kOk);
}

TEST_P(FileBlockTest, nothing_happens_before_begin_submitted) {
  if (!open()) GTEST_SKIP();
  const Segment one[] = {{0, 512}};
  ASSERT_TRUE(block->submit({.tag = 1, .op = BlockOp::kWrite, .length = 512, .memory = one}));
  EXPECT_FALSE(block->ready());
  EXPECT_FALSE(block->complete());
  EXPECT_EQ(contents(), picture);
  EXPECT_FALSE(block->begin_submitted());
  EXPECT_TRUE(block->ready());
  EXPECT_NE(contents(), picture);
}

TEST_P(FileBlockTest, cancelled_requests_never_happen_nor_are_they_told) {
  if (!open()) GTEST_SKIP();
  const Segment one[] = {{0, 512}};
  const Segment half[] = {{0, kLow}, {kHigh, 512}};
  ASSERT_TRUE(block->submit({.tag = 1, .op = BlockOp::kRead, .length = 512, .memory = one}));
  ASSERT_FALSE(block->begin_submitted());
  ASSERT_TRUE(block->submit({.tag = 4, .op = BlockOp::kRead, .length = kLow + 512, .memory = half}));
  ASSERT_TRUE(block->begin_submitted()) << "half-way";
  ASSERT_TRUE(block->submit({.tag = 2, .op = BlockOp::kWrite, .length = 512, .memory = one}));
  ASSERT_TRUE(block->submit({.tag = 3, .op = BlockOp::kFlush}));
  for (const std::uint32_t gone : {2U, 1U, 99U, 4U}) EXPECT_FALSE(block->cancel(gone)) << "nothing goes on by itself";
  EXPECT_FALSE(block->ready());
  block->begin_submitted();
  EXPECT_EQ(block->complete().value().tag, 3U);
  EXPECT_FALSE(block->complete());
  EXPECT_EQ(contents(), picture);
  for (std::uint32_t i = 0; i < BlockBackend::kMostInFlight; ++i)
    ASSERT_TRUE(block->submit({.tag = 100 + i, .op = BlockOp::kFlush})) << "no place was lost";
  EXPECT_FALSE(block->submit({.tag = 1000, .op = BlockOp::kFlush}));
}

TEST_P(FileBlockTest, tag_that_is_in_flight_goes_on_as_it_was) {
  if (!open()) GTEST_SKIP();
  const Segment one[] = {{0, 512}};
  ASSERT_TRUE(block->submit({.tag = 1, .op = BlockOp::kRead, .length = 512, .memory = one}));
  ASSERT_TRUE(block->submit({.tag = 1, .op = BlockOp::kRead, .length = 512, .memory = one}));
  block->begin_submitted();
  ASSERT_TRUE(block->submit({.tag = 1, .op = BlockOp::kRead, .length = 512, .memory = one}));
  block->begin_submitted();
  EXPECT_TRUE(block->complete());
  EXPECT_FALSE(block->complete());
  const std::vector<Segment> many(BlockBackend::kMostSegments + 1, Segment{0, 512});
  EXPECT_FALSE(block->submit({.tag = 2, .op = BlockOp::kRead, .length = 257 * 512, .memory = many}));
}

TEST_P(FileBlockTest, most_segments_a_request_may_have) {
  if (!open()) GTEST_SKIP();
  std::vector<Segment> many;
  for (std::uint32_t i = 0; i < BlockBackend::kMostSegments; ++i) many.push_back({4096 + i * 777, 700});
  const std::uint64_t bytes = 700 * 256;
  ASSERT_EQ(bytes % 512, 0U);
  EXPECT_EQ(transfer(BlockOp::kRead, 1024, many), BlockStatus::kOk);
  EXPECT_TRUE(std::ranges::equal(guest(many), part(1024, bytes)));
}

}  // namespace
}  // namespace bulkhead::devproc
