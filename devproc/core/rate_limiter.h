// RateLimiter: bytes and operations of a device, held back until there are tokens for both (token_bucket.h). The one
// shared piece of every device that has a limit.
//
//   if (!limiter.pass(queue, bytes)) { put it back; return; }      the timer tells when to try again
//   on_timer: first = limiter.woken(); try `first`, then everybody else
//
// Who was held back first goes first: until its turn has come nobody else passes, so that small requests of one queue
// cannot starve a large one of another. Then the next one that was refused has its turn, and so on in a circle. Limits,
// tokens and debts are committed state: they outlive the process and the machine's reset. Who waits is not: a successor
// takes every queue as kicked.
//
// Threading: single-threaded. Trust: costs are the guest's or the network's.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "devproc/core/clock.h"
#include "devproc/core/device.h"
#include "devproc/core/persistent.h"
#include "devproc/core/token_bucket.h"
#include "ipc/roles/device_config.h"

namespace bulkhead::devproc {

struct RateLimiterState {
  RateLimit limit{};  // as it was asked for
  TokenBucket bytes{};
  TokenBucket operations{};
  std::uint64_t configured = 0;  // 1: the limit of the configuration was taken over
  bool operator==(const RateLimiterState&) const = default;
};

class RateLimiter {
 public:
  // References outlive it. `timer` is its own.
  RateLimiter(Persistent<RateLimiterState> state, Clock& clock, TimerQueue& timers, TimerId timer)
      : state_(state), clock_(clock), timers_(timers), timer_(timer) {}

  // At the device's reset: the first one takes over what the configuration says, later ones change nothing.
  void start(const RateLimit& configured) {
    forget_waiters();
    if (state_->configured != 0) return;
    state_.mut().configured = 1;
    apply(configured);
  }
  // Fields that are RateLimit::kUnchanged stay. Whoever waits is woken.
  void set(const RateLimit& wanted) {
    const auto merge = [](std::uint64_t now, std::uint64_t want) { return want == RateLimit::kUnchanged ? now : want; };
    const RateLimit old = state_->limit;
    apply({.bytes_per_second = merge(old.bytes_per_second, wanted.bytes_per_second),
           .bytes_burst = merge(old.bytes_burst, wanted.bytes_burst),
           .operations_per_second = merge(old.operations_per_second, wanted.operations_per_second),
           .operations_burst = merge(old.operations_burst, wanted.operations_burst)});
    wake();
  }
  void restore() {
    forget_waiters();
    RateLimiterState clean = state_.get();
    clean.configured = clean.configured != 0 ? 1 : 0;
    clean.bytes.sanitize(clock_.now());
    clean.operations.sanitize(clock_.now());
    if (clean != state_.get()) state_.mut() = clean;
  }

  // Takes an operation of so many bytes from the buckets, for `who` (below 32). False: not yet; nothing was taken, and
  // the timer is armed.
  bool pass(std::uint16_t who, std::uint64_t bytes) {
    if (!may_pass(who, bytes)) return false;
    charge(bytes);
    return true;
  }
  // What passed in this input did not happen after all.
  void take_back(std::uint64_t bytes) {
    if (!limited()) return;
    state_.mut().bytes.give(bytes);
    state_.mut().operations.give(1);
  }
  // For an operation whose size shows only when it is done: it may begin when a smallest one may pass, and charge()
  // says what it was, which may leave a debt.
  bool may_begin(std::uint16_t who) { return may_pass(who, 1); }
  void charge(std::uint64_t bytes) {
    if (!limited()) return;
    RateLimiterState& state = state_.mut();
    state.bytes.fill(clock_.now());
    state.operations.fill(clock_.now());
    state.bytes.take(bytes);
    state.operations.take(1);
  }

  // The timer fired: who was held back first, and is to be tried before all others. Then nobody waits any more.
  [[nodiscard]] std::optional<std::uint16_t> woken() {
    const auto first = waiting_;
    waiting_.reset();
    if (first) refused_ &= ~bit(*first);
    return first;
  }
  // Fires the timer at once: somebody is not done.
  void wake() { timers_.arm(timer_, clock_.now()); }

  void inspect(Inspector& inspector, std::string_view prefix = "") const {
    const auto field = [&](const char* name, std::uint64_t value) {
      inspector.field(std::string(prefix) + name, value);
    };
    field("limit_bytes_per_second", state_->limit.bytes_per_second);
    field("limit_bytes_burst", static_cast<std::uint64_t>(state_->bytes.burst));
    field("limit_operations_per_second", state_->limit.operations_per_second);
    field("limit_operations_burst", static_cast<std::uint64_t>(state_->operations.burst));
  }

 private:
  static constexpr std::uint16_t kMostWaiters = 32;
  static constexpr std::uint32_t bit(std::uint16_t who) { return 1U << (who % kMostWaiters); }
  void forget_waiters() {
    waiting_.reset();
    refused_ = 0;
  }
  [[nodiscard]] bool limited() const { return state_->bytes.limited() || state_->operations.limited(); }

  void apply(const RateLimit& limit) {
    RateLimiterState& state = state_.mut();
    const VmTime now = clock_.now();
    state.limit = limit;
    state.bytes.configure(limit.bytes_per_second, limit.bytes_burst, now);
    state.operations.configure(limit.operations_per_second, limit.operations_burst, now);
  }

  bool may_pass(std::uint16_t who, std::uint64_t bytes) {
    if (!limited()) return true;
    if (waiting_ && *waiting_ != who) {
      refused_ |= bit(who);
      return false;
    }
    TokenBucket of_bytes = state_->bytes;
    TokenBucket of_operations = state_->operations;
    of_bytes.fill(clock_.now());
    of_operations.fill(clock_.now());
    if (of_bytes.allows(bytes) && of_operations.allows(1)) {
      refused_ &= ~bit(who);
      waiting_.reset();
      if (refused_ != 0) {
        waiting_ =
            static_cast<std::uint16_t>((who + 1 + std::countr_zero(std::rotr(refused_, who + 1))) % kMostWaiters);
        wake();
      }
      return true;
    }
    waiting_ = who;
    timers_.arm(timer_, std::max(of_bytes.ready_at(bytes), of_operations.ready_at(1)));
    return false;
  }

  Persistent<RateLimiterState> state_;
  Clock& clock_;
  TimerQueue& timers_;
  TimerId timer_;
  std::optional<std::uint16_t> waiting_;  // whose turn it is
  std::uint32_t refused_ = 0;             // bit n: n was, because of that
};

}  // namespace bulkhead::devproc
