#include "vmm/vcpu/vcpu_threads.h"

#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>

#include "ipc/base/log.h"
#include "sandbox/policies.h"

namespace bulkhead::vmm {
namespace {

void install_kick_handler() {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  sigemptyset(&action.sa_mask);
  ::sigaction(sandbox::kKickSignal, &action, nullptr);
}

}  // namespace

VcpuThreads::VcpuThreads(const std::vector<Vcpu*>& vcpus, AddressSpace& space, EndHandler on_end)
    : space_(space), on_end_(std::move(on_end)), process_(::getpid()) {
  for (Vcpu* vcpu : vcpus) {
    auto thread = std::make_unique<Thread>();
    thread->index = static_cast<std::uint32_t>(threads_.size());
    thread->vcpu = vcpu;
    threads_.push_back(std::move(thread));
  }
}

VcpuThreads::~VcpuThreads() { stop(); }

Status VcpuThreads::start(const std::optional<sandbox::CompiledFilter>& filter) {
  install_kick_handler();
  for (const std::unique_ptr<Thread>& thread : threads_)
    thread->thread = std::thread([this, self = thread.get(), filter] { thread_main(*self, filter); });
  std::unique_lock lock(lock_);
  changed_.wait(lock, [this] { return ready_ == threads_.size(); });
  if (!start_error_.empty()) return make_error(start_error_);
  return ok();
}

void VcpuThreads::thread_main(Thread& self, const std::optional<sandbox::CompiledFilter>& filter) {
  ::pthread_setname_np(::pthread_self(), fmt::format("vcpu{}", self.index).c_str());
  self.id.store(::gettid(), std::memory_order_release);
  Status filtered = ok();
  if (filter) filtered = sandbox::load_filter(*filter, sandbox::FilterScope::kThread);
  {
    const std::lock_guard lock(lock_);
    if (!filtered) start_error_ = filtered.error().message;
    ++ready_;
    changed_.notify_all();
  }
  for (;;) {
    if (closed_.load(std::memory_order_acquire)) {
      if (!wait_at_gate(self)) return;
    }
    enter(self);
    const Exit exit = self.vcpu->run_once();
    leave(self);
    const ExitAction action = dispatch(exit, space_, self.index);
    if (action == ExitAction::kContinue) [[likely]] {
      self.exits.store(self.exits.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
      continue;
    }
    if (action == ExitAction::kInterrupted) continue;
    on_end_(self.index, action, describe(exit) + "\n" + self.vcpu->describe_state());
    {
      const std::lock_guard lock(lock_);
      self.ended = true;
    }
    if (!wait_at_gate(self)) return;
  }
}

void VcpuThreads::finish_instruction(Thread& self) {
  // The rest of a wide access may come out as further exits; each is answered like any other.
  for (;;) {
    enter(self);
    const Exit exit = self.vcpu->complete_pending_io();
    leave(self);
    if (dispatch(exit, space_, self.index) != ExitAction::kContinue) return;
  }
}

bool VcpuThreads::wait_at_gate(Thread& self) {
  bool ended = false;
  {
    const std::lock_guard lock(lock_);
    ended = self.ended;
  }
  if (!ended) finish_instruction(self);
  std::unique_lock lock(lock_);
  self.held = true;
  changed_.notify_all();
  changed_.wait(lock, [&] { return stop_ || (!closed_.load() && !self.ended); });
  self.held = false;
  return !stop_;
}

void VcpuThreads::interrupt_all() {
  for (const std::unique_ptr<Thread>& thread : threads_) {
    thread->vcpu->set_immediate_exit(true);
    if (thread->thread.joinable()) ::pthread_kill(thread->thread.native_handle(), sandbox::kKickSignal);
  }
}

// Sequential consistency: either while_none_runs() sees that we are inside, or we see that it changes something.
void VcpuThreads::enter(Thread& self) {
  self.inside.store(true, std::memory_order_seq_cst);
  while (changing_.load(std::memory_order_seq_cst)) [[unlikely]] {
      std::unique_lock lock(lock_);
      self.inside.store(false, std::memory_order_seq_cst);
      changed_.notify_all();
      changed_.wait(lock, [this] { return !changing_.load(); });
      self.inside.store(true, std::memory_order_seq_cst);
    }
}

void VcpuThreads::leave(Thread& self) {
  self.inside.store(false, std::memory_order_seq_cst);
  if (!changing_.load(std::memory_order_seq_cst)) [[likely]]
    return;
  const std::lock_guard lock(lock_);
  changed_.notify_all();
}

void VcpuThreads::while_none_runs(const std::function<void()>& change) {
  const std::lock_guard one_at_a_time(change_lock_);
  std::unique_lock lock(lock_);
  changing_.store(true, std::memory_order_seq_cst);
  for (const std::unique_ptr<Thread>& thread : threads_) {
    if (!thread->inside.load(std::memory_order_seq_cst)) continue;
    thread->vcpu->set_immediate_exit(true);
    // By number: what pthread_kill() does besides is more than a vCPU thread's filter allows.
    ::syscall(SYS_tgkill, process_, thread->id.load(std::memory_order_acquire), sandbox::kKickSignal);
  }
  changed_.wait(lock, [this] {
    for (const std::unique_ptr<Thread>& thread : threads_) {
      if (thread->inside.load(std::memory_order_seq_cst)) return false;
    }
    return true;
  });
  lock.unlock();
  change();
  lock.lock();
  // A gate that was closed meanwhile still needs them out: close() asks under this lock.
  if (!closed_.load()) {
    for (const std::unique_ptr<Thread>& thread : threads_) thread->vcpu->set_immediate_exit(false);
  }
  changing_.store(false, std::memory_order_seq_cst);
  changed_.notify_all();
}

void VcpuThreads::hold_soon() { closed_.store(true, std::memory_order_seq_cst); }

bool VcpuThreads::close(std::int64_t deadline_ns) {
  hold_soon();
  std::unique_lock lock(lock_);
  interrupt_all();
  return changed_.wait_for(lock, std::chrono::nanoseconds(deadline_ns), [this] {
    for (const std::unique_ptr<Thread>& thread : threads_) {
      if (!thread->held) return false;
    }
    return true;
  });
}

void VcpuThreads::open() {
  const std::lock_guard lock(lock_);
  for (const std::unique_ptr<Thread>& thread : threads_) {
    thread->vcpu->set_immediate_exit(false);
    thread->ended = false;
  }
  closed_.store(false, std::memory_order_seq_cst);
  changed_.notify_all();
}

void VcpuThreads::stop() {
  {
    const std::lock_guard lock(lock_);
    stop_ = true;
    hold_soon();
    interrupt_all();
    changed_.notify_all();
  }
  for (const std::unique_ptr<Thread>& thread : threads_) {
    if (thread->thread.joinable()) thread->thread.join();
  }
}

std::uint64_t VcpuThreads::exits() const {
  std::uint64_t sum = 0;
  for (const std::unique_ptr<Thread>& thread : threads_) sum += thread->exits.load(std::memory_order_relaxed);
  return sum;
}

}  // namespace bulkhead::vmm
