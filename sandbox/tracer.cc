#include "sandbox/tracer.h"

#include <elf.h>
#include <fmt/format.h>
#include <linux/audit.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include <cstdint>

#include "sandbox/stepping.h"

namespace bulkhead::sandbox {
namespace {

// ptrace's last two arguments are numbers or pointers, whichever the request says; its prototype knows
// pointers only.
// NOLINTNEXTLINE(performance-no-int-to-ptr): a number, which nobody follows
void* number(std::uintptr_t value) { return reinterpret_cast<void*>(value); }

// A fault of the process's own making, as opposed to the same signal sent with kill(2).
bool is_fault(const siginfo_t& info) {
  switch (info.si_signo) {
    case SIGSEGV:
    case SIGBUS:
    case SIGILL:
    case SIGFPE:
    case SIGTRAP: return info.si_code > 0;
    default: return false;
  }
}

std::uint32_t architecture_of(pid_t pid) {
  __ptrace_syscall_info info{};
  // At an exit stop the kernel fills no more than the part in front of the union: enough for the
  // architecture.
  if (::ptrace(PTRACE_GET_SYSCALL_INFO, pid, number(sizeof info), &info) <= 0) return AUDIT_ARCH_X86_64;
  return info.arch;
}

// Takes one stop of a traced process, if it made any, in the form that waitpid(2) reports.
std::optional<int> next_stop(pid_t pid) {
  siginfo_t info{};
  if (::waitid(P_PID, static_cast<id_t>(pid), &info, WSTOPPED | WNOHANG | __WALL) != 0 || info.si_pid == 0)
    return std::nullopt;
  // si_status holds the signal and, above it, ptrace's event.
  constexpr int kStopped = 0x7f;
  return (info.si_status << 8) | kStopped;
}

}  // namespace

Status Tracer::seize(pid_t pid) {
  constexpr std::uintptr_t kOptions = PTRACE_O_TRACEEXIT | PTRACE_O_EXITKILL;
  if (::ptrace(PTRACE_SEIZE, pid, nullptr, number(kOptions)) != 0)
    return make_errno_error(fmt::format("cannot trace process {}", pid));
  traced_.insert_or_assign(pid, Traced{});
  return ok();
}

std::vector<ExitReport> Tracer::poll() {
  std::vector<ExitReport> reports;
  std::vector<pid_t> pids;
  for (const auto& [pid, traced] : traced_) pids.push_back(pid);
  for (const pid_t pid : pids) {
    while (auto status = next_stop(pid)) {
      if (auto report = handle(pid, *status)) reports.push_back(*report);
    }
    // Dead without an exit stop (a second SIGKILL can skip it), or reaped by its owner meanwhile. WNOWAIT:
    // the owner reaps. The kernel reports a traced process's stops even when it is asked for its end alone.
    siginfo_t info{};
    const int result = ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT | __WALL);
    const bool ended = info.si_code == CLD_EXITED || info.si_code == CLD_KILLED || info.si_code == CLD_DUMPED;
    if (result == 0 && (info.si_pid == 0 || !ended)) continue;
    const auto entry = traced_.find(pid);
    if (entry == traced_.end()) continue;
    if (result == 0 && !entry->second.at_exit_stop) reports.push_back(report_of_siginfo(info));
    traced_.erase(entry);
  }
  return reports;
}

std::optional<ExitReport> Tracer::handle(pid_t pid, int wait_status) {
  const auto entry = traced_.find(pid);
  if (entry == traced_.end()) return std::nullopt;
  Traced& traced = entry->second;
  if (!WIFSTOPPED(wait_status)) {
    const bool reported = traced.at_exit_stop;
    traced_.erase(entry);
    if (reported) return std::nullopt;
    return report_of_status(pid, wait_status);
  }
  const int signal = WSTOPSIG(wait_status);
  switch (wait_status >> 16) {
    case PTRACE_EVENT_EXIT: return at_exit_stop(pid, traced);
    case PTRACE_EVENT_STOP:
      // SIGTRAP: it goes on after SIGCONT. Anything else: somebody stopped it, and it stays stopped.
      traced.stopped = signal != SIGTRAP;
      if (signal == SIGTRAP)
        ::ptrace(PTRACE_CONT, pid, nullptr, nullptr);
      else
        ::ptrace(PTRACE_LISTEN, pid, nullptr, nullptr);
      return std::nullopt;
    default: break;
  }
  at_signal_stop(pid, traced, signal);
  return std::nullopt;
}

