// A network device whose process dies anywhere, between an honest driver and two wires. Nothing that was acknowledged
// is lost, altered or out of order; only the frames of an input that did not end are sent twice, or lost on their way
// in.
#include <gtest/gtest.h>

#include <deque>

#include "tests/unit/devproc/models/virtio_net_rig.h"

namespace bulkhead::devproc {
namespace {

class NetWorld {
 public:
  NetWorld(const NetSetup& setup, std::uint64_t seed) : rig_(setup.pairs), random_(seed), lanes_(setup.pairs) {
    rig_.start(setup);
    if (setup.pairs > 1) {
      EXPECT_EQ(rig_.command(kNetCtrlMq, kNetCtrlMqVqPairsSet, bytes_of(setup.pairs)), kNetOk);
    }
    rig_.memory.after_access = [this] { device_lives_on(); };
    for (std::uint16_t lane = 0; lane < lanes_.size(); ++lane)
      rig_.frames[lane]->on_send = [this, lane] { expect_sent(lane); };
  }

  void run(int steps) {
    for (int i = 0; i < steps && !::testing::Test::HasFailure(); ++i) step();
    // The end: nobody dies any more, there is room, and there are buffers.
    deaths_ = false;
    for (std::uint16_t lane = 0; lane < lanes_.size() && !::testing::Test::HasFailure(); ++lane) {
      rig_.frames[lane]->room = -1;
      for (int i = 0; i < 200; ++i) {
        take_received(lane);
        take_transmitted(lane);
        add_buffers(lane);
        while (input(lane)) continue;
      }
      take_received(lane);
      take_transmitted(lane);
      EXPECT_TRUE(lanes_[lane].waiting.empty()) << "sent, and never given back";
      EXPECT_TRUE(lanes_[lane].expected.empty()) << "consumed and committed, and never received";
      EXPECT_TRUE(rig_.frames[lane]->incoming.empty());
      EXPECT_EQ(rig_.drivers[lane * 2U]->complaint() + rig_.drivers[lane * 2U + 1]->complaint(), "");
    }
    EXPECT_EQ(rig_.counter("needs_reset"), 0U);
  }
  std::uint64_t deaths = 0;
  std::uint64_t sent = 0;
  std::uint64_t received = 0;

 private:
  struct Lane {
    std::deque<Frame> waiting;  // added by the driver, not given back
    std::size_t sent = 0;       // of those, by now
    std::size_t sent_committed = 0;
    std::deque<Frame> expected;  // consumed in inputs that ended
    std::uint32_t number = 0;
  };
  std::size_t below(std::size_t limit) { return random_() % limit; }

  void step() {
    const auto lane = static_cast<std::uint16_t>(below(lanes_.size()));
    FakeFrames& wire = *rig_.frames[lane];
    switch (below(8)) {
      case 0: add_transmit(lane); break;
      case 1: add_buffers(lane); break;
      case 2:
        for (std::size_t i = below(6); i > 0; --i)
          wire.incoming.push_back(
              with_header(ethernet(14 + below(rig_.setup.mergeable ? 1500 : 400), ++lanes_[lane].number)));
        break;
      case 3: wire.room = below(3) == 0 ? -1 : static_cast<int>(below(4)); break;
      case 4: take_received(lane); break;
      case 5: take_transmitted(lane); break;
      default: input(lane); break;
    }
  }
  void add_transmit(std::uint16_t lane) {
    for (std::size_t i = 1 + below(4); i > 0; --i) {
      const Frame frame = with_header(ethernet(14 + below(1500), ++lanes_[lane].number));
      const bool indirect = rig_.setup.indirect && below(2) == 0;
      const std::size_t first = 1 + below(20);
      if (!rig_.add_readable(static_cast<std::uint16_t>(2 * lane + 1), frame, {first, 3}, indirect)) return;
      lanes_[lane].waiting.push_back(frame);
    }
  }
  void add_buffers(std::uint16_t lane) {
    const auto queue = static_cast<std::uint16_t>(2 * lane);
    for (std::size_t i = 1 + below(8); i > 0 && rig_.drivers[queue]->free_descriptors() >= 2; --i)
      rig_.add_buffer({1 + below(15), rig_.setup.mergeable ? 200 + below(1000) : 1000}, queue);
  }
  // At the wire: only what comes next, and again only what was not committed.
  void expect_sent(std::uint16_t lane) {
    Lane& its = lanes_[lane];
    ASSERT_LT(its.sent, its.waiting.size()) << "sent, and not waiting";
    EXPECT_EQ(rig_.frames[lane]->sent.back(), its.waiting[its.sent]);
    ++its.sent;
    ++sent;
    rig_.frames[lane]->sent.clear();
    device_lives_on();
  }
  void take_transmitted(std::uint16_t lane) {
    Lane& its = lanes_[lane];
    while (rig_.drivers[lane * 2U + 1]->take_used()) {
      ASSERT_FALSE(its.waiting.empty());
      ASSERT_GT(its.sent_committed, 0U) << "acknowledged, and not sent";
      its.waiting.pop_front();
      --its.sent;
      --its.sent_committed;
    }
  }
  void take_received(std::uint16_t lane) {
    while (const auto frame = rig_.take_frame(static_cast<std::uint16_t>(2 * lane))) {
      ASSERT_FALSE(lanes_[lane].expected.empty()) << "received twice, or never committed";
      EXPECT_EQ(with_header(*frame), lanes_[lane].expected.front());
      lanes_[lane].expected.pop_front();
      ++received;
      if (::testing::Test::HasFailure()) return;
    }
  }

