// The VMM's end of the ring against a device process that writes whatever it likes.
#include <gtest/gtest.h>

#include <random>

#include "ipc/ring/request_producer.h"
#include "tests/unit/ipc/ring_fixture.h"

namespace bulkhead::ipc {
namespace {

// Not seen by ThreadSanitizer: the races are the attack.
__attribute__((no_sanitize("thread"), noinline)) void scribble(volatile std::uint64_t* words, std::size_t count,
                                                               std::mt19937_64& random) {
  const std::size_t at = random() % count;
  const std::size_t n = std::min<std::size_t>(1 + random() % 64, count - at);
  for (std::size_t i = 0; i < n; ++i) {
    // Small numbers hit tickets, counts and generations; large ones everything else.
    const std::uint64_t r = random();
    words[at + i] = (r & 3) == 0 ? r >> 56 : (r & 3) == 1 ? r >> 40 : (r & 3) == 2 ? ~std::uint64_t{0} : r;
  }
}

TEST(HostileDevice, an_effect_count_out_of_range_is_a_violation_and_no_answer) {
  for (const std::uint8_t count : {std::uint8_t{kMaxEffects + 1}, std::uint8_t{255}}) {
    Areas areas;
    RecordingReceiver effects;
    Complaints complaints;
    RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, complaints.options());
    const HandDevice device{areas.replies, areas.requests};
    std::thread hostile([&] {
      device.wait_for(1);
      device.answer(1, done_reply(7, count, count));
    });
    AdaptiveWait wait;
    const std::optional<Reply> reply = ring.call(make_request(1), wait);
    hostile.join();
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->status, ReplyStatus::kDropped);
    EXPECT_EQ(reply->effect_count, 0);
    EXPECT_EQ(complaints.violations, 1);
    EXPECT_EQ(effects.count(), 0U);
  }
}

TEST(HostileDevice, a_bad_effect_count_in_the_slot_of_another_vcpu_is_skipped) {
  Areas areas;
  RecordingReceiver effects;
  Complaints complaints;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, complaints.options());
  const HandDevice device{areas.replies, areas.requests};
  std::thread other([&] {
    AdaptiveWait wait;
    (void)ring.call(make_request(1), wait);
  });
  device.wait_for(1);
  std::thread hostile([&] {
    device.wait_for(2);
    device.write_reply(1, done_reply(0, 0, 255));
    areas.replies.slots[1].ticket.store(1, std::memory_order_release);  // its own vCPU may look or not
    device.answer(2, done_reply(0, 1, 1), {Effect{.kind = 5, .data = 1}});
  });
  AdaptiveWait wait;
  EXPECT_TRUE(ring.call(make_request(2), wait));
  EXPECT_EQ(effects.count(), 1U);
  hostile.join();
  ring.close();
  other.join();
}

TEST(HostileDevice, a_ticket_from_the_future_answers_nothing) {
  Areas areas;
  RecordingReceiver effects;
  Complaints complaints;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects,
                       complaints.options(5 * kMillisecond));
  const HandDevice device{areas.replies, areas.requests};
  std::atomic<bool> returned{false};
  std::thread caller([&] {
    AdaptiveWait wait;
    EXPECT_TRUE(ring.call(make_request(1), wait));
    returned = true;
  });
  device.wait_for(1);
  for (const Ticket ticket : {Ticket{1 + kSlots}, Ticket{1 + 2 * kSlots}, ~Ticket{0}, Ticket{0}}) {
    areas.replies.slots[1].ticket.store(ticket, std::memory_order_seq_cst);
    areas.replies.slots[1].wake.fetch_add(1);
    futex_wake_all(&areas.replies.slots[1].wake);
  }
  while (complaints.overdue == 0) ::sched_yield();
  EXPECT_FALSE(returned);
  device.answer(1, done_reply());
  caller.join();
  EXPECT_EQ(complaints.overdue, 1);
}

// A device that marks posted requests done before they are there must not get one slot written by two threads.
TEST(HostileDevice, replies_in_advance_never_turn_a_slots_tickets_back) {
  Areas areas;
  RecordingReceiver effects;
  Complaints complaints;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects,
                       complaints.options(500 * kMillisecond));
  std::atomic<bool> stop{false};
  std::atomic<int> turned_back{0};
  std::thread hostile([&] {
    Ticket newest[kSlots] = {};
    while (!stop.load()) {
      const Ticket base = ring.submitted();
      for (Ticket ticket = base + 1; ticket <= base + kSlots; ++ticket)
        areas.replies.slots[slot_of(ticket)].ticket.store(ticket, std::memory_order_release);
      for (std::uint32_t i = 0; i < kSlots; ++i) {
        areas.replies.slots[i].ticket.store(areas.requests.slots[i].ticket.load(), std::memory_order_release);
        const Ticket now = areas.requests.slots[i].ticket.load();
        if (now < newest[i]) turned_back.fetch_add(1);
        newest[i] = now;
      }
    }
  });
  std::vector<std::thread> posters;
  for (int i = 0; i < 4; ++i) {
    posters.emplace_back([&] {
      for (int n = 0; n < 20'000 && ring.post(make_request(1)); ++n) {
        if (complaints.overdue != 0) ring.close();
      }
    });
  }
  for (std::thread& poster : posters) poster.join();
  stop = true;
  hostile.join();
  EXPECT_EQ(turned_back, 0);
}

