// Properties of a virtqueue under random work: every chain is used once, in the right order, with the right length; no
// kick and no interrupt that somebody sleeps for is lost; and a device process may die at any access to guest memory.
#include <gtest/gtest.h>

#include <deque>
#include <map>

#include "tests/unit/devproc/models/virtio_queue_rig.h"

namespace bulkhead::devproc::virtio {
namespace {

std::uint32_t written_for(std::span<const VirtioDriver::Buffer> buffers) {
  std::uint32_t sum = 1;
  for (const auto& buffer : buffers)
    sum += buffer.writable ? 7 * buffer.length : buffer.length + static_cast<std::uint32_t>(buffer.address);
  return sum;
}

// Driver and device, each of which sleeps unless it has work or is woken. The driver takes a step at any access of the
// device to guest memory.
class World {
 public:
  World(const QueueSetup& setup, std::uint64_t seed, bool kills) : rig_(setup), random_(seed), kills_(kills) {
    rig_.memory.after_access = [this] {
      if (below(4) == 0) driver_step();
    };
  }

  void run(int steps) {
    for (int i = 0; i < steps && !testing::Test::HasFatalFailure(); ++i) {
      if (below(2) == 0 || (!woken() && taken_.empty()))
        driver_step();
      else
        device_input();
      if (asleep_ && !interrupt_ && !woken() && taken_.empty()) expect_idle();
    }
    EXPECT_EQ(rig_.driver.complaint(), "");
    EXPECT_EQ(rig_.state->faults, 0U);
  }
  [[nodiscard]] std::uint64_t chains_used() const { return chains_used_; }

 private:
  struct Taken {
    std::uint16_t position;
    std::uint16_t id;
    std::uint16_t descriptors;
  };
  // What a device commits.
  struct Committed {
    QueueState queue;
    std::deque<Taken> taken;
    std::deque<VirtioDriver::Used> pushed;  // not seen by the driver yet, for all we know
    std::uint64_t pushed_ever = 0;
  };

  std::size_t below(std::size_t limit) { return random_() % limit; }

  void expect_idle() {
    ASSERT_EQ(rig_.driver.in_flight(), 0U) << "both sleep, and there is work";
    asleep_ = false;  // new work comes to the driver
  }

  // ---- The driver ----

  void driver_step() {
    if (asleep_ && !interrupt_) return;
    asleep_ = false;
    switch (below(8)) {
      case 0:
      case 1:
      case 2: add(); break;
      case 3: look_for_kick(); break;
      case 4:
      case 5: take_used(); break;
      case 6:
        if (below(3) == 0) rig_.driver.refuse_interrupts();
        break;
      default: go_to_sleep(); break;
    }
  }
  void add() {
    const std::size_t count = 1 + below(std::min<std::size_t>(rig_.setup.size, 5));
    Buffers buffers;
    const std::size_t writable = below(count + 1);
    for (std::size_t i = 0; i < count; ++i)
      buffers.push_back({random_() >> 8, static_cast<std::uint32_t>(1 + below(5000)), i + writable >= count});
    const auto id = rig_.driver.add(buffers, rig_.setup.indirect && below(2) == 0);
    if (!id) return;
    ASSERT_FALSE(added_.contains(*id));
    added_[*id] = buffers;
    order_.push_back(*id);
  }
  void look_for_kick() { kicked_ |= rig_.driver.must_kick(); }
  void take_used() {
    for (std::size_t i = 1 + below(5); i > 0; --i) {
      const auto used = rig_.driver.take_used();
      if (!used) break;
      ASSERT_FALSE(pushed_.empty()) << "used, and not committed";
      EXPECT_EQ(used->id, pushed_.front().id);
      EXPECT_EQ(used->written, pushed_.front().written);
      EXPECT_EQ(used->written, written_for(added_[used->id]));
      if (rig_.setup.in_order) {
        EXPECT_EQ(used->id, order_.front());
        order_.pop_front();
      }
      pushed_.pop_front();
      ++chains_used_;
      ASSERT_EQ(added_.erase(used->id), 1U);
    }
  }
  void go_to_sleep() {
    look_for_kick();
    interrupt_ = false;  // whatever came while it was awake
    const std::size_t in_flight = rig_.driver.in_flight();
    const std::size_t later = in_flight > 1 && below(3) == 0 ? below(in_flight) : 0;
    asleep_ = !rig_.driver.want_interrupts(static_cast<std::uint16_t>(later));
  }

