// The VMM's end of the ring against an honest device: order, slots, effects, deadlines, generations, take-over.
#include "ipc/ring/request_producer.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "tests/unit/ipc/ring_fixture.h"

namespace bulkhead::ipc {
namespace {

constexpr std::uint64_t kEffectNumber = 1000;

Effect numbered_effect(std::uint64_t number) {
  return {.kind = static_cast<std::uint16_t>(EffectKind::kPower), .address = number};
}

TEST(RequestProducer, a_call_returns_the_devices_answer) {
  Areas areas;
  RecordingReceiver effects;
  Complaints complaints;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, complaints.options());
  TinyDevice device(areas);
  AdaptiveWait wait;
  const std::optional<Reply> reply = ring.call(make_request(0x1122334455667788), wait);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->status, ReplyStatus::kDone);
  EXPECT_EQ(value_of(*reply), 0x1122334455667788U);
  EXPECT_EQ(ring.submitted(), 1U);
  EXPECT_EQ(complaints.overdue, 0);
  EXPECT_EQ(complaints.violations, 0);
}

TEST(RequestProducer, the_device_sees_the_layout_and_the_first_incarnation) {
  Areas areas;
  RecordingReceiver effects;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, {});
  EXPECT_EQ(areas.requests.magic, kAreaMagic);
  EXPECT_EQ(areas.requests.incarnation.load(), 1U);
}

TEST(RequestProducer, a_request_carries_the_generation_and_the_posted_mark) {
  Areas areas;
  RecordingReceiver effects;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, {});
  ring.set_generation(7);
  ASSERT_TRUE(ring.post(make_request(1)));
  EXPECT_EQ(areas.requests.slots[1].request.generation, 7U);
  EXPECT_EQ(areas.requests.slots[1].request.flags, kPosted);
}

TEST(RequestProducer, the_doorbell_is_rung_only_for_a_device_that_sleeps) {
  Areas areas;
  RecordingReceiver effects;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, {});
  ASSERT_TRUE(ring.post(make_request(1)));
  EXPECT_EQ(drain_eventfd(areas.doorbell.borrow()), 0U);
  areas.replies.asleep.store(1);
  ASSERT_TRUE(ring.post(make_request(2)));
  EXPECT_EQ(drain_eventfd(areas.doorbell.borrow()), 1U);
  EXPECT_NE(areas.requests.device_woken.time_ns.load(), 0);
}

