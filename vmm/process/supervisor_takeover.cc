// Supervisor: birth, death and succession of device processes.
#include <signal.h>

#include <algorithm>
#include <future>
#include <utility>

#include "ipc/base/log.h"
#include "ipc/ring/adaptive_wait.h"
#include "vmm/process/supervisor.h"

namespace bulkhead::vmm {
namespace {

constexpr std::int64_t kStandbyPauseNs = 1'000'000'000;  // after one died by itself
// For a process's Ready, on a busy host. Longer than a request's: one that is merely slow to start would only be
// followed by another that is as slow, while what it was to answer waits all the same.
constexpr std::int64_t kStartNs = 5'000'000'000;
constexpr std::int64_t kCheckNs = 2'000'000'000;  // for an upgrade's candidate
// A host that is short of processes or descriptors may get over it: half a minute of tries.
constexpr std::int64_t kStartPauseNs = 1'000'000'000;
constexpr std::uint32_t kMostFailedStarts = 30;

}  // namespace

Result<DeviceChild*> Supervisor::spawn(const std::shared_ptr<const sandbox::Executable>& executable,
                                       const std::string& name, const JailPlan& jail) {
  unsigned identity = 0;
  while (identity < identities_.size() && identities_[identity]) ++identity;
  if (identity == identities_.size()) return make_error("there are too many device processes");
  const UniqueFd& filter = jail.host_network ? network_standby_filter_ : standby_filter_;
  ASSIGN_OR_RETURN(std::unique_ptr<DeviceChild> child,
                   DeviceChild::spawn({.executable = executable.get(),
                                       .vm = options_.vm,
                                       .name = name,
                                       .identity = identity,
                                       .standby_filter = filter.borrow(),
                                       .rings = jail.host_network ? std::vector<BorrowedFd>() : rings_,
                                       .tracer = &tracer_,
                                       .jail = jail}));
  identities_.set(identity);
  child->executable = executable;
  children_.push_back(std::move(child));
  return children_.back().get();
}

void Supervisor::play_role(Ward& ward) {
  if (ending_ || ward.isolated) return;
  if (ward.upgrade && ward.upgrade->quiescing) {
    const Status given = hand_over(ward, *ward.upgrade->candidate);
    if (given) return;
    end_upgrade(ward, given);
  }
  if (DeviceChild* standby = take_standby(ward)) {
    if (hand_over(ward, *standby)) return;
    standby->kill("it could not be given a role");
  }
  const Result<DeviceChild*> fresh = spawn(ward.executable, ward.role->plan().name, ward.role->plan().jail);
  if (!fresh) return retry_start(ward, fresh.error().message);
  if (const Status given = hand_over(ward, **fresh); !given) {
    (*fresh)->kill("it could not be given a role");
    retry_start(ward, given.error().message);
  }
}

// The warm process of this role's executable and jail, if there is one that runs.
DeviceChild* Supervisor::take_standby(const Ward& ward) {
  const auto at = std::find_if(standbys_.begin(), standbys_.end(), [&](const DeviceChild* child) {
    return child->executable == ward.executable && child->jail == ward.role->plan().jail;
  });
  if (at == standbys_.end()) return nullptr;
  DeviceChild* child = *at;
  standbys_.erase(at);
  if (!tracer_.is_stopped(child->pid())) return child;
  child->kill("it was stopped by a signal");
  return nullptr;
}

// It is the host that lacks something, not the device that dies: no matter for its budget.
void Supervisor::retry_start(Ward& ward, const std::string& why) {
  if (ward.launching()) return fail_launch(why);
  const std::string cause = ward.role->plan().name + " cannot be started: " + why;
  if (ward.revived || ++ward.failed_starts > kMostFailedStarts) return give_up(ward, ward.policy.stops_the_vm(), cause);
  if (ward.failed_starts == 1) log(LogLevel::kWarning, "{}", cause);
  ward.restart_at_ns = ipc::monotonic_ns() + kStartPauseNs;
}

Status Supervisor::hand_over(Ward& ward, DeviceChild& child) {
  const auto start = ward.ever_served ? control::StartKind::kResume : control::StartKind::kFresh;
  ASSIGN_OR_RETURN(const DeviceProcess::Handover handover,
                   ward.role->take_role(options_.vm, start, ward.blame, filter_of(ward)));
  if (const auto bytes = ward.role->file_size()) RETURN_IF_ERROR(child.limit_file_size(*bytes));
  RETURN_IF_ERROR(child.send(handover.bytes, handover.fds));
  child.ward = &ward;
  child.name = ward.role->plan().name;
  child.incarnation = ward.role->ring().incarnation();
  child.state = DeviceChild::State::kStarting;
  child.deadline_ns = awake_.now() + std::max(kStartNs, deadline_of(ward));
  ward.child = &child;
  if (ward.ever_served && !(ward.upgrade && ward.upgrade->candidate == &child)) {
    ++ward.restarts;
    const ipc::RequestProducer& ring = ward.role->ring();
    const ipc::Ticket first = ring.first_unserved();
    ward.replayed += ring.submitted() + 1 - std::min(first, ring.submitted() + 1);
    control::DeviceEvent event = event_of(ward, control::DeviceEventKind::kRestarting);
    event.cause = ward.last_cause;
    events_.add(std::move(event));
  }
  return ok();
}

void Supervisor::prepare_standbys() {
  if (!options_.standby || ipc::monotonic_ns() < standby_not_before_ns_) return;
  for (const std::unique_ptr<Ward>& ward : wards_) {
    const JailPlan& jail = ward->role->plan().jail;
    const auto serves = [&](const DeviceChild* child) {
      return child->executable == ward->executable && child->jail == jail;
    };
    if (ward->isolated || std::any_of(standbys_.begin(), standbys_.end(), serves)) continue;
    const Result<DeviceChild*> child = spawn(ward->executable, "standby", jail);
    if (!child) {
      standby_not_before_ns_ = ipc::monotonic_ns() + kStandbyPauseNs;
      static constinit LogLimiter limiter{4};
      if (limiter.allow()) log(LogLevel::kWarning, "no standby: {}", child.error().message);
      return;
    }
    standbys_.push_back(*child);
  }
}

void Supervisor::handle_deaths() {
  for (const sandbox::ExitReport& report : tracer_.poll()) {
    auto teardown = sandbox::Tracer::Teardown::kIdle;
    for (std::size_t i = 0; i < children_.size(); ++i) {
      DeviceChild& child = *children_[i];
      if (!child.lives() || child.pid() != report.pid) continue;
      if (child.ward != nullptr && !child.ward->role->rings().empty()) teardown = sandbox::Tracer::Teardown::kNow;
      bury(child, report);
    }
    // Only now: its end competes with the successor's start.
    if (report.held) tracer_.release(report.pid, teardown);
  }
  forget_corpses();
}

void Supervisor::forget_corpses() {
  std::erase_if(children_, [this](const std::unique_ptr<DeviceChild>& child) {
    if (child->lives()) return false;
    child->try_reap();
    if (!child->reaped()) return false;
    identities_.reset(child->identity());
    return true;
  });
}

control::DeviceEvent Supervisor::event_of(const Ward& ward, control::DeviceEventKind kind) const {
  control::DeviceEvent event;
  event.kind = kind;
  event.role = ward.role->plan().name;
  event.incarnation = ward.role->ring().incarnation();
  if (ward.child != nullptr) {
    event.incarnation = ward.child->incarnation;
    event.pid = static_cast<std::uint32_t>(ward.child->pid());
  }
  const ipc::Ticket first = ward.role->ring().first_unserved();
  if (first <= ward.role->ring().submitted()) event.ticket = first;
  return event;
}

void Supervisor::bury(DeviceChild& child, const sandbox::ExitReport& report) {
  const std::int64_t now = ipc::monotonic_ns();
  child.state = DeviceChild::State::kDead;
  if (child.log_fd().get() >= 0) child.read_log();
  child.close_channel();
  if (child.asked) std::exchange(child.asked, nullptr)(make_error("the device process ended"));
  if (ending_) return;
  std::string cause = report.describe(child.name);
  if (!child.reason.empty()) cause += " (" + child.reason + ")";
  if (std::erase(standbys_, &child) != 0) {
    standby_not_before_ns_ = child.drill != 0 ? now : now + kStandbyPauseNs;
    return log(LogLevel::kWarning, "{}", cause);
  }
  Ward* ward = child.ward;
  if (ward == nullptr) return;
  if (ward->upgrade && ward->upgrade->candidate == &child && ward->child != &child) {
    end_upgrade(*ward, make_error("the new executable's process ended: " + cause));
    return;
  }
  if (ward->child != &child) return;
  // A start that fails is told by whoever waits for it, and with the sentence alone.
  if (!child.planned && !(child.failed && ward->launching())) {
    control::DeviceEvent event =
        event_of(*ward, child.hung ? control::DeviceEventKind::kHung : control::DeviceEventKind::kDied);
    event.cause = cause;
    event.signal = report.signal;
    if (report.syscall) event.system_call = sandbox::syscall_name(report.syscall_arch, *report.syscall);
    events_.add(std::move(event));
  }
  ward->child = nullptr;
  if (ward->stalled_since_ns == 0) ward->stalled_since_ns = child.hung ? now - deadline_of(*ward) : now;
  disown(*ward, child);
  if (report.registers) ward->role->settle_publication(report.registers->rip);
  succeed(*ward, child, cause);
}

// From here on the answers of the role's process no longer count, unless its successor publishes them again.
void Supervisor::disown(Ward& ward, DeviceChild& child) {
  if (std::exchange(child.disowned, true)) return;
  ward.role->ring().set_incarnation(child.incarnation + 1);
}

// One that misbehaves is disowned before it is dead: what it still answers is not to reach the guest.
void Supervisor::end_process(Ward& ward, std::string why, bool hung) {
  if (ward.child->killed) return;
  ward.child->hung = hung;
  disown(ward, *ward.child);
  ward.child->kill(std::move(why));
}

void Supervisor::succeed(Ward& ward, const DeviceChild& dead, const std::string& cause) {
  ward.last_cause = cause;
  // Nothing of it is the fault of the input at hand, and the old executable is known to work.
  const bool bad_candidate = ward.upgrade && ward.upgrade->candidate == &dead;
  if (ward.upgrade && (bad_candidate || !dead.planned))
    end_upgrade(ward, make_error("the device process ended: " + cause));
  ward.blame = dead.drill == 0 && !dead.planned && !bad_candidate;
  if (ward.revived) return give_up(ward, false, cause);
  if (!ward.blame) return play_role(ward);
  const RestartPolicy::Decision next = ward.policy.on_death(ipc::monotonic_ns(), dead.failed);
  switch (next.kind) {
    case RestartPolicy::Decision::Kind::kRestart:
      if (next.pause_ns == 0) return play_role(ward);
      ward.restart_at_ns = ipc::monotonic_ns() + next.pause_ns;
      return;
    case RestartPolicy::Decision::Kind::kIsolate: return give_up(ward, false, cause);
    case RestartPolicy::Decision::Kind::kStop: return give_up(ward, true, cause);
  }
}

void Supervisor::give_up(Ward& ward, bool stop, const std::string& cause) {
  ward.isolated = true;
  ward.restart_at_ns.reset();
  if (ward.launching()) fail_launch("a device process ended while the VM started: " + cause);
  control::DeviceEvent event = event_of(ward, control::DeviceEventKind::kIsolated);
  event.cause = cause;
  // A VM that stops is to stop before its guest reads what a missing device answers.
  if (stop) on_loss_(*ward.role, stop, event);
  // Whoever waits for an answer reads all ones, now and from here on.
  ward.role->ring().close();
  if (!stop) on_loss_(*ward.role, stop, event);
  if (ward.revived) std::exchange(ward.revived, nullptr)(make_error("it could not be brought back: " + cause));
}

Status Supervisor::signal_child(DeviceChild* child, int signal) {
  if (child == nullptr || !child->lives() || child->killed) return make_error("the device process is not running");
  child->drill = signal;
  if (signal != SIGSTOP) tracer_.make_deadly(child->pid(), signal);  // one that is stopped hangs
  return child->send_signal(signal);
}

Status Supervisor::drill(DeviceProcess& role, int signal) {
  Status result = ok();
  run_there([&] {
    const Ward* ward = find(role);
    result = signal_child(ward != nullptr ? ward->child : nullptr, signal);
  });
  return result;
}

Status Supervisor::drill_standby(int signal) {
  Status result = ok();
  run_there([&] { result = signal_child(standbys_.empty() ? nullptr : standbys_.front(), signal); });
  return result;
}

Status Supervisor::rewire(DeviceProcess& role, control::DeviceEventKind event, const std::string& why,
                          const std::function<Status()>& change) {
  Status result = ok();
  run_there([&] {
    if (ending_) return;
    result = change();
    const Ward* ward = find(role);
    if (!result || ward == nullptr) return;
    control::DeviceEvent happened = event_of(*ward, event);
    happened.cause = why;
    events_.add(std::move(happened));
    if (ward->child == nullptr || ward->child->killed) return;
    ward->child->planned = true;
    ward->child->kill(why);
  });
  return result;
}

Status Supervisor::revive(DeviceProcess& role) {
  const auto done = std::make_shared<std::promise<Status>>();
  post([this, &role, done] {
    Ward* ward = find(role);
    if (ending_ || ward == nullptr || !ward->isolated) return done->set_value(make_error("the device is not isolated"));
    ward->isolated = false;
    ward->ever_served = false;  // it starts from reset, like the first one
    ward->blame = false;
    ward->stalled_since_ns = 0;
    ward->failed_starts = 0;
    ward->policy.forgive();
    ward->revived = [this, ward, done](Status status) {
      if (status) events_.add(event_of(*ward, control::DeviceEventKind::kReturned));
      done->set_value(std::move(status));
    };
    play_role(*ward);
  });
  return done->get_future().get();
}

Status Supervisor::upgrade(DeviceProcess& role, sandbox::Executable executable) {
  const auto done = std::make_shared<std::promise<Status>>();
  auto shared = std::make_shared<const sandbox::Executable>(std::move(executable));
  post([this, &role, done, shared] {
    Ward* ward = find(role);
    const auto answer = [done](Status status) { done->set_value(std::move(status)); };
    if (ward == nullptr || ward->child == nullptr || ward->child->state != DeviceChild::State::kServing)
      return answer(make_error("the device process is not running"));
    if (ward->upgrade || ward->child->asked) return answer(make_error("the device process is busy"));
    start_upgrade(*ward, shared, answer);
  });
  return done->get_future().get();
}

void Supervisor::start_upgrade(Ward& ward, std::shared_ptr<const sandbox::Executable> executable,
                               std::function<void(Status)> done) {
  Result<std::vector<std::byte>> question = ward.role->check_role(options_.vm);
  if (!question) return done(question.error());
  Result<DeviceChild*> candidate = spawn(executable, "upgrade", ward.role->plan().jail);
  if (!candidate) return done(candidate.error());
  (*candidate)->ward = &ward;
  (*candidate)->state = DeviceChild::State::kChecking;
  (*candidate)->deadline_ns = awake_.now() + kCheckNs;
  ward.upgrade = Ward::Upgrade{.candidate = *candidate, .executable = std::move(executable), .done = std::move(done)};
  if (const Status sent = (*candidate)->send(*question); !sent) end_upgrade(ward, sent);
}

void Supervisor::judge_candidate(Ward& ward, const control::Ready& ready) {
  if (ward.child == nullptr || ward.child->state != DeviceChild::State::kServing)
    return end_upgrade(ward, make_error("the device process is being restarted; try again"));
  const control::Ready& now = ward.child->ready;
  if (ready.layout_hash != now.layout_hash || ready.states != now.states)
    return end_upgrade(ward,
                       make_error("the new executable keeps its state in another way (state version), so it cannot "
                                  "take over; the running process goes on"));
  ward.upgrade->candidate->state = DeviceChild::State::kStandby;
  ward.upgrade->quiescing = true;
  DeviceChild& old = *ward.child;
  const auto retire = [&old](const Result<control::FromDevice>&) {
    if (!old.lives()) return;
    old.planned = true;
    old.kill("it is replaced by another executable");
  };
  const Result<std::vector<std::byte>> quiesce = control::encode(control::ToDevice(control::Quiesce{}));
  old.asked = retire;
  old.deadline_ns = awake_.now() + deadline_of(ward);
  if (!quiesce || !old.send(*quiesce)) std::exchange(old.asked, nullptr)(make_error("it does not listen"));
}

void Supervisor::end_upgrade(Ward& ward, Status status) {
  if (!ward.upgrade) return;
  const Ward::Upgrade upgrade = *std::exchange(ward.upgrade, std::nullopt);
  if (!status && ward.child != upgrade.candidate) upgrade.candidate->kill("its upgrade was given up");
  upgrade.done(std::move(status));
}

}  // namespace bulkhead::vmm
