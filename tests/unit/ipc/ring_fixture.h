// A request ring with both of its ends in the test: real regions, a recording receiver of effects, and TinyDevice,
// the smallest honest device process (a thread that serves tickets in order and sleeps when there are none).
#pragma once

#include <poll.h>
#include <sched.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "ipc/base/futex.h"
#include "ipc/ring/request_producer.h"
#include "ipc/shm/region.h"

namespace bulkhead::ipc {

// The two areas as memfds, zeroed, and the doorbell.
struct Areas {
  WritableRegion request_region =
      WritableRegion::create("test-requests", kRequestAreaSize, PeerRights::kReadOnly).value();
  WritableRegion reply_region = WritableRegion::create("test-replies", kReplyAreaSize, PeerRights::kReadWrite).value();
  UniqueFd doorbell = UniqueFd::create_eventfd().value();
  RequestArea& requests = *request_region.as<RequestArea>();
  ReplyArea& replies = *reply_region.as<ReplyArea>();
};

class RecordingReceiver final : public EffectReceiver {
 public:
  bool apply_effect(const Effect& effect) override {
    const std::lock_guard lock(lock_);
    effects_.push_back(effect);
    count_.store(effects_.size(), std::memory_order_release);
    return !refuse.load();
  }
  [[nodiscard]] std::size_t count() const { return count_.load(std::memory_order_acquire); }
  [[nodiscard]] std::vector<Effect> all() const {
    const std::lock_guard lock(lock_);
    return effects_;
  }
  std::atomic<bool> refuse{false};

 private:
  mutable std::mutex lock_;
  std::vector<Effect> effects_;
  std::atomic<std::size_t> count_{0};
};

inline Request make_request(std::uint64_t value, RequestKind kind = RequestKind::kWrite) {
  Request request;
  request.kind = kind;
  request.size = 8;
  request.count = 1;
  std::memcpy(request.payload, &value, sizeof value);
  return request;
}
inline std::uint64_t value_of(const Request& request) {
  std::uint64_t value = 0;
  std::memcpy(&value, request.payload, sizeof value);
  return value;
}
inline std::uint64_t value_of(const Reply& reply) {
  std::uint64_t value = 0;
  std::memcpy(&value, reply.payload, sizeof value);
  return value;
}

// What a device process does with its reply area, step by step: for tests that play one by hand.
struct HandDevice {
  ReplyArea& replies;
  const RequestArea& requests;
  std::uint32_t incarnation = 1;

  void write_reply(Ticket ticket, const Reply& reply, const std::vector<Effect>& effects = {}) const {
    for (std::size_t i = 0; i < effects.size(); ++i) replies.effects[slot_of(ticket)].effects[i] = effects[i];
    replies.slots[slot_of(ticket)].reply = reply;
  }
  void mark_done(Ticket ticket) const {
    ReplySlot& slot = replies.slots[slot_of(ticket)];
    slot.incarnation.store(incarnation, std::memory_order_release);
    slot.ticket.exchange(ticket, std::memory_order_seq_cst);
    if (requests.waiter_asleep[slot_of(ticket)].load(std::memory_order_seq_cst) == 0) return;
    leave_wake_note(replies.waiter_woken);
    slot.wake.fetch_add(1, std::memory_order_seq_cst);
    futex_wake_all(&slot.wake);
  }
  void answer(Ticket ticket, const Reply& reply, const std::vector<Effect>& effects = {}) const {
    write_reply(ticket, reply, effects);
    mark_done(ticket);
  }
  [[nodiscard]] bool submitted(Ticket ticket) const {
    return requests.slots[slot_of(ticket)].ticket.load(std::memory_order_acquire) == ticket;
  }
  void wait_for(Ticket ticket) const {
    while (!submitted(ticket)) ::sched_yield();
  }
};

inline Reply done_reply(std::uint64_t value = 0, std::uint64_t effects_total = 0, std::uint8_t effect_count = 0) {
  Reply reply{.generation = 1, .status = ReplyStatus::kDone, .effect_count = effect_count};
  reply.effects_total = effects_total;
  std::memcpy(reply.payload, &value, sizeof value);
  return reply;
}

// Serves every request in ticket order on a thread of its own: echoes the payload unless `on_request` does more.
class TinyDevice {
 public:
  // Fills the reply (its payload is the request's already); effects go into `effects`.
  using Handler = std::function<void(Ticket, const Request&, Reply&, std::vector<Effect>& effects)>;

