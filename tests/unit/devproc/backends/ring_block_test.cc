// RingBlock against a kernel that the test plays (FakeRing): what a process may leave behind, and what its successor
// makes of it.
#include "devproc/backends/ring_block.h"

#include <gmock/gmock.h>

#include <map>
#include <random>

#include "devproc/host/mapped_guest_memory.h"
#include "tests/fakes/fake_ring.h"

namespace bulkhead::devproc {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr std::size_t kDisk = 1 << 20;
constexpr std::size_t kRam = 4 << 20;
constexpr std::uint32_t kGeneration = 1U << 16;

class RingBlockTest : public ::testing::Test {
 protected:
  RingBlockTest() {
    EXPECT_TRUE(memory.add(0, kRam, 0, region));
    std::mt19937_64 random(7);
    for (std::byte& b : disk) b = static_cast<std::byte>(random());
    for (std::byte& b : region.bytes()) b = static_cast<std::byte>(random());
    begin_process();
  }
  // A process that finds what the last one left; that one is simply no more.
  void begin_process() {
    auto made = RingBlock::create(ring.ring(), {}, notes, geometry, memory);
    ASSERT_TRUE(made) << made.error().message;
    block = std::move(*made);
  }
  BlockRequest transfer(BlockOp op, std::uint16_t slot, std::uint64_t offset, const Segment& segment) {
    segments[slot] = {segment};
    return {.tag = kGeneration | slot, .op = op, .offset = offset, .length = segment.length, .memory = segments[slot]};
  }
  BlockRequest write(std::uint16_t slot) { return transfer(BlockOp::kWrite, slot, 4096U * slot, {8192U * slot, 4096}); }
  BlockRequest read(std::uint16_t slot) { return transfer(BlockOp::kRead, slot, 4096U * slot, {8192U * slot, 4096}); }
  BlockRequest flush(std::uint16_t slot) { return {.tag = kGeneration | slot, .op = BlockOp::kFlush}; }
  void start(const BlockRequest& request) {
    EXPECT_TRUE(block->submit(request));
    block->begin();
  }
  // What completes now, each as an input of its own.
  std::vector<std::pair<std::uint32_t, BlockStatus>> completions() {
    std::vector<std::pair<std::uint32_t, BlockStatus>> all;
    while (const auto one = block->complete()) {
      all.emplace_back(one->tag & 0xffff, one->status);
      block->begin();
    }
    block->begin();
    return all;
  }
  [[nodiscard]] bool same(std::uint64_t offset, GuestPhys at, std::size_t bytes) {
    return std::memcmp(disk.data() + offset, region.bytes().data() + at, bytes) == 0;
  }

