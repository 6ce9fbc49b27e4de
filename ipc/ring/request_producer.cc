#include "ipc/ring/request_producer.h"

#include <sched.h>

#include <algorithm>
#include <utility>

#include "ipc/base/futex.h"
#include "ipc/ring/read_once.h"

namespace bulkhead::ipc {
namespace {

// Past the deadline the device has this long once more, with the waiter awake: after a time in which nobody ran (a
// suspended or frozen host) it needs a moment like everybody else. A waiter that wakes later than that was not awake.
constexpr std::int64_t grace_for(std::int64_t deadline_ns) {
  return std::clamp<std::int64_t>(deadline_ns / 4, 1'000'000, 100'000'000);
}

}  // namespace

// How long a waiter has waited for one process to answer.
class RequestProducer::Patience {
 public:
  explicit Patience(const RequestProducer& ring) : ring_(&ring) {}

  [[nodiscard]] std::int64_t until() const { return since_ + ring_->options_.deadline_ns + grace_ns_; }
  // True once a deadline.
  bool ran_out() {
    const std::int64_t now = monotonic_ns();
    const std::uint32_t epoch = ring_->deadline_epoch_.load(std::memory_order_acquire);
    if (epoch != epoch_) {
      *this = Patience(*ring_);
      return false;
    }
    if (now < until()) return false;
    const std::int64_t grace = grace_for(ring_->options_.deadline_ns);
    const bool on_time = now - until() <= grace;
    if (grace_ns_ == 0) {
      grace_ns_ = now - until() + grace;
      return false;
    }
    *this = Patience(*ring_);
    return on_time;
  }
  [[nodiscard]] std::uint32_t incarnation() const { return incarnation_; }

 private:
  const RequestProducer* ring_;
  std::uint32_t epoch_ = ring_->deadline_epoch_.load(std::memory_order_acquire);
  std::uint32_t incarnation_ = ring_->incarnation();
  std::int64_t since_ = monotonic_ns();
  std::int64_t grace_ns_ = 0;  // 0: the deadline has yet to pass
};

RequestProducer::RequestProducer(RequestArea& requests, const ReplyArea& replies, BorrowedFd doorbell,
                                 EffectReceiver& effects, Options options)
    : requests_(requests), replies_(replies), doorbell_(doorbell), effects_(effects), options_(std::move(options)) {
  free_all_slots();
  requests_.magic = kAreaMagic;
  requests_.incarnation.store(1, std::memory_order_release);
}

void RequestProducer::free_all_slots() {
  // Ticket t uses slot t % kSlots; the first ticket is 1, so slot 0 waits for ticket kSlots.
  for (std::uint32_t i = 0; i < kSlots; ++i) {
    slots_[i].free_for.store(i == 0 ? kSlots : i, std::memory_order_relaxed);
    slots_[i].posted.store(0, std::memory_order_relaxed);
  }
}

void RequestProducer::violation(const char* what, std::uint32_t incarnation) {
  if (options_.on_violation) options_.on_violation(what, incarnation);
}

bool RequestProducer::done(Ticket ticket) const {
  const ReplySlot& slot = replies_.slots[slot_of(ticket)];
  return slot.ticket.load(std::memory_order_acquire) == ticket &&
         slot.incarnation.load(std::memory_order_acquire) == incarnation_.load(std::memory_order_relaxed);
}

bool RequestProducer::reclaim_posted(Slot& slot, Ticket ticket) {
  const Ticket occupant = ticket - kSlots;
  if (slot.posted.load(std::memory_order_acquire) != occupant) return false;
  if (replies_.slots[slot_of(occupant)].ticket.load(std::memory_order_acquire) != occupant) return false;
  Ticket expected = occupant;
  slot.free_for.compare_exchange_strong(expected, ticket, std::memory_order_acq_rel);
  return true;
}

std::optional<Ticket> RequestProducer::take_slot() {
  Ticket behind = 0;                 // the ticket whose slot we found in use
  std::optional<Patience> patience;  // made when it is needed: it reads the clock
  for (;;) {
    if (closed()) return std::nullopt;
    Ticket ticket = next_.load(std::memory_order_relaxed);
    Slot& slot = slots_[slot_of(ticket)];
    if (slot.free_for.load(std::memory_order_acquire) == ticket) {
      if (next_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_relaxed)) return ticket;
      continue;
    }
    if (ticket > kSlots && reclaim_posted(slot, ticket)) continue;
    // All slots are in use: the device is behind with posted writes, or its doorbell has yet to wake it.
    if (behind != ticket) {
      behind = ticket;  // others overtake us as long as the device makes progress: it is not late then
      patience.emplace(*this);
    }
    const std::uint32_t incarnation = patience->incarnation();
    if (patience->ran_out() && options_.on_overdue) options_.on_overdue(ticket - kSlots, incarnation);
    ::sched_yield();
  }
}