  TinyDevice(Areas& areas, Handler on_request = {}, int spins = 0)
      : areas_(areas), on_request_(std::move(on_request)), spins_(spins), thread_([this] { run(); }) {}
  ~TinyDevice() { stop(); }
  TinyDevice(const TinyDevice&) = delete;
  TinyDevice& operator=(const TinyDevice&) = delete;

  void stop() {
    if (!thread_.joinable()) return;
    stop_.store(true, std::memory_order_seq_cst);
    signal_eventfd(areas_.doorbell.borrow());
    thread_.join();
  }
  [[nodiscard]] Ticket served() const { return served_.load(std::memory_order_acquire); }
  [[nodiscard]] std::uint64_t sleeps() const { return sleeps_.load(std::memory_order_relaxed); }

 private:
  void run() {
    const HandDevice device{areas_.replies, areas_.requests};
    std::uint64_t effects_total = 0;
    std::vector<Effect> effects;
    while (!stop_.load(std::memory_order_acquire)) {
      const Ticket next = served_.load(std::memory_order_relaxed) + 1;
      if (!waiting(device, next)) {
        sleep(device, next);
        continue;
      }
      const Request request = areas_.requests.slots[slot_of(next)].request;
      Reply reply{.generation = request.generation, .status = ReplyStatus::kDone};
      std::memcpy(reply.payload, request.payload, sizeof reply.payload);
      effects.clear();
      if (on_request_) on_request_(next, request, reply, effects);
      effects_total += effects.size();
      reply.effect_count = static_cast<std::uint8_t>(effects.size());
      reply.effects_total = effects_total;
      device.answer(next, reply, effects);
      served_.store(next, std::memory_order_release);
    }
  }
  bool waiting(const HandDevice& device, Ticket next) const {
    for (int i = 0; i <= spins_; ++i) {
      if (device.submitted(next)) return true;
      cpu_relax();
    }
    return false;
  }
  void sleep(const HandDevice& device, Ticket next) {
    areas_.replies.asleep.exchange(1, std::memory_order_seq_cst);
    if (!device.submitted(next) && !stop_.load(std::memory_order_seq_cst)) {
      sleeps_.fetch_add(1, std::memory_order_relaxed);
      pollfd poll{areas_.doorbell.get(), POLLIN, 0};
      ::poll(&poll, 1, -1);
      drain_eventfd(areas_.doorbell.borrow());
    }
    areas_.replies.asleep.store(0, std::memory_order_relaxed);
  }

  Areas& areas_;
  Handler on_request_;
  int spins_;
  std::atomic<bool> stop_{false};
  std::atomic<Ticket> served_{0};
  std::atomic<std::uint64_t> sleeps_{0};
  std::thread thread_;
};

// Counts what a RequestProducer complains of.
struct Complaints {
  std::atomic<int> overdue{0};
  std::atomic<Ticket> last_overdue{0};
  std::atomic<int> violations{0};

  [[nodiscard]] RequestProducer::Options options(std::int64_t deadline_ns = 60'000'000'000) {
    RequestProducer::Options all;
    all.deadline_ns = deadline_ns;
    all.on_overdue = [this](Ticket ticket, std::uint32_t) {
      last_overdue.store(ticket);
      overdue.fetch_add(1);
    };
    all.on_violation = [this](const char*, std::uint32_t) { violations.fetch_add(1); };
    return all;
  }
};

inline constexpr std::int64_t kMillisecond = 1'000'000;

// An AdaptiveWait that goes to sleep at once.
inline AdaptiveWait sleeping_wait() {
  AdaptiveWait wait;
  WakeNote note{};
  note.time_ns.store(monotonic_ns() + 1'000'000'000);
  note.cpu.store(~0U);
  wait.learn(note);
  return wait;
}

}  // namespace bulkhead::ipc
