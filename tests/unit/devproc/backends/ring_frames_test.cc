// Two ends of a frame ring in one process: what arrives, what waits, who is woken, and what a hostile end can do.
#include "devproc/backends/ring_frames.h"

#include <gmock/gmock.h>

#include <array>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <random>

#include "tests/fakes/fake_state.h"

namespace bulkhead::devproc {
namespace {

using Frame = std::vector<std::byte>;
using Sent = FrameBackend::Sent;
using ipc::FrameRingArea;
using ipc::kFrameRingBytes;

// Guest memory of 128 KiB at address 0, in two pieces.
class Memory final : public GuestRanges {
 public:
  std::span<std::byte> host_range(GuestPhys address, std::uint64_t length) override {
    if (address >= bytes.size()) return {};
    const std::uint64_t end = address < kPiece ? kPiece : bytes.size();
    return std::span(bytes).subspan(address, std::min(length, end - address));
  }
  static constexpr std::uint64_t kPiece = 70'000;
  std::vector<std::byte> bytes = std::vector<std::byte>(128 * 1024);
};

Frame frame_of(std::size_t size, unsigned seed) {
  Frame frame(size);
  for (std::size_t i = 0; i < size; ++i) frame[i] = static_cast<std::byte>(seed * 31 + i * 7);
  return frame;
}

class RingFramesTest : public ::testing::Test {
 protected:
  struct End {
    FrameRingArea* area = nullptr;
    std::unique_ptr<LocalStateAllocator> allocator = std::make_unique<LocalStateAllocator>();
    UniqueFd bell = UniqueFd::create_eventfd().value();
    std::unique_ptr<RingFrames> frames;
  };

  RingFramesTest() : areas_(std::make_unique<std::array<FrameRingArea, 2>>()) {
    for (std::size_t i = 0; i < 2; ++i) {
      ends_[i].area = &(*areas_)[i];
      ends_[i].area->link.store(1);
    }
    for (std::size_t i = 0; i < 2; ++i) {
      state_[i].emplace(allocate_state<ipc::FrameRingState>(*ends_[i].allocator));
      make(i, false);
    }
    drain();
  }

  // A process that plays this end, from its committed state.
  void make(std::size_t i, bool resumed) {
    End& own = ends_[i];
    End& peer = ends_[1 - i];
    own.frames = std::make_unique<RingFrames>(
        FrameRingWires{own.area, peer.area, own.bell.borrow(), peer.bell.borrow()}, *state_[i], &memory_);
    own.frames->set_wanted(true);
    own.frames->start(resumed);
    own.frames->begin();
  }
  void drain() {
    for (End& end : ends_) drain_eventfd(end.bell.borrow());
  }
  RingFrames& left() { return *ends_[0].frames; }
  RingFrames& right() { return *ends_[1].frames; }

  Sent send(RingFrames& from, const Frame& frame) { return from.send(frame, {}); }
  // All frames that are there, taken and committed.
  std::vector<Frame> take(RingFrames& to) {
    std::vector<Frame> all;
    for (auto frame = to.receive(); !frame.empty(); frame = to.receive()) {
      all.emplace_back(frame.begin(), frame.end());
      to.consume();
    }
    to.begin();
    return all;
  }