void Tracer::make_deadly(pid_t pid, int signal) {
  const auto entry = traced_.find(pid);
  if (entry != traced_.end()) entry->second.deadly = signal;
}

void Tracer::step(pid_t pid, Traced& traced) {
  if (--traced.steps != 0)
    ::ptrace(PTRACE_SINGLESTEP, pid, nullptr, nullptr);
  else
    ::ptrace(PTRACE_CONT, pid, nullptr, number(SIGKILL));
}

void Tracer::at_signal_stop(pid_t pid, Traced& traced, int signal) {
  siginfo_t info{};
  if (stepping::kEnabled && signal == SIGTRAP && traced.steps != 0) return step(pid, traced);
  traced.last_signal = signal;
  int pass_on = signal;
  if (::ptrace(PTRACE_GETSIGINFO, pid, nullptr, &info) == 0 && (is_fault(info) || signal == traced.deadly)) {
    // The first process of a pid namespace is immune to signals that it does not handle; for a traced one
    // that goes for faults, too: it would fault at the same instruction for ever. It has no handlers
    // (DESIGN.md, section 4), so the signal is its end.
    traced.fault = signal;
    if (is_fault(info) && signal != SIGTRAP) traced.fault_address = reinterpret_cast<std::uintptr_t>(info.si_addr);
    if (stepping::kEnabled && !is_fault(info)) {
      traced.steps = stepping::draw(pid);
      return step(pid, traced);
    }
    pass_on = SIGKILL;
  }
  ::ptrace(PTRACE_CONT, pid, nullptr, number(static_cast<std::uintptr_t>(pass_on)));
}

std::optional<ExitReport> Tracer::at_exit_stop(pid_t pid, Traced& traced) {
  unsigned long status = 0;
  // ESRCH: another SIGKILL took it out of the stop meanwhile; poll() finds it dead.
  if (::ptrace(PTRACE_GETEVENTMSG, pid, nullptr, &status) != 0) return std::nullopt;
  traced.at_exit_stop = true;
  ExitReport report = report_of_status(pid, static_cast<int>(status));
  report.held = true;
  user_regs_struct registers{};
  if (::ptrace(PTRACE_GETREGS, pid, nullptr, &registers) == 0) report.registers = registers;
  if (report.kind == ExitKind::kSignal && report.signal == SIGKILL && traced.fault != 0) {
    report.signal = traced.fault;
    report.fault_address = traced.fault_address;
  }
  if (report.kind == ExitKind::kSeccompViolation) {
    if (traced.last_signal == SIGSYS) {
      // The filter kills without a signal stop: this one was sent with kill(2).
      report.kind = ExitKind::kSignal;
    } else if (report.registers) {
      report.syscall = static_cast<int>(report.registers->orig_rax);
      report.syscall_arch = architecture_of(pid);
    }
  }
  return report;
}

void Tracer::release(pid_t pid, Teardown how) {
  const sched_param parameters{};
  if (how == Teardown::kIdle) ::sched_setscheduler(pid, SCHED_IDLE, &parameters);
  ::ptrace(PTRACE_CONT, pid, nullptr, nullptr);
}

Result<UniqueFd> child_signal_fd() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGCHLD);
  if (const int error = ::pthread_sigmask(SIG_BLOCK, &signals, nullptr); error != 0)
    return make_errno_error("cannot block SIGCHLD", error);
  UniqueFd fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return make_errno_error("cannot create a signal descriptor for SIGCHLD");
  return fd;
}

}  // namespace bulkhead::sandbox
