// Checkpoint: whatever a kill leaves behind, open() finds the last commit and nothing else.
#include "ipc/state/checkpoint.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "tests/fakes/single_step.h"

namespace bulkhead::ipc {
namespace {

constexpr std::size_t kRegionSize = 5 * 4096;

// A region in page-aligned memory of its own.
struct Region {
  struct alignas(4096) Page {
    std::byte bytes[4096]{};
  };
  explicit Region(std::size_t size = kRegionSize) : pages(size / 4096) {}
  explicit Region(const std::vector<std::byte>& from) : pages(from.size() / 4096) {
    std::memcpy(bytes().data(), from.data(), from.size());
  }
  [[nodiscard]] std::span<std::byte> bytes() { return {pages[0].bytes, pages.size() * 4096}; }
  [[nodiscard]] StateHeader& header() { return *reinterpret_cast<StateHeader*>(pages[0].bytes); }
  std::vector<Page> pages;
};

// What a commit consists of, as a value.
struct Image {
  Ticket last_ticket = 0;
  Reply reply{};
  std::vector<Effect> effects;
  std::vector<std::vector<std::byte>> segments;
};

// A role of a few segments, worked on through the Checkpoint's own interface.
class Role {
 public:
  explicit Role(std::span<std::byte> region, const std::vector<std::uint32_t>& sizes = kSizes) : checkpoint(region) {
    for (const std::uint32_t size : sizes) segments.push_back(&checkpoint.allocate(size, 64));
    checkpoint.mix_layout("role", 1);
  }

  // One input: touches some segments, and sometimes gives an answer with effects. Allocates nothing (single-stepped).
  void work(std::mt19937& random) {
    for (StateSegment* segment : segments) {
      if (random() % 3 == 0) continue;
      segment->mark_dirty();
      for (std::uint32_t n = random() % 5; n > 0; --n)
        segment->working()[random() % segment->size] = static_cast<std::byte>(random());
    }
    InputRecord& input = checkpoint.input();
    if (random() % 4 != 0) {
      ++input.last_ticket;
      input.reply.effect_count = static_cast<std::uint8_t>(random() % 3);
      input.reply.effects_total += input.reply.effect_count;
      input.reply.payload[0] = static_cast<std::uint8_t>(random());
      for (std::uint32_t i = 0; i < input.reply.effect_count; ++i) checkpoint.effects()[i].address = random();
    }
    input.messages[random() % 4] = random();
  }

  [[nodiscard]] Image committed() const {
    const InputRecord& input = checkpoint.committed_input();
    Image image{.last_ticket = input.last_ticket, .reply = input.reply, .effects = {}, .segments = {}};
    image.effects.assign(checkpoint.committed_effects(), checkpoint.committed_effects() + input.reply.effect_count);
    for (const StateSegment* segment : segments) {
      const std::byte* bytes = checkpoint.committed_bytes(*segment);
      image.segments.emplace_back(bytes, bytes + segment->size);
    }
    return image;
  }
  [[nodiscard]] bool banks_agree() const {
    for (const StateSegment* segment : segments) {
      if (std::memcmp(segment->working(), checkpoint.committed_bytes(*segment), segment->size) != 0) return false;
    }
    return true;
  }

