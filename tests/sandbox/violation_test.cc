// What a running role, and a standby, die of: each forbidden system call must kill the process, and the
// report must name that very call.
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <seccomp.h>
#include <sys/syscall.h>

#include "tests/sandbox/probe.h"

namespace bulkhead::sandbox {
namespace {

using testing::Probe;

struct Forbidden {
  const char* deed;
  const char* syscall;  // as the report names it
};

// Test names may hold letters, digits and underscores alone.
std::string name_of(const ::testing::TestParamInfo<Forbidden>& info) {
  std::string name = info.param.deed;
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
}

void expect_killed(const Forbidden& forbidden, const std::string& stage) {
  Probe probe(forbidden.deed, stage);
  ASSERT_TRUE(probe.ready()) << probe.output();
  const ExitReport report = probe.end();
  EXPECT_EQ(report.kind, ExitKind::kSeccompViolation) << report.describe("probe") << probe.output();
  ASSERT_TRUE(report.syscall.has_value());
  EXPECT_EQ(syscall_name(report.syscall_arch, *report.syscall), forbidden.syscall) << report.describe("probe");
  EXPECT_TRUE(report.held);
  ASSERT_TRUE(report.registers.has_value());
  EXPECT_NE(report.registers->rip, 0U);
}

class ForbiddenToAll : public ::testing::TestWithParam<Forbidden> {};

TEST_P(ForbiddenToAll, kills_a_role) { expect_killed(GetParam(), "role"); }
TEST_P(ForbiddenToAll, kills_a_standby) { expect_killed(GetParam(), "standby"); }

INSTANTIATE_TEST_SUITE_P(
    Deeds, ForbiddenToAll,
    ::testing::Values(Forbidden{"openat", "openat"}, Forbidden{"open", "open"}, Forbidden{"openat2", "openat2"},
                      Forbidden{"creat", "creat"}, Forbidden{"readlink", "readlink"}, Forbidden{"unlink", "unlink"},
                      Forbidden{"newfstatat", "newfstatat"}, Forbidden{"mkdir", "mkdir"}, Forbidden{"chmod", "chmod"},
                      Forbidden{"getdents64", "getdents64"}, Forbidden{"chdir", "chdir"},
                      Forbidden{"ftruncate", "ftruncate"}, Forbidden{"fallocate", "fallocate"},
                      Forbidden{"dup2", "dup2"}, Forbidden{"fcntl", "fcntl"}, Forbidden{"ioctl", "ioctl"},
                      Forbidden{"socket", "socket"}, Forbidden{"socketpair", "socketpair"},
                      Forbidden{"connect", "connect"}, Forbidden{"bind", "bind"}, Forbidden{"sendto", "sendto"},
                      Forbidden{"sendmsg", "sendmsg"}, Forbidden{"sendmsg-disguised", "sendmsg"},
                      Forbidden{"recvmsg", "recvmsg"}, Forbidden{"memfd_create", "memfd_create"},
                      Forbidden{"shmget", "shmget"}, Forbidden{"sendfile", "sendfile"}, Forbidden{"splice", "splice"}),
    name_of);

INSTANTIATE_TEST_SUITE_P(
    Processes, ForbiddenToAll,
    ::testing::Values(Forbidden{"clone", "clone"}, Forbidden{"fork", "fork"}, Forbidden{"vfork", "vfork"},
                      Forbidden{"execve", "execve"}, Forbidden{"execveat", "execveat"}, Forbidden{"kill", "kill"},
                      Forbidden{"tgkill", "tgkill"}, Forbidden{"tkill", "tkill"}, Forbidden{"pidfd_open", "pidfd_open"},
                      Forbidden{"pidfd_getfd", "pidfd_getfd"}, Forbidden{"ptrace", "ptrace"},
                      Forbidden{"process_vm_readv", "process_vm_readv"},
                      Forbidden{"process_vm_writev", "process_vm_writev"}, Forbidden{"setuid", "setuid"},
                      Forbidden{"setsid", "setsid"}, Forbidden{"prctl", "prctl"}, Forbidden{"prlimit64", "prlimit64"},
                      Forbidden{"setrlimit", "setrlimit"}, Forbidden{"rt_sigaction", "rt_sigaction"},
                      Forbidden{"rt_sigreturn", "rt_sigreturn"}, Forbidden{"clock_nanosleep", "clock_nanosleep"}),
    name_of);

INSTANTIATE_TEST_SUITE_P(Memory, ForbiddenToAll,
                         ::testing::Values(Forbidden{"mmap-exec", "mmap"}, Forbidden{"mmap-write-exec", "mmap"},
                                           Forbidden{"mmap-region-exec", "mmap"},
                                           Forbidden{"mmap-private-file", "mmap"}, Forbidden{"mprotect", "mprotect"},
                                           Forbidden{"pkey_mprotect", "pkey_mprotect"}, Forbidden{"mlock", "mlock"},
                                           Forbidden{"remap_file_pages", "remap_file_pages"},
                                           Forbidden{"userfaultfd", "userfaultfd"}),
                         name_of);

INSTANTIATE_TEST_SUITE_P(
    Kernel, ForbiddenToAll,
    ::testing::Values(
        Forbidden{"mount", "mount"}, Forbidden{"umount2", "umount2"}, Forbidden{"pivot_root", "pivot_root"},
        Forbidden{"chroot", "chroot"}, Forbidden{"fsopen", "fsopen"}, Forbidden{"unshare", "unshare"},
        Forbidden{"setns", "setns"}, Forbidden{"personality", "personality"}, Forbidden{"bpf", "bpf"},
        Forbidden{"perf_event_open", "perf_event_open"}, Forbidden{"keyctl", "keyctl"}, Forbidden{"add_key", "add_key"},
        Forbidden{"io_uring_setup", "io_uring_setup"}, Forbidden{"io_uring_enter", "io_uring_enter"},
        Forbidden{"io_uring_register", "io_uring_register"}, Forbidden{"seccomp-strict", "seccomp"},
        Forbidden{"seccomp-listener", "seccomp"}, Forbidden{"capset", "capset"}, Forbidden{"reboot", "reboot"},
        Forbidden{"init_module", "init_module"}, Forbidden{"iopl", "iopl"}, Forbidden{"modify_ldt", "modify_ldt"},
        Forbidden{"arch_prctl", "arch_prctl"}, Forbidden{"uname", "uname"}, Forbidden{"futex-requeue", "futex"},
        Forbidden{"futex-lock-pi", "futex"}, Forbidden{"set_robust_list", "set_robust_list"},
        Forbidden{"unknown", "number 999"}, Forbidden{"minus-one", "number -1"}),
    name_of);

// The sanitizers' runtimes need these.
class ForbiddenButForSanitizers : public ForbiddenToAll {
 protected:
  void SetUp() override {
    if (testing::kSanitized) GTEST_SKIP();
  }
};

TEST_P(ForbiddenButForSanitizers, kills_a_role) { expect_killed(GetParam(), "role"); }

INSTANTIATE_TEST_SUITE_P(Deeds, ForbiddenButForSanitizers,
                         ::testing::Values(Forbidden{"mremap", "mremap"}, Forbidden{"madvise", "madvise"},
                                           Forbidden{"mmap-fixed", "mmap"}, Forbidden{"close", "close"}),
                         name_of);

// Stage 1 lets these, so that a standby can become a role; stage 2 does not.
class ForbiddenToRoles : public ::testing::TestWithParam<Forbidden> {};

TEST_P(ForbiddenToRoles, kills_a_role) { expect_killed(GetParam(), "role"); }
TEST_P(ForbiddenToRoles, is_let_to_a_standby) {
  Probe probe(GetParam().deed, "standby");
  ASSERT_TRUE(probe.ready()) << probe.output();
  const ExitReport report = probe.end();
  EXPECT_EQ(report.kind, ExitKind::kExitCode) << report.describe("probe");
  EXPECT_EQ(report.exit_code, probe::kSurvived);
}

INSTANTIATE_TEST_SUITE_P(Deeds, ForbiddenToRoles,
                         ::testing::Values(Forbidden{"seccomp", "seccomp"}, Forbidden{"epoll_ctl", "epoll_ctl"},
                                           Forbidden{"mmap-region", "mmap"},
                                           Forbidden{"timerfd_create", "timerfd_create"}),
                         name_of);

TEST(ForeignAbi, x32_call_kills_the_process) {
  Probe probe("x32", "role");
  ASSERT_TRUE(probe.ready());
  const ExitReport report = probe.end();
  EXPECT_EQ(report.kind, ExitKind::kSeccompViolation) << report.describe("probe");
  EXPECT_EQ(report.syscall, 0x4000'0000 | SYS_write);
  EXPECT_EQ(probe.output().find("x32"), std::string::npos);
}

TEST(ForeignAbi, int80_call_kills_the_process_and_names_the_32_bit_call) {
  Probe probe("int80", "role");
  ASSERT_TRUE(probe.ready());
  const ExitReport report = probe.end();
  if (report.kind == ExitKind::kSignal && report.signal == SIGSEGV) GTEST_SKIP() << "no 32-bit calls on this host";
  EXPECT_EQ(report.kind, ExitKind::kSeccompViolation) << report.describe("probe");
  EXPECT_EQ(report.syscall_arch, static_cast<std::uint32_t>(AUDIT_ARCH_I386));
  EXPECT_NE(report.describe("platform").find("getpid (20) of a foreign architecture"), std::string::npos)
      << report.describe("platform");
}

TEST(Abort, is_reported_as_what_it_is) {
  if (testing::kSanitized) GTEST_SKIP() << "lets rt_sigprocmask";
  Probe probe("abort", "role");
  ASSERT_TRUE(probe.ready());
  const ExitReport report = probe.end();
  EXPECT_EQ(report.kind, ExitKind::kSeccompViolation);
  EXPECT_NE(report.describe("platform").find("abort()"), std::string::npos) << report.describe("platform");
}

}  // namespace
}  // namespace bulkhead::sandbox
