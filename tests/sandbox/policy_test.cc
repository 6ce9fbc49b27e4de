// What the policies say, asked of the compiled filters through the evaluator.
#include "sandbox/policy.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <linux/futex.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <set>

#include "sandbox/bpf_evaluator.h"
#include "sandbox/exit_report.h"
#include "sandbox/grants/any_syscall.h"
#include "sandbox/grants/kvm_ioctl.h"
#include "sandbox/policies.h"

namespace bulkhead::sandbox {
namespace {

using Arguments = std::array<std::uint64_t, 6>;
constexpr int kHighestSyscall = 600;

CompiledFilter compiled(const PolicyBuilder& policy) {
  Result<CompiledFilter> filter = policy.compile();
  if (!filter) ADD_FAILURE() << filter.error().message;
  return *filter;
}

std::uint32_t verdict(const CompiledFilter& filter, int number, const Arguments& arguments = {},
                      std::uint32_t arch = AUDIT_ARCH_X86_64) {
  return *evaluate(filter, SyscallAttempt{number, arguments, arch, 0});
}

bool allows(const CompiledFilter& filter, int number, const Arguments& arguments = {}) {
  return verdict(filter, number, arguments) == SECCOMP_RET_ALLOW;
}

Arguments mmap_arguments(int protection, int flags, int fd = -1) {
  return {0,
          4096,
          static_cast<std::uint64_t>(protection),
          static_cast<std::uint64_t>(flags),
          static_cast<std::uint64_t>(fd),
          0};
}

TEST(Builder, kills_the_process_for_everything_not_granted) {
  const CompiledFilter filter = compiled(PolicyBuilder().allow_read());
  for (int number = 0; number < kHighestSyscall; ++number)
    EXPECT_EQ(verdict(filter, number), number == SYS_read ? SECCOMP_RET_ALLOW : SECCOMP_RET_KILL_PROCESS) << number;
  EXPECT_EQ(verdict(filter, -1), SECCOMP_RET_KILL_PROCESS);
}

TEST(Builder, kills_the_process_for_other_architectures) {
  const CompiledFilter filter = compiled(PolicyBuilder().allow_read());
  for (const std::uint32_t arch : std::initializer_list<std::uint32_t>{AUDIT_ARCH_I386, AUDIT_ARCH_AARCH64, 0})
    EXPECT_EQ(verdict(filter, SYS_read, {}, arch), SECCOMP_RET_KILL_PROCESS);
  EXPECT_EQ(verdict(filter, 0x4000'0000 | SYS_read), SECCOMP_RET_KILL_PROCESS);  // x32
}

TEST(Builder, does_not_care_about_order_or_repetition) {
  const std::string once = *PolicyBuilder().allow_read().allow_write().allow_heap().text();
  const std::string again = *PolicyBuilder().allow_heap().allow_read().allow_write().allow_read().allow_heap().text();
  EXPECT_EQ(once, again);
}

TEST(Builder, lets_the_wider_grant_win_in_either_order) {
  for (const bool wide_first : {true, false}) {
    PolicyBuilder policy;
    if (wide_first) policy.allow_syscall(SYS_mmap, AnySyscallGrant{}).allow_syscall(SYS_ioctl, AnySyscallGrant{});
    policy.allow_heap().deny_terminal_query();
    if (!wide_first) policy.allow_syscall(SYS_mmap, AnySyscallGrant{}).allow_syscall(SYS_ioctl, AnySyscallGrant{});
    const CompiledFilter filter = compiled(policy);
    EXPECT_TRUE(allows(filter, SYS_mmap, mmap_arguments(PROT_EXEC, MAP_PRIVATE)));
    EXPECT_TRUE(allows(filter, SYS_ioctl, {0, TCGETS}));
  }
}

TEST(Builder, surfaces_an_invalid_rule) {
  const Result<CompiledFilter> filter = PolicyBuilder().allow_syscall(-300, AnySyscallGrant{}).compile();
  ASSERT_FALSE(filter);
  EXPECT_NE(filter.error().message.find("rule"), std::string::npos) << filter.error().message;
}

TEST(BasePolicy, is_at_most_20_calls) {
  const std::vector<std::string> calls = role_policy({}).syscalls();
  EXPECT_LE(calls.size(), 20U);
  EXPECT_GE(calls.size(), 10U);
}

// The whole list, so that an addition is a decision. Arguments are another matter: see below.
TEST(BasePolicy, is_this_list) {
  const std::vector<std::string> expected = {
      "brk",         "clock_gettime", "epoll_wait",      "exit_group", "futex",   "mmap",
      "munmap",      "poll",          "ppoll",           "read",       "recvmsg", "restart_syscall",
      "sched_yield", "sendmsg",       "timerfd_settime", "write",      "writev"};
  EXPECT_EQ(role_policy({}).syscalls(), expected);
}

TEST(BasePolicy, answers_constantly_what_is_hot) {
  // The kernel caches calls that are allowed whatever their arguments are, and then runs no filter.
  const CompiledFilter filter = compiled(role_policy({}));
  const Arguments odd = {~0ULL, ~0ULL, ~0ULL, ~0ULL, ~0ULL, ~0ULL};
  for (const int number : {SYS_read, SYS_write, SYS_epoll_wait, SYS_timerfd_settime}) {
    EXPECT_TRUE(allows(filter, number));
    EXPECT_TRUE(allows(filter, number, odd));
  }
}

TEST(BasePolicy, maps_private_anonymous_memory_without_exec_only) {
  const CompiledFilter filter = compiled(role_policy({}));
  constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS;
  EXPECT_TRUE(allows(filter, SYS_mmap, mmap_arguments(PROT_READ | PROT_WRITE, kAnonymous)));
  EXPECT_TRUE(allows(filter, SYS_mmap, mmap_arguments(PROT_NONE, kAnonymous)));
  EXPECT_FALSE(allows(filter, SYS_mmap, mmap_arguments(PROT_READ | PROT_EXEC, kAnonymous)));
  EXPECT_FALSE(allows(filter, SYS_mmap, mmap_arguments(PROT_READ | PROT_WRITE | PROT_EXEC, kAnonymous)));
  EXPECT_FALSE(allows(filter, SYS_mmap, mmap_arguments(PROT_READ, MAP_PRIVATE, 3)));
  EXPECT_FALSE(allows(filter, SYS_mmap, mmap_arguments(PROT_READ, MAP_SHARED, 3)));
  EXPECT_FALSE(allows(filter, SYS_mmap, mmap_arguments(PROT_READ, kAnonymous | MAP_FIXED)));
  EXPECT_FALSE(allows(filter, SYS_mmap, mmap_arguments(PROT_READ, kAnonymous | MAP_GROWSDOWN)));
}

TEST(BasePolicy, knows_two_futex_operations) {
  const CompiledFilter filter = compiled(role_policy({}));
  for (std::uint64_t operation = 0; operation < 1024; ++operation) {
    const std::uint64_t plain = operation & ~std::uint64_t{FUTEX_PRIVATE_FLAG};
    EXPECT_EQ(allows(filter, SYS_futex, {0, operation}), plain == FUTEX_WAIT || plain == FUTEX_WAKE) << operation;
  }
}

TEST(BasePolicy, sends_and_receives_on_the_control_socket_only) {
  const CompiledFilter filter = compiled(role_policy({}));
  for (const int number : {SYS_sendmsg, SYS_recvmsg}) {
    for (std::uint64_t fd = 0; fd < 256; ++fd)
      EXPECT_EQ(allows(filter, number, {fd}), fd == static_cast<std::uint64_t>(kControlFd)) << fd;
    // The kernel looks at the lower half alone.
    EXPECT_TRUE(allows(filter, number, {0xffff'ffff'0000'0003}));
    EXPECT_FALSE(allows(filter, number, {0x0000'0003'0000'0004}));
  }
}

TEST(BasePolicy, reads_fixed_clocks_only) {
  const CompiledFilter filter = compiled(role_policy({}));
  for (std::int64_t clock = -64; clock < 64; ++clock)
    EXPECT_EQ(allows(filter, SYS_clock_gettime, {static_cast<std::uint64_t>(clock)}), clock >= 0 && clock <= 7)
        << clock;
}

TEST(BasePolicy, answers_terminal_queries_with_enotty) {
  const CompiledFilter filter = compiled(role_policy({}));
  EXPECT_EQ(verdict(filter, SYS_ioctl, {1, TCGETS}), SECCOMP_RET_ERRNO | ENOTTY);
  EXPECT_EQ(verdict(filter, SYS_ioctl, {1, 0x802c542a}), SECCOMP_RET_ERRNO | ENOTTY);  // TCGETS2
  EXPECT_EQ(verdict(filter, SYS_ioctl, {1, TIOCSTI}), SECCOMP_RET_KILL_PROCESS);
}

TEST(Groups, add_what_they_say_and_nothing_else) {
  const std::vector<std::string> base = role_policy({}).syscalls();
  const auto added = [&](SyscallGroup group) {
    const std::vector<std::string> all = role_policy({group}).syscalls();
    std::vector<std::string> more;
    std::set_difference(all.begin(), all.end(), base.begin(), base.end(), std::back_inserter(more));
    return more;
  };
  using List = std::vector<std::string>;
  EXPECT_EQ(added(SyscallGroup::kFileIo), (List{"fallocate", "fdatasync", "pread64", "preadv", "pwrite64", "pwritev"}));
  EXPECT_EQ(added(SyscallGroup::kPacketIo), (List{"ioctl"}));
  EXPECT_EQ(added(SyscallGroup::kIoUring), (List{"io_uring_enter", "madvise"}));
  EXPECT_EQ(added(SyscallGroup::kTakeRole),
            (List{"close", "epoll_create1", "epoll_ctl", "fcntl", "fstat", "newfstatat", "seccomp", "timerfd_create"}));
}

TEST(Groups, user_network_has_internet_sockets_and_reads_files) {
  const CompiledFilter filter = compiled(role_policy({SyscallGroup::kUserNetwork}));
  for (std::uint64_t family = 0; family < 46; ++family) {
    const bool internet = family == AF_INET || family == AF_INET6;
    EXPECT_EQ(allows(filter, SYS_socket, {family, SOCK_STREAM | SOCK_CLOEXEC, 0}), internet) << family;
    EXPECT_EQ(allows(filter, SYS_socket, {family, SOCK_DGRAM, IPPROTO_ICMP}), internet) << family;
    EXPECT_EQ(verdict(filter, SYS_socket, {family, SOCK_RAW, IPPROTO_ICMP}),
              internet ? SECCOMP_RET_ERRNO | EPERM : SECCOMP_RET_KILL_PROCESS);
    EXPECT_FALSE(allows(filter, SYS_socket, {family, SOCK_PACKET, 0}));
  }
  for (const int flags : {O_RDONLY, O_RDONLY | O_CLOEXEC, O_RDONLY | O_DIRECTORY})
    EXPECT_TRUE(allows(filter, SYS_openat, {0, 0, static_cast<std::uint64_t>(flags)})) << flags;
  for (const int flags : {O_WRONLY, O_RDWR, O_RDONLY | O_CREAT, O_RDONLY | O_TRUNC, O_TMPFILE | O_RDWR})
    EXPECT_FALSE(allows(filter, SYS_openat, {0, 0, static_cast<std::uint64_t>(flags)})) << flags;
  EXPECT_TRUE(allows(filter, SYS_fcntl, {5, F_SETFL, O_RDWR | O_NONBLOCK}));
  EXPECT_FALSE(allows(filter, SYS_fcntl, {5, F_SETFL, O_RDWR})) << "a bell that blocks would hold up its peer";
  EXPECT_FALSE(allows(filter, SYS_ioctl, {5, FIONBIO})) << "it may say 0, where no filter looks";
  EXPECT_FALSE(allows(filter, SYS_ioctl, {5, SIOCSIFFLAGS}));
  for (const int number : {SYS_execve, SYS_fork, SYS_clone, SYS_unlink, SYS_ptrace, SYS_mount, SYS_setns})
    EXPECT_FALSE(allows(filter, number)) << number;
}

TEST(Groups, file_io_makes_holes_and_zeroes_and_nothing_longer) {
  const CompiledFilter filter = compiled(role_policy({SyscallGroup::kFileIo}));
  for (std::uint64_t mode = 0; mode < 0x80; ++mode) {
    const bool fine =
        mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) || mode == (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
    EXPECT_EQ(allows(filter, SYS_fallocate, {7, mode}), fine) << mode;
  }
}

TEST(Groups, release_ram_is_one_advice) {
  const CompiledFilter filter = compiled(role_policy({SyscallGroup::kReleaseRam}));
  for (std::uint64_t advice = 0; advice < 0x80; ++advice)
    EXPECT_EQ(allows(filter, SYS_madvise, {0x1000, 0x1000, advice}), advice == MADV_REMOVE) << advice;
  EXPECT_FALSE(allows(compiled(role_policy({})), SYS_madvise, {0x1000, 0x1000, MADV_REMOVE}));
}

TEST(Groups, socket_relay_takes_connections_and_makes_none) {
  const CompiledFilter filter = compiled(role_policy({SyscallGroup::kSocketRelay}));
  for (const int call : {SYS_accept4, SYS_recvmsg, SYS_shutdown, SYS_close, SYS_epoll_ctl})
    EXPECT_TRUE(allows(filter, call, {77, 1, 2})) << call;
  EXPECT_TRUE(allows(filter, SYS_sendto, {77, 0x1000, 5, MSG_NOSIGNAL | MSG_DONTWAIT, 0, 0}));
  EXPECT_FALSE(allows(filter, SYS_sendto, {77, 0x1000, 5, MSG_NOSIGNAL | MSG_DONTWAIT, 0x2000, 16})) << "an address";
  EXPECT_FALSE(allows(filter, SYS_sendto, {77, 0x1000, 5, 0, 0, 0}));
  for (const int call :
       {SYS_socket, SYS_socketpair, SYS_bind, SYS_connect, SYS_listen, SYS_setsockopt, SYS_epoll_create1})
    EXPECT_FALSE(allows(filter, call, {1, 1, 0})) << call;
  EXPECT_TRUE(allows(filter, SYS_sendmsg, {kControlFd, 0, 0}));
  EXPECT_FALSE(allows(filter, SYS_sendmsg, {77, 0, 0}));
}

TEST(Groups, io_uring_submits_and_fetches_and_lets_pages_go) {
  const CompiledFilter filter = compiled(role_policy({SyscallGroup::kIoUring}));
  for (std::uint64_t flags = 0; flags < 0x100; ++flags)
    EXPECT_EQ(allows(filter, SYS_io_uring_enter, {5, 1, 0, flags, 0}), flags <= IORING_ENTER_GETEVENTS) << flags;
  EXPECT_FALSE(allows(filter, SYS_io_uring_enter, {5, 1, 0, 0, 0x1000})) << "no signal mask";
  for (std::uint64_t advice = 0; advice < 30; ++advice)
    EXPECT_EQ(allows(filter, SYS_madvise, {0x1000, 0x1000, advice}), advice == MADV_DONTNEED) << advice;
}

TEST(Groups, packet_io_is_one_ioctl_that_takes_a_number_of_flags) {
  const CompiledFilter filter = compiled(role_policy({SyscallGroup::kPacketIo}));
  EXPECT_TRUE(allows(filter, SYS_ioctl, {5, TUNSETOFFLOAD}));
  EXPECT_TRUE(allows(filter, SYS_ioctl, {5, 0xdead'beef'0000'0000 | TUNSETOFFLOAD})) << "the kernel looks at 32 bits";
  constexpr std::uint64_t kOthers[] = {TUNSETIFF,       TUNSETPERSIST,      TUNSETOWNER,     TUNSETQUEUE,
                                       TUNATTACHFILTER, TUNSETSTEERINGEBPF, TUNSETVNETHDRSZ, TUNSETSNDBUF,
                                       TUNSETLINK,      TUNGETIFF,          TUNGETDEVNETNS,  SIOCGSKNS};
  for (const std::uint64_t request : kOthers) EXPECT_FALSE(allows(filter, SYS_ioctl, {5, request})) << request;
  EXPECT_EQ(verdict(filter, SYS_ioctl, {1, TCGETS}), SECCOMP_RET_ERRNO | ENOTTY);
  EXPECT_FALSE(allows(compiled(role_policy({})), SYS_ioctl, {5, TUNSETOFFLOAD}));
}

TEST(TakeRole, maps_passed_regions_without_exec) {
  const CompiledFilter filter = compiled(standby_policy({}));
  EXPECT_TRUE(allows(filter, SYS_mmap, mmap_arguments(PROT_READ | PROT_WRITE, MAP_SHARED, 7)));
  EXPECT_TRUE(allows(filter, SYS_mmap, mmap_arguments(PROT_READ, MAP_SHARED | MAP_FIXED, 7)));
  EXPECT_FALSE(allows(filter, SYS_mmap, mmap_arguments(PROT_READ | PROT_EXEC, MAP_SHARED, 7)));
  EXPECT_FALSE(allows(filter, SYS_mmap, mmap_arguments(PROT_READ, MAP_PRIVATE, 7)));
  EXPECT_FALSE(allows(filter, SYS_mmap, mmap_arguments(PROT_READ, MAP_SHARED_VALIDATE | MAP_SYNC, 7)));
}

TEST(TakeRole, loads_plain_filters_only) {
  const CompiledFilter filter = compiled(standby_policy({}));
  EXPECT_TRUE(allows(filter, SYS_seccomp, {SECCOMP_SET_MODE_FILTER, 0}));
  EXPECT_TRUE(allows(filter, SYS_seccomp, {SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC}));
  EXPECT_FALSE(allows(filter, SYS_seccomp, {SECCOMP_SET_MODE_STRICT, 0}));
  EXPECT_FALSE(allows(filter, SYS_seccomp, {SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER}));
  EXPECT_FALSE(allows(filter, SYS_seccomp, {SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW}));
}

TEST(TakeRole, inspects_descriptors_but_no_paths) {
  const CompiledFilter filter = compiled(standby_policy({}));
  EXPECT_TRUE(allows(filter, SYS_newfstatat, {7, 0, 0, AT_EMPTY_PATH}));
  EXPECT_FALSE(allows(filter, SYS_newfstatat, {7, 0, 0, 0}));
  EXPECT_TRUE(allows(filter, SYS_fcntl, {7, F_GET_SEALS}));
  EXPECT_FALSE(allows(filter, SYS_fcntl, {7, F_SETFL}));
  EXPECT_FALSE(allows(filter, SYS_fcntl, {7, F_DUPFD}));
}

// Filters add up: whatever a role may do, its standby filter must let too, or the role dies of stage 1.
TEST(StandbyPolicy, lets_whatever_the_role_may_do) {
  for (const SyscallGroups groups :
       {SyscallGroups{}, SyscallGroups{SyscallGroup::kFileIo}, SyscallGroups{SyscallGroup::kPacketIo},
        SyscallGroups{SyscallGroup::kIoUring, SyscallGroup::kFileIo}}) {
    const CompiledFilter role = compiled(role_policy(groups));
    const CompiledFilter standby = compiled(standby_policy(groups));
    for (int number = 0; number < kHighestSyscall; ++number) {
      for (const std::uint64_t value : {0ULL, 1ULL, 2ULL, 3ULL, 0x22ULL, 128ULL, 129ULL, ~0ULL}) {
        const Arguments arguments = {value, value, 3, 0x22, value, value};
        const Arguments same = {value, value, value, value, value, value};
        EXPECT_LE(allows(role, number, arguments), allows(standby, number, arguments)) << number;
        EXPECT_LE(allows(role, number, same), allows(standby, number, same)) << number;
      }
    }
  }
}

TEST(VcpuPolicy, restricts_ioctl_to_the_numbers_given) {
  constexpr std::array<std::uint32_t, 2> kIoctls = {KVM_RUN, KVM_GET_REGS};
  const CompiledFilter filter = compiled(vcpu_thread_policy(kIoctls));
  EXPECT_TRUE(allows(filter, SYS_ioctl, {9, KVM_RUN}));
  EXPECT_TRUE(allows(filter, SYS_ioctl, {9, KVM_GET_REGS}));
  EXPECT_FALSE(allows(filter, SYS_ioctl, {9, KVM_SET_REGS}));
  EXPECT_FALSE(allows(filter, SYS_ioctl, {9, KVM_CREATE_VM}));
  EXPECT_EQ(verdict(filter, SYS_ioctl, {1, TCGETS}), SECCOMP_RET_ERRNO | ENOTTY);
}

TEST(VcpuPolicy, opens_starts_and_executes_nothing) {
  const CompiledFilter filter = compiled(vcpu_thread_policy({}));
  for (const int number :
       {SYS_openat, SYS_open, SYS_socket, SYS_clone, SYS_clone3, SYS_execve, SYS_execveat, SYS_ptrace, SYS_kill,
        SYS_tgkill, SYS_sendmsg, SYS_recvmsg, SYS_mount, SYS_prctl, SYS_rt_sigaction})
    EXPECT_FALSE(allows(filter, number)) << number;
  EXPECT_FALSE(allows(filter, SYS_mmap, mmap_arguments(PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS)));
  EXPECT_FALSE(allows(filter, SYS_mprotect, {0, 4096, PROT_EXEC}));
  EXPECT_FALSE(allows(filter, SYS_mmap, mmap_arguments(PROT_READ, MAP_SHARED, 3)));
}

}  // namespace
}  // namespace bulkhead::sandbox
