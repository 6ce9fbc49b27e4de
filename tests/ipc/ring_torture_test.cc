// The request ring, the checkpoint and the streams between two processes, one of which is killed again and
// again.
//
// Several threads ask, some posted and some not, while the device process dies at random points and
// successors resume. What must hold however often it died: every call gets the answer of a plain counter
// exactly once and in order, every posted write is applied exactly once, effects arrive in commit order,
// and no stream byte is lost or doubled. TORTURE_SEED=N repeats a run's choices, TORTURE_KILLS=N makes it
// longer.
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "devproc/models/pci_test/spec.h"
#include "ipc/ring/read_once.h"
#include "ipc/ring/request_producer.h"
#include "ipc/ring/stream.h"
#include "tests/ipc/torture_role.h"

namespace bulkhead::torture {
namespace {

namespace spec = devproc::pci_test_spec;
using ipc::Reply;
using ipc::Request;
using ipc::RequestKind;

constexpr std::int64_t kPatienceNs = 20'000'000'000;

std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 0);
}

std::uint8_t nth_byte(std::uint64_t n) { return static_cast<std::uint8_t>((n * 0x9e3779b97f4a7c15) >> 56); }

Request make(RequestKind kind, std::uint16_t instance, std::uint16_t region, std::uint64_t offset, std::uint8_t size,
             std::uint32_t value = 0) {
  Request request{.kind = kind, .size = size, .count = 1, .instance = instance, .region = region, .offset = offset};
  std::memcpy(request.payload, &value, sizeof value);
  return request;
}
Request reads(std::uint16_t instance, std::uint16_t region, std::uint64_t offset, std::uint8_t size) {
  return make(RequestKind::kRead, instance, region, offset, size);
}
Request writes(std::uint16_t instance, std::uint16_t region, std::uint64_t offset, std::uint8_t size,
               std::uint32_t value) {
  return make(RequestKind::kWrite, instance, region, offset, size, value);
}

std::uint32_t value_of(const Reply& reply) {
  std::uint32_t value = 0;
  std::memcpy(&value, reply.payload, sizeof value);
  return value;
}

// What the replies' effects asked for, in the order of their application.
class Effects final : public ipc::EffectReceiver {
 public:
  bool apply_effect(const Effect& effect) override {
    const std::lock_guard lock(lock_);
    values_.push_back(effect.address);
    return true;
  }
  [[nodiscard]] std::vector<std::uint64_t> all() {
    const std::lock_guard lock(lock_);
    return values_;
  }

 private:
  std::mutex lock_;
  std::vector<std::uint64_t> values_;
};

class RingTorture : public ::testing::Test {
 protected:
  RingTorture() {
    ipc::RequestProducer::Options options;
    options.deadline_ns = kPatienceNs;
    options.on_overdue = [this](ipc::Ticket ticket, std::uint32_t) {
      fail("ticket " + std::to_string(ticket) + " waits for ever");
    };
    options.on_violation = [this](const char* what, std::uint32_t) { fail(what); };
    ring_.emplace(role_.requests(), role_.replies(), role_.doorbell(), effects_, std::move(options));
    EXPECT_TRUE(role_.start(1));
    // As the supervisor does: no guest runs before the first process of all has made its first commit. One that died
    // earlier would be followed by another that starts afresh, and what came until then is not its own.
    while (role_.replies().counters.commits.load(std::memory_order_acquire) == 0) ::sched_yield();
  }

  // The first thing that went wrong; it ends the test.
  void fail(const std::string& what) {
    const std::lock_guard lock(failure_lock_);
    if (failure_.empty()) failure_ = what;
    over_.store(true);
    ring_->close();
  }
  [[nodiscard]] bool over() const { return over_.load(std::memory_order_relaxed); }

  std::optional<Reply> ask(const Request& request, ipc::AdaptiveWait& wait) {
    std::optional<Reply> reply = ring_->call(request, wait);
    if (reply && reply->status != ipc::ReplyStatus::kDone) fail("a reply was dropped");
    return reply;
  }

  // Reads a register that counts its reads: nobody may get a number twice.
  void count(std::vector<std::uint32_t>& seen) {
    ipc::AdaptiveWait wait;
    while (!over()) {
      const auto reply = ask(reads(kTest, 0, spec::kCounter, 4), wait);
      if (!reply) return;
      if (!seen.empty() && value_of(*reply) <= seen.back()) fail("the counter went back");
      seen.push_back(value_of(*reply));
    }
  }

  // Posts numbered bytes to a port that hashes them, and now and then asks how many there were.
  void post_numbers(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    ipc::AdaptiveWait wait;
    while (!over()) {
      const auto burst = random() % 100;
      for (std::uint64_t i = 0; i < burst; ++i) {
        const std::uint8_t byte = nth_byte(posted_++);
        hash_ = (hash_ ^ byte) * 16'777'619U;
        if (!ring_->post(writes(kTest, 2, spec::kPortStream, 1, byte))) return;
      }
      const auto reply = ask(reads(kTest, 2, spec::kPortStreamOut, 4), wait);
      if (!reply) return;
      if (value_of(*reply) != static_cast<std::uint32_t>(posted_))
        fail("a posted write was lost, doubled or overtaken");
    }
  }