void RequestProducer::publish(Ticket ticket, const Request& request) {
  RequestSlot& slot = requests_.slots[slot_of(ticket)];
  slot.request = request;
  // An exchange, because the store must be seen before the device's sleep flag is read: either the device
  // sees the ticket before it sleeps, or we see that it sleeps.
  slot.ticket.exchange(ticket, std::memory_order_seq_cst);
  ring_doorbell();
}

void RequestProducer::ring_doorbell() {
  if (replies_.asleep.load(std::memory_order_seq_cst) == 0) return;
  leave_wake_note(requests_.device_woken);
  signal_eventfd(doorbell_);
}

bool RequestProducer::post(Request request) {
  request.flags |= kPosted;
  request.generation = generation();
  const std::optional<Ticket> ticket = take_slot();
  if (!ticket) return false;
  publish(*ticket, request);
  // Only now: a device that answers in advance must not get the slot reused while the request is written.
  slots_[slot_of(*ticket)].posted.store(*ticket, std::memory_order_release);
  return true;
}

std::optional<Reply> RequestProducer::call(Request request, AdaptiveWait& wait) {
  request.generation = generation();
  const std::optional<Ticket> ticket = take_slot();
  if (!ticket) return std::nullopt;
  publish(*ticket, request);
  std::optional<Reply> reply = await(*ticket, wait);
  // Unequal rather than greater: whatever total a hostile process left behind, its successor's effects count again.
  if (reply && reply->effects_total != effects_applied_.load(std::memory_order_acquire)) {
    if (!apply_effects_through(*ticket, reply->effects_total)) reply.reset();
  }
  // The slot is given back only now: other vCPUs may have to find this ticket's effects in it.
  Ticket occupant = *ticket;
  slots_[slot_of(*ticket)].free_for.compare_exchange_strong(occupant, *ticket + kSlots, std::memory_order_acq_rel);
  return reply;
}

std::optional<Reply> RequestProducer::await(Ticket ticket, AdaptiveWait& wait) {
  const ReplySlot& slot = replies_.slots[slot_of(ticket)];
  if (!wait.spin([&] { return done(ticket); })) {
    Patience patience(*this);
    std::atomic<std::uint32_t>& asleep = requests_.waiter_asleep[slot_of(ticket)];
    bool slept = false;
    bool answered = false;
    for (;;) {
      const std::uint32_t wake = slot.wake.load(std::memory_order_acquire);
      asleep.exchange(1, std::memory_order_seq_cst);
      answered = done(ticket);
      if (answered || closed()) break;
      // Woken by the device, by close(), or at the deadline. A new incarnation wakes nobody: its successor does.
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      if (!closed()) futex_wait_until(&slot.wake, wake, patience.until());
      sleepers_.fetch_sub(1, std::memory_order_seq_cst);
      slept = true;
      const std::uint32_t incarnation = patience.incarnation();
      if (!done(ticket) && patience.ran_out() && options_.on_overdue) options_.on_overdue(ticket, incarnation);
    }
    asleep.store(0, std::memory_order_relaxed);
    if (!answered) return std::nullopt;
    if (slept) wait.learn(replies_.waiter_woken);
  }
  const std::uint32_t incarnation = slot.incarnation.load(std::memory_order_relaxed);
  const Reply reply = read_once(slot.reply);
  // A device that answers after reset for an older life of the machine is answered for by the bus.
  if (reply.generation != generation() || reply.effect_count > kMaxEffects) {
    if (reply.effect_count > kMaxEffects) violation("a reply with more effects than there can be", incarnation);
    return Reply{.generation = generation(), .status = ReplyStatus::kDropped};
  }
  return reply;
}

