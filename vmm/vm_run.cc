// VirtualMachine's life after its creation: events, pause, resume, reset, and what managers may ask.
#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <future>

#include "ipc/base/log.h"
#include "vmm/vm.h"

namespace bulkhead::vmm {
namespace {

constexpr std::chrono::seconds kTaskDeadline{5};

}  // namespace

void VirtualMachine::post(Task task) {
  {
    const std::lock_guard lock(lock_);
    tasks_.push_back(std::move(task));
  }
  signal_eventfd(event_.borrow());
}

void VirtualMachine::end(control::Exited how) {
  {
    const std::lock_guard lock(lock_);
    if (!ending_) ending_ = std::move(how);  // the first reason is the one that counts
    state_ = control::VmState::kEnding;
  }
  signal_eventfd(event_.borrow());
}

void VirtualMachine::on_power(PowerAction action, std::uint64_t debug_value) {
  // On a vCPU's thread, in the middle of its access: no further guest instruction of its runs.
  if (VcpuThreads* gate = gate_.load(std::memory_order_acquire)) gate->hold_soon();
  switch (action) {
    case PowerAction::kPowerOff: return end({.sentence = "", .status = control::kExitPowerOff});
    case PowerAction::kDebugExit: return end({.sentence = "", .status = control::debug_exit_status(debug_value)});
    case PowerAction::kReset: break;
  }
  if (config_.on_reset == control::OnReset::kExit)
    return end({.sentence = "the guest reset its machine", .status = control::kExitGuestReset});
  if (reset_waits_.exchange(true)) return;  // a device may ask faster than machines are reset
  post([this] {
    reset_waits_.store(false);
    if (const Status status = do_reset(); !status)  // a second end() changes nothing
      end({.sentence = "the machine could not be reset: " + status.error().message, .status = control::kExitHostError});
  });
}

void VirtualMachine::on_pause_wanted(std::size_t role, PauseReason reason) {
  // A hostile device may ask without end: one request waits at most, and one event tells of each pause.
  if (pause_waits_.exchange(true)) return;
  post([this, role, reason] {
    pause_waits_.store(false);
    pause_for(*processes_[role], reason);
  });
}

void VirtualMachine::pause_for(DeviceProcess& process, PauseReason /*kDiskFull*/) {
  if (paused_ || is_ending()) return;
  const std::string& role = process.plan().name;
  // Not now: the device asks again.
  if (!do_pause(fmt::format("disk full: {}", role))) return;
  control::DeviceEvent event;
  event.kind = control::DeviceEventKind::kPaused;
  event.role = role;
  event.incarnation = process.ring().incarnation();
  event.cause = "the host has no room for what it writes; the VM is paused until `bulkhead resume`";
  events_.add(std::move(event));
}

void VirtualMachine::on_vcpu_end(std::uint32_t vcpu, ExitAction action, std::string report) {
  switch (action) {
    case ExitAction::kPowerOff: return on_power(PowerAction::kPowerOff, 0);
    case ExitAction::kReset: return on_power(PowerAction::kReset, 0);
    default: break;
  }
  end({.sentence = fmt::format("the guest crashed on CPU {}: {}", vcpu, report), .status = control::kExitGuestCrash});
}

void VirtualMachine::on_loss(DeviceProcess& process, bool stop, const control::DeviceEvent& isolated) {
  if (stop) {
    // Before its ring closes: the guest is not to run on with what a missing device reads.
    if (VcpuThreads* gate = gate_.load(std::memory_order_acquire)) gate->hold_soon();
    return end({.sentence = "a device process died: " + isolated.cause, .status = control::kExitHostError});
  }
  post([this, &process, isolated] { do_isolate(process, isolated); });
}

void VirtualMachine::on_violation(DeviceProcess& process, const char* what, std::uint32_t incarnation) {
  supervisor_->condemn(process, incarnation, fmt::format("it wrote {}", what), false);
}

Status VirtualMachine::run_on_main(const std::function<Status()>& task) {
  auto done = std::make_shared<std::promise<Status>>();
  std::future<Status> result = done->get_future();
  {
    const std::lock_guard lock(lock_);
    if (!accepts_tasks_) return make_error("the VM is ending");
    tasks_.push_back(
        [this, task, done] { done->set_value(is_ending() ? Status(make_error("the VM is ending")) : task()); });
  }
  signal_eventfd(event_.borrow());
  if (result.wait_for(kTaskDeadline) != std::future_status::ready) return make_error("the VM is busy");
  return result.get();
}

bool VirtualMachine::is_ending() {
  const std::lock_guard lock(lock_);
  return ending_.has_value();
}

bool VirtualMachine::hold_vcpus() {
  constexpr std::int64_t kSliceNs = 100'000'000;  // how long a kill may have to wait for a pause
  for (std::int64_t left = patience_ns(); left > 0 && !is_ending(); left -= kSliceNs) {
    if (threads_->close(kSliceNs)) return true;
  }
  if (!paused_) threads_->open();
  return false;
}

void VirtualMachine::run_tasks() {
  std::vector<Task> tasks;
  {
    const std::lock_guard lock(lock_);
    tasks.swap(tasks_);
  }
  for (const Task& task : tasks) task();
}

control::Exited VirtualMachine::run(control::ControlChannel* launcher) {
  launcher_ = launcher;
  {
    const std::lock_guard lock(lock_);
    if (state_ == control::VmState::kStarting) state_ = control::VmState::kRunning;
  }
  threads_->open();
  std::optional<control::Exited> how;
  while (!how) {
    pollfd polls[2] = {{event_.get(), POLLIN, 0}, {launcher != nullptr ? launcher->fd().get() : -1, POLLIN, 0}};
    ::poll(polls, 2, -1);
    drain_eventfd(event_.borrow());
    if (polls[1].revents != 0) handle_launcher(*launcher);
    run_tasks();
    const std::lock_guard lock(lock_);
    how = ending_;
  }
  std::vector<Task> left;
  {
    const std::lock_guard lock(lock_);
    accepts_tasks_ = false;
    left.swap(tasks_);
  }
  for (const Task& task : left) task();  // whoever waits for one hears that the VM is ending
  shut_down();
  return *how;
}

void VirtualMachine::handle_launcher(control::ControlChannel& launcher) {
  Result<control::Message> message = launcher.receive(control::no_wait());
  if (!message) {
    if (message.error().error_number == control::kTimedOut) return;
    return end({.sentence = "the launcher is gone", .status = control::kExitKilled});
  }
  const Result<control::ToVmm> decoded = control::decode_to_vmm(std::move(*message));
  if (!decoded) return end({.sentence = decoded.error().message, .status = control::kExitHostError});
  if (std::holds_alternative<control::PowerButton>(*decoded)) {
    (void)power_button();
  } else if (std::holds_alternative<control::KillVm>(*decoded)) {
    (void)kill();
  } else if (const auto* size = std::get_if<control::ResizeTerminal>(&*decoded)) {
    resize_terminal(*size);
  }
}

Status VirtualMachine::do_pause(std::string why) {
  if (paused_) return ok();
  if (!hold_vcpus()) return make_error("a CPU waits for a device process that does not answer");
  paused_at_ns_ = ipc::monotonic_ns();
  for (const std::unique_ptr<DeviceProcess>& process : processes_) {
    ipc::VmTimeline& time = process->requests().time;
    time.frozen_at.store(paused_at_ns_ - time.base_ns.load(std::memory_order_relaxed), std::memory_order_seq_cst);
    process->ring().ring_doorbell();  // timers are disarmed
  }
  ASSIGN_OR_RETURN(paused_clock_, vm_->clock());
  for (const std::unique_ptr<KvmVcpu>& vcpu : vcpus_) vcpu->note_pause();
  paused_ = true;
  const std::lock_guard lock(lock_);
  if (state_ == control::VmState::kEnding) return ok();
  state_ = control::VmState::kPaused;
  pause_reason_ = std::move(why);
  return ok();
}

Status VirtualMachine::do_resume() {
  if (!paused_) return ok();
  RETURN_IF_ERROR(vm_->set_clock(paused_clock_));
  const std::int64_t stood_still = ipc::monotonic_ns() - paused_at_ns_;
  for (const std::unique_ptr<DeviceProcess>& process : processes_) {
    ipc::VmTimeline& time = process->requests().time;
    time.base_ns.fetch_add(stood_still, std::memory_order_relaxed);
    time.frozen_at.store(ipc::kVmTimeRuns, std::memory_order_seq_cst);
    process->ring().ring_doorbell();
  }
  paused_ = false;
  threads_->open();
  const std::lock_guard lock(lock_);
  pause_reason_.clear();
  if (state_ == control::VmState::kPaused) state_ = control::VmState::kRunning;
  return ok();
}

Status VirtualMachine::do_reset() {
  if (is_ending()) return ok();
  if (!hold_vcpus()) return make_error("a CPU waits for a device process that does not answer");
  // From here on the machine is reset, or ends: half of one is of no use.
  const Status status = finish_reset();
  if (!status)
    end({.sentence = "the machine could not be reset: " + status.error().message, .status = control::kExitHostError});
  return status;
}

// What a disk still reads lands in guest memory, which the next boot is about to use. Meanwhile the VM can be ended:
// the disk may wait for a host that is gone (the supervisor tells of it).
Status VirtualMachine::drain_devices() {
  constexpr std::int64_t kMostNs = 60'000'000'000;
  constexpr int kPauseMs = 1;
  const std::int64_t until = ipc::monotonic_ns() + kMostNs;
  for (const std::unique_ptr<DeviceProcess>& process : processes_) {
    for (;;) {
      if (process->rings().empty() || process->ring().closed()) break;
      const std::optional<ipc::Reply> reply = process->channel().request(ipc::RequestKind::kDraining);
      std::uint32_t draining = 0;
      if (reply && reply->status == ipc::ReplyStatus::kDone) std::memcpy(&draining, reply->payload, sizeof draining);
      if (draining == 0) break;
      if (ipc::monotonic_ns() > until) return make_error(process->plan().name + " has I/O that does not end");
      pollfd launcher{launcher_ != nullptr ? launcher_->fd().get() : -1, POLLIN, 0};
      if (::poll(&launcher, 1, kPauseMs) > 0) handle_launcher(*launcher_);
      if (is_ending()) return make_error("the VM is ending");
    }
  }
  return ok();
}

Status VirtualMachine::finish_reset() {
  // Every posted write of the old generation is done before the new one begins.
  for (const std::unique_ptr<DeviceProcess>& process : processes_) {
    // A device that is isolated, now or meanwhile, has nothing to finish.
    if (!process->ring().drain(patience_ns()) && !process->ring().closed())
      return make_error(process->plan().name + " did not finish its requests");
  }
  ++generation_;
  for (const std::unique_ptr<DeviceProcess>& process : processes_) {
    process->ring().set_generation(generation_);
    if (process->ring().closed()) continue;  // isolated: it reads all ones before and after
    const std::optional<ipc::Reply> reply = process->channel().request(ipc::RequestKind::kReset);
    if (!process->ring().closed() && (!reply || reply->status != ipc::ReplyStatus::kDone))
      return make_error(process->plan().name + " did not answer the reset");
  }
  RETURN_IF_ERROR(drain_devices());
  effects_->reset();
  RETURN_IF_ERROR(vm_->reset_interrupts());
  RETURN_IF_ERROR(start_guest_state());
  RETURN_IF_ERROR(ask_for_desired_state());
  // A guest may reset its machine in a loop.
  if (reset_limiter_.allow()) log(LogLevel::kInfo, "the machine was reset (generation {})", generation_);
  if (!paused_) threads_->open();
  return ok();
}

Result<control::VmStatus> VirtualMachine::status() {
  control::VmStatus status;
  status.name = config_.name;
  status.pid = static_cast<std::uint32_t>(::getpid());
  status.cpus = config_.cpus;
  status.memory_bytes = config_.memory_bytes;
  status.uptime_ns = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - started_).count());
  status.exits = threads_->exits();
  status.unclaimed_accesses = space_.unclaimed();
  status.kernel = config_.kernel_path;
  status.console = config_.console_path;
  const std::lock_guard lock(lock_);
  status.state = state_;
  status.pause_reason = pause_reason_;
  status.generation = generation_;
  return status;
}

Status VirtualMachine::kill() {
  end({.sentence = "the VM was ended by its manager", .status = control::kExitKilled});
  return ok();
}

Status VirtualMachine::pause() {
  return run_on_main([this] { return do_pause(); });
}

Status VirtualMachine::resume() {
  return run_on_main([this] { return do_resume(); });
}

Status VirtualMachine::reset() {
  return run_on_main([this] { return do_reset(); });
}

}  // namespace bulkhead::vmm
