#include "devproc/host/role_host.h"

#include <algorithm>
#include <cstring>

#include "devproc/host/dispatch.h"
#include "devproc/host/role_host_util.h"
#include "ipc/ring/adaptive_wait.h"

namespace bulkhead::devproc {

void RoleHost::begin_input(Attempt attempt) {
  FAILPOINT("input: taken");
  attempts_.begin(attempt);
  FAILPOINT("input: noted");
  clock_.new_input();
  ipc::InputRecord& input = checkpoint_.input();
  effects_.clear();
  if (publisher_) publisher_->new_input();
  active_ = nullptr;
  std::fill(std::begin(input.messages), std::end(input.messages), 0);
}

bool RoleHost::skip_if_poisoned(Attempt attempt) {
  if (!attempts_.poisoned(attempt)) [[likely]]
    return false;
  count(world_.replies->counters.poisoned);
  return true;
}

bool RoleHost::request_waiting() const {
  const ipc::Ticket next = checkpoint_.committed_input().last_ticket + 1;
  return world_.requests->slots[ipc::slot_of(next)].ticket.load(std::memory_order_acquire) == next;
}

bool RoleHost::handle_request() {
  if (!request_waiting()) return false;
  const ipc::Ticket ticket = checkpoint_.committed_input().last_ticket + 1;
  const ipc::Request request = world_.requests->slots[ipc::slot_of(ticket)].request;
  begin_input(Attempt::request(ticket));
  ipc::InputRecord& input = checkpoint_.input();
  input.last_ticket = ticket;
  const std::uint64_t effects_before = input.reply.effects_total;
  input.reply = ipc::Reply{.status = ipc::ReplyStatus::kDone};
  input.reply.effects_total = effects_before;
  if (skip_if_poisoned(Attempt::request(ticket))) [[unlikely]] {
    input.reply.status = ipc::ReplyStatus::kPoisoned;
    std::memset(input.reply.payload, 0xff, sizeof input.reply.payload);
    if (request.kind == ipc::RequestKind::kReset) input.generation = request.generation;
  } else {
    FAILPOINT("request: before model");
    run_request(request, input.reply);
  }
  FAILPOINT("request: model ran");
  if ((request.flags & ipc::kPosted) == 0) {
    effects_to_reply(input.reply);
  } else {
    effects_to_outbound();
  }
  input.reply.generation = input.generation;
  count(world_.replies->counters.requests);
  finish_input();
  return true;
}

void RoleHost::run_request(const ipc::Request& request, ipc::Reply& reply) {
  ipc::DeviceCounters& counters = world_.replies->counters;
  if (request.kind == ipc::RequestKind::kReset) {
    reset_all(request.generation);
    return;
  }
  if (request.generation != checkpoint_.input().generation || request.instance >= instances_.size()) {
    reply.status = ipc::ReplyStatus::kDropped;
    std::memset(reply.payload, 0xff, sizeof reply.payload);
    count(counters.dropped);
    return;
  }
  active_ = &instances_[request.instance];
  Device& device = *active_->device;
  switch (request.kind) {
    case ipc::RequestKind::kRead:
    case ipc::RequestKind::kWrite:
      if (!dispatch_access(device, request, reply)) count(counters.bad_accesses);
      if (request.kind == ipc::RequestKind::kWrite) kick_by_request(*active_, request);
      return;
    case ipc::RequestKind::kFunctionControl: {
      std::uint32_t bits = 0;
      std::memcpy(&bits, request.payload, sizeof bits);
      device.on_function_control(bits & kControlAll);
      return;
    }
    case ipc::RequestKind::kFunctionPresence: {
      std::uint32_t what = 0;
      std::memcpy(&what, request.payload, sizeof what);
      device.on_function_presence(static_cast<std::uint8_t>(what), (what & 0x100) != 0);
      return;
    }
    case ipc::RequestKind::kSetting: {
      std::uint64_t value = 0;
      std::memcpy(&value, request.payload, sizeof value);
      device.on_setting(static_cast<Setting>(request.offset), value);
      return;
    }
    case ipc::RequestKind::kTransferDone: {
      std::uint32_t selector = 0;
      std::memcpy(&selector, request.payload, sizeof selector);
      device.on_transfer_done(selector, static_cast<std::uint32_t>(request.offset));
      return;
    }
    case ipc::RequestKind::kPowerButton: device.on_power_button(); return;
    case ipc::RequestKind::kSetLimit: {
      RateLimit limit;
      static_assert(sizeof limit <= sizeof request.payload);
      std::memcpy(&limit, request.payload, sizeof limit);
      reply.payload[0] = request.offset < UINT8_MAX && device.on_limit(static_cast<LimitId>(request.offset), limit);
      return;
    }
    case ipc::RequestKind::kDesiredState: list_desired_effects(request, reply); return;
    case ipc::RequestKind::kDraining: {
      const std::uint32_t answer = std::any_of(instances_.begin(), instances_.end(), &is_draining) ? 1 : 0;
      std::memcpy(reply.payload, &answer, sizeof answer);
      return;
    }
    case ipc::RequestKind::kReset: break;
  }
  reply.status = ipc::ReplyStatus::kDropped;
  count(counters.dropped);
}

void RoleHost::reset_all(std::uint32_t generation) {
  checkpoint_.input().generation = generation;
  for (Instance& instance : instances_) instance.device->reset();
  effects_.clear();  // both sides know the reset state; the VMM asks for what goes beyond it
}

void RoleHost::list_desired_effects(const ipc::Request& request, ipc::Reply& reply) {
  const Device& device = *instances_[request.instance].device;
  const std::size_t total = device.desired_effect_count();
  const auto count_all = static_cast<std::uint32_t>(total);
  std::memcpy(reply.payload, &count_all, sizeof count_all);
  for (std::size_t i = request.offset; i < total && i - request.offset < kMaxEffects; ++i)
    effects_.emit(device.desired_effect(i));
}

void RoleHost::effects_to_reply(ipc::Reply& reply) {
  const std::span<const Effect> collected = effects_.collected();
  if (collected.empty()) return;
  std::copy(collected.begin(), collected.end(), checkpoint_.effects());
  FAILPOINT("effects: of a reply");
  reply.effect_count = static_cast<std::uint8_t>(collected.size());
  reply.effects_total += collected.size();
}

void RoleHost::effects_to_outbound() {
  // Nobody waits for this input: what it asks for goes through the outbound queue.
  if (effects_.collected().empty()) return;
  OutboundState& outbound = host_.outbound.mut();
  const std::uint64_t taken = world_.requests->outbound_consumed.load(std::memory_order_acquire);
  for (const Effect& effect : effects_.collected()) {
    if (outbound.produced - taken >= ipc::kOutboundEffects) break;
    outbound.ring[outbound.produced++ % ipc::kOutboundEffects] = effect;
    FAILPOINT("effects: outbound");
  }
}

void RoleHost::finish_input() {
  const ipc::Ticket before = checkpoint_.committed_input().last_ticket;
  FAILPOINT("commit: before");
  checkpoint_.commit();
  FAILPOINT("commit: done");
  attempts_.finish();
  FAILPOINT("input: cleared");
  count(world_.replies->counters.commits);
  // The dirty marks, good until sync(), tell what this input changed.
  const bool streams = host_.streams.segment().dirty || host_.outbound.segment().dirty;
  const bool shows = (active_ != nullptr && active_->shows) || (publisher_ && publisher_->pending());
  if (shows) [[unlikely]] {
    // The guest finds the queue's entries before an interrupt tells of them. Models read the working bank, so that
    // comes up to date first.
    checkpoint_.sync();
    FAILPOINT("show: before");
    show(active_, false);
    FAILPOINT("show: done");
  }
  drive_world();
  if (streams) publish_streams();
  const ipc::Ticket ticket = checkpoint_.committed_input().last_ticket;
  if (ticket != before) publish_reply(ticket, checkpoint_.committed_input().reply);
  // Behind the reply: nobody waits for a disk who only asked for a register.
  if (has_backends_) [[unlikely]]
    begin_submitted();
  if (shows) [[unlikely]]
    return;
  FAILPOINT("sync: before");
  checkpoint_.sync();
  FAILPOINT("sync: done");
}

void RoleHost::show(Instance* instance, bool again) {
  if (publisher_) publisher_->show();
  for (Instance& one : instances_) {
    if (!one.shows || (instance != nullptr && instance != &one)) continue;
    DirectMsiSender interrupts(world_.messages, one.first_vector, one.messages, world_.replies->counters.interrupts);
    one.after_show = one.device->show(again, interrupts) || one.after_show;
  }
}

void RoleHost::drive_world() {
  // `host_` reads the spare bank, which is stale between commit and sync; what counts was just committed.
  const std::uint64_t levels = committed(checkpoint_, host_.lines).levels;
  const std::uint64_t rising = levels & ~driven_levels_;
  driven_levels_ = levels;
  for (std::uint64_t left = rising; left != 0; left &= left - 1) {
    const auto line = static_cast<std::uint32_t>(__builtin_ctzll(left));
    FAILPOINT("world: before a line");
    if (line < world_.line_assert.size()) signal_eventfd(world_.line_assert[line]);
    FAILPOINT("world: line raised");
    count(world_.replies->counters.interrupts);
  }
  const ipc::InputRecord& input = checkpoint_.committed_input();
  for (std::uint32_t word = 0; word < 4; ++word) {
    for (std::uint64_t left = input.messages[word]; left != 0; left &= left - 1) {
      const std::uint32_t vector = word * 64 + static_cast<std::uint32_t>(__builtin_ctzll(left));
      FAILPOINT("world: before a message");
      if (vector < world_.messages.size()) signal_eventfd(world_.messages[vector]);
      FAILPOINT("world: message sent");
      count(world_.replies->counters.interrupts);
    }
  }
}

void RoleHost::publish_streams() {
  const StreamState& streams = committed(checkpoint_, host_.streams);
  const OutboundState& outbound = committed(checkpoint_, host_.outbound);
  ipc::ReplyArea& replies = *world_.replies;
  bool changed = false;
  const auto publish = [&changed](std::atomic<std::uint64_t>& word, std::uint64_t value) {
    if (word.load(std::memory_order_relaxed) == value) return;
    word.store(value, std::memory_order_seq_cst);
    FAILPOINT("streams: index out");
    changed = true;
  };
  if (outbound.produced != replies.outbound_produced.load(std::memory_order_relaxed)) {
    std::memcpy(replies.outbound, outbound.ring, sizeof replies.outbound);
    FAILPOINT("streams: effects copied");
    publish(replies.outbound_produced, outbound.produced);
  }
  for (std::uint32_t i = 0; i < ipc::kStreams; ++i) {
    publish(replies.output_produced[i], streams.produced[i]);
    publish(replies.input_consumed[i], streams.consumed[i]);
  }
  if (changed && world_.requests->pump_asleep.load(std::memory_order_seq_cst) != 0) {
    FAILPOINT("streams: before notice");
    signal_eventfd(world_.output_doorbell);
  }
}

void RoleHost::publish_reply(ipc::Ticket ticket, const ipc::Reply& reply) {
  const std::uint32_t index = ipc::slot_of(ticket);
  ipc::ReplySlot& slot = world_.replies->slots[index];
  if (reply.effect_count != 0) {
    std::memcpy(world_.replies->effects[index].effects, checkpoint_.committed_effects(),
                reply.effect_count * sizeof(Effect));
    FAILPOINT("reply: effects out");
  }
  FAILPOINT("reply: before slot");
  slot.reply = reply;
  FAILPOINT("reply: bytes out");
  slot.incarnation.store(incarnation_, std::memory_order_release);
  FAILPOINT("reply: incarnation out");
  slot.ticket.exchange(ticket, std::memory_order_seq_cst);
  FAILPOINT("reply: ticket out");
  if (world_.requests->waiter_asleep[index].load(std::memory_order_seq_cst) == 0) return;
  ipc::leave_wake_note(world_.replies->waiter_woken);
  wake_waiter(slot);
}

}  // namespace bulkhead::devproc