  Memory memory_;
  std::unique_ptr<std::array<FrameRingArea, 2>> areas_;
  std::array<End, 2> ends_;
  std::array<std::optional<Persistent<ipc::FrameRingState>>, 2> state_;
};

TEST_F(RingFramesTest, frames_arrive_whole_and_in_order_each_way) {
  const Frame a = frame_of(14, 1);
  const Frame b = frame_of(1514, 2);
  const Frame c = frame_of(kMostFrame, 3);
  for (const Frame& frame : {a, b, c}) ASSERT_EQ(send(left(), frame), Sent::kSent);
  ASSERT_EQ(send(right(), b), Sent::kSent);
  left().begin();
  right().begin();
  EXPECT_THAT(take(right()), ::testing::ElementsAre(a, b, c));
  EXPECT_THAT(take(left()), ::testing::ElementsAre(b));
  EXPECT_EQ(right().taken(), 3U);
}

TEST_F(RingFramesTest, nothing_shows_before_the_commit) {
  ASSERT_EQ(send(left(), frame_of(100, 1)), Sent::kSent);
  EXPECT_TRUE(right().receive().empty());
  EXPECT_FALSE(right().ready());
  left().begin();
  EXPECT_TRUE(right().ready());
  EXPECT_FALSE(right().receive().empty());
}

TEST_F(RingFramesTest, frame_stays_the_next_one_until_it_is_consumed) {
  send(left(), frame_of(100, 1));
  send(left(), frame_of(100, 2));
  left().begin();
  EXPECT_EQ(right().receive()[0], frame_of(100, 1)[0]);
  EXPECT_EQ(right().receive()[0], frame_of(100, 1)[0]);
  right().consume();
  EXPECT_EQ(right().receive()[0], frame_of(100, 2)[0]);
}

TEST_F(RingFramesTest, frame_is_gathered_from_guest_memory) {
  for (std::size_t i = 0; i < memory_.bytes.size(); ++i) memory_.bytes[i] = static_cast<std::byte>(i * 13);
  const std::array<Segment, 2> segments{Segment{Memory::kPiece - 100, 300}, Segment{5, 7}};
  const Frame header = frame_of(12, 9);
  ASSERT_EQ(left().send(header, segments), Sent::kSent);
  left().begin();
  Frame wanted = header;
  wanted.insert(wanted.end(), memory_.bytes.begin() + Memory::kPiece - 100,
                memory_.bytes.begin() + Memory::kPiece + 200);
  wanted.insert(wanted.end(), memory_.bytes.begin() + 5, memory_.bytes.begin() + 12);
  EXPECT_THAT(take(right()), ::testing::ElementsAre(wanted));
}

TEST_F(RingFramesTest, frame_outside_guest_memory_or_too_long_is_dropped) {
  const std::array<Segment, 1> outside{Segment{std::uint64_t{1} << 40, 10}};
  EXPECT_EQ(left().send(frame_of(12, 1), outside), Sent::kSent);
  const std::array<Segment, 2> huge{Segment{0, UINT32_MAX}, Segment{0, UINT32_MAX}};
  EXPECT_EQ(left().send(frame_of(12, 1), huge), Sent::kSent);
  EXPECT_EQ(send(left(), frame_of(kMostFrame + 1, 1)), Sent::kSent);
  EXPECT_EQ(send(left(), {}), Sent::kSent);
  left().begin();
  EXPECT_TRUE(take(right()).empty());
  EXPECT_EQ(left().dropped(), 4U);
}

TEST_F(RingFramesTest, full_ring_takes_no_more_and_tells_of_room) {
  std::size_t frames = 0;
  while (send(left(), frame_of(3000, 1)) == Sent::kSent) ++frames;
  EXPECT_EQ(frames, kFrameRingBytes / ipc::frame_record_size(3000));
  left().begin();
  EXPECT_FALSE(left().ready());
  left().set_asleep(true);
  drain();
  ASSERT_FALSE(right().receive().empty());
  right().consume();
  EXPECT_FALSE(left().ready());
  right().begin();
  EXPECT_TRUE(left().ready());
  EXPECT_EQ(drain_eventfd(ends_[0].bell.borrow()), 1U);
  EXPECT_EQ(send(left(), frame_of(3000, 2)), Sent::kSent);
  EXPECT_FALSE(left().ready());
}

TEST_F(RingFramesTest, bell_is_rung_only_for_who_sleeps_and_wants_it) {
  const auto rings = [&](std::size_t end) { return drain_eventfd(ends_[end].bell.borrow()); };
  const auto tell = [&] {
    send(left(), frame_of(60, 1));
    left().begin();
  };
  tell();
  EXPECT_EQ(rings(1), 0U);
  right().set_asleep(true);
  tell();
  EXPECT_EQ(rings(1), 1U);
  right().set_asleep(false);
  tell();
  EXPECT_EQ(rings(1), 0U);
  right().set_wanted(false);
  right().set_asleep(true);
  tell();
  EXPECT_EQ(rings(1), 0U);
  EXPECT_FALSE(right().ready());
  // What it takes concerns nobody who has room.
  left().set_asleep(true);
  take(right());
  EXPECT_EQ(rings(0), 0U);
}

TEST_F(RingFramesTest, random_frames_go_round_the_ring_many_times) {
  std::mt19937_64 random(7);
  std::deque<Frame> under_way;
  std::uint64_t sent_bytes = 0;
  for (unsigned i = 0; sent_bytes < 6 * kFrameRingBytes; ++i) {
    const Frame frame = frame_of(1 + random() % (i % 16 == 0 ? kMostFrame : 1600), i);
    if (send(left(), frame) == Sent::kSent) {
      under_way.push_back(frame);
      sent_bytes += frame.size();
      left().begin();
    } else {
      EXPECT_FALSE(under_way.empty());
    }
    if (random() % 3 != 0) continue;
    for (const Frame& got : take(right())) {
      ASSERT_FALSE(under_way.empty());
      ASSERT_EQ(got, under_way.front());
      under_way.pop_front();
    }
  }
  EXPECT_EQ(left().broken() + right().broken(), 0U);
}

// ---- Successors ----

TEST_F(RingFramesTest, successor_sends_nothing_twice_and_takes_nothing_twice) {
  send(left(), frame_of(100, 1));
  left().begin();
  send(left(), frame_of(100, 2));  // committed, and the process dies before it publishes
  make(0, true);
  std::vector<Frame> got;
  got.emplace_back(right().receive().begin(), right().receive().end());
  right().consume();  // committed, not published
  make(1, true);
  for (const Frame& frame : take(right())) got.push_back(frame);
  EXPECT_THAT(got, ::testing::ElementsAre(frame_of(100, 1), frame_of(100, 2)));
  EXPECT_EQ(left().broken() + right().broken(), 0U);
}

TEST_F(RingFramesTest, uncommitted_work_of_a_dead_process_does_not_show) {
  send(left(), frame_of(100, 1));
  left().begin();
  const ipc::FrameRingState committed = state_[0]->get();
  send(left(), frame_of(200, 2));
  state_[0]->mut() = committed;  // it dies before the commit
  make(0, true);
  send(left(), frame_of(300, 3));
  left().begin();
  EXPECT_THAT(take(right()), ::testing::ElementsAre(frame_of(100, 1), frame_of(300, 3)));
}

TEST_F(RingFramesTest, successor_wakes_its_peer) {
  make(0, true);
  EXPECT_EQ(drain_eventfd(ends_[1].bell.borrow()), 1U);
}

TEST_F(RingFramesTest, device_that_begins_anew_goes_on_where_the_ring_is) {
  for (int i = 0; i < 5; ++i) send(left(), frame_of(100, 1));
  send(right(), frame_of(50, 7));
  left().begin();
  right().begin();
  take(right());
  state_[0]->mut() = {};
  make(0, false);
  EXPECT_TRUE(take(left()).empty());
  send(left(), frame_of(300, 3));
  left().begin();
  EXPECT_THAT(take(right()), ::testing::ElementsAre(frame_of(300, 3)));
  EXPECT_EQ(left().broken() + right().broken(), 0U);
}

TEST_F(RingFramesTest, random_state_is_brought_into_range) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 300; ++i) {
    auto* words = reinterpret_cast<std::uint64_t*>(&state_[0]->mut());
    for (std::size_t k = 0; k < sizeof(ipc::FrameRingState) / 8; ++k) words[k] = random() >> (random() % 64);
    make(0, true);
    for (int n = 0; n < 40 && left().ready(); ++n) take(left());
    EXPECT_FALSE(left().ready());
    take(right());
    ASSERT_EQ(send(left(), frame_of(90, 5)), Sent::kSent);
    left().begin();
    EXPECT_THAT(take(right()), ::testing::ElementsAre(frame_of(90, 5)));
  }
}