// Eight vCPUs, posted and non-posted mixed, slots reused many times over.
TEST(RequestProducer, tickets_give_all_threads_one_order_that_keeps_each_threads_own) {
  constexpr int kThreads = 8;
  constexpr std::uint64_t kEach = 800;
  Areas areas;
  RecordingReceiver effects;
  Complaints complaints;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, complaints.options());
  std::vector<std::uint64_t> seen;  // thread << 32 | number, in the order of serving
  Ticket last_ticket = 0;
  bool in_ticket_order = true;
  TinyDevice device(areas, [&](Ticket ticket, const Request& request, Reply&, std::vector<Effect>&) {
    in_ticket_order = in_ticket_order && ticket == last_ticket + 1;
    last_ticket = ticket;
    seen.push_back(value_of(request));
  });
  std::atomic<int> wrong_answers{0};
  std::vector<std::thread> threads;
  for (std::uint64_t id = 0; id < kThreads; ++id) {
    threads.emplace_back([&, id] {
      std::mt19937_64 random(id);
      AdaptiveWait wait;
      for (std::uint64_t i = 0; i < kEach; ++i) {
        const std::uint64_t value = id << 32 | i;
        if (random() % 4 != 0) {
          if (!ring.post(make_request(value))) wrong_answers.fetch_add(1);
          continue;
        }
        const std::optional<Reply> reply = ring.call(make_request(value), wait);
        if (!reply || value_of(*reply) != value) wrong_answers.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(ring.drain(60'000 * kMillisecond));
  device.stop();
  EXPECT_EQ(wrong_answers, 0);
  EXPECT_TRUE(in_ticket_order);
  ASSERT_EQ(seen.size(), kThreads * kEach);
  std::map<std::uint64_t, std::uint64_t> next;
  for (const std::uint64_t value : seen) {
    EXPECT_EQ(value & 0xffffffff, next[value >> 32]) << "thread " << (value >> 32);
    ++next[value >> 32];
  }
  EXPECT_EQ(complaints.overdue, 0);
  EXPECT_EQ(complaints.violations, 0);
}

TEST(RequestProducer, posted_requests_wait_for_room_and_none_is_lost) {
  Areas areas;
  RecordingReceiver effects;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, {});
  std::vector<std::uint64_t> seen;
  {
    TinyDevice device(areas, [&](Ticket, const Request& request, Reply&, std::vector<Effect>&) {
      seen.push_back(value_of(request));
    });
    for (std::uint64_t i = 0; i < 5000; ++i) ASSERT_TRUE(ring.post(make_request(i)));
    ASSERT_TRUE(ring.drain(60'000 * kMillisecond));
  }
  ASSERT_EQ(seen.size(), 5000U);
  for (std::uint64_t i = 0; i < seen.size(); ++i) ASSERT_EQ(seen[i], i);
}

// --- effects ---

TEST(RequestProducer, effects_are_applied_once_in_commit_order_and_before_any_later_reply) {
  constexpr int kThreads = 8;
  Areas areas;
  RecordingReceiver effects;
  Complaints complaints;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, complaints.options());
  std::mt19937_64 random(1);
  std::uint64_t number = 0;
  TinyDevice device(areas, [&](Ticket, const Request& request, Reply&, std::vector<Effect>& out) {
    if ((request.flags & kPosted) != 0 || random() % 3 != 0) return;
    for (std::uint64_t n = random() % 4; n > 0; --n) out.push_back(numbered_effect(++number));
  });
  std::atomic<int> early{0};
  std::vector<std::thread> threads;
  for (std::uint64_t id = 0; id < kThreads; ++id) {
    threads.emplace_back([&, id] {
      std::mt19937_64 mine(id);
      AdaptiveWait wait;
      for (int i = 0; i < 500; ++i) {
        if (mine() % 3 == 0) {
          (void)ring.post(make_request(0));
          continue;
        }
        const std::optional<Reply> reply = ring.call(make_request(0), wait);
        if (!reply || effects.count() < reply->effects_total) early.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  device.stop();
  EXPECT_EQ(early, 0) << "a reply was delivered before the effects of the commits up to it";
  const std::vector<Effect> applied = effects.all();
  ASSERT_EQ(applied.size(), number);
  for (std::uint64_t i = 0; i < applied.size(); ++i) ASSERT_EQ(applied[i].address, i + 1);
  EXPECT_EQ(complaints.violations, 0);
}

// A vCPU that is slow to look at its reply applies the effects of others too. It must not mistake the next ticket of a
// slot, half written, for the one that it looks for.
TEST(RequestProducer, a_slot_that_serves_a_later_ticket_already_is_not_looked_at_again) {
  Areas areas;
  RecordingReceiver effects;
  Complaints complaints;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, complaints.options());
  const HandDevice device{areas.replies, areas.requests};
  AdaptiveWait wait;
  std::thread first([&] {
    AdaptiveWait own;
    EXPECT_TRUE(ring.call(make_request(1), own));
  });
  device.wait_for(1);
  device.answer(1, done_reply());
  first.join();
  // Ticket 2 has one effect; its vCPU does not look yet.
  std::thread slow([&] {
    AdaptiveWait own;
    EXPECT_TRUE(ring.call(make_request(2), own));
  });
  device.wait_for(2);
  for (Ticket ticket = 3; ticket <= kSlots; ++ticket) {
    ASSERT_TRUE(ring.post(make_request(ticket)));
    device.answer(ticket, done_reply(0, 1));
  }
  // Ticket 65 reuses slot 1. The device has written its reply and effect, but has not marked it done.
  std::thread reuser([&] {
    AdaptiveWait own;
    EXPECT_TRUE(ring.call(make_request(3), own));
  });
  device.wait_for(kSlots + 1);
  device.write_reply(kSlots + 1, done_reply(0, 2, 1), {numbered_effect(2)});
  device.answer(2, done_reply(0, 1, 1), {numbered_effect(1)});
  slow.join();
  ASSERT_EQ(effects.count(), 1U);
  EXPECT_EQ(effects.all()[0].address, 1U);
  device.mark_done(kSlots + 1);
  reuser.join();
  ASSERT_EQ(effects.count(), 2U);
  EXPECT_EQ(effects.all()[1].address, 2U);
}

TEST(RequestProducer, the_effects_of_a_reply_of_an_older_generation_are_dropped) {
  Areas areas;
  RecordingReceiver effects;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, {});
  const HandDevice device{areas.replies, areas.requests};
  std::optional<Reply> reply;
  std::thread caller([&] {
    AdaptiveWait wait;
    reply = ring.call(make_request(1), wait);
  });
  device.wait_for(1);
  ring.set_generation(2);
  device.answer(1, done_reply(5, 1, 1), {numbered_effect(1)});
  caller.join();
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->status, ReplyStatus::kDropped);
  EXPECT_EQ(reply->generation, 2U);
  EXPECT_EQ(effects.count(), 0U);
}

TEST(RequestProducer, an_effect_that_is_refused_is_a_violation) {
  Areas areas;
  RecordingReceiver effects;
  effects.refuse = true;
  Complaints complaints;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, complaints.options());
  TinyDevice device(areas, [](Ticket, const Request&, Reply&, std::vector<Effect>& out) {
    out.push_back(numbered_effect(kEffectNumber));
  });
  AdaptiveWait wait;
  EXPECT_TRUE(ring.call(make_request(1), wait));
  EXPECT_EQ(complaints.violations, 1);
}

// --- the end, deadlines ---

TEST(RequestProducer, close_wakes_every_waiter_and_ends_the_ring_for_good) {
  Areas areas;
  RecordingReceiver effects;
  Complaints complaints;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, complaints.options());
  std::atomic<int> ended{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      AdaptiveWait wait = sleeping_wait();
      if (!ring.call(make_request(1), wait)) ended.fetch_add(1);
    });
  }
  while (ring.submitted() < 8) ::sched_yield();
  for (Ticket ticket = 1; ticket <= 8; ++ticket) {
    while (areas.requests.waiter_asleep[slot_of(ticket)].load() == 0) ::sched_yield();
  }
  // The others fill the ring with posted requests and wait for room.
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      while (ring.post(make_request(2))) {
      }
      ended.fetch_add(1);
    });
  }
  while (ring.submitted() < kSlots) ::sched_yield();
  const std::int64_t before = monotonic_ns();
  ring.close();
  for (std::thread& thread : threads) thread.join();
  EXPECT_LT(monotonic_ns() - before, 20'000 * kMillisecond);
  EXPECT_EQ(ended, 12);
  EXPECT_EQ(complaints.overdue, 0);
  AdaptiveWait wait;
  EXPECT_FALSE(ring.call(make_request(3), wait));
  EXPECT_FALSE(ring.post(make_request(3)));
  EXPECT_FALSE(ring.drain(0));
}

