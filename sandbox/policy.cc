#include "sandbox/policy.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <linux/futex.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <set>

#include "sandbox/exit_report.h"
#include "sandbox/grants/any_syscall.h"
#include "sandbox/grants/kvm_ioctl.h"
#include "sandbox/grants/load_filter.h"

namespace bulkhead::sandbox {
namespace {

// An `int` argument fills the low half of its register and leaves the upper half undefined, which the
// kernel ignores: so does the filter.
constexpr std::uint64_t kInt = 0xffff'ffff;
constexpr std::uint64_t kLong = ~std::uint64_t{0};

// TCGETS2 of x86-64 (asm-generic/ioctls.h); glibc's headers lack it beside <termios.h>.
constexpr std::uint32_t kTcgets2 = 0x802c542a;

constexpr std::uint64_t bits(int value) { return static_cast<std::uint32_t>(value); }

// What seccomp_export_* writes, as bytes.
Result<std::string> exported(const void* context, int (*write)(const scmp_filter_ctx, int)) {
  UniqueFd fd(::memfd_create("bulkhead-policy", MFD_CLOEXEC));
  if (!fd.valid()) return make_errno_error("cannot create a memory file for a policy");
  if (const int error = write(const_cast<void*>(context), fd.get()); error != 0)
    return make_errno_error("cannot compile a system-call policy", -error);
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return make_errno_error("cannot inspect a compiled policy");
  std::string bytes(static_cast<std::size_t>(status.st_size), '\0');
  if (::pread(fd.get(), bytes.data(), bytes.size(), 0) != status.st_size)
    return make_error("cannot read a compiled policy back");
  return {boost::system::in_place_value, std::move(bytes)};
}

}  // namespace

PolicyBuilder& PolicyBuilder::add(int number, std::vector<Condition> conditions, std::optional<int> error) {
  Rule rule{number, error, std::move(conditions)};
  if (std::find(rules_.begin(), rules_.end(), rule) == rules_.end()) rules_.push_back(std::move(rule));
  return *this;
}

// --- The event loop
// -----------------------------------------------------------------------------------------

PolicyBuilder& PolicyBuilder::allow_read() { return add(SYS_read); }
PolicyBuilder& PolicyBuilder::allow_write() { return add(SYS_write).add(SYS_writev); }
PolicyBuilder& PolicyBuilder::allow_event_wait() { return add(SYS_epoll_wait); }
PolicyBuilder& PolicyBuilder::allow_event_setup() {
  return add(SYS_epoll_create1).add(SYS_epoll_ctl).add(SYS_timerfd_create);
}

PolicyBuilder& PolicyBuilder::allow_futex_wait_wake() {
  constexpr std::uint64_t kOperation = kInt & ~bits(FUTEX_PRIVATE_FLAG);
  return add(SYS_futex, {{1, kOperation, FUTEX_WAIT}}).add(SYS_futex, {{1, kOperation, FUTEX_WAKE}});
}

PolicyBuilder& PolicyBuilder::allow_futex_bitset() {
  constexpr std::uint64_t kOperation = kInt & ~bits(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);
  return add(SYS_futex, {{1, kOperation, FUTEX_WAIT_BITSET}}).add(SYS_futex, {{1, kOperation, FUTEX_WAKE_BITSET}});
}

PolicyBuilder& PolicyBuilder::allow_clock_read() {
  // CLOCK_REALTIME (0) to CLOCK_BOOTTIME (7). Negative numbers are other processes' clocks and clock
  // devices.
  return add(SYS_clock_gettime, {{0, kInt & ~std::uint64_t{7}, 0}});
}

PolicyBuilder& PolicyBuilder::allow_timer_set() { return add(SYS_timerfd_settime); }
PolicyBuilder& PolicyBuilder::allow_yield() { return add(SYS_sched_yield); }
PolicyBuilder& PolicyBuilder::allow_restart() { return add(SYS_restart_syscall); }
PolicyBuilder& PolicyBuilder::allow_poll() { return add(SYS_poll).add(SYS_ppoll); }

// --- Memory
// -------------------------------------------------------------------------------------------------

namespace {
constexpr std::uint64_t kNotReadWrite = kLong & ~bits(PROT_READ | PROT_WRITE);
}  // namespace

PolicyBuilder& PolicyBuilder::allow_heap() {
  return add(SYS_brk)
      .add(SYS_munmap)
      .add(SYS_mmap, {{2, kNotReadWrite, 0}, {3, kLong, bits(MAP_PRIVATE | MAP_ANONYMOUS)}});
}

PolicyBuilder& PolicyBuilder::allow_thread_heap() {
  constexpr std::uint64_t kOptional = bits(MAP_NORESERVE | MAP_STACK);
  return add(SYS_mprotect, {{2, kNotReadWrite, 0}})
      .add(SYS_madvise, {{2, kInt, MADV_DONTNEED}})
      .add(SYS_mremap)
      .add(SYS_mmap, {{2, kNotReadWrite, 0}, {3, kLong & ~kOptional, bits(MAP_PRIVATE | MAP_ANONYMOUS)}});
}

PolicyBuilder& PolicyBuilder::allow_shared_mapping() {
  constexpr std::uint64_t kOptional = bits(MAP_FIXED | MAP_POPULATE | MAP_NORESERVE);
  return add(SYS_mmap, {{2, kNotReadWrite, 0}, {3, kLong & ~kOptional, bits(MAP_SHARED)}})
      .add(SYS_mmap, {{2, kLong, PROT_NONE}, {3, kLong, bits(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)}});
}

// --- Descriptors
// --------------------------------------------------------------------------------------------

PolicyBuilder& PolicyBuilder::allow_messages_on(int fd) {
  return add(SYS_sendmsg, {{0, kInt, bits(fd)}}).add(SYS_recvmsg, {{0, kInt, bits(fd)}});
}

PolicyBuilder& PolicyBuilder::allow_close() { return add(SYS_close); }

PolicyBuilder& PolicyBuilder::allow_region_inspection() {
  // glibc's fstat is newfstatat with AT_EMPTY_PATH up to 2.38, and fstat after that.
  return add(SYS_fstat).add(SYS_newfstatat, {{3, kInt, AT_EMPTY_PATH}}).add(SYS_fcntl, {{1, kInt, F_GET_SEALS}});
}

PolicyBuilder& PolicyBuilder::allow_file_io() {
  return add(SYS_pread64)
      .add(SYS_pwrite64)
      .add(SYS_preadv)
      .add(SYS_pwritev)
      .add(SYS_fdatasync)
      .add(SYS_fallocate, {{1, kInt, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE}})
      .add(SYS_fallocate, {{1, kInt, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE}});
}

PolicyBuilder& PolicyBuilder::allow_tap_offloads() { return add(SYS_ioctl, {{1, kInt, TUNSETOFFLOAD}}); }
PolicyBuilder& PolicyBuilder::allow_socket_relay() {
  return add(SYS_accept4)
      .add(SYS_recvmsg)
      .add(SYS_sendto, {{3, kInt, MSG_NOSIGNAL | MSG_DONTWAIT}, {4, kLong, 0}})
      .add(SYS_shutdown)
      .add(SYS_close)
      .add(SYS_epoll_ctl);
}
PolicyBuilder& PolicyBuilder::allow_release_of_pages() { return add(SYS_madvise, {{2, kInt, MADV_REMOVE}}); }
PolicyBuilder& PolicyBuilder::allow_io_uring_enter() {
  return add(SYS_io_uring_enter, {{3, kInt & ~std::uint64_t{IORING_ENTER_GETEVENTS}, 0}, {4, kLong, 0}});
}
PolicyBuilder& PolicyBuilder::allow_page_release() { return add(SYS_madvise, {{2, kInt, MADV_DONTNEED}}); }

PolicyBuilder& PolicyBuilder::allow_user_network() {
  constexpr std::uint64_t kType = kInt & ~bits(SOCK_CLOEXEC | SOCK_NONBLOCK);
  for (const int family : {AF_INET, AF_INET6}) {
    add(SYS_socket, {{0, kInt, bits(family)}, {1, kType, SOCK_STREAM}});
    add(SYS_socket, {{0, kInt, bits(family)}, {1, kType, SOCK_DGRAM}});
    add(SYS_socket, {{0, kInt, bits(family)}, {1, kType, SOCK_RAW}}, EPERM);
  }
  for (const int call :
       {SYS_bind, SYS_listen, SYS_accept, SYS_accept4, SYS_connect, SYS_shutdown, SYS_getsockname, SYS_getpeername,
        SYS_getsockopt, SYS_setsockopt, SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_close, SYS_epoll_ctl})
    add(call);
  // Descriptors that nothing shared waits on: non-blocking is a way that leads nowhere else, blocking is not to be had.
  add(SYS_fcntl, {{1, kInt, F_GETFL}}).add(SYS_fcntl, {{1, kInt, F_SETFL}, {2, bits(O_NONBLOCK), O_NONBLOCK}});
  add(SYS_fcntl, {{1, kInt, F_GETFD}}).add(SYS_fcntl, {{1, kInt, F_SETFD}});
  add(SYS_ioctl, {{1, kInt, FIONREAD}});  // not FIONBIO, whose argument no filter sees
  add(SYS_openat, {{2, bits(O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND) | (O_TMPFILE & ~O_DIRECTORY), O_RDONLY}});
  add(SYS_newfstatat).add(SYS_fstat).add(SYS_lseek);
  // How a random number generator is seeded.
  return add(SYS_getrandom).add(SYS_getpid).add(SYS_getppid);
}

PolicyBuilder& PolicyBuilder::deny_terminal_query() {
  return add(SYS_ioctl, {{1, kInt, TCGETS}}, ENOTTY).add(SYS_ioctl, {{1, kInt, kTcgets2}}, ENOTTY);
}

// --- Signals and the end
// ------------------------------------------------------------------------------------

PolicyBuilder& PolicyBuilder::allow_exit() { return add(SYS_exit_group); }
PolicyBuilder& PolicyBuilder::allow_thread_exit() { return add(SYS_exit); }
PolicyBuilder& PolicyBuilder::allow_signal_return() { return add(SYS_rt_sigreturn).add(SYS_rt_sigprocmask); }

PolicyBuilder& PolicyBuilder::allow_thread_kick(pid_t process, int signal) {
  return add(SYS_tgkill, {{0, kInt, bits(process)}, {2, kInt, bits(signal)}});
}

PolicyBuilder& PolicyBuilder::allow_sanitizer_runtime() {
  constexpr std::uint64_t kOptional = bits(MAP_FIXED | MAP_NORESERVE | MAP_STACK);
  return add(SYS_mmap, {{2, kNotReadWrite, 0}, {3, kLong & ~kOptional, bits(MAP_PRIVATE | MAP_ANONYMOUS)}})
      .add(SYS_mprotect, {{2, kNotReadWrite, 0}})
      .add(SYS_madvise)
      .add(SYS_mremap)
      .add(SYS_pipe2)  // how they find out whether memory may be read
      .add(SYS_close)
      .add(SYS_getpid)
      .add(SYS_gettid)
      .add(SYS_sigaltstack)
      .add(SYS_rt_sigprocmask);
}

// --- Grants that need a token
// -------------------------------------------------------------------------------

PolicyBuilder& PolicyBuilder::allow(LoadFilterGrant) {
  constexpr std::uint64_t kFlags = kLong & ~std::uint64_t{SECCOMP_FILTER_FLAG_TSYNC};
  return add(SYS_seccomp, {{0, kInt, SECCOMP_SET_MODE_FILTER}, {1, kFlags, 0}});
}

PolicyBuilder& PolicyBuilder::allow_ioctls(std::span<const std::uint32_t> requests, KvmIoctlGrant) {
  for (const std::uint32_t request : requests) add(SYS_ioctl, {{1, kInt, request}});
  return *this;
}

PolicyBuilder& PolicyBuilder::allow_syscall(int number, AnySyscallGrant) { return add(number); }

// --- Compilation
// --------------------------------------------------------------------------------------------

Result<PolicyBuilder::Context> PolicyBuilder::make_context() const {
  Context context(::seccomp_init(SCMP_ACT_KILL_PROCESS), [](void* filter) { ::seccomp_release(filter); });
  if (context == nullptr) return make_error("libseccomp cannot start a policy");
  if (const int error = ::seccomp_attr_set(context.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS); error != 0)
    return make_errno_error("libseccomp cannot forbid foreign architectures", -error);

  std::set<int> unconditional;
  for (const Rule& rule : rules_) {
    if (rule.conditions.empty() && !rule.error) unconditional.insert(rule.number);
  }
  for (const Rule& rule : rules_) {
    if (unconditional.contains(rule.number) && (rule.error || !rule.conditions.empty())) continue;
    std::vector<scmp_arg_cmp> comparisons;
    for (const Condition& condition : rule.conditions)
      comparisons.push_back(scmp_arg_cmp{condition.argument, SCMP_CMP_MASKED_EQ, condition.mask, condition.value});
    const std::uint32_t action = rule.error ? SCMP_ACT_ERRNO(static_cast<std::uint16_t>(*rule.error)) : SCMP_ACT_ALLOW;
    const int error = ::seccomp_rule_add_exact_array(context.get(), action, rule.number,
                                                     static_cast<unsigned>(comparisons.size()), comparisons.data());
    if (error != 0)
      return make_errno_error(
          fmt::format("the policy's rule for {} is invalid", syscall_name(SCMP_ARCH_X86_64, rule.number)), -error);
  }
  return context;
}

Result<CompiledFilter> PolicyBuilder::compile() const {
  ASSIGN_OR_RETURN(const Context context, make_context());
  ASSIGN_OR_RETURN(const std::string bytes, exported(context.get(), &::seccomp_export_bpf));
  std::vector<sock_filter> program(bytes.size() / sizeof(sock_filter));
  std::copy_n(bytes.data(), program.size() * sizeof(sock_filter), reinterpret_cast<char*>(program.data()));
  return CompiledFilter::from_program(std::move(program));
}

Result<std::string> PolicyBuilder::text() const {
  ASSIGN_OR_RETURN(const Context context, make_context());
  return exported(context.get(), &::seccomp_export_pfc);
}

std::vector<std::string> PolicyBuilder::syscalls() const {
  std::set<std::string> names;
  for (const Rule& rule : rules_) {
    if (!rule.error) names.insert(syscall_name(SCMP_ARCH_X86_64, rule.number));
  }
  return {names.begin(), names.end()};
}

}  // namespace bulkhead::sandbox