// ---- A hostile peer ----

TEST_F(RingFramesTest, index_out_of_range_drops_what_is_there_and_is_counted) {
  for (const std::uint64_t produced : {kFrameRingBytes + 8, std::size_t{4}, ~std::size_t{0}, std::size_t{7}}) {
    const std::uint64_t before = right().broken();
    ends_[0].area->produced.store(state_[1]->get().consumed + produced);
    EXPECT_TRUE(right().receive().empty()) << produced;
    EXPECT_GT(right().broken(), before);
    EXPECT_FALSE(right().ready());
    // And the ring is of use again once the peer keeps to the rules.
    ends_[0].area->produced.store(state_[1]->get().consumed / 8 * 8 + 4096);
    (void)right().receive();
    right().consume();
    right().begin();
  }
}

TEST_F(RingFramesTest, record_longer_than_what_is_there_is_no_frame) {
  for (const std::uint32_t length : {0U, 93U, 60'000U, 0xffff'ffffU}) {
    const std::uint64_t at = state_[1]->get().consumed % kFrameRingBytes;
    std::memcpy(ends_[0].area->data + at, &length, sizeof length);
    ends_[0].area->produced.store(state_[1]->get().consumed + 96);
    EXPECT_TRUE(right().receive().empty()) << length;
    EXPECT_FALSE(right().ready());
  }
  EXPECT_EQ(right().broken(), 4U);
}

TEST_F(RingFramesTest, peer_that_says_it_took_more_than_was_sent_gets_nothing) {
  send(left(), frame_of(100, 1));
  left().begin();
  ends_[1].area->consumed.store(1 << 20);
  for (int i = 0; i < 10'000; ++i) ASSERT_EQ(send(left(), frame_of(1000, 2)), Sent::kSent);
  EXPECT_EQ(left().broken(), 10'000U);
  EXPECT_FALSE(left().ready());
}

TEST_F(RingFramesTest, link_is_what_the_other_side_says) {
  EXPECT_TRUE(left().link());
  ends_[1].area->link.store(0);
  left().on_events(0);
  EXPECT_FALSE(left().link());
  ends_[1].area->link.store(77);
  left().on_events(0);
  EXPECT_FALSE(left().link());
  ends_[1].area->link.store(1);
  left().on_events(0);
  EXPECT_TRUE(left().link());
}

}  // namespace
}  // namespace bulkhead::devproc