// close() against waiters that are just about to fall asleep.
TEST(RequestProducer, close_never_leaves_a_waiter_behind) {
  for (int round = 0; round < 200; ++round) {
    Areas areas;
    RecordingReceiver effects;
    Complaints complaints;
    RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, complaints.options());
    std::thread waiter([&] {
      AdaptiveWait wait = sleeping_wait();
      EXPECT_FALSE(ring.call(make_request(1), wait));
    });
    while (ring.submitted() < 1) cpu_relax();
    for (int spin = 0; spin < round * 7; ++spin) cpu_relax();
    ring.close();
    waiter.join();
  }
}

TEST(RequestProducer, a_late_answer_is_reported_once_a_deadline_and_still_taken) {
  Areas areas;
  RecordingReceiver effects;
  Complaints complaints;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects,
                       complaints.options(5 * kMillisecond));
  const HandDevice device{areas.replies, areas.requests};
  std::optional<Reply> reply;
  const std::int64_t began = monotonic_ns();
  std::thread caller([&] {
    AdaptiveWait wait;
    reply = ring.call(make_request(1), wait);
  });
  device.wait_for(1);
  while (complaints.overdue == 0) ::sched_yield();
  // Wake-ups that bring no answer, past the next deadline.
  while (complaints.overdue < 2) {
    areas.replies.slots[1].wake.fetch_add(1);
    futex_wake_all(&areas.replies.slots[1].wake);
    ::sched_yield();
  }
  device.answer(1, done_reply(42));
  caller.join();
  // Once a deadline, never at each wake-up.
  EXPECT_LE(complaints.overdue, 1 + (monotonic_ns() - began) / (5 * kMillisecond));
  EXPECT_EQ(complaints.last_overdue, 1U);
  ASSERT_TRUE(reply);
  EXPECT_EQ(value_of(*reply), 42U);
}

TEST(RequestProducer, a_ring_that_stays_full_is_reported_as_overdue) {
  Areas areas;
  RecordingReceiver effects;
  Complaints complaints;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects,
                       complaints.options(5 * kMillisecond));
  for (Ticket ticket = 1; ticket < kSlots + 1; ++ticket) ASSERT_TRUE(ring.post(make_request(ticket)));
  std::thread poster([&] { EXPECT_TRUE(ring.post(make_request(99))); });
  while (complaints.overdue == 0) ::sched_yield();
  EXPECT_EQ(complaints.last_overdue, 1U);
  const HandDevice device{areas.replies, areas.requests};
  device.answer(1, done_reply());
  poster.join();
}

// --- drain ---

TEST(RequestProducer, drain_waits_for_every_request_and_no_longer_than_it_was_told) {
  Areas areas;
  RecordingReceiver effects;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, {});
  const HandDevice device{areas.replies, areas.requests};
  EXPECT_TRUE(ring.drain(0)) << "nothing was submitted";
  for (Ticket ticket = 1; ticket <= 3; ++ticket) ASSERT_TRUE(ring.post(make_request(ticket)));
  device.answer(1, done_reply());
  device.answer(3, done_reply());
  EXPECT_FALSE(ring.drain(kMillisecond)) << "ticket 2 is not done";
  device.answer(2, done_reply());
  EXPECT_TRUE(ring.drain(kMillisecond));
}