  // Each reply says how many effects there were: that is its own effect's place.
  void cause_effects(std::uint32_t thread, std::vector<std::pair<std::uint64_t, std::uint64_t>>& placed) {
    ipc::AdaptiveWait wait;
    for (std::uint32_t n = 0; !over(); ++n) {
      const std::uint32_t value = thread << 24 | n;
      const auto reply = ask(writes(kExit, 0, 0, 4, value), wait);
      if (!reply) return;
      placed.emplace_back(reply->effects_total, value);
    }
  }

  // Effects that nobody waits for, no more at once than their queue holds.
  void cause_outbound_effects() {
    while (!over()) {
      if (outbound_sent_ - outbound_seen_.load() >= ipc::kOutboundEffects) {
        ::sched_yield();
      } else if (!ring_->post(writes(kOutbound, 0, 0, 4, static_cast<std::uint32_t>(outbound_sent_++)))) {
        return;
      }
    }
  }

  void print_bytes(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    ipc::AdaptiveWait wait;
    while (!over()) {
      if (printed_ - printed_seen_.load() >= ipc::kOutputBytes) {
        ::sched_yield();
        continue;
      }
      const Request request = writes(kPorts, 2, 0, 1, nth_byte(printed_++));
      if (random() % 4 == 0 ? !ask(request, wait).has_value() : !ring_->post(request)) return;
    }
  }

  // As the guest's driver of a serial port.
  void read_bytes() {
    ipc::AdaptiveWait wait;
    while (!over()) {
      const auto status = ask(reads(kSerial, 0, 5, 1), wait);
      if (!status) return;
      if ((status->payload[0] & 1) == 0) continue;
      const auto byte = ask(reads(kSerial, 0, 0, 1), wait);
      if (!byte) return;
      if (byte->payload[0] != nth_byte(read_++)) fail("an input byte was lost or doubled");
    }
  }

  // The VMM's stream thread, which sleeps when there is nothing to do.
  void pump();
  bool pump_once(ipc::StreamEnd& output, ipc::StreamEnd& input);
  bool collect_outbound();
  bool give_input(ipc::StreamEnd& input);

  void kill_and_replace(std::uint64_t kills, std::mt19937_64& random);
  void check_counts(std::vector<std::vector<std::uint32_t>>& seen);
  void check_effects(std::vector<std::vector<std::pair<std::uint64_t, std::uint64_t>>>& placed);
  void check_rest();

  TortureRole role_;  // forks: before the first thread
  Effects effects_;
  std::optional<ipc::RequestProducer> ring_;
  std::mutex failure_lock_;
  std::string failure_;
  std::atomic<bool> over_{false};
  std::atomic<bool> pump_over_{false};

  std::uint64_t posted_ = 0;
  std::uint32_t hash_ = spec::kFnvBasis;
  std::uint64_t printed_ = 0;
  std::atomic<std::uint64_t> printed_seen_{0};
  std::uint64_t outbound_sent_ = 0;
  std::atomic<std::uint64_t> outbound_seen_{0};
  std::uint64_t given_ = 0;
  std::uint64_t read_ = 0;
};

bool RingTorture::pump_once(ipc::StreamEnd& output, ipc::StreamEnd& input) {
  std::array<std::uint8_t, 1000> bytes;
  const std::optional<std::size_t> n = output.take(bytes);
  if (!n) {
    fail("an output index that cannot be");
    return false;
  }
  for (std::size_t i = 0; i < *n; ++i) {
    if (bytes[i] != nth_byte(printed_seen_.load() + i)) fail("an output byte was lost or doubled");
  }
  printed_seen_.fetch_add(*n);
  const bool outbound = collect_outbound();
  return give_input(input) || outbound || *n != 0;
}

bool RingTorture::collect_outbound() {
  std::uint64_t taken = outbound_seen_.load();
  const std::uint64_t produced = role_.replies().outbound_produced.load(std::memory_order_acquire);
  if (produced == taken) return false;
  if (produced - taken > ipc::kOutboundEffects) {
    fail("an outbound index that cannot be");
    return false;
  }
  for (; taken != produced; ++taken) {
    const Effect effect = ipc::read_once_racing(role_.replies().outbound[taken % ipc::kOutboundEffects]);
    if (effect.address != static_cast<std::uint32_t>(taken)) fail("an outbound effect was lost, doubled or overtaken");
  }
  role_.requests().outbound_consumed.store(taken, std::memory_order_release);
  outbound_seen_.store(taken);
  return true;
}

bool RingTorture::give_input(ipc::StreamEnd& input) {
  const std::optional<std::size_t> room = input.room();
  if (!room) fail("an input index that cannot be");
  if (!room || *room < 100 || over()) return false;
  std::array<std::uint8_t, 100> bytes;
  for (std::uint8_t& byte : bytes) byte = nth_byte(given_++);
  input.give(bytes);
  ring_->ring_doorbell();
  return true;
}