  // ---- The device ----

  [[nodiscard]] bool woken() const { return awake_ || kicked_; }
  // While it sleeps, chains that it took are still finished.
  void device_input() {
    const Committed before{rig_.state.get(), taken_, pushed_, pushed_ever_};
    const std::uint64_t used_before = chains_used_;
    const bool up = woken();
    kicked_ = false;
    rig_.queue->begin();
    if (up && below(3) == 0) rig_.queue->set_kicks(false);
    awake_ = up && take_chains();
    use_chains();
    if (up && !awake_) {
      rig_.queue->set_kicks(true);
      awake_ = rig_.queue->has_more();
    }
    if (kills_ && below(8) == 0) {
      // Dead before the commit. The driver may have taken what earlier inputs used meanwhile.
      const std::uint64_t taken_by_driver = chains_used_ - used_before;
      rig_.state.mut() = before.queue;
      taken_ = before.taken;
      pushed_ = before.pushed;
      pushed_.erase(pushed_.begin(), pushed_.begin() + static_cast<std::ptrdiff_t>(taken_by_driver));
      pushed_ever_ = before.pushed_ever;
      not_committed_.clear();
      return succeed();
    }
    pushed_.insert(pushed_.end(), not_committed_.begin(), not_committed_.end());
    not_committed_.clear();
    if (kills_ && below(4) == 0) {
      rig_.memory.writes_left = below(2U * rig_.state->shown_count + 3U);
      rig_.queue->show(false);
      return succeed();
    }
    if (rig_.show()) interrupt_ = true;
  }
  void succeed() {
    const bool any = rig_.state->shown_count != 0;
    const bool wanted = rig_.take_over();
    EXPECT_EQ(wanted, any);
    interrupt_ |= wanted;
    awake_ = true;
  }
  bool take_chains() {
    for (std::size_t i = below(6); i > 0; --i) {
      Chain chain;
      const Pop pop = rig_.queue->pop(chain);
      EXPECT_NE(pop, Pop::kBroken);
      if (pop != Pop::kChain) return false;
      expect_chain(chain);
      taken_.push_back({chain.position, chain.id, chain.descriptors});
    }
    return true;
  }
  void use_chains() {
    for (std::size_t i = below(6); i > 0 && !taken_.empty() && rig_.queue->room() != 0; --i) {
      const std::size_t which = rig_.setup.in_order ? 0 : below(taken_.size());
      const Taken taken = taken_[which];
      // Out of order, used elements overwrite the descriptors of a packed ring.
      if (!rig_.setup.packed || rig_.setup.in_order) {
        Chain chain;
        ASSERT_EQ(rig_.queue->fetch(taken.position, chain), Pop::kChain);
        ASSERT_EQ(chain.id, taken.id);
        expect_chain(chain);
      }
      taken_.erase(taken_.begin() + static_cast<std::ptrdiff_t>(which));
      const std::uint32_t written = written_for(added_[taken.id]);
      rig_.queue->push({taken.id, taken.descriptors, written});
      not_committed_.push_back({taken.id, written});
      ++pushed_ever_;
    }
  }
  void expect_chain(const Chain& chain) {
    ASSERT_TRUE(added_.contains(chain.id));
    const Buffers& buffers = added_[chain.id];
    ASSERT_EQ(chain.readable.size() + chain.writable.size(), buffers.size());
    std::uint64_t bytes = 0;
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      const bool writable = i >= chain.readable.size();
      const Segment& segment = writable ? chain.writable[i - chain.readable.size()] : chain.readable[i];
      EXPECT_EQ(segment.address, buffers[i].address);
      EXPECT_EQ(segment.length, buffers[i].length);
      EXPECT_EQ(writable, buffers[i].writable);
      bytes += segment.length;
    }
    EXPECT_EQ(chain.readable_bytes + chain.writable_bytes, bytes);
  }

