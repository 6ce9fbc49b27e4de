// RingBlock on the kernel's own io_uring: files with and without O_DIRECT, errors of the host, and processes that are
// killed with requests under way, whose successors go on.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <random>
#include <string>

#include "devproc/backends/ring_block.h"
#include "devproc/host/mapped_guest_memory.h"

namespace bulkhead::devproc {
namespace {

using ::testing::IsEmpty;

constexpr std::size_t kDisk = 8 << 20;
constexpr std::size_t kRam = 16 << 20;
constexpr std::uint32_t kTag = 1U << 16;

// As the VMM makes it (vmm/process/disk_ring.cc).
UniqueFd make_ring(BorrowedFd file, io_uring_params& params) {
  params.flags = IORING_SETUP_R_DISABLED;
  UniqueFd ring(static_cast<int>(::syscall(SYS_io_uring_setup, ipc::kRingEntries, &params)));
  if (!ring.valid()) return ring;
  const int fd = file.get();
  io_uring_restriction rules[7] = {};
  const int known[] = {IORING_OP_READ,   IORING_OP_READV, IORING_OP_WRITE,
                       IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE};
  for (int i = 0; i < 6; ++i) {
    rules[i].opcode = IORING_RESTRICTION_SQE_OP;
    rules[i].sqe_op = static_cast<std::uint8_t>(known[i]);
  }
  rules[6].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
  rules[6].sqe_flags = IOSQE_FIXED_FILE;
  EXPECT_EQ(::syscall(SYS_io_uring_register, ring.get(), IORING_REGISTER_FILES, &fd, 1), 0);
  EXPECT_EQ(::syscall(SYS_io_uring_register, ring.get(), IORING_REGISTER_RESTRICTIONS, rules, 7), 0);
  EXPECT_EQ(::syscall(SYS_io_uring_register, ring.get(), IORING_REGISTER_ENABLE_RINGS, nullptr, 0), 0);
  return ring;
}

class RingBlockKernelTest : public ::testing::TestWithParam<bool> {
 protected:
  // False: there is no io_uring, or no O_DIRECT.
  bool open() {
    file.reset(::open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC | (direct ? O_DIRECT : 0), 0600));
    if (!file.valid()) return false;
    std::mt19937_64 random(7);
    picture.resize(kDisk);
    for (std::byte& b : picture) b = static_cast<std::byte>(random());
    const UniqueFd plain = reopen();
    EXPECT_EQ(::pwrite(plain.get(), picture.data(), picture.size(), 0), static_cast<ssize_t>(kDisk));
    EXPECT_EQ(::fsync(plain.get()), 0);
    return use(file.borrow());
  }
  bool use(BorrowedFd fd) {
    io_uring_params params{};
    UniqueFd made = make_ring(fd, params);
    if (!made.valid()) return false;
    mapped.emplace(MappedRing::map(std::move(made), params).value());
    notes = new (shared) ipc::RingNotes;
    EXPECT_TRUE(memory.add(0, kRam, 0, region));
    begin_process();
    return true;
  }
  void begin_process() {
    IoRing ring = IoRing::create(mapped->params(), mapped->memory(), *mapped).value();
    const BlockGeometry geometry{
        .bytes = kDisk, .memory_align = direct ? 512U : 1U, .discard = true, .write_zeroes = true};
    block = RingBlock::create(ring, mapped->fd(), *notes, geometry, memory).value();
  }
  UniqueFd reopen() {
    return UniqueFd(::open(("/proc/self/fd/" + std::to_string(file.get())).c_str(), O_RDWR | O_CLOEXEC));
  }
  // The next completion, with its commit.
  std::optional<BlockCompletion> next() {
    for (int i = 0; i < 10000; ++i) {
      const auto done = block->complete();
      block->begin();
      if (done) return done;
      pollfd poll_ring{mapped->fd().get(), POLLIN, 0};
      if (!block->ready()) ::poll(&poll_ring, 1, 1000);
    }
    return std::nullopt;
  }
  BlockStatus run(BlockRequest request, std::vector<Segment> where = {}) {
    request.tag = kTag;
    request.memory = where;
    EXPECT_TRUE(block->submit(request));
    block->begin();
    const auto done = next();
    return done ? done->status : BlockStatus::kError;
  }
  std::vector<std::byte> contents() {
    std::vector<std::byte> all(kDisk);
    EXPECT_EQ(::pread(reopen().get(), all.data(), all.size(), 0), static_cast<ssize_t>(kDisk));
    return all;
  }

