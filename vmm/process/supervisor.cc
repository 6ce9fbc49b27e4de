#include "vmm/process/supervisor.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <utility>

#include "ipc/base/log.h"
#include "ipc/ring/adaptive_wait.h"
#include "sandbox/policies.h"

namespace bulkhead::vmm {
namespace {

constexpr std::chrono::seconds kLaunchDeadline{10};
constexpr std::int64_t kTickNs = 1'000'000'000;
constexpr std::int64_t kWatchNs = 100'000'000;     // between two looks while somebody may be late (awake_clock.h)
constexpr std::int64_t kSlackNs = 50'000'000;      // by which a sleep may be longer than asked for
constexpr std::int64_t kDrainNs = 5'000'000'000;   // a reset that waits longer is told of
constexpr std::int64_t kDyingNs = 10'000'000'000;  // a process that was killed has this long to be gone

}  // namespace

Supervisor::Supervisor(sandbox::Executable executable, UniqueFd child_signals, Options options, DeviceEvents& events,
                       LossHandler on_loss)
    : executable_(std::make_shared<const sandbox::Executable>(std::move(executable))),
      child_signals_(std::move(child_signals)),
      options_(std::move(options)),
      events_(events),
      on_loss_(std::move(on_loss)) {
  if (options_.usernet) usernet_executable_ = std::make_shared<const sandbox::Executable>(*std::move(options_.usernet));
}

Result<std::unique_ptr<Supervisor>> Supervisor::start(sandbox::Executable executable, UniqueFd child_signals,
                                                      Options options, DeviceEvents& events, LossHandler on_loss) {
  std::unique_ptr<Supervisor> supervisor(
      new Supervisor(std::move(executable), std::move(child_signals), std::move(options), events, std::move(on_loss)));
  ASSIGN_OR_RETURN(supervisor->wake_, UniqueFd::create_eventfd());
  supervisor->thread_ = std::thread([raw = supervisor.get()] { raw->thread_main(); });
  return supervisor;
}

Supervisor::~Supervisor() {
  end_all();
  {
    const std::lock_guard lock(lock_);
    stop_ = true;
  }
  wake();
  if (thread_.joinable()) thread_.join();
}

void Supervisor::wake() { signal_eventfd(wake_.borrow()); }

void Supervisor::post(std::function<void()> task) {
  {
    const std::lock_guard lock(lock_);
    tasks_.push_back(std::move(task));
  }
  wake();
}

void Supervisor::run_there(std::function<void()> task) {
  std::promise<void> done;
  post([&] {
    task();
    done.set_value();
  });
  done.get_future().wait();
}

void Supervisor::thread_main() {
  const std::int64_t now = ipc::monotonic_ns();
  awake_.start(now);
  next_tick_ns_ = next_look_ns_ = now + kTickNs;
  for (;;) {
    run_tasks();
    {
      const std::lock_guard lock(lock_);
      if (stop_) return;
    }
    watch_once();
    act_on_time();
  }
}

void Supervisor::run_tasks() {
  std::vector<std::function<void()>> tasks;
  std::vector<Condemned> condemned;
  {
    const std::lock_guard lock(lock_);
    tasks.swap(tasks_);
    condemned.swap(condemned_);
  }
  for (auto& task : tasks) task();
  for (Condemned& note : condemned) {
    Ward* ward = find(*note.role);
    // A note about a predecessor, or about a successor that has yet to take over, is nobody's fault.
    if (ward == nullptr || ward->child == nullptr || ward->child->state != DeviceChild::State::kServing ||
        note.incarnation != ward->role->serving_incarnation())
      continue;
    end_process(*ward, std::move(note.reason), note.hung);
  }
}

Ward* Supervisor::find(const DeviceProcess& role) {
  for (const std::unique_ptr<Ward>& ward : wards_) {
    if (ward->role == &role) return ward.get();
  }
  return nullptr;
}

void Supervisor::launch(std::vector<Role> roles) {
  {
    const std::lock_guard lock(lock_);
    expected_ += roles.size();
  }
  post([this, roles = std::move(roles)] {
    if (const Status compiled = compile_filters(roles); !compiled) return fail_launch(compiled.error().message);
    // The first process is started with all of them, like every later one.
    for (const Role& role : roles) {
      role.process->number_rings(sandbox::kFirstRingFd + static_cast<int>(rings_.size()));
      for (const BorrowedFd ring : role.process->rings()) rings_.push_back(ring);
    }
    for (const Role& role : roles) {
      const auto& program = role.process->plan().jail.host_network ? usernet_executable_ : executable_;
      if (program == nullptr) return fail_launch("there is no program for " + role.process->plan().name);
      wards_.push_back(std::make_unique<Ward>(*role.process, role.policy, program));
      play_role(*wards_.back());
    }
  });
}

// Once for all processes: one filter for each set of system calls that a role has, and one for those without a role,
// which may get any of them: of the roles without a network, or of those with.
Status Supervisor::compile_filters(const std::vector<Role>& roles) {
  SyscallGroups any{SyscallGroup::kTakeRole};
  SyscallGroups any_networked = any;
  for (const Role& role : roles) {
    const SyscallGroups groups = role.process->plan().syscalls;
    SyscallGroups& of_class = role.process->plan().jail.host_network ? any_networked : any;
    of_class = of_class | groups;
    if (std::any_of(role_filters_.begin(), role_filters_.end(), [&](const auto& made) { return made.first == groups; }))
      continue;
    ASSIGN_OR_RETURN(const sandbox::CompiledFilter filter, sandbox::compile_role_filter(groups));
    ASSIGN_OR_RETURN(UniqueFd exported, sandbox::export_filter(filter));
    role_filters_.emplace_back(groups, std::move(exported));
  }
  ASSIGN_OR_RETURN(const sandbox::CompiledFilter standby, sandbox::compile_standby_filter(any));
  ASSIGN_OR_RETURN(standby_filter_, sandbox::export_filter(standby));
  if (usernet_executable_ != nullptr) {
    ASSIGN_OR_RETURN(const sandbox::CompiledFilter networked, sandbox::compile_standby_filter(any_networked));
    ASSIGN_OR_RETURN(network_standby_filter_, sandbox::export_filter(networked));
  }
  return ok();
}

BorrowedFd Supervisor::filter_of(const Ward& ward) const {
  const auto at = std::find_if(role_filters_.begin(), role_filters_.end(),
                               [&](const auto& made) { return made.first == ward.role->plan().syscalls; });
  return at->second.borrow();
}

Status Supervisor::wait_until_serving() {
  std::unique_lock lock(lock_);
  const bool in_time =
      changed_.wait_for(lock, kLaunchDeadline, [this] { return serving_ >= expected_ || !launch_error_.empty(); });
  if (!launch_error_.empty()) return make_error(launch_error_);
  if (!in_time) return make_error("a device process did not get ready in time");
  return ok();
}

void Supervisor::fail_launch(std::string sentence) {
  const std::lock_guard lock(lock_);
  if (launch_error_.empty()) launch_error_ = std::move(sentence);
  changed_.notify_all();
}

int Supervisor::poll_timeout_ms() const {
  std::int64_t next = std::min(next_tick_ns_, next_look_ns_);
  const std::int64_t now = ipc::monotonic_ns();
  const auto consider = [&next](std::int64_t at) {
    if (at != 0) next = std::min(next, at);
  };
  for (const std::unique_ptr<Ward>& ward : wards_) {
    if (ward->restart_at_ns) consider(*ward->restart_at_ns);
  }
  for (const std::unique_ptr<DeviceChild>& child : children_) {
    if (child->lives() && !child->killed && child->deadline_ns != 0)
      consider(now + std::min(child->deadline_ns - awake_.now(), kWatchNs));
  }
  const std::int64_t left = next - now;
  return left <= 0 ? 0 : static_cast<int>((left + 999'999) / 1'000'000);
}

void Supervisor::watch_once() {
  std::vector<pollfd> polls;
  polls.push_back({wake_.get(), POLLIN, 0});
  polls.push_back({child_signals_.get(), POLLIN, 0});
  std::vector<DeviceChild*> watched;
  for (const std::unique_ptr<DeviceChild>& child : children_) {
    watched.push_back(child.get());
    polls.push_back({child->control_fd().get(), POLLIN, 0});
    polls.push_back({child->log_fd().get(), POLLIN, 0});
  }
  const int timeout_ms = poll_timeout_ms();
  const int ready = ::poll(polls.data(), polls.size(), timeout_ms);
  awake_.advance(ipc::monotonic_ns(), timeout_ms * std::int64_t{1'000'000} + kSlackNs);
  if (ready <= 0) return;
  if (polls[0].revents != 0) drain_eventfd(wake_.borrow());
  // Logs first: what a process said last explains its death.
  for (std::size_t i = 0; i < watched.size(); ++i) {
    if (polls[2 + 2 * i + 1].revents != 0) watched[i]->read_log();
    if (polls[2 + 2 * i].revents != 0) read_control(*watched[i]);
  }
  if (polls[1].revents != 0) {
    signalfd_siginfo info;
    while (::read(child_signals_.get(), &info, sizeof info) > 0) {
    }
    handle_deaths();
  }
}

void Supervisor::act_on_time() {
  const std::int64_t now = ipc::monotonic_ns();
  for (const std::unique_ptr<DeviceChild>& child : children_) {
    if (!child->lives() || child->killed || child->deadline_ns == 0 || awake_.now() < child->deadline_ns) continue;
    child->deadline_ns = 0;
    if (child->asked) {
      ++child->owed_answers;
      std::exchange(child->asked, nullptr)(make_error("the device process did not answer in time"));
    } else {
      child->hung = true;
      child->kill("it did not take over its role in time");
    }
  }
  for (const std::unique_ptr<Ward>& ward : wards_) {
    if (!ward->restart_at_ns || now < *ward->restart_at_ns || ending_) continue;
    ward->restart_at_ns.reset();
    play_role(*ward);
  }
  if (now >= next_look_ns_) look(now);
  if (now >= next_tick_ns_) tick(now);
}

void Supervisor::tick(std::int64_t now) {
  next_tick_ns_ = now + kTickNs;
  for (const std::unique_ptr<DeviceChild>& child : children_) child->refill_log_ration();
  for (const std::unique_ptr<Ward>& ward : wards_) {
    watch_taps(*ward);
    watch_draining(*ward);
  }
  forget_corpses();
  if (all_serve()) prepare_standbys();
}

// Who does not get on? Once a second, and closer where somebody was found that does not.
void Supervisor::look(std::int64_t now) {
  bool watching = false;
  for (const std::unique_ptr<DeviceChild>& child : children_) {
    if (child->lives()) watching |= watch_process(*child);
  }
  for (const std::unique_ptr<Ward>& ward : wards_) {
    watching |= watch_progress(*ward);
    watching |= watch_kicks(*ward);
  }
  next_look_ns_ = now + (watching ? kWatchNs : kTickNs);
}

bool Supervisor::watch_process(DeviceChild& child) {
  if (child.killed) {
    if (child.dying_since_ns == 0) child.dying_since_ns = awake_.now();
    Ward* ward = child.ward;
    if (ward != nullptr && awake_.now() - child.dying_since_ns > std::max(kDyingNs, deadline_of(*ward)) &&
        ward != nullptr && ward->child == &child && !ward->isolated)
      give_up(*ward, true, fmt::format("{} (pid {}) was killed and does not end", child.name, child.pid()));
    return true;
  }
  if (!tracer_.is_stopped(child.pid())) {
    // Somebody has continued it: the drill is over.
    if (child.stopped_since_ns != 0 && child.drill == SIGSTOP) child.drill = 0;
    child.stopped_since_ns = 0;
    return false;
  }
  if (child.stopped_since_ns == 0) {
    child.stopped_since_ns = awake_.now();
  } else if (awake_.now() - child.stopped_since_ns >= options_.deadline_ns) {
    child.hung = true;
    child.kill("it was stopped by a signal");
  }
  return true;
}

bool Supervisor::watch_progress(Ward& ward) {
  const ipc::RequestProducer& ring = ward.role->ring();
  const ipc::Ticket first = ring.first_unserved();
  const bool behind = ward.child != nullptr && ward.child->state == DeviceChild::State::kServing &&
                      first <= ring.submitted() && !ring.closed();
  const bool same = behind && first == ward.behind;
  if (!same) {
    // One that is busy is watched from one tick to the next, not closer.
    ward.behind = behind && ward.behind == 0 ? first : 0;
    ward.behind_since_ns = awake_.now();
  } else if (awake_.now() - ward.behind_since_ns >= deadline_of(ward)) {
    end_process(ward, fmt::format("request {} was not answered in time", first), true);
  }
  return ward.behind != 0;
}

// A device process reads a kick before it works on the queue. One that stays, with no work done, was not seen.
bool Supervisor::watch_kicks(Ward& ward) {
  const std::vector<DeviceProcess::Kick>& kicks = ward.role->kicks();
  if (kicks.empty() || ward.child == nullptr || ward.child->state != DeviceChild::State::kServing ||
      ward.child->killed || ward.role->ring().closed()) {
    ward.kicked_since_ns = 0;
    return false;
  }
  std::vector<pollfd> polls;
  for (const DeviceProcess::Kick& kick : kicks) polls.push_back({kick.event.get(), POLLIN, 0});
  const std::uint64_t done = ward.role->replies().counters.kicks.load(std::memory_order_relaxed);
  if (::poll(polls.data(), polls.size(), 0) <= 0 || done != ward.kicks_done) {
    ward.kicks_done = done;
    ward.kicked_since_ns = 0;
    return false;
  }
  if (ward.kicked_since_ns == 0) ward.kicked_since_ns = awake_.now();
  if (awake_.now() - ward.kicked_since_ns >= deadline_of(ward))
    end_process(ward, "a kick of one of its queues was not taken in time", true);
  return true;
}

// The card's process hears of it by itself and takes its link down; that its user hears of it is not left to it.
void Supervisor::watch_taps(Ward& ward) {
  const bool gone = ward.role->tap_is_gone();
  if (gone && !ward.tap_gone) {
    control::DeviceEvent event = event_of(ward, control::DeviceEventKind::kUnplugged);
    event.cause = "its TAP interface was deleted; the link stays down until the VM is started anew";
    events_.add(std::move(event));
  }
  ward.tap_gone = gone;
}

// A disk whose requests do not end (a file server that is gone, a device that is suspended) cannot be reset, and its
// guest waits: only people can help. Told once for each wait, whatever its process says meanwhile.
void Supervisor::watch_draining(Ward& ward) {
  const bool draining = ward.role->replies().counters.draining.load(std::memory_order_relaxed) != 0;
  if (!draining || ward.isolated || ending_) {
    ward.draining_since_ns = 0;
    ward.drain_told = false;
    return;
  }
  if (ward.draining_since_ns == 0) ward.draining_since_ns = awake_.now();
  if (ward.drain_told || awake_.now() - ward.draining_since_ns < kDrainNs) return;
  ward.drain_told = true;
  control::DeviceEvent event = event_of(ward, control::DeviceEventKind::kWaiting);
  event.cause = "its reset waits for I/O that the host does not finish";
  events_.add(std::move(event));
}

void Supervisor::read_control(DeviceChild& child) {
  std::optional<control::FromDevice> message = child.receive();
  if (!message) return;
  if (child.owed_answers != 0) {
    --child.owed_answers;
    return;
  }
  if (auto* ready = std::get_if<control::Ready>(&*message); ready != nullptr && !child.asked)
    return handle_ready(child, std::move(*ready));
  if (const auto* failed = std::get_if<control::Failed>(&*message); failed != nullptr && !child.asked)
    return handle_failed(child, failed->sentence);
  if (!child.asked) return child.kill("it gave another answer than was asked for");
  child.deadline_ns = 0;
  std::exchange(child.asked, nullptr)(std::move(*message));
}

void Supervisor::handle_ready(DeviceChild& child, control::Ready ready) {
  child.deadline_ns = 0;
  Ward& ward = *child.ward;
  if (child.state == DeviceChild::State::kChecking) return judge_candidate(ward, ready);
  child.ready = std::move(ready);
  child.state = DeviceChild::State::kServing;
  ward.role->set_serving(child.incarnation);
  if (ward.ever_served) {
    const std::int64_t stall = ipc::monotonic_ns() - ward.stalled_since_ns;
    ward.last_stall_ns = stall;
    ward.longest_stall_ns = std::max(ward.longest_stall_ns, stall);
    const bool upgraded = ward.upgrade && ward.upgrade->candidate == &child;
    control::DeviceEvent event =
        event_of(ward, upgraded ? control::DeviceEventKind::kUpgraded : control::DeviceEventKind::kRestored);
    event.stall_ns = stall;
    if (upgraded) {
      ward.executable = ward.upgrade->executable;
      event.cause = ward.executable->name();
    }
    events_.add(std::move(event));
    if (upgraded) end_upgrade(ward, ok());
  }
  ward.stalled_since_ns = 0;
  ward.failed_starts = 0;
  if (ward.launching()) {
    const std::lock_guard lock(lock_);
    ++serving_;
    changed_.notify_all();
  }
  ward.ever_served = true;
  if (ward.revived) std::exchange(ward.revived, nullptr)(ok());
  // The next death finds a successor ready; during the start the roles come first.
  if (all_serve()) prepare_standbys();
}

bool Supervisor::all_serve() {
  const std::lock_guard lock(lock_);
  return !ending_ && serving_ >= expected_;
}

void Supervisor::handle_failed(DeviceChild& child, const std::string& sentence) {
  Ward& ward = *child.ward;
  if (child.state == DeviceChild::State::kChecking) {
    end_upgrade(ward, make_error("the new executable cannot play this role: " + sentence));
    return;
  }
  // Only a process that has yet to serve may fail; it is not waited for, whatever it does next.
  child.failed = true;
  child.kill(sentence);
  if (ward.launching()) fail_launch("the " + ward.role->plan().name + " device process could not start: " + sentence);
}

void Supervisor::condemn(DeviceProcess& role, std::uint32_t incarnation, std::string reason, bool hung) {
  {
    const std::lock_guard lock(lock_);
    // A hostile process can earn this many times over; once is enough.
    const auto same = [&](const Condemned& note) { return note.role == &role && note.incarnation == incarnation; };
    if (std::any_of(condemned_.begin(), condemned_.end(), same)) return;
    condemned_.push_back({&role, incarnation, std::move(reason), hung});
  }
  wake();
}

Result<control::FromDevice> Supervisor::ask(DeviceProcess& role, const control::ToDevice& message) {
  ASSIGN_OR_RETURN(std::vector<std::byte> bytes, control::encode(message));
  const auto answer = std::make_shared<std::promise<Result<control::FromDevice>>>();
  post([this, &role, answer, bytes = std::move(bytes)] {
    Ward* ward = find(role);
    DeviceChild* child = ward != nullptr ? ward->child : nullptr;
    if (child == nullptr || child->state != DeviceChild::State::kServing || child->killed)
      return answer->set_value(make_error("the device process is not running"));
    if (child->owed_answers != 0)
      return answer->set_value(make_error("the device process has yet to answer the last question"));
    if (child->asked || (ward->upgrade && ward->upgrade->quiescing))
      return answer->set_value(make_error("the device process is busy with another question"));
    if (const Status sent = child->send(bytes); !sent) return answer->set_value(sent.error());
    child->deadline_ns = awake_.now() + deadline_of(*ward);
    child->asked = [answer](Result<control::FromDevice> result) { answer->set_value(std::move(result)); };
  });
  return answer->get_future().get();
}

Supervisor::Info Supervisor::info_of(const DeviceProcess& role) {
  Info info;
  run_there([&] {
    const Ward* ward = find(role);
    if (ward == nullptr) return;
    const DeviceChild* child = ward->child;
    const bool serving = child != nullptr && child->state == DeviceChild::State::kServing;
    if (child != nullptr && child->lives()) info.pid = child->pid();
    info.state = ward->isolated       ? control::DeviceState::kIsolated
                 : serving            ? control::DeviceState::kRunning
                 : !ward->ever_served ? control::DeviceState::kStarting
                                      : control::DeviceState::kReplacing;
    info.incarnation = role.serving_incarnation();
    info.restarts = ward->restarts;
    info.last_stall_ns = ward->last_stall_ns;
    info.longest_stall_ns = ward->longest_stall_ns;
    info.replayed = ward->replayed;
  });
  return info;
}

pid_t Supervisor::standby_pid() {
  pid_t pid = 0;
  run_there([&] { pid = standbys_.empty() ? 0 : standbys_.front()->pid(); });
  return pid;
}

void Supervisor::end_all() {
  if (!thread_.joinable()) return;
  run_there([this] {
    ending_ = true;
    for (const std::unique_ptr<Ward>& ward : wards_) {
      ward->child = nullptr;
      ward->restart_at_ns.reset();
      if (ward->upgrade) end_upgrade(*ward, make_error("the VM is ending"));
      if (ward->revived) std::exchange(ward->revived, nullptr)(make_error("the VM is ending"));
    }
    standbys_.clear();
    for (const std::unique_ptr<DeviceChild>& child : children_) {
      if (child->asked) std::exchange(child->asked, nullptr)(make_error("the VM is ending"));
      child->kill("the VM is ending");
    }
    std::vector<sandbox::ChildProcess*> processes;
    for (const std::unique_ptr<DeviceChild>& child : children_) processes.push_back(&child->process());
    sandbox::ChildProcess::end_all(processes);
    children_.clear();
  });
}

}  // namespace bulkhead::vmm