  QueueRig rig_;
  std::mt19937_64 random_;
  bool kills_;
  bool asleep_ = false;  // the driver
  bool interrupt_ = false;
  bool awake_ = false;  // the device
  bool kicked_ = false;
  std::map<std::uint16_t, Buffers> added_;
  std::deque<std::uint16_t> order_;  // in which chains were added
  std::deque<Taken> taken_;
  std::deque<VirtioDriver::Used> pushed_;  // committed, and not seen by the driver
  std::deque<VirtioDriver::Used> not_committed_;
  std::uint64_t pushed_ever_ = 0;
  std::uint64_t chains_used_ = 0;
};

class VirtQueueProperty : public testing::TestWithParam<QueueSetup> {};

TEST_P(VirtQueueProperty, each_chain_is_used_once_and_nobody_sleeps_through_work) {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE(testing::Message() << GetParam() << ", seed " << seed);
    World world(GetParam(), seed, false);
    world.run(4000);
    EXPECT_GT(world.chains_used(), 100U);
    if (HasFailure()) break;
  }
}

TEST_P(VirtQueueProperty, a_process_that_dies_anywhere_changes_nothing) {
  for (std::uint64_t seed = 101; seed <= 104; ++seed) {
    SCOPED_TRACE(testing::Message() << GetParam() << ", seed " << seed);
    World world(GetParam(), seed, true);
    world.run(4000);
    EXPECT_GT(world.chains_used(), 100U);
    if (HasFailure()) break;
  }
}

INSTANTIATE_TEST_SUITE_P(Setups, VirtQueueProperty, testing::ValuesIn(all_setups({1, 2, 8, 256}, {1, 3, 7, 256})));

// A split queue's indexes wrap at 2^16, a packed one's at each turn.
TEST(VirtQueueWrap, indexes_go_round) {
  for (const QueueSetup& setup : all_setups({1, 2, 8, 256}, {1, 3, 7, 256})) {
    if (!setup.in_order) continue;
    SCOPED_TRACE(testing::Message() << setup);
    QueueRig rig(setup);
    const int batch = std::min<int>(setup.size, 7);
    std::uint32_t number = 0;
    while (number < 66'000 && !testing::Test::HasFailure()) {
      std::vector<std::uint16_t> ids;
      for (int i = 0; i < batch; ++i) ids.push_back(rig.add(1, 1, setup.indirect && i % 2 != 0));
      rig.serve(batch, number);
      for (const std::uint16_t id : ids) {
        const auto used = rig.driver.take_used();
        ASSERT_TRUE(used);
        EXPECT_EQ(used->id, id);
        EXPECT_EQ(used->written, number);
      }
      EXPECT_FALSE(rig.driver.take_used());
      number += static_cast<std::uint32_t>(batch);
    }
    rig.check();
  }
}

// ---- show() cut after each of its writes ----

struct Batch {
  QueueSetup setup;
  int before = 0;  // chains that went round before, so that the batch lies across the ring's end
  int count = 1;
  std::size_t length = 1;  // descriptors of each chain
  bool reversed = false;
};