TEST(HostileDevice, a_total_that_cannot_be_does_not_hide_the_effects_of_a_successor) {
  Areas areas;
  RecordingReceiver effects;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, {});
  const HandDevice device{areas.replies, areas.requests};
  const auto call_answered_with = [&](Ticket ticket, const Reply& reply, const std::vector<Effect>& wanted) {
    std::thread answerer([&] {
      device.wait_for(ticket);
      device.answer(ticket, reply, wanted);
    });
    AdaptiveWait wait;
    EXPECT_TRUE(ring.call(make_request(1), wait));
    answerer.join();
  };
  call_answered_with(1, done_reply(0, ~std::uint64_t{0}), {});
  call_answered_with(2, done_reply(0, 1, 1), {Effect{.kind = 5, .data = 1}});
  EXPECT_EQ(effects.count(), 1U);
}

TEST(HostileDevice, a_wake_note_of_any_number_is_only_a_number) {
  WakeNote note{};
  AdaptiveWait wait;
  (void)wait.spin([] { return false; });
  for (const std::int64_t time : {INT64_MIN, INT64_MAX, std::int64_t{-1}, std::int64_t{0}}) {
    note.time_ns.store(time);
    note.cpu.store(~0U);
    wait.learn(note);
    EXPECT_FALSE(wait.spinning());
  }
}

// Random bytes in the whole reply area while eight vCPUs make requests: every one gets some answer or, once the
// supervisor has seen the deadline go by, the end of the ring. Nothing is applied that is not a whole record.
TEST(HostileDevice, random_bytes_in_the_reply_area_never_hang_or_crash_the_vmm) {
  std::mt19937_64 seeds(20260101);
  for (int round = 0; round < 12; ++round) {
    Areas areas;
    RecordingReceiver effects;
    Complaints complaints;
    RequestProducer::Options options = complaints.options(3 * kMillisecond);
    RequestProducer* ring_pointer = nullptr;
    std::atomic<bool> condemned{false};
    const auto report = options.on_overdue;
    options.on_overdue = [&](Ticket ticket, std::uint32_t incarnation) {
      report(ticket, incarnation);
      condemned.store(true);
    };
    RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, options);
    ring_pointer = &ring;
    std::atomic<bool> stop{false};
    std::thread hostile([&, seed = seeds()] {
      std::mt19937_64 random(seed);
      auto* words = areas.reply_region.as<volatile std::uint64_t>();
      while (!stop.load(std::memory_order_relaxed)) {
        scribble(words, kReplyAreaSize / 8, random);
        const std::uint32_t slot = random() % kSlots;
        futex_wake_all(&areas.replies.slots[slot].wake);
        // Now and then an answer that looks right.
        const Ticket ticket = areas.requests.slots[slot].ticket.load();
        areas.replies.slots[slot].incarnation.store(1);
        areas.replies.slots[slot].ticket.store(ticket);
      }
    });
    std::atomic<int> running{8};
    std::vector<std::thread> vcpus;
    for (int i = 0; i < 8; ++i) {
      vcpus.emplace_back([&, i] {
        std::mt19937_64 random(static_cast<std::uint64_t>(i));
        AdaptiveWait wait;
        for (int n = 0; n < 400; ++n) {
          if (random() % 3 == 0) {
            if (!ring.post(make_request(1))) break;
            continue;
          }
          const std::optional<Reply> reply = ring.call(make_request(1), wait);
          if (!reply) {
            EXPECT_TRUE(ring.closed()) << "only a closed ring gives no answer";
            break;
          }
          EXPECT_EQ(reply->generation, 1U);
          EXPECT_LE(reply->effect_count, kMaxEffects);
        }
        running.fetch_sub(1);
      });
    }
    // The supervisor: what is overdue is killed, and its ring closed.
    const std::int64_t began = monotonic_ns();
    while (running.load() != 0 && !condemned.load()) ::sched_yield();
    ring_pointer->close();
    for (std::thread& vcpu : vcpus) vcpu.join();
    stop = true;
    hostile.join();
    EXPECT_LT(monotonic_ns() - began, 30'000 * kMillisecond);
  }
}

}  // namespace
}  // namespace bulkhead::ipc
