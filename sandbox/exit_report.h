// ExitReport: how a process ended, in a form that can be logged and decided on.
//
// The parent of a process that seccomp killed learns no more from wait(2) than "SIGSYS"; the system call is
// known only to a Tracer, which saw the registers at the exit stop. A report made without one says so.
//
// Trust: registers, and with them the system call's number, are the dead process's own: fit for a log line
// and for where its instruction pointer stood (DESIGN.md, section 4), never as an index. Threading: values.
// Errors: none.
#pragma once

#include <signal.h>
#include <sys/types.h>
#include <sys/user.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace bulkhead::sandbox {

enum class ExitKind : std::uint8_t {
  kClean,             // exit status 0
  kExitCode,          // another exit status
  kSignal,            // a signal, SIGKILL included
  kSeccompViolation,  // the filter: see `syscall`
};

struct ExitReport {
  pid_t pid = 0;
  ExitKind kind = ExitKind::kClean;
  int exit_code = 0;                           // kExitCode
  int signal = 0;                              // kSignal, kSeccompViolation
  std::optional<int> syscall;                  // kSeccompViolation, when a tracer saw it
  std::uint32_t syscall_arch = 0;              // AUDIT_ARCH_*, when `syscall` is there
  std::optional<std::uint64_t> fault_address;  // SIGSEGV, SIGBUS, SIGILL, SIGFPE, when a tracer saw it
  std::optional<user_regs_struct> registers;   // at the exit stop, when a tracer saw it
  bool held = false;                           // still at its exit stop: Tracer::release() lets it go

  // "platform (pid 42) was killed by its sandbox: system call openat (257) at 0x401234"
  [[nodiscard]] std::string describe(std::string_view role) const;
};

// From the status of waitpid(2), and from what waitid(2) filled in.
[[nodiscard]] ExitReport report_of_status(pid_t pid, int wait_status);
[[nodiscard]] ExitReport report_of_siginfo(const siginfo_t& info);

// "openat", or "number 1234" for one that has no name on that architecture (AUDIT_ARCH_*).
[[nodiscard]] std::string syscall_name(std::uint32_t arch, int number);

}  // namespace bulkhead::sandbox