  // One input, which may not live to its end. True: there is more.
  bool input(std::uint16_t lane) {
    const auto before = rig_.fakes.state.snapshot();
    const bool dies = deaths_ && below(4) == 0;
    accesses_left_ = dies ? below(60) : WatchedMemory::kForever;
    bool more = false;
    switch (below(3)) {
      case 0: more = rig_.device->on_queue(static_cast<QueueId>(2 * lane)); break;
      case 1: more = rig_.device->on_queue(static_cast<QueueId>(2 * lane + 1)); break;
      default: more = rig_.device->on_backend(lane); break;
    }
    if (dead_) {
      // Its state is what was committed before; what it took from the wire is gone.
      restore_bytes(before);
      for (std::size_t i = 0; i < lanes_.size(); ++i) {
        rig_.frames[i]->consumed.clear();
        lanes_[i].sent = lanes_[i].sent_committed;
      }
      succeed();
      return true;
    }
    for (std::size_t i = 0; i < lanes_.size(); ++i) {
      lanes_[i].sent_committed = lanes_[i].sent;
      for (Frame& frame : rig_.frames[i]->consumed) lanes_[i].expected.push_back(std::move(frame));
      rig_.frames[i]->consumed.clear();
    }
    if (deaths_ && !dies && below(8) == 0) accesses_left_ = below(12);  // in show()
    rig_.show();
    if (dead_) succeed();
    accesses_left_ = WatchedMemory::kForever;
    return more;
  }
  void device_lives_on() {
    if (dead_ || accesses_left_-- != 0) return;
    dead_ = true;
    rig_.memory.writes_left = 0;
    for (const auto& wire : rig_.frames) wire->dead = true;
  }
  void succeed() {
    ++deaths;
    dead_ = false;
    accesses_left_ = WatchedMemory::kForever;
    rig_.memory.writes_left = WatchedMemory::kForever;
    for (const auto& wire : rig_.frames) wire->dead = false;
    rig_.restart();
    if (rig_.device->show(true, rig_.messages)) rig_.device->after_show();
  }
  void restore_bytes(const std::vector<std::byte>& bytes) {
    std::size_t at = 0;
    for (std::size_t i = 0; i < rig_.fakes.state.count(); ++i) {
      const auto segment = rig_.fakes.state.bytes(i);
      std::memcpy(segment.data(), bytes.data() + at, segment.size());
      at += segment.size();
    }
  }

  NetRig rig_;
  std::mt19937_64 random_;
  std::vector<Lane> lanes_;
  bool deaths_ = true;
  bool dead_ = false;
  std::uint64_t accesses_left_ = WatchedMemory::kForever;
};

class VirtioNetProperty : public ::testing::TestWithParam<NetSetup> {};

TEST_P(VirtioNetProperty, process_that_dies_anywhere_loses_nothing_acknowledged) {
  for (std::uint64_t seed = 1; seed <= 3 && !HasFailure(); ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    NetWorld world(GetParam(), seed);
    world.run(2000);
    EXPECT_GT(world.deaths, 30U);
    EXPECT_GT(world.sent, 100U);
    EXPECT_GT(world.received, 100U);
  }
}

std::vector<NetSetup> setups() {
  std::vector<NetSetup> all;
  for (unsigned bits = 0; bits < 16; ++bits) {
    const bool several = (bits & 8) != 0;
    all.push_back({.packed = (bits & 1) != 0,
                   .event_idx = (bits & 2) != 0,
                   .in_order = (bits & 2) == 0,
                   .indirect = true,
                   .mergeable = (bits & 4) != 0,
                   .more_features = several ? feature_bit(kNetFMq) | feature_bit(kNetFCtrlVq) : 0,
                   .pairs = several ? std::uint16_t{2} : std::uint16_t{1}});
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Setups, VirtioNetProperty, ::testing::ValuesIn(setups()));

}  // namespace
}  // namespace bulkhead::devproc
