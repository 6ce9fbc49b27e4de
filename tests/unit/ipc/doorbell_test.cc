// The sleep protocol of both sides, where it can lose a wake-up: each goes to sleep just when the other has something
// for it. A lost one shows as a request that is overdue.
#include <gtest/gtest.h>

#include <random>

#include "ipc/ring/request_producer.h"
#include "tests/unit/ipc/ring_fixture.h"

namespace bulkhead::ipc {
namespace {

constexpr std::int64_t kRunNs = 1'500 * kMillisecond;
constexpr std::int64_t kLostNs = 20'000 * kMillisecond;  // no host is this late

// `callers` vCPUs and a device, all with spin windows of a few turns or none.
void torture(int callers, bool with_posted) {
  Areas areas;
  RecordingReceiver effects;
  Complaints complaints;
  RequestProducer::Options options = complaints.options(kLostNs);
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, options);
  std::mt19937 pauses(7);
  TinyDevice device(
      areas,
      [&](Ticket, const Request&, Reply&, std::vector<Effect>&) {
        for (std::uint32_t i = pauses() % 256; i > 0; --i) cpu_relax();
      },
      3);
  const std::int64_t until = monotonic_ns() + kRunNs;
  std::atomic<std::uint64_t> handshakes{0};
  std::vector<std::thread> threads;
  for (int id = 0; id < callers; ++id) {
    threads.emplace_back([&, id] {
      std::mt19937 random(static_cast<std::uint32_t>(id));
      while (monotonic_ns() < until && complaints.overdue == 0) {
        AdaptiveWait wait = sleeping_wait();
        if (with_posted && random() % 4 == 0) (void)ring.post(make_request(1));
        if (!ring.call(make_request(1), wait)) return;
        handshakes.fetch_add(1, std::memory_order_relaxed);
        for (std::uint32_t i = random() % 512; i > 0; --i) cpu_relax();
      }
    });
  }
  while (complaints.overdue == 0 && monotonic_ns() < until) ::sched_yield();
  if (complaints.overdue != 0) ring.close();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(complaints.overdue, 0) << "a wake-up was lost";
  EXPECT_GT(handshakes, 0U);
  ::testing::Test::RecordProperty("handshakes", static_cast<int>(handshakes.load()));
  ::testing::Test::RecordProperty("device_sleeps", static_cast<int>(device.sleeps()));
}

TEST(Doorbell, no_wake_up_is_lost_between_one_vcpu_and_its_device) { torture(1, false); }
TEST(Doorbell, no_wake_up_is_lost_between_four_vcpus_and_their_device) { torture(4, true); }

// Posted requests have no waiter: the device must hear of the last one although nobody ever rings again.
TEST(Doorbell, a_device_that_falls_asleep_over_a_posted_request_is_woken) {
  Areas areas;
  RecordingReceiver effects;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, {});
  std::atomic<std::uint64_t> served{0};
  TinyDevice device(
      areas, [&](Ticket, const Request&, Reply&, std::vector<Effect>&) { served.fetch_add(1); }, 1);
  const std::int64_t until = monotonic_ns() + kRunNs;
  std::mt19937 random(3);
  std::uint64_t posted = 0;
  while (monotonic_ns() < until) {
    ASSERT_TRUE(ring.post(make_request(1)));
    ++posted;
    const std::int64_t lost = monotonic_ns() + kLostNs;
    while (served.load() != posted) {
      ASSERT_LT(monotonic_ns(), lost) << "a wake-up was lost";
      ::sched_yield();
    }
    for (std::uint32_t i = random() % 256; i > 0; --i) cpu_relax();
  }
}

}  // namespace
}  // namespace bulkhead::ipc