void RingTorture::pump() {
  ipc::StreamEnd output(role_.requests(), role_.replies(), kDebugStream);
  ipc::StreamEnd input(role_.requests(), role_.replies(), kSerialStream);
  while (!pump_over_.load()) {
    if (pump_once(output, input)) continue;
    role_.requests().pump_asleep.store(1, std::memory_order_seq_cst);
    if (!pump_once(output, input)) {
      pollfd poll{role_.output_doorbell().get(), POLLIN, 0};
      ::poll(&poll, 1, -1);  // the test's end rings, too
      drain_eventfd(role_.output_doorbell());
    }
    role_.requests().pump_asleep.store(0, std::memory_order_seq_cst);
  }
}

// Kills after some progress, and then a few steps later: nobody can say where.
void RingTorture::kill_and_replace(std::uint64_t kills, std::mt19937_64& random) {
  for (std::uint32_t incarnation = 2; incarnation < kills + 2 && !over(); ++incarnation) {
    const std::uint64_t commits = role_.replies().counters.commits.load();
    const std::uint64_t wanted = random() % 8 == 0 ? 0 : random() % 60;
    while (!over() && role_.replies().counters.commits.load() - commits < wanted) ::sched_yield();
    for (std::uint64_t i = random() % 3000; i != 0; --i) ipc::cpu_relax();
    role_.kill();
    ring_->set_incarnation(incarnation);
    if (!role_.start(incarnation)) fail("no successor could be started");
  }
}

void RingTorture::check_counts(std::vector<std::vector<std::uint32_t>>& seen) {
  std::vector<std::uint32_t> all;
  for (const auto& part : seen) all.insert(all.end(), part.begin(), part.end());
  std::sort(all.begin(), all.end());
  for (std::size_t i = 0; i < all.size(); ++i) ASSERT_EQ(all[i], i) << "a call was not made exactly once";
}

void RingTorture::check_effects(std::vector<std::vector<std::pair<std::uint64_t, std::uint64_t>>>& placed) {
  const std::vector<std::uint64_t> applied = effects_.all();
  std::size_t count = 0;
  for (const auto& part : placed) {
    for (const auto& [place, value] : part) {
      ++count;
      ASSERT_LE(place, applied.size());
      ASSERT_EQ(applied[place - 1], value) << "effect " << place << " was applied out of order";
    }
  }
  EXPECT_EQ(count, applied.size()) << "an effect was applied twice or never";
}

// With the device process alive and nobody else asking.
void RingTorture::check_rest() {
  ipc::AdaptiveWait wait;
  const auto hash = ring_->call(reads(kTest, 2, spec::kPortStreamHash, 4), wait);
  ASSERT_TRUE(hash);
  EXPECT_EQ(value_of(*hash), hash_) << "posted writes came in another order";
  EXPECT_TRUE(ring_->drain(kPatienceNs));
  const std::int64_t until = ipc::monotonic_ns() + kPatienceNs;
  while ((printed_seen_.load() < printed_ || outbound_seen_.load() < outbound_sent_) && ipc::monotonic_ns() < until)
    ::sched_yield();
  EXPECT_EQ(printed_seen_.load(), printed_) << "output is missing";
  EXPECT_EQ(outbound_seen_.load(), outbound_sent_) << "outbound effects are missing";
}

TEST_F(RingTorture, nothing_is_lost_or_done_twice_however_often_the_device_process_dies) {
  const std::uint64_t seed = number_from("TORTURE_SEED", std::random_device{}());
  const std::uint64_t kills = number_from("TORTURE_KILLS", 1500);
  SCOPED_TRACE("TORTURE_SEED=" + std::to_string(seed));
  std::printf("TORTURE_SEED=%lu\n", seed);
  std::mt19937_64 random(seed);

  std::vector<std::vector<std::uint32_t>> counts(2);
  std::vector<std::vector<std::pair<std::uint64_t, std::uint64_t>>> placed(2);
  std::thread pump([this] { this->pump(); });
  std::vector<std::thread> threads;
  for (auto& seen : counts) threads.emplace_back([this, &seen] { count(seen); });
  threads.emplace_back([this, s = random()] { post_numbers(s); });
  for (std::uint32_t i = 0; i < placed.size(); ++i)
    threads.emplace_back([this, i, &placed] { cause_effects(i, placed[i]); });
  threads.emplace_back([this] { cause_outbound_effects(); });
  threads.emplace_back([this, s = random()] { print_bytes(s); });
  threads.emplace_back([this] { read_bytes(); });

  kill_and_replace(kills, random);
  over_.store(true);
  for (std::thread& thread : threads) thread.join();
  if (failure_.empty()) check_rest();
  pump_over_.store(true);
  signal_eventfd(role_.output_doorbell());
  pump.join();
  EXPECT_EQ(failure_, "");
  check_counts(counts);
  check_effects(placed);
  EXPECT_EQ(role_.ended_by_themselves(), 0U) << "a device process ended on its own account";
  EXPECT_GT(read_, 0U);
  EXPECT_GT(posted_, kills);
}

}  // namespace
}  // namespace bulkhead::torture