// Plays a batch and kills show() after `cut` writes. The driver takes what it sees and fills its ring again, at once.
// How many writes a show() without a death makes.
std::uint64_t kill_show(const Batch& batch, std::uint64_t cut) {
  QueueRig rig(batch.setup);
  for (int i = 0; i < batch.before; ++i) {
    rig.add();
    rig.serve();
    rig.drain();
  }
  std::vector<std::uint16_t> expected;
  while (const auto id = rig.driver.add(QueueRig::buffers(batch.length, 1))) expected.push_back(*id);
  rig.queue->begin();
  std::vector<Chain> taken;
  for (int i = 0; i < batch.count; ++i) taken.push_back(rig.pop());
  if (batch.reversed) std::reverse(taken.begin(), taken.end());
  std::map<std::uint16_t, std::uint32_t> written;
  std::vector<std::uint16_t> order;
  for (const Chain& chain : taken) {
    rig.use(chain, written[chain.id] = 100 + static_cast<std::uint32_t>(order.size()));
    order.push_back(chain.id);
  }

  std::vector<std::uint16_t> seen;
  const auto consume_and_recycle = [&] {
    int refills = 0;
    while (const auto used = rig.driver.take_used()) {
      EXPECT_TRUE(written.contains(used->id)) << "used twice, or never";
      EXPECT_EQ(written[used->id], used->written);
      written.erase(used->id);
      seen.push_back(used->id);
      ++refills;
    }
    for (; refills > 0; --refills) rig.driver.add(QueueRig::buffers(batch.length, 1));
  };
  rig.memory.writes = 0;
  rig.memory.writes_left = cut;
  rig.show();
  const std::uint64_t writes = rig.memory.writes;
  consume_and_recycle();
  EXPECT_TRUE(rig.take_over()) << "the interrupt is asked for again";
  consume_and_recycle();
  EXPECT_EQ(seen, order);
  EXPECT_TRUE(batch.reversed || rig.driver.intact());
  rig.check();

  // What is left, and what came anew, is served as ever.
  if (batch.reversed) return writes;
  const std::size_t left = rig.driver.in_flight();
  for (std::size_t i = 0; i < left; ++i) {
    rig.serve(1, 7);
    const auto used = rig.driver.take_used();
    EXPECT_TRUE(used && used->written == 7) << i;
  }
  EXPECT_EQ(rig.driver.in_flight(), 0U);
  rig.check();
  return writes;
}

TEST(VirtQueueKill, every_write_of_a_batch) {
  int runs = 0;
  for (const QueueSetup& setup : all_setups({1, 2, 8, 16}, {1, 3, 7, 16})) {
    if (!setup.in_order || setup.indirect) continue;
    for (int before = 0; before < 2 * setup.size + 1; before += 1 + setup.size / 4) {
      for (const std::size_t length : {1, 2, 3}) {
        for (int count = 1; count <= setup.size / static_cast<int>(length); count += 1 + count / 3) {
          for (const bool reversed : {false, true}) {
            const Batch batch{setup, before, count, length, reversed};
            SCOPED_TRACE(testing::Message() << setup << ", after " << before << ", " << count << " of " << length
                                            << (reversed ? ", reversed" : ""));
            const std::uint64_t writes = kill_show(batch, WatchedMemory::kForever);
            EXPECT_EQ(writes, setup.packed ? 2 * count : count + 1);
            for (std::uint64_t cut = 0; cut < writes; ++cut, ++runs) {
              SCOPED_TRACE(testing::Message() << "cut after " << cut << " writes");
              kill_show(batch, cut);
              if (testing::Test::HasFailure()) return;
            }
          }
        }
      }
    }
  }
  EXPECT_GT(runs, 1000);
}

// The driver takes and fills the ring again between any two writes of a show() that goes on, and of its successor's.
TEST(VirtQueueKill, driver_runs_between_the_writes) {
  for (const QueueSetup& setup : all_setups({1, 2, 8}, {1, 3, 7})) {
    if (!setup.in_order) continue;
    SCOPED_TRACE(testing::Message() << setup);
    QueueRig rig(setup);
    int taken = 0;
    for (int i = 0; i < setup.size; ++i) rig.add();
    rig.memory.after_access = [&] {
      while (const auto used = rig.driver.take_used()) {
        EXPECT_EQ(used->written, 5U);
        ++taken;
        rig.add();
      }
    };
    for (int round = 1; round <= 50; ++round) {
      rig.serve(setup.size);
      EXPECT_EQ(taken, round * setup.size);
      EXPECT_TRUE(rig.driver.intact());
      rig.take_over();
      EXPECT_EQ(taken, round * setup.size);
      EXPECT_TRUE(rig.driver.intact());
    }
    rig.check();
  }
}

}  // namespace
}  // namespace bulkhead::devproc::virtio
