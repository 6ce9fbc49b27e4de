// Driver and device on two threads, in shared memory: what each says before it sleeps, and looks at after that, crosses
// what the other does. A fence that is missing loses a kick or an interrupt sooner or later.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "devproc/host/mapped_guest_memory.h"
#include "tests/unit/devproc/models/virtio_queue_rig.h"

namespace bulkhead::devproc::virtio {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

// An eventfd that is spun on.
class Bell {
 public:
  void ring() { rung_.store(true); }
  // False: nobody rang.
  bool wait(const std::atomic<bool>& stop) {
    const auto deadline = Clock::now() + 20s;
    for (unsigned spins = 1;; ++spins) {
      // Hardly ever gives way: on a busy host the two would meet once a time slice only.
      if (rung_.load(std::memory_order_relaxed) && rung_.exchange(false)) return true;
      if (spins % 65536 != 0) continue;
      if (stop || Clock::now() > deadline) return false;
      std::this_thread::yield();
    }
  }

 private:
  std::atomic<bool> rung_{false};
};

// Up to a microsecond or two, so that the two sides meet at every point of their ways.
void dawdle(std::mt19937_64& random) {
  const std::size_t steps = random() % 512;
  for (volatile std::size_t i = 0; i < steps;) i = i + 1;
}

struct Lane {
  Bell kick;
  Bell interrupt;
  std::atomic<bool> stop{false};
};

void serve(VirtQueue& queue, Lane& lane) {
  std::mt19937_64 random(1);
  while (!lane.stop) {
    queue.begin();
    if (random() % 4 == 0) queue.set_kicks(false);
    bool idle = true;
    while (queue.room() != 0) {
      Chain chain;
      const Pop pop = queue.pop(chain);
      if (pop == Pop::kBroken) return;
      if (pop == Pop::kEmpty) break;
      idle = false;  // the driver hears of it, and may be adding more when the next input finds nothing
      queue.push({chain.id, chain.descriptors, chain.id});
    }
    dawdle(random);
    if (idle) {
      queue.set_kicks(true);
      idle = !queue.has_more();
    }
    if (queue.show(false)) lane.interrupt.ring();
    if (idle) lane.kick.wait(lane.stop);
  }
}

void drive(VirtioDriver& driver, Lane& lane) {
  std::mt19937_64 random(2);
  const auto end = Clock::now() + 500ms;
  while (Clock::now() < end && !testing::Test::HasFailure()) {
    for (std::size_t i = random() % 3 + 1; i > 0; --i) driver.add(QueueRig::buffers(1, 1));
    if (driver.must_kick()) lane.kick.ring();
    // Waits for all of it, now and then, with nothing more to say.
    const std::size_t enough = random() % 4;
    while (true) {
      driver.refuse_interrupts();
      while (const auto used = driver.take_used()) EXPECT_EQ(used->written, used->id);
      if (driver.in_flight() <= enough) break;
      dawdle(random);
      if (driver.want_interrupts() || lane.interrupt.wait(lane.stop)) continue;
      ADD_FAILURE() << driver.in_flight() << " chains are out, and nobody cares";
      break;
    }
  }
  EXPECT_EQ(driver.complaint(), "");
}

TEST(VirtQueueThreads, nobody_sleeps_through_work) {
  for (const bool packed : {false, true}) {
    for (const bool event_idx : {false, true}) {
      SCOPED_TRACE(testing::Message() << (packed ? "packed" : "split") << (event_idx ? ", event idx" : ""));
      auto region = ipc::WritableRegion::create("test", 1U << 20, ipc::PeerRights::kReadWrite).value();
      MappedGuestMemory memory;
      ASSERT_TRUE(memory.add(0, 1U << 20, 0, region));
      VirtioDriver driver(memory, {.packed = packed, .event_idx = event_idx, .size = 8, .at = kRings});
      FakeStateAllocator allocator;
      VirtQueue queue(allocate_state<QueueState>(allocator), memory);
      driver.place(queue.mut());
      queue.set_features({.packed = packed, .event_idx = event_idx});
      queue.enable();
      Lane lane;
      std::thread device([&] { serve(queue, lane); });
      drive(driver, lane);
      lane.stop = true;
      device.join();
      EXPECT_EQ(queue.state().faults, 0U);
    }
  }
}

}  // namespace
}  // namespace bulkhead::devproc::virtio
