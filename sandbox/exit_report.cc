#include "sandbox/exit_report.h"

#include <fmt/format.h>
#include <linux/audit.h>
#include <seccomp.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cstdlib>

namespace bulkhead::sandbox {
namespace {

std::string signal_name(int signal) {
  const char* name = ::sigabbrev_np(signal);
  return name != nullptr ? fmt::format("SIG{}", name) : fmt::format("signal {}", signal);
}

ExitReport report_of_signal(pid_t pid, int signal) {
  ExitReport report;
  report.pid = pid;
  report.kind = signal == SIGSYS ? ExitKind::kSeccompViolation : ExitKind::kSignal;
  report.signal = signal;
  return report;
}

ExitReport report_of_code(pid_t pid, int code) {
  ExitReport report;
  report.pid = pid;
  report.kind = code == 0 ? ExitKind::kClean : ExitKind::kExitCode;
  report.exit_code = code;
  return report;
}

}  // namespace

ExitReport report_of_status(pid_t pid, int wait_status) {
  if (WIFSIGNALED(wait_status)) return report_of_signal(pid, WTERMSIG(wait_status));
  return report_of_code(pid, WEXITSTATUS(wait_status));
}

ExitReport report_of_siginfo(const siginfo_t& info) {
  if (info.si_code == CLD_EXITED) return report_of_code(info.si_pid, info.si_status);
  return report_of_signal(info.si_pid, info.si_status);
}

std::string syscall_name(std::uint32_t arch, int number) {
  // libseccomp names architectures by the same AUDIT_ARCH_* values.
  char* name = ::seccomp_syscall_resolve_num_arch(arch, number);
  if (name == nullptr) return fmt::format("number {}", number);
  std::string copy = name;
  std::free(name);
  return copy;
}

std::string ExitReport::describe(std::string_view role) const {
  std::string text = fmt::format("{} (pid {}) ", role, pid);
  const std::string where = registers ? fmt::format(" at {:#x}", registers->rip) : "";
  switch (kind) {
    case ExitKind::kClean: return text + "ended";
    case ExitKind::kExitCode: return text + fmt::format("ended with status {}", exit_code);
    case ExitKind::kSignal:
      text += fmt::format("was killed by {}", signal_name(signal)) + where;
      if (fault_address) text += fmt::format(", address {:#x}", *fault_address);
      return text;
    case ExitKind::kSeccompViolation: break;
  }
  text += "was killed by its sandbox: ";
  if (!syscall) return text + "system call unknown, nobody traced it";
  text += fmt::format("system call {} ({})", syscall_name(syscall_arch, *syscall), *syscall);
  if (syscall_arch != AUDIT_ARCH_X86_64) text += " of a foreign architecture";
  text += where;
  // abort() begins by unblocking SIGABRT, which no device process may do.
  if (*syscall == SYS_rt_sigprocmask && syscall_arch == AUDIT_ARCH_X86_64)
    text += " (what abort() does first: see its last log line)";
  return text;
}

}  // namespace bulkhead::sandbox
