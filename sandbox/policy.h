// PolicyBuilder: a system-call allow-list said in intentions, compiled by libseccomp.
//
// Everything not granted kills the process (SECCOMP_RET_KILL_PROCESS), and so do 32-bit and x32 calls. Each
// grant's comment says what it permits and, where that may surprise, what it does not. Grants that would
// open a jail take a token from sandbox/grants/, so that a review finds every use by its #include. Grants
// commute and may repeat. A wider grant of the same call wins over a narrower one.
//
// Trust: built from constants of this project. Threading: a value; not shared while it is built.
// Errors: kept in the builder and surfaced by compile() and text().
// Sources: seccomp(2), libseccomp's seccomp_rule_add(3). Shape after sandboxed-api's
// sandbox2/policybuilder.h.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ipc/base/result.h"
#include "sandbox/filter.h"

namespace bulkhead::sandbox {

struct LoadFilterGrant;  // sandbox/grants/load_filter.h
struct KvmIoctlGrant;    // sandbox/grants/kvm_ioctl.h
struct AnySyscallGrant;  // sandbox/grants/any_syscall.h

class PolicyBuilder {
 public:
  // --- The event loop
  // ------------------------------------------------------------------------------------- read. On any
  // descriptor held: which ones is decided by who hands them out. Unconditional, so that the kernel's
  // bitmap answers without running the filter (it is on the path of every kick and timer).
  PolicyBuilder& allow_read();
  // write and writev, likewise (irqfd, log; writev is how libc says its last words).
  PolicyBuilder& allow_write();
  // epoll_wait. Not epoll_pwait (signal masks), not epoll_create or epoll_ctl.
  PolicyBuilder& allow_event_wait();
  // epoll_create1, epoll_ctl and timerfd_create: building an event loop.
  PolicyBuilder& allow_event_setup();
  // futex WAIT and WAKE, shared or private. No requeue, no PI, no robust lists.
  PolicyBuilder& allow_futex_wait_wake();
  // futex WAIT_BITSET, WAKE_BITSET (condition variables, timed waits) as well.
  PolicyBuilder& allow_futex_bitset();
  // clock_gettime of the fixed clocks, for hosts whose clock source has no vDSO path. Not of other
  // processes' CPU clocks.
  PolicyBuilder& allow_clock_read();
  // timerfd_settime. Not timerfd_create.
  PolicyBuilder& allow_timer_set();
  PolicyBuilder& allow_yield();
  // restart_syscall: the kernel's own, after SIGSTOP and SIGCONT in a timed wait.
  PolicyBuilder& allow_restart();
  // poll and ppoll: waiting for one descriptor, such as room on the control socket.
  PolicyBuilder& allow_poll();

  // --- Memory
  // --------------------------------------------------------------------------------------------- brk,
  // munmap, and mmap of private anonymous memory without PROT_EXEC. Not mprotect, not mremap.
  PolicyBuilder& allow_heap();
  // mprotect without PROT_EXEC, madvise(MADV_DONTNEED), mremap, mmap with NORESERVE and STACK: heaps and
  // stacks of threads.
  PolicyBuilder& allow_thread_heap();
  // mmap of passed descriptors, MAP_SHARED without PROT_EXEC, and the reservation of address space for
  // them.
  PolicyBuilder& allow_shared_mapping();