  const bool direct = GetParam();
  UniqueFd file;
  std::vector<std::byte> picture;
  void* shared = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ipc::RingNotes* notes = nullptr;
  ipc::WritableRegion region = ipc::WritableRegion::create("ram", kRam, ipc::PeerRights::kReadWrite).value();
  MappedGuestMemory memory;
  std::optional<MappedRing> mapped;
  std::unique_ptr<RingBlock> block;
};

INSTANTIATE_TEST_SUITE_P(Direct, RingBlockKernelTest, ::testing::Bool());

TEST_P(RingBlockKernelTest, random_requests_as_in_the_picture) {
  if (!open()) GTEST_SKIP();
  std::mt19937_64 random(3);
  const auto below = [&](std::uint64_t limit) { return random() % limit; };
  for (int round = 0; round < 200; ++round) {
    const std::uint64_t bytes = 512 * (1 + below(below(8) == 0 ? 4000 : 40));
    const std::uint64_t offset = 512 * below((kDisk - bytes) / 512 + 1);
    const std::uint64_t odd = below(3) == 0 ? below(100) : 0;
    const auto half = static_cast<std::uint32_t>(bytes / 1024 * 512);
    std::vector<Segment> where{{odd + 4096, half}, {(8 << 20) + odd, static_cast<std::uint32_t>(bytes) - half}};
    if (half == 0) where.erase(where.begin());
    const auto each = [&](auto&& act) {
      std::uint64_t at = offset;
      for (const Segment& segment : where) {
        act(region.bytes().subspan(segment.address, segment.length), std::span(picture).subspan(at, segment.length));
        at += segment.length;
      }
    };
    if (below(2) == 0) {
      each([&](auto guest, auto) { std::ranges::generate(guest, [&] { return static_cast<std::byte>(random()); }); });
      ASSERT_EQ(run({.op = BlockOp::kWrite, .stable = below(8) == 0, .offset = offset, .length = bytes}, where),
                BlockStatus::kOk);
      each([](auto guest, auto disk) { std::ranges::copy(guest, disk.begin()); });
    } else {
      each([&](auto guest, auto) { std::ranges::fill(guest, std::byte{0xee}); });
      ASSERT_EQ(run({.op = BlockOp::kRead, .offset = offset, .length = bytes}, where), BlockStatus::kOk);
      each([](auto guest, auto disk) { ASSERT_TRUE(std::ranges::equal(guest, disk)); });
    }
  }
  EXPECT_EQ(run({.op = BlockOp::kFlush}), BlockStatus::kOk);
  EXPECT_EQ(run({.op = BlockOp::kWriteZeroes, .stable = true, .offset = 4096, .length = 1 << 20}), BlockStatus::kOk);
  EXPECT_EQ(run({.op = BlockOp::kWriteZeroes, .unmap = true, .offset = 2 << 20, .length = 4096}), BlockStatus::kOk);
  std::fill_n(picture.begin() + 4096, 1 << 20, std::byte{0});
  std::fill_n(picture.begin() + (2 << 20), 4096, std::byte{0});
  EXPECT_TRUE(contents() == picture);
}

TEST_P(RingBlockKernelTest, errors_of_the_host) {
  if (direct) GTEST_SKIP();
  file = UniqueFd::open("/dev/full", O_RDWR).value();
  if (!use(file.borrow())) GTEST_SKIP();
  EXPECT_EQ(run({.op = BlockOp::kWrite, .length = 512}, {{0, 512}}), BlockStatus::kNoSpace);
  EXPECT_EQ(run({.op = BlockOp::kWriteZeroes, .length = 512}), BlockStatus::kNoSpace) << "fell back to writing";
  EXPECT_EQ(run({.op = BlockOp::kDiscard, .length = 512}), BlockStatus::kUnsupported);
  EXPECT_EQ(run({.op = BlockOp::kFlush}), BlockStatus::kError);
}

TEST_P(RingBlockKernelTest, file_that_became_shorter_and_file_that_may_not_grow) {
  if (!open()) GTEST_SKIP();
  ASSERT_EQ(::ftruncate(file.get(), 8192), 0);
  EXPECT_EQ(run({.op = BlockOp::kRead, .offset = 4096, .length = 4096}, {{0, 4096}}), BlockStatus::kOk);
  EXPECT_EQ(run({.op = BlockOp::kRead, .offset = 4096, .length = 8192}, {{0, 8192}}), BlockStatus::kError);
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit limit{8192, 8192};
    ::signal(SIGXFSZ, SIG_IGN);
    ::setrlimit(RLIMIT_FSIZE, &limit);
    begin_process();
    const bool kept = run({.op = BlockOp::kWrite, .offset = 8192, .length = 4096}, {{0, 4096}}) == BlockStatus::kError;
    ::_exit(kept && ::lseek(file.get(), 0, SEEK_END) == 8192 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// One process after the other begins the same requests, and is killed; the last one sees them through.
TEST_P(RingBlockKernelTest, killed_processes_lose_nothing) {
  if (!open()) GTEST_SKIP();
  constexpr std::uint32_t kRequests = 48;
  std::mt19937_64 random(11);
  for (int round = 0; round < 15; ++round) {
    std::ranges::generate(region.bytes().first(8 << 20), [&] { return static_cast<std::byte>(random()); });
    std::ranges::fill(region.bytes().subspan(8 << 20), std::byte{0xee});
    std::vector<BlockRequest> all;
    std::vector<Segment> where(kRequests);
    for (std::uint32_t i = 0; i < kRequests; ++i) {
      const bool read = i % 3 == 0;
      const std::uint64_t at = 65536ULL * i;
      where[i] = {(read ? 8ULL << 20 : 0) + at, 65536};
      const auto tag = static_cast<std::uint32_t>(round + 1) << 16 | i;
      if (i % 8 == 7)
        all.push_back({.tag = tag, .op = BlockOp::kFlush});
      else
        all.push_back({.tag = tag,
                       .op = read ? BlockOp::kRead : BlockOp::kWrite,
                       .offset = at,
                       .length = 65536,
                       .memory = std::span(&where[i], 1)});
    }
    for (int death = 0; death < 3; ++death) {
      const pid_t child = ::fork();
      if (child == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        begin_process();
        for (const BlockRequest& request : all) (void)block->submit(request);
        block->begin();
        for (;;) (void)::usleep(1000);
      }
      ::usleep(static_cast<useconds_t>(random() % 3000));
      ::kill(child, SIGKILL);
      ::waitpid(child, nullptr, 0);
    }
    begin_process();
    for (const BlockRequest& request : all) ASSERT_TRUE(block->submit(request));
    block->begin();
    std::vector<bool> told(kRequests);
    for (std::uint32_t i = 0; i < kRequests; ++i) {
      const auto done = next();
      ASSERT_TRUE(done && done->tag >> 16 == static_cast<std::uint32_t>(round + 1)) << "round " << round << ", " << i;
      ASSERT_EQ(done->status, BlockStatus::kOk) << (done->tag & 0xffff);
      ASSERT_FALSE(told[done->tag & 0xffff]);
      told[done->tag & 0xffff] = true;
    }
    for (const BlockRequest& request : all) {
      const auto guest = region.bytes().subspan(request.length == 0 ? 0 : request.memory[0].address, request.length);
      const auto disk = std::span(picture).subspan(request.offset, request.length);
      if (request.op == BlockOp::kWrite) std::ranges::copy(guest, disk.begin());
      if (request.op == BlockOp::kRead) {
        ASSERT_TRUE(std::ranges::equal(guest, disk)) << "round " << round;
      }
    }
    ASSERT_TRUE(contents() == picture) << "round " << round;
  }
}

}  // namespace
}  // namespace bulkhead::devproc