  BlockGeometry geometry{.bytes = kDisk, .discard = true, .write_zeroes = true};
  std::vector<std::byte> disk = std::vector<std::byte>(kDisk);
  FakeRing ring{disk};
  ipc::RingNotes notes;
  ipc::WritableRegion region = ipc::WritableRegion::create("ram", kRam, ipc::PeerRights::kReadWrite).value();
  MappedGuestMemory memory;
  std::map<std::uint16_t, std::vector<Segment>> segments;
  std::unique_ptr<RingBlock> block;
};

using Done = std::pair<std::uint32_t, BlockStatus>;

TEST_F(RingBlockTest, batch_is_one_system_call) {
  ring.enters = 0;
  for (std::uint16_t slot = 0; slot < 32; ++slot) ASSERT_TRUE(block->submit(write(slot)));
  EXPECT_THAT(ring.taken, IsEmpty()) << "nothing begins before the commit";
  block->begin();
  EXPECT_EQ(ring.taken.size(), 32U);
  EXPECT_EQ(ring.enters, 1);
  ring.perform_all();
  EXPECT_TRUE(block->ready());
  EXPECT_EQ(completions().size(), 32U);
  EXPECT_FALSE(block->ready());
  EXPECT_EQ(ring.enters, 1) << "completions cost none";
  for (std::uint16_t slot = 0; slot < 32; ++slot) EXPECT_TRUE(same(4096U * slot, 8192U * slot, 4096));
}

TEST_F(RingBlockTest, completions_in_any_order) {
  for (const std::uint16_t slot : {1, 2, 3}) start(read(slot));
  ring.perform(2);
  ring.perform(0);
  EXPECT_THAT(completions(), ElementsAre(Done{3, BlockStatus::kOk}, Done{1, BlockStatus::kOk}));
  ring.perform(0);
  EXPECT_THAT(completions(), ElementsAre(Done{2, BlockStatus::kOk}));
  for (const std::uint16_t slot : {1, 2, 3}) EXPECT_TRUE(same(4096U * slot, 8192U * slot, 4096));
}

TEST_F(RingBlockTest, short_counts_go_on_where_they_stopped) {
  start(write(1));
  ring.perform(0, 1000);
  EXPECT_THAT(completions(), IsEmpty());
  ASSERT_EQ(ring.taken.size(), 1U);
  EXPECT_EQ(ring.taken[0].entry.off, 4096U + 1000U);
  ring.perform(0);
  EXPECT_THAT(completions(), ElementsAre(Done{1, BlockStatus::kOk}));
  EXPECT_TRUE(same(4096, 8192, 4096));
}

TEST_F(RingBlockTest, errors_are_told_as_what_they_are) {
  const std::pair<int, BlockStatus> all[] = {{EIO, BlockStatus::kError},
                                             {ENOSPC, BlockStatus::kNoSpace},
                                             {EDQUOT, BlockStatus::kNoSpace},
                                             {EFAULT, BlockStatus::kError},
                                             {EOPNOTSUPP, BlockStatus::kUnsupported},
                                             {0, BlockStatus::kError}};  // the file has become shorter
  for (const auto& [error, status] : all) {
    start(write(1));
    ring.post(0, -error);
    EXPECT_THAT(completions(), ElementsAre(Done{1, status})) << error;
  }
}

TEST_F(RingBlockTest, interrupted_requests_are_repeated_but_not_for_ever) {
  start(write(1));
  ring.post(0, -EINTR);
  EXPECT_THAT(completions(), IsEmpty());
  ring.perform(0);
  EXPECT_THAT(completions(), ElementsAre(Done{1, BlockStatus::kOk}));
  start(read(2));
  for (std::uint32_t i = 0; i < RingBlock::kMostTries; ++i) {
    ring.post(0, -EAGAIN);
    ASSERT_THAT(completions(), IsEmpty());
  }
  ring.post(0, -EAGAIN);
  EXPECT_THAT(completions(), ElementsAre(Done{2, BlockStatus::kError}));
}

TEST_F(RingBlockTest, memory_that_is_not_ram) {
  start(transfer(BlockOp::kRead, 1, 0, {kRam - 512, 1024}));
  EXPECT_THAT(ring.taken, IsEmpty());
  EXPECT_TRUE(block->ready());
  EXPECT_THAT(completions(), ElementsAre(Done{1, BlockStatus::kError}));
}

TEST_F(RingBlockTest, unaligned_memory_goes_through_the_buffer_one_after_the_other) {
  geometry.memory_align = 512;
  begin_process();
  const BlockRequest first = transfer(BlockOp::kWrite, 1, 0, {100, 4096});
  const BlockRequest second = transfer(BlockOp::kRead, 2, 8192, {9001, 1024});
  ASSERT_TRUE(block->submit(first));
  ASSERT_TRUE(block->submit(second));
  block->begin();
  ASSERT_EQ(ring.taken.size(), 1U);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(ring.taken[0].pieces[0].iov_base) % 4096, 0U);
  ring.perform(0);
  EXPECT_THAT(completions(), ElementsAre(Done{1, BlockStatus::kOk}));
  ring.perform(0);
  EXPECT_THAT(completions(), ElementsAre(Done{2, BlockStatus::kOk}));
  EXPECT_TRUE(same(0, 100, 4096));
  EXPECT_TRUE(same(8192, 9001, 1024));
}

TEST_F(RingBlockTest, zeroes_are_written_where_the_file_system_cannot) {
  ring.allocate_with = EOPNOTSUPP;
  for (const bool stable : {false, true}) {
    start({.tag = kGeneration, .op = BlockOp::kWriteZeroes, .stable = stable, .offset = 512, .length = 300000});
    for (int i = 0; i < 3 && !ring.taken.empty(); ++i) {
      EXPECT_TRUE(ring.taken[0].entry.opcode == IORING_OP_FALLOCATE ||
                  ring.taken[0].entry.rw_flags == (stable ? RWF_DSYNC : 0));
      ring.perform(0);
      const auto done = completions();
      if (!done.empty()) {
        EXPECT_THAT(done, ElementsAre(Done{0, BlockStatus::kOk}));
      }
    }
  }
  EXPECT_TRUE(std::all_of(disk.begin() + 512, disk.begin() + 300512, [](std::byte b) { return b == std::byte{0}; }));
  start({.tag = kGeneration, .op = BlockOp::kDiscard, .offset = 512, .length = 512});
  ring.perform(0);
  EXPECT_THAT(completions(), ElementsAre(Done{0, BlockStatus::kUnsupported}));
}

