// Forbidden: making, reaching or becoming other processes. And the ways to end, which are not forbidden.
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <thread>

#include "tests/sandbox/bad_programs/deeds.h"

namespace bulkhead::sandbox::probe {
namespace {

template <long number, long a = 0, long b = 0, long c = 0, long d = 0>
int call() {
  ::syscall(number, a, b, c, d);
  return kSurvived;
}

int fork_child() {
  [[maybe_unused]] const pid_t pid = ::fork();
  return kSurvived;
}

int start_thread() {
  std::thread([] {}).join();
  return kSurvived;
}

int exec_program() {
  char name[] = "/bin/true";
  char* const arguments[] = {name, nullptr};
  char* const environment[] = {nullptr};
  ::execve(name, arguments, environment);
  return kSurvived;
}

// Blocks as an idle device process does, until the other side closes the control socket.
int wait_for_control() {
  char byte = 0;
  iovec part{&byte, 1};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  for (;;) {
    const ssize_t got = ::recvmsg(kControl, &message, 0);
    if (got == 0) return 0;
    if (got > 0) part = {&byte, 1};
  }
}

int burn() {
  for (;;) asm volatile("");
}

int read_address_16() {
  asm volatile("movl 0x10, %%eax" : : : "rax");
  return kSurvived;
}

int trap() { __builtin_trap(); }

constexpr std::array kDeeds = {
    Deed{"clone", fork_child},
    Deed{"clone3", start_thread},
    Deed{"vfork", call<SYS_vfork>},
    Deed{"fork", call<SYS_fork>},
    Deed{"execve", exec_program},
    Deed{"execveat", call<SYS_execveat>},
    Deed{"kill", call<SYS_kill, 1, SIGKILL>},
    Deed{"tgkill", call<SYS_tgkill, 1, 1, SIGKILL>},
    Deed{"tkill", call<SYS_tkill, 1, SIGKILL>},
    Deed{"pidfd_open", call<SYS_pidfd_open, 1>},
    Deed{"pidfd_getfd", call<SYS_pidfd_getfd>},
    Deed{"ptrace", call<SYS_ptrace, PTRACE_TRACEME>},
    Deed{"process_vm_readv", call<SYS_process_vm_readv, 1>},
    Deed{"process_vm_writev", call<SYS_process_vm_writev, 1>},
    Deed{"setuid", call<SYS_setuid, 0>},
    Deed{"setsid", call<SYS_setsid>},
    Deed{"prctl", call<SYS_prctl, PR_SET_DUMPABLE, 1>},
    Deed{"prlimit64", call<SYS_prlimit64>},
    Deed{"setrlimit", call<SYS_setrlimit>},
    Deed{"rt_sigaction", call<SYS_rt_sigaction, SIGSEGV>},
    Deed{"rt_sigreturn", call<SYS_rt_sigreturn>},
    Deed{"clock_nanosleep", call<SYS_clock_nanosleep>},
    Deed{"abort",
         [] {
           std::abort();
           return kSurvived;
         }},
    Deed{"segv", read_address_16},
    Deed{"trap", trap},
    Deed{"exit-0", [] { return 0; }},
    Deed{"exit-7", [] { return 7; }},
    Deed{"wait", wait_for_control},
    Deed{"burn", burn},
};

}  // namespace

std::span<const Deed> process_deeds() { return kDeeds; }

}  // namespace bulkhead::sandbox::probe
