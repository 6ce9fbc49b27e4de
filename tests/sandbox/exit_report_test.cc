#include "sandbox/exit_report.h"

#include <gtest/gtest.h>
#include <linux/audit.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace bulkhead::sandbox {
namespace {

TEST(ExitReport, tells_clean_from_other_exit_codes) {
  EXPECT_EQ(report_of_status(5, 0).kind, ExitKind::kClean);
  const ExitReport report = report_of_status(5, 7 << 8);
  EXPECT_EQ(report.kind, ExitKind::kExitCode);
  EXPECT_EQ(report.exit_code, 7);
  EXPECT_EQ(report.describe("pci"), "pci (pid 5) ended with status 7");
}

TEST(ExitReport, names_signals) {
  EXPECT_EQ(report_of_status(5, SIGSEGV).describe("pci"), "pci (pid 5) was killed by SIGSEGV");
  EXPECT_EQ(report_of_status(5, SIGKILL | 0x80).describe("pci"), "pci (pid 5) was killed by SIGKILL");
}

TEST(ExitReport, takes_sigsys_for_a_violation_of_an_unknown_call) {
  const ExitReport report = report_of_status(5, SIGSYS);
  EXPECT_EQ(report.kind, ExitKind::kSeccompViolation);
  EXPECT_FALSE(report.syscall);
  EXPECT_EQ(report.describe("pci"), "pci (pid 5) was killed by its sandbox: system call unknown, nobody traced it");
}

TEST(ExitReport, names_the_system_call) {
  ExitReport report = report_of_status(5, SIGSYS);
  report.syscall = SYS_openat;
  report.syscall_arch = AUDIT_ARCH_X86_64;
  report.registers.emplace();
  report.registers->rip = 0x401234;
  EXPECT_EQ(report.describe("platform"),
            "platform (pid 5) was killed by its sandbox: system call openat (257) at 0x401234");
}

TEST(ExitReport, tells_where_a_fault_was) {
  ExitReport report = report_of_status(5, SIGSEGV);
  report.fault_address = 0x10;
  report.registers.emplace();
  report.registers->rip = 0x401234;
  EXPECT_EQ(report.describe("pci"), "pci (pid 5) was killed by SIGSEGV at 0x401234, address 0x10");
}

TEST(ExitReport, reads_what_waitid_says) {
  siginfo_t info{};
  info.si_pid = 9;
  info.si_code = CLD_EXITED;
  info.si_status = 3;
  EXPECT_EQ(report_of_siginfo(info).exit_code, 3);
  info.si_code = CLD_KILLED;
  info.si_status = SIGTERM;
  EXPECT_EQ(report_of_siginfo(info).signal, SIGTERM);
  info.si_code = CLD_DUMPED;
  info.si_status = SIGSYS;
  EXPECT_EQ(report_of_siginfo(info).kind, ExitKind::kSeccompViolation);
}

TEST(SyscallName, depends_on_the_architecture) {
  EXPECT_EQ(syscall_name(AUDIT_ARCH_X86_64, 20), "writev");
  EXPECT_EQ(syscall_name(AUDIT_ARCH_I386, 20), "getpid");
  EXPECT_EQ(syscall_name(AUDIT_ARCH_X86_64, 9999), "number 9999");
}

}  // namespace
}  // namespace bulkhead::sandbox
