// The VMM's end of a device process's request ring.
//
// Every vCPU thread (and the VMM's own threads) may submit; tickets give all requests of one device
// process one order. A non-posted request is waited for by the thread that submitted it; a posted one
// frees its slot when the device marks it done.
//
// Trust: producer indexes and slot ownership live here, in VMM-private memory. What the device process
// writes is copied once and checked: it can delay a reply up to the deadline or make its own answers
// wrong, nothing else.
// Threading: all methods from any thread. Errors: a closed ring answers nullopt, for good.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>

#include "ipc/base/unique_fd.h"
#include "ipc/ring/adaptive_wait.h"
#include "ipc/ring/layout.h"

namespace bulkhead::ipc {

// Where the effects of committed requests go, in commit order.
class EffectReceiver {
 public:
  virtual ~EffectReceiver() = default;
  // One record, copied but not yet parsed. False: the device may not ask for this, ever (it is hostile).
  virtual bool apply_effect(const Effect& untrusted) = 0;
};

class RequestProducer {
 public:
  struct Options {
    std::int64_t deadline_ns = 1'000'000'000;
    // Called each time that a request has waited for another deadline without an answer, on the waiter's thread; the
    // wait goes on until a reply comes or the ring is closed. A new incarnation starts with a whole deadline, once it
    // is expected to work (restart_deadlines()). Time in which the waiter itself could not run does not count.
    // `incarnation`: whose fault it is.
    std::function<void(Ticket, std::uint32_t incarnation)> on_overdue;
    // Called when the device process wrote something that no honest one writes.
    std::function<void(const char* what, std::uint32_t incarnation)> on_violation;
  };

  RequestProducer(RequestArea& requests, const ReplyArea& replies, BorrowedFd doorbell, EffectReceiver& effects,
                  Options options);

  // Submits and waits. nullopt: the ring was closed before an answer came.
  std::optional<Reply> call(Request request, AdaptiveWait& wait);
  // Submits without waiting for the device (it may wait for room). False: the ring was closed.
  bool post(Request request);

  // Wakes the device process if it sleeps: stream bytes, time or a posted request wait for it.
  void ring_doorbell();

  // Waits until every request submitted so far is done. False: closed, or `deadline_ns` went by.
  bool drain(std::int64_t deadline_ns);

  // No more requests and no more answers: every waiter returns nullopt.
  void close();
  // Begins anew after close(), with ticket 1, for a process that starts from reset. Only while nobody is inside any
  // other method, and with the device's side of the areas zeroed.
  void reopen();
  [[nodiscard]] bool closed() const { return closed_.load(std::memory_order_acquire); }

  // A new generation begins: replies of older ones no longer count. Only with all vCPUs stopped.
  void set_generation(std::uint32_t generation) { generation_.store(generation, std::memory_order_release); }
  [[nodiscard]] std::uint32_t generation() const { return generation_.load(std::memory_order_acquire); }

  // A successor takes over: replies of its predecessor no longer count until it publishes them again.
  void set_incarnation(std::uint32_t incarnation);
  // A successor serves from now on: what has waited for it so far is no fault of its own.
  void restart_deadlines() { deadline_epoch_.fetch_add(1, std::memory_order_acq_rel); }
  [[nodiscard]] std::uint32_t incarnation() const { return incarnation_.load(std::memory_order_acquire); }

  [[nodiscard]] Ticket submitted() const { return next_.load(std::memory_order_relaxed) - 1; }
  // The oldest request that the device could have answered and has not, going by its own word; submitted() + 1 if
  // there is none.
  [[nodiscard]] Ticket first_unserved() const;

 private:
  struct alignas(kCacheLine) Slot {
    std::atomic<Ticket> free_for;  // the ticket that may use this slot next, or the one that uses it
    std::atomic<Ticket> posted;    // the posted ticket that uses it, if any
  };

  class Patience;
  void free_all_slots();
  std::optional<Ticket> take_slot();
  bool reclaim_posted(Slot& slot, Ticket ticket);
  void publish(Ticket ticket, const Request& request);
  std::optional<Reply> await(Ticket ticket, AdaptiveWait& wait);
  bool done(Ticket ticket) const;
  // Whether the slot still belongs to `ticket`: what the device wrote into it cannot be a later ticket's.
  bool held(Ticket ticket);
  bool apply_effects_through(Ticket ticket, std::uint64_t total);
  void violation(const char* what, std::uint32_t incarnation);

  RequestArea& requests_;
  const ReplyArea& replies_;
  BorrowedFd doorbell_;
  EffectReceiver& effects_;
  Options options_;

  alignas(kCacheLine) std::atomic<Ticket> next_{1};
  std::atomic<std::uint32_t> generation_{1};
  std::atomic<std::uint32_t> incarnation_{1};
  std::atomic<std::uint32_t> deadline_epoch_{0};
  std::atomic<bool> closed_{false};
  std::atomic<std::uint32_t> sleepers_{0};
  Slot slots_[kSlots];

  alignas(kCacheLine) std::atomic<std::uint64_t> effects_applied_{0};
  std::mutex effects_lock_;
  Ticket effects_scanned_ = 0;  // guarded by effects_lock_: every ticket up to it was looked at
};

}  // namespace bulkhead::ipc