  static const std::vector<std::uint32_t> kSizes;
  Checkpoint checkpoint;
  std::vector<StateSegment*> segments;
};
const std::vector<std::uint32_t> Role::kSizes = {8, 64, 100, 1, 512};

void expect_equal(const Image& found, const Image& wanted) {
  ASSERT_EQ(found.last_ticket, wanted.last_ticket);
  ASSERT_EQ(std::memcmp(&found.reply, &wanted.reply, sizeof found.reply), 0);
  ASSERT_EQ(found.effects, wanted.effects);
  ASSERT_EQ(found.segments, wanted.segments);
}

TEST(Checkpoint, a_new_region_holds_nothing_and_its_first_commit_is_found_again) {
  Region region;
  std::mt19937 random(1);
  Role role(region.bytes());
  const auto resumed = role.checkpoint.open();
  ASSERT_TRUE(resumed);
  EXPECT_FALSE(*resumed);
  role.work(random);
  role.checkpoint.commit();
  const Image wanted = role.committed();
  role.checkpoint.sync();
  EXPECT_TRUE(role.banks_agree());

  Role successor(region.bytes());
  const auto again = successor.checkpoint.open();
  ASSERT_TRUE(again);
  EXPECT_TRUE(*again);
  EXPECT_EQ(successor.checkpoint.commits(), 1U);
  expect_equal(successor.committed(), wanted);
  EXPECT_TRUE(successor.banks_agree());
}

TEST(Checkpoint, uncommitted_work_is_gone) {
  Region region;
  std::mt19937 random(2);
  Role role(region.bytes());
  ASSERT_TRUE(role.checkpoint.open());
  role.work(random);
  role.checkpoint.commit();
  role.checkpoint.sync();
  const Image wanted = role.committed();
  role.work(random);
  Role successor(region.bytes());
  ASSERT_TRUE(successor.checkpoint.open());
  expect_equal(successor.committed(), wanted);
}

// Every instruction of many inputs, from the first change to the end of sync(): the commit word says which of the two
// neighbouring commits is found, whole.
TEST(Checkpoint, a_kill_after_any_instruction_leaves_exactly_the_last_commit) {
  if (!kCanSingleStep) GTEST_SKIP() << "not under a sanitizer";
  Region region;
  std::mt19937 random(3);
  Role role(region.bytes());
  ASSERT_TRUE(role.checkpoint.open());
  role.work(random);
  role.checkpoint.commit();
  role.checkpoint.sync();
  std::map<std::uint64_t, Image> images{{1, role.committed()}};
  std::size_t tried = 0;
  for (std::uint64_t round = 0; round < 12; ++round) {
    SnapshotLog log({region.bytes()});
    single_step(
        [&] {
          role.work(random);
          role.checkpoint.commit();
          role.checkpoint.sync();
        },
        [&] { log.look(); });
    images[2 + round] = role.committed();
    std::uint64_t newest = 0;
    log.for_each([&](const std::vector<std::vector<std::byte>>& copies) {
      ++tried;
      Region copy(copies[0]);
      const std::uint64_t number = copy.header().commit_word.load();
      ASSERT_TRUE(number == 1 + round || number == 2 + round);
      ASSERT_GE(number, newest);
      newest = number;
      Role successor(copy.bytes());
      const auto resumed = successor.checkpoint.open();
      ASSERT_TRUE(resumed && *resumed);
      expect_equal(successor.committed(), images[number]);
      ASSERT_TRUE(successor.banks_agree());
    });
    EXPECT_EQ(newest, 2 + round);
  }
  EXPECT_GT(tried, 12U * 10);
  RecordProperty("kill_points", static_cast<int>(tried));
}

// A successor that is killed while it opens, and the one after it.
TEST(Checkpoint, a_kill_after_any_instruction_of_open_changes_nothing) {
  if (!kCanSingleStep) GTEST_SKIP() << "not under a sanitizer";
  Region region;
  std::mt19937 random(4);
  Role role(region.bytes());
  ASSERT_TRUE(role.checkpoint.open());
  for (int i = 0; i < 3; ++i) {
    role.work(random);
    role.checkpoint.commit();
    role.checkpoint.sync();
  }
  const Image wanted = role.committed();
  role.work(random);  // and dies half-way
  Role successor(region.bytes());
  SnapshotLog log({region.bytes()});
  single_step([&] { (void)successor.checkpoint.open(); }, [&] { log.look(); });
  log.for_each([&](const std::vector<std::vector<std::byte>>& copies) {
    Region copy(copies[0]);
    Role next(copy.bytes());
    const auto resumed = next.checkpoint.open();
    ASSERT_TRUE(resumed && *resumed);
    expect_equal(next.committed(), wanted);
  });
  EXPECT_GT(log.snapshots(), 3U);
}

// The same without the CPU's help, for sanitizers: any part of the changed bytes of any step may have been written.
TEST(Checkpoint, a_kill_after_any_byte_leaves_exactly_the_last_commit) {
  Region region;
  std::mt19937 random(5);
  Role role(region.bytes());
  ASSERT_TRUE(role.checkpoint.open());
  role.work(random);
  role.checkpoint.commit();
  role.checkpoint.sync();
  const auto copy_of = [&] { return std::vector<std::byte>(region.bytes().begin(), region.bytes().end()); };
  for (int round = 0; round < 20; ++round) {
    const Image before = role.committed();
    const std::vector<std::byte> at_rest = copy_of();
    role.work(random);
    const std::vector<std::byte> worked = copy_of();
    role.checkpoint.commit();
    const Image after = role.committed();
    const std::vector<std::byte> committed = copy_of();
    role.checkpoint.sync();
    const std::vector<std::byte> synced = copy_of();
    const auto try_mix = [&](const std::vector<std::byte>& from, const std::vector<std::byte>& to,
                             const Image& wanted) {
      std::vector<std::size_t> differ;
      for (std::size_t i = 0; i < from.size(); ++i) {
        if (from[i] != to[i]) differ.push_back(i);
      }
      for (std::size_t n = 0; n <= differ.size(); ++n) {
        Region prefix(from);
        for (std::size_t i = 0; i < n; ++i) prefix.bytes()[differ[i]] = to[differ[i]];
        Region subset(from);
        for (const std::size_t i : differ) {
          if (random() % 2 == 0) subset.bytes()[i] = to[i];
        }
        for (Region* mixed : {&prefix, &subset}) {
          Role successor(mixed->bytes());
          const auto resumed = successor.checkpoint.open();
          ASSERT_TRUE(resumed && *resumed);
          expect_equal(successor.committed(), wanted);
        }
      }
    };
    try_mix(at_rest, worked, before);
    try_mix(committed, synced, after);
  }
}

TEST(Checkpoint, after_sync_both_banks_agree_whatever_was_touched) {
  std::mt19937 random(6);
  for (int round = 0; round < 50; ++round) {
    std::vector<std::uint32_t> sizes(1 + random() % 20);
    for (std::uint32_t& size : sizes) size = 1 + random() % 300;
    Region region(16 * 4096);
    Role role(region.bytes(), sizes);
    ASSERT_TRUE(role.checkpoint.open());
    for (int i = 0; i < 20; ++i) {
      role.work(random);
      role.checkpoint.commit();
      role.checkpoint.sync();
      ASSERT_TRUE(role.banks_agree());
      for (const StateSegment* segment : role.segments) ASSERT_FALSE(segment->dirty);
      ASSERT_EQ(role.checkpoint.input().last_ticket, role.checkpoint.committed_input().last_ticket);
    }
  }
}

TEST(Checkpoint, effects_of_the_last_answer_survive_inputs_that_give_none) {
  Region region;
  Role role(region.bytes());
  ASSERT_TRUE(role.checkpoint.open());
  role.checkpoint.input().last_ticket = 1;
  role.checkpoint.input().reply.effect_count = 2;
  role.checkpoint.effects()[0].address = 11;
  role.checkpoint.effects()[1].address = 22;
  role.checkpoint.commit();
  role.checkpoint.sync();
  for (int i = 0; i < 3; ++i) {  // timers, stream events
    role.segments[0]->mark_dirty();
    role.checkpoint.commit();
    role.checkpoint.sync();
    ASSERT_EQ(role.checkpoint.committed_effects()[0].address, 11U);
    ASSERT_EQ(role.checkpoint.committed_effects()[1].address, 22U);
  }
}

TEST(Checkpoint, a_region_of_another_layout_is_refused_and_left_alone) {
  Region region;
  std::mt19937 random(7);
  Role role(region.bytes());
  ASSERT_TRUE(role.checkpoint.open());
  role.work(random);
  role.checkpoint.commit();
  role.checkpoint.sync();
  const std::vector<std::byte> before(region.bytes().begin(), region.bytes().end());
  const std::vector<std::vector<std::uint32_t>> others = {
      {8, 64, 100, 1, 513}, {8, 64, 100, 1}, {64, 8, 100, 1, 512}, {8, 64, 100, 1, 512, 1}, {}};
  for (const auto& sizes : others) {
    Role other(region.bytes(), sizes);
    EXPECT_FALSE(other.checkpoint.open());
  }
  Checkpoint newer(region.bytes());
  for (const std::uint32_t size : Role::kSizes) newer.allocate(size, 64);
  newer.mix_layout("role", 2);
  EXPECT_FALSE(newer.open()) << "another version of the state";
  Checkpoint renamed(region.bytes());
  for (const std::uint32_t size : Role::kSizes) renamed.allocate(size, 64);
  renamed.mix_layout("rolf", 1);
  EXPECT_FALSE(renamed.open()) << "another device type";
  region.header().magic ^= 1;
  Role again(region.bytes());
  EXPECT_FALSE(again.checkpoint.open());
  region.header().magic ^= 1;
  EXPECT_EQ(std::memcmp(before.data(), region.bytes().data(), before.size()), 0);
}

TEST(Checkpoint, a_state_that_does_not_fit_is_refused_before_anything_is_touched) {
  Region region;
  Checkpoint checkpoint(region.bytes());
  checkpoint.allocate(4096, 64);
  checkpoint.allocate(4096, 64);
  checkpoint.allocate(8, 64);  // even if it would fit
  const auto opened = checkpoint.open();
  ASSERT_FALSE(opened);
  EXPECT_NE(opened.error().message.find("does not fit"), std::string::npos);
  for (const std::byte byte : region.bytes()) ASSERT_EQ(byte, std::byte{0});
}

TEST(Checkpoint, a_state_that_just_fits_is_taken) {
  Region region;
  Checkpoint checkpoint(region.bytes());
  const StateSegment& first = checkpoint.allocate(8, 8);
  const std::size_t head = first.offset;  // of a bank, before the first segment
  Region exact;
  Checkpoint full(exact.bytes());
  const StateSegment& all = full.allocate(static_cast<std::uint32_t>(8192 - head), 64);
  ASSERT_TRUE(full.open());
  std::memset(all.working(), 0xff, all.size);
  Checkpoint over(exact.bytes());
  over.allocate(static_cast<std::uint32_t>(8192 - head + 1), 64);
  EXPECT_FALSE(over.open());
}

// A predecessor that died in its very first input left bytes in the bank that the successor begins with.
TEST(Checkpoint, a_start_that_died_before_its_first_commit_leaves_no_trace) {
  Region region;
  Role dead(region.bytes());
  ASSERT_TRUE(dead.checkpoint.open());
  for (StateSegment* segment : dead.segments) std::memset(segment->working(), 0x55, segment->size);
  dead.checkpoint.input().last_ticket = 9;
  Role successor(region.bytes());
  const auto resumed = successor.checkpoint.open();
  ASSERT_TRUE(resumed);
  EXPECT_FALSE(*resumed);
  EXPECT_EQ(successor.checkpoint.input().last_ticket, 0U);
  for (const StateSegment* segment : successor.segments) {
    for (std::uint32_t i = 0; i < segment->size; ++i) ASSERT_EQ(segment->working()[i], std::byte{0});
  }
}

TEST(Checkpoint, random_bytes_never_crash_open) {
  std::mt19937_64 random(8);
  for (int round = 0; round < 2000; ++round) {
    Region region;
    if (round % 4 != 0) {
      Role role(region.bytes());
      ASSERT_TRUE(role.checkpoint.open());
      role.checkpoint.commit();
      role.checkpoint.sync();
    }
    const std::size_t from = round % 3 == 0 ? 0 : 4096;  // with and without the header
    for (std::size_t i = from; i < region.bytes().size(); ++i) {
      if (random() % 2 == 0) region.bytes()[i] = static_cast<std::byte>(random());
    }
    if (round % 5 == 0) region.header().commit_word.store(random());
    Role role(region.bytes());
    const auto resumed = role.checkpoint.open();
    if (!resumed) continue;
    if (*resumed) {
      ASSERT_TRUE(role.banks_agree());
    }
    role.checkpoint.commit();
    role.checkpoint.sync();
    ASSERT_TRUE(role.banks_agree()) << "round " << round;
  }
}

// The number of commits is a hostile process's to write, too; zero would mean a region that was never used.
TEST(Checkpoint, no_commit_number_is_ever_followed_by_zero) {
  for (const std::uint64_t number : {~std::uint64_t{0}, ~std::uint64_t{0} - 1, std::uint64_t{1} << 63}) {
    Region region;
    std::mt19937 random(9);
    Role role(region.bytes());
    ASSERT_TRUE(role.checkpoint.open());
    for (std::uint64_t i = 0; i < 2 + number % 2; ++i) {
      role.work(random);
      role.checkpoint.commit();
      role.checkpoint.sync();
    }
    const Image wanted = role.committed();
    region.header().commit_word.store(number);
    Role successor(region.bytes());
    ASSERT_TRUE(successor.checkpoint.open().value());
    expect_equal(successor.committed(), wanted);
    for (int i = 0; i < 4; ++i) {
      successor.work(random);
      successor.checkpoint.commit();
      successor.checkpoint.sync();
      ASSERT_NE(region.header().commit_word.load(), 0U);
      Role next(region.bytes());
      ASSERT_TRUE(next.checkpoint.open().value());
      expect_equal(next.committed(), successor.committed());
    }
  }
}

}  // namespace
}  // namespace bulkhead::ipc