TEST(RequestProducer, drain_wakes_a_device_that_sleeps) {
  Areas areas;
  RecordingReceiver effects;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, {});
  ASSERT_TRUE(ring.post(make_request(1)));
  areas.replies.asleep.store(1);
  EXPECT_FALSE(ring.drain(kMillisecond));
  EXPECT_NE(drain_eventfd(areas.doorbell.borrow()), 0U);
}

// --- take-over ---

TEST(RequestProducer, a_reply_of_the_predecessor_does_not_count_until_it_is_published_again) {
  Areas areas;
  RecordingReceiver effects;
  Complaints complaints;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects,
                       complaints.options(5 * kMillisecond));
  ring.set_incarnation(2);
  EXPECT_EQ(areas.requests.incarnation.load(), 2U);
  std::optional<Reply> reply;
  std::thread caller([&] {
    AdaptiveWait wait;
    reply = ring.call(make_request(1), wait);
  });
  const HandDevice predecessor{areas.replies, areas.requests, 1};
  predecessor.wait_for(1);
  predecessor.answer(1, done_reply(1));
  // It is not taken: the deadline goes by.
  while (complaints.overdue == 0) ::sched_yield();
  const HandDevice successor{areas.replies, areas.requests, 2};
  successor.answer(1, done_reply(2));
  caller.join();
  ASSERT_TRUE(reply);
  EXPECT_EQ(value_of(*reply), 2U);
}

TEST(RequestProducer, a_successor_has_a_whole_deadline_for_what_its_predecessor_left) {
  Areas areas;
  RecordingReceiver effects;
  Complaints complaints;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects,
                       complaints.options(40 * kMillisecond));
  std::thread caller([&] {
    AdaptiveWait wait;
    ring.call(make_request(1), wait);
  });
  const HandDevice device{areas.replies, areas.requests, 20};
  device.wait_for(1);
  // Processes die one after the other, each within its deadline: nobody is late.
  const std::int64_t began = monotonic_ns();
  for (std::uint32_t incarnation = 2; incarnation <= 20; ++incarnation) {
    const std::int64_t until = began + (incarnation - 1) * 10 * kMillisecond;
    while (monotonic_ns() < until) ::sched_yield();
    ring.set_incarnation(incarnation);
  }
  EXPECT_EQ(complaints.overdue, 0);
  device.answer(1, done_reply());
  caller.join();
}

TEST(RequestProducer, the_first_request_that_is_not_served_can_be_told) {
  Areas areas;
  RecordingReceiver effects;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, {});
  const HandDevice device{areas.replies, areas.requests};
  EXPECT_EQ(ring.first_unserved(), 1U) << "nothing was submitted: the next one";
  Ticket served = 0;
  for (Ticket ticket = 1; ticket <= 3 * kSlots; ++ticket) {
    ASSERT_TRUE(ring.post(make_request(ticket)));
    EXPECT_EQ(ring.first_unserved(), served + 1);
    if (ticket % 3 == 0) {
      while (served < ticket) device.answer(++served, done_reply());
      EXPECT_EQ(ring.first_unserved(), ticket + 1);
    }
  }
}

TEST(RequestProducer, a_closed_ring_begins_anew_with_its_first_ticket) {
  Areas areas;
  RecordingReceiver effects;
  RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), effects, {});
  for (int life = 0; life < 3; ++life) {
    {
      TinyDevice device(areas, [](Ticket, const Request&, Reply&, std::vector<Effect>& out) {
        out.push_back({.kind = static_cast<std::uint16_t>(EffectKind::kPower), .data = 1});
      });
      AdaptiveWait wait;
      for (std::uint64_t value = 0; value < 2 * kSlots; ++value) {
        const std::optional<Reply> reply = ring.call(make_request(value), wait);
        ASSERT_TRUE(reply);
        ASSERT_EQ(value_of(*reply), value);
      }
    }
    for (std::uint64_t value = 0; value < 5; ++value) ASSERT_TRUE(ring.post(make_request(value)));  // never served
    EXPECT_EQ(effects.count(), (life + 1) * 2U * kSlots);
    ring.close();
    std::memset(static_cast<void*>(&areas.replies), 0, sizeof(ReplyArea));
    ring.reopen();
    EXPECT_EQ(ring.submitted(), 0U);
    EXPECT_FALSE(HandDevice({areas.replies, areas.requests}).submitted(1)) << "what nobody served is gone";
  }
}

}  // namespace
}  // namespace bulkhead::ipc
