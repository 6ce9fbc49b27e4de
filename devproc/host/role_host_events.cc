// RoleHost's inputs that are not requests: streams, queues, timers, and what stands ready for them.
#include <algorithm>

#include "devproc/host/role_host.h"
#include "devproc/host/role_host_util.h"

namespace bulkhead::devproc {

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

void RoleHost::let_kicks_wait() {
  kicks_wait_ = true;
  for (Instance& instance : instances_) instance.device->let_kicks_wait();
}

RoleHost::Instance* RoleHost::owner_of(std::uint32_t kick) {
  const auto owns = [kick](const Instance& one) { return kick - one.first_kick < one.queues; };
  const auto at = std::find_if(instances_.begin(), instances_.end(), owns);
  return at == instances_.end() ? nullptr : &*at;
}

template <class Stirs>
bool RoleHost::look_at_silent(const Stirs& stirs) {
  if (silent_.none()) return false;
  bool any = false;
  std::size_t left = silent_.count();
  for (std::uint32_t kick = 0; left != 0; ++kick) {
    if (!silent_.test(kick)) continue;
    --left;
    Instance* const instance = owner_of(kick);
    if (instance == nullptr || !stirs(*instance->device, static_cast<QueueId>(kick - instance->first_kick))) continue;
    kicked_.set(kick);
    any = true;
  }
  return any;
}

bool RoleHost::queues_stir() {
  return !clock_.frozen() && look_at_silent([](Device& device, QueueId queue) { return device.queue_stirs(queue); });
}

bool RoleHost::ask_for_kicks() {
  const bool more = look_at_silent([](Device& device, QueueId queue) { return device.ask_for_kicks(queue); });
  asked_ |= silent_ & ~kicked_;
  silent_.reset();
  return more;
}

bool RoleHost::hold_kicks() {
  if (asked_.none() || clock_.frozen()) return false;
  for (std::uint32_t kick = 0; kick < kMaxKicks; ++kick) {
    if (!asked_.test(kick)) continue;
    Instance* const instance = owner_of(kick);
    if (instance != nullptr) instance->device->hold_kicks(static_cast<QueueId>(kick - instance->first_kick));
  }
  silent_ |= asked_;
  asked_.reset();
  return true;
}

bool RoleHost::handle_queues() {
  if (clock_.frozen()) return false;
  for (Instance& instance : instances_) {
    if (!instance.after_show) continue;
    instance.after_show = false;
    const auto number = static_cast<std::uint32_t>(&instance - instances_.data());
    begin_input(Attempt::after_show(number, checkpoint_.commits()));
    instance.device->after_show();
    finish_input();
    return true;
  }
  if (kicked_.none()) return false;
  while (!kicked_.test(next_kick_)) next_kick_ = (next_kick_ + 1) % kMaxKicks;
  const std::uint32_t kick = next_kick_;
  next_kick_ = (next_kick_ + 1) % kMaxKicks;
  kicked_.reset(kick);
  asked_.reset(kick);
  Instance* const at = owner_of(kick);
  if (at == nullptr) return true;
  const auto queue = static_cast<QueueId>(kick - at->first_kick);
  const Attempt attempt = Attempt::queue(kick, checkpoint_.commits());
  begin_input(attempt);
  active_ = at;
  if (skip_if_poisoned(attempt)) [[unlikely]] {
    at->device->on_queue_poisoned(queue);
  } else if (at->device->on_queue(queue)) {
    kicked_.set(kick);
  } else {
    silent_.set(kick, kicks_wait_);
  }
  FAILPOINT("queue: model ran");
  effects_to_outbound();
  count(world_.replies->counters.kicks);
  finish_input();
  return true;
}

void RoleHost::begin_submitted() {
  for (Instance& instance : instances_) {
    for (BackendState& state : instance.backends) state.backend->begin();
  }
  const bool draining = std::any_of(instances_.begin(), instances_.end(), &is_draining);
  world_.replies->counters.draining.store(draining ? 1 : 0, std::memory_order_relaxed);
}

RoleHost::BackendState* RoleHost::find_backend(std::size_t index) {
  for (Instance& instance : instances_) {
    for (BackendState& state : instance.backends) {
      if (state.index == index) return &state;
    }
  }
  return nullptr;
}

void RoleHost::backend_stirs(std::size_t backend, std::uint32_t epoll_events) {
  BackendState* state = find_backend(backend);
  if (state == nullptr) return;
  state->backend->on_events(epoll_events);
  state->stirs = true;
}

// While the VM is paused nothing is shown to its guest; but what a reset waits for comes to its end.
bool RoleHost::may_have_backends(const Instance& instance) const { return !clock_.frozen() || is_draining(instance); }

bool RoleHost::is_draining(const Instance& instance) {
  const auto draining = [](const BackendState& one) { return one.backend->draining(); };
  return std::any_of(instance.backends.begin(), instance.backends.end(), draining);
}

bool RoleHost::backend_work_waiting() const {
  if (!has_backends_) return false;
  for (const Instance& instance : instances_) {
    if (!may_have_backends(instance)) continue;
    for (const BackendState& state : instance.backends) {
      if (state.stirs || state.backend->ready()) return true;
    }
  }
  return false;
}

void RoleHost::set_asleep(bool asleep) {
  if (!has_backends_) return;
  for (Instance& instance : instances_) {
    for (BackendState& state : instance.backends) state.backend->set_asleep(asleep);
  }
}

std::vector<BorrowedFd> RoleHost::watched_backends() const {
  std::vector<BorrowedFd> watched;
  for (const Instance& instance : instances_) {
    for (const BackendState& state : instance.backends) watched.push_back(state.backend->watched());
  }
  return watched;
}

bool RoleHost::handle_backends() {
  if (!has_backends_) return false;
  for (std::uint32_t turn = 0; turn < backend_count_; ++turn) {
    const std::uint32_t index = (next_backend_ + turn) % backend_count_;
    for (Instance& instance : instances_) {
      if (!may_have_backends(instance)) continue;
      for (std::size_t i = 0; i < instance.backends.size(); ++i) {
        BackendState& state = instance.backends[i];
        if (state.index != index || !(state.stirs || state.backend->ready())) continue;
        next_backend_ = (index + 1) % backend_count_;
        give_backend(instance, static_cast<BackendId>(i), state);
        return true;
      }
    }
  }
  return false;
}

void RoleHost::give_backend(Instance& instance, BackendId id, BackendState& state) {
  const Attempt attempt = Attempt::backend(state.index, checkpoint_.commits());
  state.stirs = false;
  begin_input(attempt);
  active_ = &instance;
  if (skip_if_poisoned(attempt)) [[unlikely]] {
    instance.device->on_backend_poisoned(id);
    state.stirs = true;
  } else if (instance.device->on_backend(id)) {
    state.stirs = true;
  }
  FAILPOINT("backend: model told");
  effects_to_outbound();
  finish_input();
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
