#include "sandbox/child_process.h"

#include <poll.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "ipc/base/log.h"

namespace bulkhead::sandbox {
namespace {

// Since Linux 5.4; the C library's enumeration may lack it.
constexpr auto kByPidfd = static_cast<idtype_t>(P_PIDFD);

// Reaps a process that is dead, waiting up to `timeout_ms` (-1: for ever). The pidfd is asked first: it
// speaks of the end alone, while waitid would also take a traced process's stops, which belong to its
// tracer.
Result<std::optional<ExitReport>> reap(const UniqueFd& pidfd, int timeout_ms) {
  pollfd dead{pidfd.get(), POLLIN, 0};
  int ready = 0;
  do {
    ready = ::poll(&dead, 1, timeout_ms);
  } while (ready < 0 && errno == EINTR);
  if (ready < 0) return make_errno_error("cannot wait for a process");
  if (ready == 0) return std::optional<ExitReport>{};
  siginfo_t info{};
  if (::waitid(kByPidfd, static_cast<id_t>(pidfd.get()), &info, WEXITED | WNOHANG | __WALL) != 0)
    return make_errno_error("cannot reap a process");
  if (info.si_pid == 0) return std::optional<ExitReport>{};
  return std::optional(report_of_siginfo(info));
}

}  // namespace

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, 0)), pidfd_(std::move(other.pidfd_)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  if (this != &other) {
    end();
    pid_ = std::exchange(other.pid_, 0);
    pidfd_ = std::move(other.pidfd_);
  }
  return *this;
}

ChildProcess::~ChildProcess() { end(); }

Status ChildProcess::kill() {
  if (::syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0) != 0 && errno != ESRCH)
    return make_errno_error(fmt::format("cannot kill process {}", pid_));
  return ok();
}

Result<std::optional<ExitReport>> ChildProcess::try_wait() {
  ASSIGN_OR_RETURN(std::optional<ExitReport> report, reap(pidfd_, 0));
  if (report) pidfd_.reset();
  return report;
}

Result<ExitReport> ChildProcess::wait() {
  for (;;) {
    ASSIGN_OR_RETURN(const std::optional<ExitReport> report, reap(pidfd_, -1));
    if (!report) continue;  // its other threads are still going
    pidfd_.reset();
    return *report;
  }
}

void ChildProcess::end() {
  ChildProcess* const self = this;
  end_all(std::span(&self, 1));
}

bool ChildProcess::has_ended() {
  // A process that this thread traces stands at its exit stop until it is told to go on. For all others this is an
  // error without effect.
  ::ptrace(PTRACE_CONT, pid_, nullptr, nullptr);
  const auto report = reap(pidfd_, 1);
  if (report && !*report) return false;
  pidfd_.reset();
  return true;
}

void ChildProcess::end_all(std::span<ChildProcess* const> processes, std::chrono::milliseconds patience) {
  std::vector<ChildProcess*> left;
  for (ChildProcess* process : processes) {
    if (!process->valid()) continue;
    left.push_back(process);
    if (const Status killed = process->kill(); !killed) log(LogLevel::kError, "{}", killed.error().message);
    // A corpse that was made SCHED_IDLE (Tracer::release) gets no time on a busy machine, and now it is waited for. An
    // ordinary user may not take it back; it is waited for longer then.
    const sched_param parameters{};
    ::sched_setscheduler(process->pid_, SCHED_OTHER, &parameters);
  }
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!left.empty() && std::chrono::steady_clock::now() < deadline)
    std::erase_if(left, [](ChildProcess* process) { return process->has_ended(); });
  for (ChildProcess* process : left) {
    log(LogLevel::kError, "process {} was killed and does not end", process->pid_);
    process->pidfd_.reset();
  }
}

}  // namespace bulkhead::sandbox