bool RequestProducer::held(Ticket ticket) {
  // A compare-and-swap that changes nothing: unlike a load, it cannot be passed by the loads before it.
  Ticket occupant = ticket;
  return slots_[slot_of(ticket)].free_for.compare_exchange_strong(occupant, ticket, std::memory_order_acq_rel);
}

bool RequestProducer::apply_effects_through(Ticket ticket, std::uint64_t total) {
  const std::lock_guard lock(effects_lock_);
  const std::uint32_t incarnation = this->incarnation();
  // A slot whose effects are yet to be applied is held by its own vCPU, which waits for this lock or will; so at most
  // kSlots tickets are behind. A slot that was given back has nothing for us, and may serve a later ticket already.
  Ticket from = effects_scanned_ + 1;
  if (ticket >= kSlots) from = std::max(from, ticket - kSlots + 1);
  for (Ticket t = from; t <= ticket; ++t) {
    const ReplySlot& slot = replies_.slots[slot_of(t)];
    if (slot.ticket.load(std::memory_order_acquire) != t || !held(t)) continue;
    const Reply reply = read_once_racing(slot.reply);
    if (reply.effect_count == 0) continue;
    if (reply.effect_count > kMaxEffects || reply.generation != generation()) continue;
    Effect effects[kMaxEffects];
    for (std::uint32_t i = 0; i < reply.effect_count; ++i)
      effects[i] = read_once_racing(replies_.effects[slot_of(t)].effects[i]);
    if (!held(t)) continue;
    for (std::uint32_t i = 0; i < reply.effect_count; ++i) {
      if (!effects_.apply_effect(effects[i])) violation("an effect that it was not granted", incarnation);
    }
  }
  if (ticket > effects_scanned_) {
    effects_scanned_ = ticket;
    effects_applied_.store(total, std::memory_order_release);
  }
  return !closed();
}

bool RequestProducer::drain(std::int64_t deadline_ns) {
  const Ticket last = submitted();
  const std::int64_t until = monotonic_ns() + deadline_ns;
  const Ticket first = last >= kSlots ? last - kSlots + 1 : 1;
  for (Ticket ticket = first; ticket <= last; ++ticket) {
    // Done, or its slot already serves a later ticket.
    while (replies_.slots[slot_of(ticket)].ticket.load(std::memory_order_acquire) < ticket) {
      if (closed() || monotonic_ns() > until) return false;
      ring_doorbell();
      ::sched_yield();
    }
  }
  return true;
}

void RequestProducer::close() {
  closed_.store(true, std::memory_order_seq_cst);
  // The futex words are the device's, so a waiter between its last look and its sleep cannot be told by
  // their value: wake until nobody is left.
  while (sleepers_.load(std::memory_order_seq_cst) != 0) {
    for (const ReplySlot& slot : replies_.slots) futex_wake_all(&slot.wake);
    ::sched_yield();
  }
}

void RequestProducer::reopen() {
  for (RequestSlot& slot : requests_.slots) slot.ticket.store(0, std::memory_order_relaxed);
  free_all_slots();
  next_.store(1, std::memory_order_relaxed);
  {
    const std::lock_guard lock(effects_lock_);
    effects_scanned_ = 0;
    effects_applied_.store(0, std::memory_order_relaxed);
  }
  closed_.store(false, std::memory_order_seq_cst);
}

Ticket RequestProducer::first_unserved() const {
  const Ticket last = submitted();
  for (Ticket ticket = last >= kSlots ? last - kSlots + 1 : 1; ticket <= last; ++ticket) {
    // Its vCPU has the ticket and has yet to fill the slot: nobody can have answered it, or anything after it.
    if (requests_.slots[slot_of(ticket)].ticket.load(std::memory_order_acquire) < ticket) break;
    if (replies_.slots[slot_of(ticket)].ticket.load(std::memory_order_acquire) < ticket) return ticket;
  }
  return last + 1;
}

void RequestProducer::set_incarnation(std::uint32_t incarnation) {
  incarnation_.store(incarnation, std::memory_order_seq_cst);
  requests_.incarnation.store(incarnation, std::memory_order_seq_cst);
  restart_deadlines();
}

}  // namespace bulkhead::ipc
