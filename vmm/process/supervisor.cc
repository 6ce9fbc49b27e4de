#include "vmm/process/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <future>

#include "ipc/base/log.h"
#include "sandbox/policies.h"

namespace bulkhead::vmm {
namespace {

constexpr std::chrono::seconds kLaunchDeadline{10};
constexpr std::chrono::seconds kAnswerDeadline{1};
constexpr int kStandbyFilterFd = 4;  // devproc/host/main.cc
constexpr std::size_t kLongestLogLine = 512;

}  // namespace

Supervisor::Supervisor(sandbox::Executable executable, UniqueFd child_signals, std::string vm, DeathHandler on_death)
    : executable_(std::move(executable)),
      child_signals_(std::move(child_signals)),
      vm_(std::move(vm)),
      on_death_(std::move(on_death)) {}

Result<std::unique_ptr<Supervisor>> Supervisor::start(sandbox::Executable executable, UniqueFd child_signals,
                                                      std::string vm, DeathHandler on_death) {
  std::unique_ptr<Supervisor> supervisor(
      new Supervisor(std::move(executable), std::move(child_signals), std::move(vm), std::move(on_death)));
  ASSIGN_OR_RETURN(supervisor->wake_, UniqueFd::create_eventfd());
  // Compiled once for all processes: today every role has the base list.
  ASSIGN_OR_RETURN(const sandbox::CompiledFilter standby,
                   sandbox::compile_standby_filter({SyscallGroup::kTakeRole}));
  ASSIGN_OR_RETURN(supervisor->standby_filter_, sandbox::export_filter(standby));
  ASSIGN_OR_RETURN(const sandbox::CompiledFilter role, sandbox::compile_role_filter({}));
  ASSIGN_OR_RETURN(supervisor->role_filter_, sandbox::export_filter(role));
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
  for (;;) {
    run_tasks();
    {
      const std::lock_guard lock(lock_);
      if (stop_) return;
    }
    watch_once();
  }
}

void Supervisor::run_tasks() {
  std::vector<std::function<void()>> tasks;
  std::vector<std::pair<DeviceProcess*, std::string>> condemned;
  {
    const std::lock_guard lock(lock_);
    tasks.swap(tasks_);
    condemned.swap(condemned_);
  }
  for (auto& task : tasks) task();
  for (auto& [role, reason] : condemned) {
    Child* child = find(*role);
    if (child == nullptr || child->state == State::kDead || child->killed) continue;
    child->reason = reason;
    child->killed = true;
    (void)child->process.kill();
  }
}

Supervisor::Child* Supervisor::find(const DeviceProcess& role) {
  for (const std::unique_ptr<Child>& child : children_) {
    if (child->role == &role) return child.get();
  }
  return nullptr;
}

void Supervisor::launch(std::vector<DeviceProcess*> roles) {
  {
    const std::lock_guard lock(lock_);
    expected_ += roles.size();
  }
  post([this, roles = std::move(roles)] {
    for (DeviceProcess* role : roles) {
      if (const Status status = spawn(*role); !status) return fail_launch(status.error().message);
    }
  });
}

Status Supervisor::wait_until_serving() {
  std::unique_lock lock(lock_);
  const bool in_time = changed_.wait_for(
      lock, kLaunchDeadline, [this] { return serving_ >= expected_ || !launch_error_.empty(); });
  if (!launch_error_.empty()) return make_error(launch_error_);
  if (!in_time) return make_error("a device process did not get ready in time");
  return ok();
}

void Supervisor::fail_launch(std::string sentence) {
  const std::lock_guard lock(lock_);
  if (launch_error_.empty()) launch_error_ = std::move(sentence);
  changed_.notify_all();
}

Status Supervisor::spawn(DeviceProcess& role) {
  auto child = std::make_unique<Child>();
  child->role = &role;
  ASSIGN_OR_RETURN(auto channels, control::ControlChannel::create_pair());
  child->control = std::move(channels.first);
  const UniqueFd peer = channels.second.take_socket();
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) != 0) return make_errno_error("cannot create a log pipe");
  child->log.reset(pipe_fds[0]);
  const UniqueFd log_writer(pipe_fds[1]);
  sandbox::SpawnOptions options;
  options.arguments = {"bulkhead-device", "--vm", vm_, "--role", role.plan().name};
  options.descriptors = {{log_writer.borrow(), STDERR_FILENO},
                         {peer.borrow(), sandbox::kControlFd},
                         {standby_filter_.borrow(), kStandbyFilterFd}};
  options.identity_index = identities_++;
  options.tracer = &tracer_;
  ASSIGN_OR_RETURN(child->process, sandbox::spawn(executable_, options));
  RETURN_IF_ERROR(hand_over(*child));
  children_.push_back(std::move(child));
  return ok();
}

Status Supervisor::hand_over(Child& child) {
  ASSIGN_OR_RETURN(const DeviceProcess::Handover handover,
                   child.role->take_role(vm_, 1, control::StartKind::kFresh, role_filter_.borrow()));
  return child.control.send(handover.bytes, handover.fds, control::deadline_in(kAnswerDeadline));
}