TEST_F(RingBlockTest, stable_requests_are_flushed) {
  BlockRequest request = write(1);
  request.stable = true;
  start(request);
  EXPECT_EQ(ring.taken[0].entry.rw_flags, RWF_DSYNC);
  ring.perform(0);
  EXPECT_THAT(completions(), ElementsAre(Done{1, BlockStatus::kOk}));
  start({.tag = kGeneration, .op = BlockOp::kWriteZeroes, .stable = true, .offset = 0, .length = 4096});
  ring.perform(0);
  EXPECT_THAT(completions(), IsEmpty());
  ring.perform(0);
  EXPECT_THAT(completions(), ElementsAre(Done{0, BlockStatus::kOk}));
  EXPECT_THAT(ring.performed, ElementsAre(IORING_OP_WRITE, IORING_OP_FALLOCATE, IORING_OP_FSYNC));
}

// ---- Giving up ----

TEST_F(RingBlockTest, cancelled_requests) {
  EXPECT_FALSE(block->cancel(kGeneration | 5)) << "it is not in flight";
  EXPECT_FALSE(block->cancel(0xffff'ffff));
  ASSERT_TRUE(block->submit(write(1)));
  EXPECT_FALSE(block->cancel(kGeneration | 1));
  block->begin();
  EXPECT_THAT(ring.taken, IsEmpty()) << "it never begins";
  start(write(1));
  EXPECT_FALSE(block->cancel(2 * kGeneration | 1)) << "another one";
  EXPECT_TRUE(block->cancel(kGeneration | 1));
  EXPECT_THAT(completions(), IsEmpty()) << "it is under way";
  ring.perform(0, 100);
  EXPECT_EQ(completions().size(), 1U) << "over, and not gone on with";
  EXPECT_THAT(ring.taken, IsEmpty());
}

// ---- Successors ----

TEST_F(RingBlockTest, what_is_under_way_is_waited_for) {
  start(write(1));
  start(read(2));
  ring.perform(1);
  begin_process();
  ASSERT_TRUE(block->submit(write(1)));
  ASSERT_TRUE(block->submit(read(2)));
  block->begin();
  EXPECT_EQ(ring.taken.size(), 1U) << "neither is begun again";
  EXPECT_THAT(completions(), ElementsAre(Done{2, BlockStatus::kOk}));
  ring.perform(0);
  EXPECT_THAT(completions(), ElementsAre(Done{1, BlockStatus::kOk}));
  EXPECT_EQ(ring.performed.size(), 2U);
}

TEST_F(RingBlockTest, what_the_kernel_never_took_is_begun_once) {
  struct Death {};
  for (const bool before : {true, false}) {
    ring.performed.clear();
    (before ? ring.before_enter : ring.after_enter) = [] { throw Death{}; };
    ASSERT_TRUE(block->submit(write(1)));
    ASSERT_TRUE(block->submit(flush(2)));
    EXPECT_THROW(block->begin(), Death);
    ring.before_enter = ring.after_enter = nullptr;
    EXPECT_EQ(ring.taken.size(), before ? 0U : 2U);
    begin_process();
    ASSERT_TRUE(block->submit(write(1)));
    ASSERT_TRUE(block->submit(flush(2)));
    block->begin();
    EXPECT_EQ(ring.taken.size(), 2U);
    ring.perform_all();
    EXPECT_EQ(completions().size(), 2U);
    EXPECT_EQ(ring.performed.size(), 2U);
  }
}

TEST_F(RingBlockTest, results_of_the_dead_that_are_not_whole_are_done_again) {
  for (const int result : {-EINTR, -ECANCELED, -EFAULT, -EAGAIN, -EIO, 100, 0}) {
    start(write(1));
    begin_process();
    start(write(1));
    ASSERT_EQ(ring.taken.size(), 1U);
    ring.post(0, result);
    EXPECT_THAT(completions(), IsEmpty()) << result;
    ASSERT_EQ(ring.taken.size(), 1U) << "again, from the beginning";
    EXPECT_EQ(ring.taken[0].entry.off, 4096U);
    ring.perform(0);
    EXPECT_THAT(completions(), ElementsAre(Done{1, BlockStatus::kOk}));
  }
}

TEST_F(RingBlockTest, flush_that_failed_stays_failed_whoever_is_told) {
  for (const int deaths : {1, 2, 3}) {
    start(flush(1));
    ring.post(0, -EIO);
    for (int i = 0; i < deaths; ++i) {
      (void)block->complete();  // and dies before the commit
      begin_process();
      ASSERT_TRUE(block->submit(flush(1)));
      block->begin();
    }
    EXPECT_THAT(ring.taken, IsEmpty());
    EXPECT_THAT(completions(), ElementsAre(Done{1, BlockStatus::kError}));
  }
  start(flush(1));
  begin_process();
  start(flush(1));
  ring.post(0, -ECANCELED);
  EXPECT_THAT(completions(), IsEmpty());
  ring.perform(0);
  EXPECT_THAT(completions(), ElementsAre(Done{1, BlockStatus::kOk}));
}

TEST_F(RingBlockTest, completion_is_told_again_until_it_is_committed) {
  start(read(1));
  ring.perform(0);
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(block->complete());
    begin_process();
    ASSERT_TRUE(block->submit(read(1)));
    block->begin();
  }
  EXPECT_THAT(completions(), ElementsAre(Done{1, BlockStatus::kOk}));
  begin_process();
  EXPECT_FALSE(block->ready());
  EXPECT_FALSE(block->complete());
  EXPECT_EQ(ring.performed.size(), 1U);
}

// The commit said over, and its slot has a new request; the death came before the result left the ring.
TEST_F(RingBlockTest, result_of_the_slots_last_request_is_not_taken_for_the_new_ones) {
  start(write(1));
  ring.perform(0);
  EXPECT_TRUE(block->complete());
  begin_process();
  BlockRequest next = read(1);
  next.tag += kGeneration;
  ASSERT_TRUE(block->submit(next));
  block->begin();
  EXPECT_THAT(ring.taken, IsEmpty()) << "the old one may still be under way, as far as is known";
  EXPECT_THAT(completions(), IsEmpty());
  ASSERT_EQ(ring.taken.size(), 1U);
  ring.perform(0);
  EXPECT_THAT(completions(), ElementsAre(Done{1, BlockStatus::kOk}));
}

TEST_F(RingBlockTest, nothing_begins_beside_what_nobody_remembers) {
  start(write(1));
  begin_process();  // the device starts from reset
  start(write(2));
  EXPECT_EQ(ring.taken.size(), 1U);
  ring.perform(0);
  EXPECT_THAT(completions(), IsEmpty());
  ASSERT_EQ(ring.taken.size(), 1U);
  ring.perform(0);
  EXPECT_THAT(completions(), ElementsAre(Done{2, BlockStatus::kOk}));
}

TEST_F(RingBlockTest, predecessors_request_is_given_up) {
  start(write(1));
  begin_process();
  EXPECT_TRUE(block->cancel(kGeneration | 1));
  begin_process();
  EXPECT_TRUE(block->cancel(kGeneration | 1)) << "still";
  EXPECT_FALSE(block->cancel(2 * kGeneration | 1));
  ring.post(0, -EFAULT);
  EXPECT_EQ(completions().size(), 1U);
  EXPECT_THAT(ring.taken, IsEmpty()) << "it is not done again";
  begin_process();
  EXPECT_FALSE(block->cancel(kGeneration | 1));
}

TEST_F(RingBlockTest, buffer_is_gone_with_its_process) {
  geometry.memory_align = 512;
  begin_process();
  const BlockRequest request = transfer(BlockOp::kRead, 1, 0, {100, 4096});
  start(request);
  begin_process();
  ring.perform(0, 0);  // into memory that nobody has
  start(request);
  EXPECT_THAT(completions(), IsEmpty());
  ring.perform(0);
  EXPECT_THAT(completions(), ElementsAre(Done{1, BlockStatus::kOk}));
  EXPECT_TRUE(same(0, 100, 4096));
}

// ---- Rings that cannot keep up, and rings that lie ----

TEST_F(RingBlockTest, kernel_that_takes_little_at_a_time) {
  ring.most_at_once = 3;
  for (std::uint16_t slot = 0; slot < 20; ++slot) ASSERT_TRUE(block->submit(write(slot)));
  block->begin();
  EXPECT_EQ(ring.taken.size(), 20U);
  ring.refuse_with = EAGAIN;
  ASSERT_TRUE(block->submit(write(30)));
  block->begin();
  EXPECT_EQ(ring.taken.size(), 20U);
  EXPECT_TRUE(block->ready()) << "it is tried again";
  ring.refuse_with = 0;
  block->begin();
  EXPECT_EQ(ring.taken.size(), 21U);
  EXPECT_FALSE(block->ready());
}

TEST_F(RingBlockTest, results_that_found_no_room_are_fetched) {
  for (std::uint32_t i = 0; i < 600; ++i) ring.post_result({0xdead'0000'0000'0000 | i, 0, 0});
  start(write(1));
  ring.perform(0);
  std::vector<Done> all;
  for (int i = 0; i < 4; ++i) {
    for (const Done& done : completions()) all.push_back(done);
  }
  EXPECT_THAT(all, ElementsAre(Done{1, BlockStatus::kOk}));
}

TEST_F(RingBlockTest, overflow_that_a_liar_has_told_of_keeps_nobody_awake) {
  ring.word(ring.params().sq_off.flags).fetch_or(IORING_SQ_CQ_OVERFLOW);
  begin_process();
  block->begin();
  EXPECT_FALSE(block->ready());
}

TEST_F(RingBlockTest, results_without_room_are_fetched_when_the_flag_was_taken_away_by_the_dead) {
  for (std::uint32_t i = 0; i < 600; ++i) ring.post_result({0xdead'0000'0000'0000 | i, 0, 0});
  start(write(1));
  ring.perform(0);
  ring.word(ring.params().sq_off.flags).fetch_and(~std::uint32_t{IORING_SQ_CQ_OVERFLOW});
  begin_process();
  ASSERT_TRUE(block->submit(write(1)));
  std::vector<Done> all;
  for (int i = 0; i < 4; ++i) {
    for (const Done& done : completions()) all.push_back(done);
  }
  EXPECT_THAT(all, ElementsAre(Done{1, BlockStatus::kOk}));
  EXPECT_EQ(ring.performed.size(), 1U);
}

TEST_F(RingBlockTest, predecessors_entries_are_withdrawn) {
  // A liar: entries of its own, and a tail that says that there are many.
  auto* entries = reinterpret_cast<io_uring_sqe*>(ring.memory().entries.data());
  const std::pair<std::uint32_t, std::uint32_t> lies[] = {{0, 5}, {0, 300}, {7, 7}, {7, 500}, {0x8000'0000, 3}, {5, 4}};
  for (const auto& [head, tail] : lies) {
    for (std::uint32_t i = 0; i < 256; ++i) {
      entries[i] = {};
      entries[i].opcode = IORING_OP_WRITE;
      entries[i].flags = IOSQE_FIXED_FILE;
      entries[i].addr = reinterpret_cast<std::uintptr_t>(region.bytes().data());
      entries[i].len = 512;
      entries[i].user_data = kGeneration | i;
    }
    ring.word(ring.params().sq_off.head).fetch_add(head);
    ring.word(ring.params().sq_off.tail).fetch_add(tail);
    begin_process();
    EXPECT_THAT(ring.taken, IsEmpty()) << head << ' ' << tail;
    start(write(3));
    ASSERT_EQ(ring.taken.size(), 1U);
    ring.perform(0);
    std::vector<Done> all;
    for (int i = 0; i < 4; ++i) {
      for (const Done& done : completions()) all.push_back(done);
    }
    EXPECT_THAT(all, ElementsAre(Done{3, BlockStatus::kOk}));
  }
}

TEST_F(RingBlockTest, whatever_ring_and_notes_hold_it_ends) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 300; ++round) {
    const auto scribble = [&](std::span<std::byte> bytes, unsigned times) {
      for (unsigned i = 0; i < times; ++i) bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    };
    scribble(ring.memory().queues, static_cast<unsigned>(random() % 50));
    scribble(ring.memory().entries, static_cast<unsigned>(random() % 50));
    scribble(std::as_writable_bytes(std::span(notes.notes)), static_cast<unsigned>(random() % 50));
    if (round % 3 == 0) {
      for (const std::uint32_t word :
           {ring.params().sq_off.head, ring.params().sq_off.tail, ring.params().cq_off.head, ring.params().cq_off.tail})
        ring.word(word).store(static_cast<std::uint32_t>(random()));
    }
    auto made = RingBlock::create(ring.ring(), {}, notes, geometry, memory);
    if (!made) continue;
    block = std::move(*made);
    for (std::uint16_t slot = 0; slot < 8; ++slot) (void)block->submit(write(slot));
    for (int i = 0; i < 20; ++i) {
      block->begin();
      ring.perform_all();
      for (int taken = 0; taken < 2000 && block->complete(); ++taken) continue;
    }
    (void)block->cancel(kGeneration | 3);
  }
}

// ---- Every order of deaths, commits and results ----

// A model that remembers what it has committed, as VirtioBlk does, and a kernel that does as it likes.
TEST_F(RingBlockTest, each_request_is_told_once_and_is_never_under_way_twice) {
  struct Death {};
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    std::mt19937_64 random(seed);
    const auto below = [&](std::uint64_t limit) { return random() % limit; };
    std::map<std::uint32_t, BlockRequest> committed, working;
    std::size_t told = 0;
    std::size_t asked = 0;
    std::uint16_t generation = static_cast<std::uint16_t>(1 + seed % 7);
    const auto die = [&] {
      working = committed;
      begin_process();
      for (const auto& [tag, request] : working) {
        BlockRequest again = request;
        again.memory = segments[static_cast<std::uint16_t>(tag & 0xffff)];
        ASSERT_TRUE(block->submit(again));
      }
    };
    const auto end_input = [&] {
      if (below(6) == 0) return die();  // not committed
      for (const auto& [tag, request] : committed) told += working.contains(tag) ? 0 : 1;
      committed = working;
      const std::uint64_t how = below(6);
      if (how == 0) return die();  // committed, and the ring has not heard of it
      if (how == 1) ring.before_enter = [] { throw Death{}; };
      if (how == 2) ring.after_enter = [] { throw Death{}; };
      try {
        block->begin();
      } catch (const Death&) {
        ring.before_enter = ring.after_enter = nullptr;
        die();
      }
      ring.before_enter = ring.after_enter = nullptr;
      std::map<std::uint32_t, int> under_way;
      for (const FakeRing::Taken& one : ring.taken)
        ASSERT_EQ(++under_way[static_cast<std::uint32_t>(one.entry.user_data)], 1) << "twice under way, seed " << seed;
    };
    for (int step = 0; step < 120; ++step) {
      if (below(3) == 0 && asked < 30) {
        const auto slot = static_cast<std::uint16_t>(below(6));
        const auto busy = [&](const auto& entry) { return (entry.first & 0xffff) == slot; };
        if (std::any_of(working.begin(), working.end(), busy)) continue;
        BlockRequest request = below(4) == 0 ? flush(slot) : below(2) == 0 ? write(slot) : read(slot);
        request.tag = std::uint32_t{++generation} << 16 | slot;
        ASSERT_TRUE(block->submit(request));
        working[request.tag] = request;
        ++asked;
        end_input();
        asked -= committed.contains(request.tag) ? 0 : 1;
      } else if (below(2) == 0 && !ring.taken.empty()) {
        const std::size_t which = below(ring.taken.size());
        constexpr int kResults[] = {-EINTR, -ECANCELED, -EAGAIN, 100};
        if (below(4) == 0 && ring.taken[which].entry.opcode != IORING_OP_FSYNC)
          ring.post(which, kResults[below(4)]);
        else
          ring.perform(which);
      } else {
        while (const auto done = block->complete()) {
          ASSERT_EQ(working.erase(done->tag), 1U) << "told of what is not in flight, seed " << seed;
          ASSERT_EQ(done->status, BlockStatus::kOk);
          if (below(3) == 0) break;
        }
        end_input();
      }
    }
    for (int i = 0; i < 200 && !committed.empty(); ++i) {
      ring.perform_all();
      while (const auto done = block->complete()) working.erase(done->tag);
      for (const auto& [tag, request] : committed) told += working.contains(tag) ? 0 : 1;
      committed = working;
      block->begin();
    }
    ASSERT_EQ(told, asked) << "seed " << seed;
    ASSERT_THAT(ring.taken, IsEmpty());
  }
}

}  // namespace
}  // namespace bulkhead::devproc
