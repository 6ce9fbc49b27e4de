// Forbidden: the kernel's wide and dangerous parts, and other ways into it.
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

#include "tests/sandbox/bad_programs/deeds.h"

namespace bulkhead::sandbox::probe {
namespace {

template <long number, long a = 0, long b = 0, long c = 0, long d = 0>
int call() {
  ::syscall(number, a, b, c, d);
  return kSurvived;
}

// write(2) as the x32 ABI numbers it.
int x32_write() {
  ::syscall(0x4000'0000 | SYS_write, 2, "x32\n", 4);
  return kSurvived;
}

// getpid(2) as 32-bit programs call it.
int int80() {
  long result = 20;
  asm volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9", "r10", "r11");
  return kSurvived;
}

constexpr std::array kDeeds = {
    Deed{"mount", call<SYS_mount>},
    Deed{"umount2", call<SYS_umount2>},
    Deed{"pivot_root", call<SYS_pivot_root>},
    Deed{"chroot", call<SYS_chroot>},
    Deed{"fsopen", call<SYS_fsopen>},
    Deed{"unshare", call<SYS_unshare, 0x10000000>},
    Deed{"setns", call<SYS_setns>},
    Deed{"personality", call<SYS_personality, 0xffffffff>},
    Deed{"bpf", call<SYS_bpf>},
    Deed{"perf_event_open", call<SYS_perf_event_open>},
    Deed{"keyctl", call<SYS_keyctl>},
    Deed{"add_key", call<SYS_add_key>},
    Deed{"io_uring_setup", call<SYS_io_uring_setup, 1>},
    Deed{"io_uring_enter", call<SYS_io_uring_enter>},
    Deed{"io_uring_register", call<SYS_io_uring_register>},
    Deed{"seccomp", call<SYS_seccomp, SECCOMP_SET_MODE_FILTER>},  // allowed before the role runs
    Deed{"seccomp-strict", call<SYS_seccomp, SECCOMP_SET_MODE_STRICT>},
    Deed{"seccomp-listener", call<SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER>},
    Deed{"capset", call<SYS_capset>},
    Deed{"reboot", call<SYS_reboot>},
    Deed{"init_module", call<SYS_init_module>},
    Deed{"iopl", call<SYS_iopl, 3>},
    Deed{"modify_ldt", call<SYS_modify_ldt>},
    Deed{"arch_prctl", call<SYS_arch_prctl>},
    Deed{"uname", call<SYS_uname>},
    Deed{"futex-requeue", call<SYS_futex, 0, FUTEX_CMP_REQUEUE>},
    Deed{"futex-lock-pi", call<SYS_futex, 0, FUTEX_LOCK_PI>},
    Deed{"set_robust_list", call<SYS_set_robust_list>},
    Deed{"epoll_ctl", call<SYS_epoll_ctl, kEpoll>},       // allowed before the role runs
    Deed{"close", call<SYS_close, kRegion>},              // allowed before the role runs
    Deed{"timerfd_create", call<SYS_timerfd_create, 1>},  // allowed before the role runs
    Deed{"x32", x32_write},
    Deed{"int80", int80},
    Deed{"unknown", call<999>},
    Deed{"minus-one", call<-1>},
};

}  // namespace

std::span<const Deed> kernel_deeds() { return kDeeds; }

}  // namespace bulkhead::sandbox::probe