  // --- Descriptors
  // ---------------------------------------------------------------------------------------- sendmsg and
  // recvmsg on this one descriptor number.
  PolicyBuilder& allow_messages_on(int fd);
  PolicyBuilder& allow_close();
  // fstat of an open descriptor, and fcntl F_GET_SEALS: how a passed region is checked. Not stat by path.
  PolicyBuilder& allow_region_inspection();
  // pread64, pwrite64, preadv, pwritev, fdatasync, and fallocate that makes holes or zeroes without growing the file.
  // Positions only: the shared file position is left alone.
  PolicyBuilder& allow_file_io();
  // ioctl TUNSETOFFLOAD: which offloads the frames of a TAP may leave to their reader. It means something on a TAP's
  // descriptor alone. Frames themselves go by read and writev.
  PolicyBuilder& allow_tap_offloads();
  // Sockets of IPv4 and IPv6, streams and datagrams (ICMP's among these), with all that is done to them; joining them
  // to an epoll descriptor; opening files for reading, which finds what the jail's root holds. A raw socket is refused
  // with EPERM. Not Unix sockets, not netlink. Which addresses are reached no filter can see.
  PolicyBuilder& allow_user_network();
  // madvise(MADV_REMOVE): pages of a shared mapping go back to the host, here and in every process that maps them. It
  // makes holes in what the process may write anyway.
  PolicyBuilder& allow_release_of_pages();
  // accept4 of a socket that was passed, recvmsg (connections that the VMM made come that way), sendto without an
  // address or SIGPIPE, shutdown, close, and epoll_ctl to watch them. Not socket, bind or connect: whom it talks to is
  // others' decision.
  PolicyBuilder& allow_socket_relay();
  // io_uring_enter without a signal mask and without flags other than IORING_ENTER_GETEVENTS. Not io_uring_setup, not
  // io_uring_register: what the ring may do is fixed by who made it.
  PolicyBuilder& allow_io_uring_enter();
  // madvise(MADV_DONTNEED): shared pages are unmapped and stay what they are.
  PolicyBuilder& allow_page_release();
  // ioctl TCGETS and TCGETS2 are answered ENOTTY rather than being fatal: stdio and isatty() ask.
  PolicyBuilder& deny_terminal_query();

  // --- Signals and the end
  // -------------------------------------------------------------------------------- exit_group.
  PolicyBuilder& allow_exit();
  // exit: the end of one thread.
  PolicyBuilder& allow_thread_exit();
  // rt_sigreturn and rt_sigprocmask: a thread that is kicked by a signal. Not rt_sigaction, not kill.
  PolicyBuilder& allow_signal_return();
  // tgkill with this signal, to threads of this process.
  PolicyBuilder& allow_thread_kick(pid_t process, int signal);

  // What the address and thread sanitizers' runtimes need beyond all that. For their builds alone.
  PolicyBuilder& allow_sanitizer_runtime();

  // --- Grants that need a token
  // ---------------------------------------------------------------------------
  // seccomp(SECCOMP_SET_MODE_FILTER, 0 or TSYNC), which can only take rights away.
  PolicyBuilder& allow(LoadFilterGrant token);
  // ioctl with exactly these request numbers, on any descriptor held.
  PolicyBuilder& allow_ioctls(std::span<const std::uint32_t> requests, KvmIoctlGrant token);
  // One call by number, with any arguments.
  PolicyBuilder& allow_syscall(int number, AnySyscallGrant token);

  [[nodiscard]] Result<CompiledFilter> compile() const;
  // libseccomp's pseudo filter code, for review (tests/sandbox/golden).
  [[nodiscard]] Result<std::string> text() const;
  // The names of the calls that are allowed, at least with some arguments; sorted. For `bulkhead devices
  // --permissions`.
  [[nodiscard]] std::vector<std::string> syscalls() const;

 private:
  // (argument & mask) == value
  struct Condition {
    unsigned argument = 0;
    std::uint64_t mask = 0;
    std::uint64_t value = 0;
    bool operator==(const Condition&) const = default;
  };
  struct Rule {
    int number = 0;
    std::optional<int> error;  // answer with this errno; unset: allow
    std::vector<Condition> conditions;
    bool operator==(const Rule&) const = default;
  };

  // A libseccomp filter context and its release function, so that its header stays out of this one.
  using Context = std::unique_ptr<void, void (*)(void*)>;

  PolicyBuilder& add(int number, std::vector<Condition> conditions = {}, std::optional<int> error = {});
  [[nodiscard]] Result<Context> make_context() const;

  std::vector<Rule> rules_;
};

}  // namespace bulkhead::sandbox
