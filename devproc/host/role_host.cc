#include "devproc/host/role_host.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "devproc/host/dispatch.h"
#include "devproc/host/failpoint.h"
#include "devproc/host/mapped_guest_memory.h"
#include "devproc/registry.h"
#include "ipc/base/futex.h"
#include "ipc/base/log.h"
#include "ipc/ring/adaptive_wait.h"

namespace bulkhead::devproc {
namespace {

void count(std::atomic<std::uint64_t>& counter, std::uint64_t n = 1) {
  counter.store(counter.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
}

void wake_waiter(ipc::ReplySlot& slot) {
  slot.wake.fetch_add(1, std::memory_order_seq_cst);
  FAILPOINT("wake: counted");
  futex_wake_all(&slot.wake);
  FAILPOINT("wake: done");
}

template <class State>
const State& committed(const ipc::Checkpoint& checkpoint, const Persistent<State>& state) {
  return *reinterpret_cast<const State*>(checkpoint.committed_bytes(state.segment()));
}

}  // namespace

RoleHost::RoleHost(RoleWorld world, std::uint32_t incarnation)
    : world_(std::move(world)),
      incarnation_(incarnation),
      checkpoint_(world_.state),
      host_(checkpoint_),
      clock_(world_.requests->time),
      redirect_(checkpoint_) {}

Result<std::unique_ptr<RoleHost>> RoleHost::create(const control::TakeRole& setup, RoleWorld world) {
  std::unique_ptr<RoleHost> host(new RoleHost(std::move(world), setup.incarnation));
  RETURN_IF_ERROR(host->add_instances(setup));
  ASSIGN_OR_RETURN(const bool resumed, host->checkpoint_.open());
  if (resumed) {
    host->resume(setup);
  } else {
    host->start_fresh(setup.generation);
  }
  return host;
}

Result<control::Ready> RoleHost::describe(const control::TakeRole& setup) {
  const auto requests = std::make_unique<ipc::RequestArea>();
  const auto replies = std::make_unique<ipc::ReplyArea>();
  std::vector<std::byte> state(ipc::kStateRegionSize + ipc::kPage);
  // Regions start at a page: so does this one.
  const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(state.data()) % ipc::kPage;
  MappedGuestMemory memory;
  RoleHost host(RoleWorld{.requests = requests.get(),
                          .replies = replies.get(),
                          .state = std::span(state).subspan(ipc::kPage - misaligned, ipc::kStateRegionSize),
                          .output_doorbell = {},
                          .line_assert = {},
                          .line_resample = {},
                          .messages = {},
                          .kicks = {},
                          .backings = {},
                          .memory = &memory},
                setup.incarnation);
  RETURN_IF_ERROR(host.add_instances(setup));
  return control::Ready{.layout_hash = host.layout(), .states = host.versions_};
}

Status RoleHost::add_instances(const control::TakeRole& setup) {
  // A program that lays out the shared areas in another way cannot take over either.
  checkpoint_.mix_layout("requests", static_cast<std::uint32_t>(ipc::kRequestAreaSize));
  checkpoint_.mix_layout("replies", static_cast<std::uint32_t>(ipc::kReplyAreaSize));
  checkpoint_.mix_layout("areas", static_cast<std::uint32_t>(ipc::kAreaMagic >> 32));
  instances_.reserve(setup.instances.size());
  for (const control::DeviceInstance& instance : setup.instances) RETURN_IF_ERROR(add_instance(instance));
  return ok();
}

Status RoleHost::add_instance(const control::DeviceInstance& setup) {
  const DeviceType* type = find_builtin(setup.type);
  if (type == nullptr) return make_error("there is no device type \"" + setup.type + "\" in this program");
  const DeviceTypeDecl* decl = find_device_type(setup.type);
  if (decl == nullptr) return make_error("device type \"" + setup.type + "\" is not declared");

  Instance instance;
  instance.name = setup.name;
  instance.type = setup.type;
  instance.first_timer =
      instances_.empty() ? std::uint16_t{0}
                         : static_cast<std::uint16_t>(instances_.back().first_timer + instances_.back().timer_count);
  instance.timer_count = decl->timers;
  instance.first_stream = setup.streams.first;
  instance.first_vector = setup.vectors.first;
  instance.messages = setup.vectors.count;
  instance.first_kick = setup.kicks.first;
  instance.queues = decl->queues.count;
  instance.doorbell_region = decl->queues.region;
  if (setup.lines.first + setup.lines.count > kMaxLines || setup.lines.count < decl->lines.size() ||
      setup.streams.first + setup.streams.count > ipc::kStreams || setup.streams.count < decl->streams ||
      instance.first_timer + instance.timer_count > kMaxTimers ||
      setup.vectors.first + setup.vectors.count > kMaxMessages || setup.kicks.count < decl->queues.count ||
      setup.kicks.first + setup.kicks.count > kMaxKicks)
    return make_error("device \"" + setup.name + "\" was not given the wires that its type declares");
  for (std::uint32_t i = 0; i < setup.lines.count; ++i) {
    instance.lines.push_back(std::make_unique<HostIrqLine>(host_, setup.lines.first + i));
    instance.line_pointers.push_back(instance.lines.back().get());
  }
  for (std::uint32_t i = 0; i < setup.streams.count; ++i) {
    instance.streams.push_back(
        std::make_unique<HostCharBackend>(host_, *world_.requests, *world_.replies, setup.streams.first + i));
    instance.stream_pointers.push_back(instance.streams.back().get());
  }
  instance.msi = std::make_unique<HostMsiSender>(checkpoint_, setup.vectors.first, setup.vectors.count);
  instance.timers = std::make_unique<HostTimerQueue>(host_, instance.first_timer, instance.timer_count);

  for (std::size_t i = 0; i < decl->backings.size(); ++i) {
    // A process that is only asked whether it could play the role holds none of them.
    const std::size_t at = setup.backings.first + i;
    const BorrowedFd fd = at < world_.backings.size() ? world_.backings[at] : BorrowedFd();
    switch (decl->backings[i]) {
      case BackingKind::kEntropy: instance.entropy = std::make_unique<FdEntropy>(fd); break;
    }
  }
  const Wires wires{.state = checkpoint_,
                    .clock = clock_,
                    .timers = *instance.timers,
                    .effects = effects_,
                    .lines = instance.line_pointers,
                    .streams = instance.stream_pointers,
                    .redirect = &redirect_,
                    .msi = instance.msi.get(),
                    .memory = world_.memory,
                    .entropy = instance.entropy.get()};
  if (decl->guest_memory && world_.memory == nullptr)
    return make_error("device \"" + setup.name + "\" was not given guest memory");
  checkpoint_.mix_layout(setup.type, type->state_version);
  ASSIGN_OR_RETURN(instance.device, type->create(setup.config, wires));
  versions_.push_back({setup.name, type->state_version, checkpoint_.layout()});
  instances_.push_back(std::move(instance));
  return ok();
}

void RoleHost::start_fresh(std::uint32_t generation) {
  begin_input(Attempt::start());
  FAILPOINT("fresh: begun");
  TimerState& timers = host_.timers.mut();
  std::fill(std::begin(timers.deadline), std::end(timers.deadline), kTimerOff);
  // A device that comes back after it was isolated finds streams that have been in use.
  StreamState& streams = host_.streams.mut();
  for (std::uint32_t i = 0; i < ipc::kStreams; ++i) {
    streams.produced[i] = world_.requests->output_consumed[i].load(std::memory_order_acquire);
    streams.consumed[i] = world_.requests->input_produced[i].load(std::memory_order_acquire);
  }
  host_.outbound.mut().produced = world_.requests->outbound_consumed.load(std::memory_order_acquire);
  mend_input(checkpoint_.input(), generation);
  FAILPOINT("fresh: before reset");
  reset_all(generation);
  FAILPOINT("fresh: reset");
  finish_input();
  kick_all();
}

void RoleHost::kick_all() {
  for (const Instance& instance : instances_) {
    for (std::uint32_t i = 0; i < instance.queues; ++i) kick(instance.first_kick + i);
  }
}

ipc::Ticket RoleHost::published(ipc::Ticket ticket) const {
  return world_.requests->slots[ipc::slot_of(ticket)].ticket.load(std::memory_order_acquire);
}

bool RoleHost::can_be_last(ipc::Ticket ticket) const {
  // What was served is still in its slot, or gave way to the slot's next ticket; what comes next is there, or its
  // slot still holds what came before.
  const ipc::Ticket here = published(ticket);
  if (ticket != 0 && here != ticket && here != ticket + ipc::kSlots) return false;
  const ipc::Ticket next = ticket + 1;
  const ipc::Ticket there = published(next);
  return there == next || there + ipc::kSlots == next || (there == 0 && next <= ipc::kSlots);
}

void RoleHost::mend_input(ipc::InputRecord& input, std::uint32_t generation) const {
  input.reply.effect_count = static_cast<std::uint8_t>(std::min<std::uint32_t>(input.reply.effect_count, kMaxEffects));
  // The VMM's word counts. A state that is behind it waits for a reset, which is in the ring or will be at once.
  input.generation = generation;
  if (can_be_last(input.last_ticket)) return;
  // The ring knows better. Which of its requests were served is lost with the state: all of them are served again.
  ipc::Ticket newest = 0;
  for (ipc::Ticket slot = 0; slot < ipc::kSlots; ++slot) newest = std::max(newest, published(slot));
  input.last_ticket = newest > ipc::kSlots ? newest - ipc::kSlots : 0;
}

void RoleHost::mend_timers() {
  // Timers that no device has never fire: one of them in the past would keep us awake for ever.
  const std::uint32_t used =
      instances_.empty() ? 0U : std::uint32_t{instances_.back().first_timer} + instances_.back().timer_count;
  TimerState& timers = host_.timers.mut();
  std::fill(std::begin(timers.deadline) + used, std::end(timers.deadline), kTimerOff);
}

void RoleHost::resume(const control::TakeRole& setup) {
  FAILPOINT("resume: opened");
  attempts_.judge(setup.blame, checkpoint_.committed_input().last_ticket, checkpoint_.commits());
  FAILPOINT("resume: judged");
  // Both banks hold the last commit. Its bytes may be anything: the host's own part is brought into range
  // here, each model's part by the model.
  mend_input(checkpoint_.input(), setup.generation);
  mend_timers();
  StreamState& streams = host_.streams.mut();
  for (std::uint32_t i = 0; i < ipc::kStreams; ++i) {
    const std::uint64_t taken = world_.requests->output_consumed[i].load(std::memory_order_acquire);
    if (streams.produced[i] - taken > ipc::kOutputBytes) streams.produced[i] = taken;
    const std::uint64_t given = world_.requests->input_produced[i].load(std::memory_order_acquire);
    if (given - streams.consumed[i] > ipc::kInputBytes) streams.consumed[i] = given;
  }
  OutboundState& outbound = host_.outbound.mut();
  const std::uint64_t consumed = world_.requests->outbound_consumed.load(std::memory_order_acquire);
  if (outbound.produced - consumed > ipc::kOutboundEffects) outbound.produced = consumed;
  FAILPOINT("resume: mended");
  clock_.new_input();
  for (Instance& instance : instances_) {
    instance.device->restore();
    FAILPOINT("resume: device restored");
  }
  // What restore() mended is committed as one input that changes nothing else; the last input's interrupts, which
  // both banks hold, are repeated with it.
  checkpoint_.commit();
  FAILPOINT("resume: committed");
  checkpoint_.sync();
  show(nullptr, true);
  drive_world();
  publish_streams();
  // The predecessor may have died between an index and its notice: the VMM's stream thread looks again in any case.
  signal_eventfd(world_.output_doorbell);
  FAILPOINT("resume: before replies");
  republish_after_takeover();
  FAILPOINT("resume: replies out");
  kick_all();
  FAILPOINT("resume: done");
}

void RoleHost::republish_after_takeover() {
  // Replies of tickets before the last one were whole before it was taken; the last one comes from the
  // commit. From here on they carry this incarnation, so the VMM believes them again.
  const ipc::Ticket last = checkpoint_.committed_input().last_ticket;
  const ipc::Ticket first = last >= ipc::kSlots ? last - ipc::kSlots + 1 : 1;
  for (ipc::Ticket ticket = first; ticket < last; ++ticket) {
    ipc::ReplySlot& slot = world_.replies->slots[ipc::slot_of(ticket)];
    if (slot.ticket.load(std::memory_order_relaxed) == ticket) {
      slot.incarnation.store(incarnation_, std::memory_order_release);
      FAILPOINT("resume: older reply");
    } else if (published(ticket) == ticket) {
      // No honest predecessor took the next ticket before this one had its reply. Nobody shall wait for it for ever.
      publish_reply(ticket, dropped_reply());
    } else {
      continue;  // its slot serves a later ticket
    }
    wake_waiter(slot);
  }
  if (last == 0) return;
  publish_reply(last, checkpoint_.committed_input().reply);
  wake_waiter(world_.replies->slots[ipc::slot_of(last)]);
}

ipc::Reply RoleHost::dropped_reply() const {
  const ipc::InputRecord& input = checkpoint_.committed_input();
  ipc::Reply reply{.generation = input.generation, .status = ipc::ReplyStatus::kDropped};
  reply.effects_total = input.reply.effects_total;
  std::memset(reply.payload, 0xff, sizeof reply.payload);
  return reply;
}

void RoleHost::begin_input(Attempt attempt) {
  FAILPOINT("input: taken");
  attempts_.begin(attempt);
  FAILPOINT("input: noted");
  clock_.new_input();
  ipc::InputRecord& input = checkpoint_.input();
  effects_.clear();
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
    case ipc::RequestKind::kPowerButton: device.on_power_button(); return;
    case ipc::RequestKind::kDesiredState: list_desired_effects(request, reply); return;
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
  const bool shows = active_ != nullptr && active_->queues != 0;
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
  if (shows) [[unlikely]]
    return;
  FAILPOINT("sync: before");
  checkpoint_.sync();
  FAILPOINT("sync: done");
}

void RoleHost::show(Instance* instance, bool again) {
  for (Instance& one : instances_) {
    if (one.queues == 0 || (instance != nullptr && instance != &one)) continue;
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

bool RoleHost::stream_work_waiting() const {
  for (const Instance& instance : instances_) {
    for (std::size_t i = 0; i < instance.streams.size(); ++i) {
      const std::size_t stream = instance.first_stream + i;
      if (world_.requests->input_produced[stream].load(std::memory_order_seq_cst) != seen_input_[stream]) return true;
      if (instance.streams[i]->starved() &&
          world_.requests->output_consumed[stream].load(std::memory_order_seq_cst) != seen_output_[stream])
        return true;
    }
  }
  return false;
}

bool RoleHost::handle_streams() {
  bool did = false;
  for (Instance& instance : instances_) {
    for (std::size_t i = 0; i < instance.streams.size(); ++i) {
      const std::uint32_t stream = instance.first_stream + static_cast<std::uint32_t>(i);
      HostCharBackend& backend = *instance.streams[i];
      const std::uint64_t given = world_.requests->input_produced[stream].load(std::memory_order_acquire);
      const std::uint64_t taken = world_.requests->output_consumed[stream].load(std::memory_order_acquire);
      const bool input = given != seen_input_[stream];
      const bool room = backend.starved() && taken != seen_output_[stream];
      seen_input_[stream] = given;
      seen_output_[stream] = taken;
      if (!input && !room) continue;
      if (room) backend.clear_starved();
      const Attempt attempt = Attempt::stream(stream, checkpoint_.commits());
      begin_input(attempt);
      active_ = &instance;
      if (skip_if_poisoned(attempt)) [[unlikely]] {
        (void)backend.get();                                    // one byte less, as a line with noise would have it
        seen_input_[stream] = host_.streams->consumed[stream];  // and of the rest the device is still to be told
      } else {
        instance.device->on_stream(static_cast<StreamId>(i));
      }
      FAILPOINT("stream: model told");
      effects_to_outbound();
      finish_input();
      did = true;
    }
  }
  return did;
}

// A doorbell that no ioeventfd took. The queue is worked on as an input of its own, after this one's commit.
void RoleHost::kick_by_request(const Instance& instance, const ipc::Request& request) {
  if (request.region != instance.doorbell_region) return;
  const std::uint64_t queue = request.offset / kDoorbellStride;
  if (queue < instance.queues) kick(instance.first_kick + static_cast<std::uint32_t>(queue));
}

void RoleHost::kick(std::uint32_t kick) {
  if (kick < kMaxKicks) kicked_.set(kick);
}

bool RoleHost::queue_work_waiting() const {
  const auto unfinished = [](const Instance& instance) { return instance.after_show; };
  return (kicked_.any() || std::any_of(instances_.begin(), instances_.end(), unfinished)) && !clock_.frozen();
}

bool RoleHost::handle_queues() {
  if (clock_.frozen()) return false;
  for (Instance& instance : instances_) {
    if (!instance.after_show) continue;
    instance.after_show = false;
    begin_input(Attempt::queue(instance.first_kick, checkpoint_.commits()));
    instance.device->after_show();
    finish_input();
    return true;
  }
  if (kicked_.none()) return false;
  while (!kicked_.test(next_kick_)) next_kick_ = (next_kick_ + 1) % kMaxKicks;
  const std::uint32_t kick = next_kick_;
  next_kick_ = (next_kick_ + 1) % kMaxKicks;
  kicked_.reset(kick);
  const auto owns = [kick](const Instance& one) { return kick - one.first_kick < one.queues; };
  const auto at = std::find_if(instances_.begin(), instances_.end(), owns);
  if (at == instances_.end()) return true;
  const auto queue = static_cast<QueueId>(kick - at->first_kick);
  const Attempt attempt = Attempt::queue(kick, checkpoint_.commits());
  begin_input(attempt);
  active_ = &*at;
  if (skip_if_poisoned(attempt)) [[unlikely]] {
    at->device->on_queue_poisoned(queue);
  } else if (at->device->on_queue(queue)) {
    kicked_.set(kick);
  }
  FAILPOINT("queue: model ran");
  effects_to_outbound();
  count(world_.replies->counters.kicks);
  finish_input();
  return true;
}

bool RoleHost::handle_timers() {
  if (clock_.frozen()) return false;
  bool did = false;
  clock_.new_input();
  const std::int64_t now = clock_.now().ns;
  for (Instance& instance : instances_) {
    for (std::uint16_t i = 0; i < instance.timer_count; ++i) {
      const std::uint32_t timer = instance.first_timer + std::uint32_t{i};
      if (host_.timers->deadline[timer] > now) continue;
      const Attempt attempt = Attempt::timer(timer, checkpoint_.commits());
      begin_input(attempt);
      active_ = &instance;
      host_.timers.mut().deadline[timer] = kTimerOff;
      FAILPOINT("timer: off");
      if (!skip_if_poisoned(attempt)) [[likely]]
        instance.device->on_timer(i);
      effects_to_outbound();
      count(world_.replies->counters.timers);
      finish_input();
      did = true;
    }
  }
  return did;
}

std::int64_t RoleHost::next_deadline() const {
  if (clock_.frozen()) return kTimerOff;
  const TimerState& timers = host_.timers.get();
  const std::int64_t earliest = *std::min_element(std::begin(timers.deadline), std::end(timers.deadline));
  return earliest == kTimerOff ? kTimerOff : clock_.to_monotonic(earliest);
}

void RoleHost::handle_resample(std::uint32_t line) {
  // The guest's EOI lowered the line in the interrupt controller; the device may still hold it up.
  if (line >= world_.line_assert.size() || line >= kMaxLines) return;
  if ((host_.lines->levels >> line & 1) != 0) signal_eventfd(world_.line_assert[line]);
}

std::vector<control::InspectedInstance> RoleHost::inspect(std::string_view name) const {
  class Collector final : public Inspector {
   public:
    explicit Collector(control::InspectedInstance& out) : out_(out) {}
    void field(std::string_view field_name, std::uint64_t value) override {
      if (out_.fields.size() < control::kMaxFields) out_.fields.push_back({std::string(field_name), value});
    }

   private:
    control::InspectedInstance& out_;
  };
  std::vector<control::InspectedInstance> all;
  for (const Instance& instance : instances_) {
    if (!name.empty() && instance.name != name) continue;
    control::InspectedInstance one{.name = instance.name, .fields = {}};
    Collector collector(one);
    instance.device->inspect(collector);
    all.push_back(std::move(one));
  }
  return all;
}

}  // namespace bulkhead::devproc