void Supervisor::watch_once() {
  std::vector<pollfd> polls;
  polls.push_back({wake_.get(), POLLIN, 0});
  polls.push_back({child_signals_.get(), POLLIN, 0});
  for (const std::unique_ptr<Child>& child : children_) {
    polls.push_back({child->control.valid() ? child->control.fd().get() : -1, POLLIN, 0});
    polls.push_back({child->log.get(), POLLIN, 0});
  }
  if (::poll(polls.data(), polls.size(), -1) <= 0) return;
  if (polls[0].revents != 0) drain_eventfd(wake_.borrow());
  // Logs first: what a process said last explains its death.
  for (std::size_t i = 0; i < children_.size(); ++i) {
    if (polls[2 + 2 * i + 1].revents != 0) read_log(*children_[i]);
    if (polls[2 + 2 * i].revents != 0) read_control(*children_[i]);
  }
  if (polls[1].revents != 0) {
    signalfd_siginfo info;
    while (::read(child_signals_.get(), &info, sizeof info) > 0) {
    }
    handle_deaths();
  }
}

void Supervisor::read_control(Child& child) {
  const auto refuse = [&child](const std::string& why) {
    if (child.reason.empty()) child.reason = why;
    child.control = {};
    child.killed = true;
    (void)child.process.kill();
  };
  Result<control::Message> message = child.control.receive(control::no_wait());
  if (!message) {
    if (message.error().error_number == control::kTimedOut) return;
    // A closed channel is what a dying process leaves; its exit stop says more.
    if (message.error().error_number == control::kPeerClosed) {
      child.control = {};
      return;
    }
    return refuse(message.error().message);
  }
  Result<control::FromDevice> decoded = control::decode_from_device(message->bytes);
  if (!decoded) return refuse(decoded.error().message);
  if (std::holds_alternative<control::Ready>(*decoded)) {
    if (child.state != State::kStarting) return refuse("it said twice that it is ready");
    child.state = State::kServing;
    const std::lock_guard lock(lock_);
    ++serving_;
    changed_.notify_all();
  } else if (const auto* failed = std::get_if<control::Failed>(&*decoded)) {
    // Only a process that has yet to serve may fail; it is not waited for, whatever it does next.
    if (child.state != State::kStarting) return refuse("it said that it failed while it served");
    refuse(failed->sentence);
    fail_launch("the " + child.role->plan().name + " device process could not start: " + failed->sentence);
  } else if (child.answers.size() < 4) {
    child.answers.push_back(std::move(*decoded));
  }
}

void Supervisor::read_log(Child& child) {
  char buffer[4096];
  const ssize_t n = ::read(child.log.get(), buffer, sizeof buffer);
  if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) child.log.reset();
  for (ssize_t i = 0; i < n; ++i) {
    if (buffer[i] != '\n' && child.log_line.size() < kLongestLogLine) {
      child.log_line += buffer[i];
      continue;
    }
    if (child.log_limiter.allow()) log(LogLevel::kInfo, "[{}] {}", child.role->plan().name, child.log_line);
    child.log_line.clear();
    if (buffer[i] != '\n') child.log_line += buffer[i];
  }
}

void Supervisor::handle_deaths() {
  // Corpses of earlier notices: released, and by now dead enough to be reaped.
  for (const std::unique_ptr<Child>& child : children_) {
    if (child->state == State::kDead && child->process.valid()) (void)child->process.try_wait();
  }
  for (const sandbox::ExitReport& report : tracer_.poll()) {
    for (const std::unique_ptr<Child>& child : children_) {
      if (child->state != State::kDead && child->process.pid() == report.pid) bury(*child, report);
    }
    if (report.held) tracer_.release(report.pid);
  }
}

void Supervisor::bury(Child& child, const sandbox::ExitReport& report) {
  child.state = State::kDead;
  if (child.log.valid()) read_log(child);
  child.control = {};
  if (ending_) return;
  std::string sentence = report.describe(child.role->plan().name);
  if (!child.reason.empty()) sentence += " (" + child.reason + ")";
  fail_launch("a device process ended while the VM started: " + sentence);
  on_death_(*child.role, sentence);
}

void Supervisor::condemn(DeviceProcess& process, std::string reason) {
  {
    const std::lock_guard lock(lock_);
    // A hostile process can earn this many times over; once is enough.
    const auto same = [&](const auto& entry) { return entry.first == &process; };
    if (std::any_of(condemned_.begin(), condemned_.end(), same)) return;
    condemned_.emplace_back(&process, std::move(reason));
  }
  wake();
}

Result<control::FromDevice> Supervisor::ask(DeviceProcess& process, const control::ToDevice& message) {
  ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, control::encode(message));
  Result<control::FromDevice> answer = make_error("the device process is not running");
  run_there([&] {
    Child* child = find(process);
    if (child == nullptr || child->state != State::kServing || !child->control.valid()) return;
    child->answers.clear();
    const control::Deadline deadline = control::deadline_in(kAnswerDeadline);
    if (Status sent = child->control.send(bytes, deadline); !sent) {
      answer = std::move(sent).error();
      return;
    }
    while (child->answers.empty() && child->control.valid() && std::chrono::steady_clock::now() < deadline) {
      pollfd poll{child->control.fd().get(), POLLIN, 0};
      if (::poll(&poll, 1, 100) > 0) read_control(*child);
    }
    if (child->answers.empty()) {
      answer = make_error("the device process did not answer in time");
    } else {
      answer = std::move(child->answers.front());
    }
  });
  return answer;
}

pid_t Supervisor::pid_of(const DeviceProcess& process) {
  pid_t pid = 0;
  run_there([&] {
    if (const Child* child = find(process); child != nullptr && child->state != State::kDead)
      pid = child->process.pid();
  });
  return pid;
}

void Supervisor::end_all() {
  if (!thread_.joinable()) return;
  run_there([this] {
    ending_ = true;
    for (const std::unique_ptr<Child>& child : children_) {
      if (child->process.valid()) (void)child->process.kill();
    }
    children_.clear();  // each is killed and reaped by its ChildProcess
  });
}

}  // namespace bulkhead::vmm
