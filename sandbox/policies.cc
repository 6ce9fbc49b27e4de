#include "sandbox/policies.h"

#include "sandbox/grants/kvm_ioctl.h"
#include "sandbox/grants/load_filter.h"

namespace bulkhead::sandbox {
namespace {

// The sanitizers' runtimes map, unmap and probe memory as they like. Their builds are for finding bugs,
// never for guests; the golden texts and the evaluator's tests see the policies without this.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

// What every device process needs: a static program with one thread, one epoll descriptor and no signal
// handler, whose descriptors were all opened for it.
void add_base(PolicyBuilder& policy) {
  policy
      .allow_read()                   // eventfds and timers that have to be read, stream notices
      .allow_write()                  // irqfds, doorbells, the log
      .allow_event_wait()             // the one place where an idle device process stands
      .allow_futex_wait_wake()        // waking a vCPU thread that waits for a reply
      .allow_clock_read()             // deadlines, where the vDSO cannot serve the clock
      .allow_timer_set()              // the next deadline
      .allow_yield()                  // adaptive waiting
      .allow_restart()                // a timed wait that SIGSTOP interrupted
      .allow_poll()                   // room on the control socket
      .allow_heap()                   // malloc
      .allow_messages_on(kControlFd)  // health, statistics, quiesce
      .deny_terminal_query()          // isatty() and stdio may ask
      .allow_exit();
}

// From "jailed, without a role" to "serving": the regions and descriptors of the role arrive, are checked,
// mapped and put into the event loop; then the role's own filter closes this again.
void add_take_role(PolicyBuilder& policy) {
  policy.allow_event_setup()
      .allow_close()  // descriptors whose mapping is all that is needed, and refused ones
      .allow_region_inspection()
      .allow_shared_mapping()
      .allow(LoadFilterGrant{});
}

void add_groups(PolicyBuilder& policy, SyscallGroups groups) {
  add_base(policy);
  if (groups.contains(SyscallGroup::kTakeRole)) add_take_role(policy);
  if (groups.contains(SyscallGroup::kFileIo)) policy.allow_file_io();
  if (groups.contains(SyscallGroup::kPacketIo)) policy.allow_tap_offloads();
  if (groups.contains(SyscallGroup::kReleaseRam)) policy.allow_release_of_pages();
  if (groups.contains(SyscallGroup::kSocketRelay)) policy.allow_socket_relay();
  if (groups.contains(SyscallGroup::kIoUring)) policy.allow_io_uring_enter().allow_page_release();
  if (groups.contains(SyscallGroup::kUserNetwork)) policy.allow_user_network();
}

Result<CompiledFilter> compile(PolicyBuilder policy) {
  if constexpr (kSanitized) policy.allow_sanitizer_runtime();
  return policy.compile();
}

}  // namespace

PolicyBuilder role_policy(SyscallGroups groups) {
  PolicyBuilder policy;
  add_groups(policy, groups);
  return policy;
}

PolicyBuilder standby_policy(SyscallGroups groups) {
  return role_policy(groups | SyscallGroups{SyscallGroup::kTakeRole});
}

PolicyBuilder vcpu_thread_policy(std::span<const std::uint32_t> ioctls, pid_t own_process) {
  PolicyBuilder policy;
  // Memory slots change with every other vCPU out of KVM_RUN (VcpuThreads::while_none_runs).
  if (own_process != 0) policy.allow_thread_kick(own_process, kKickSignal);
  policy
      .allow_ioctls(ioctls, KvmIoctlGrant{})  // KVM_RUN, and what follows an exit
      .allow_futex_wait_wake()                // doorbells, mutexes
      .allow_futex_bitset()                   // replies with a deadline, condition variables
      .allow_read()                           // eventfds
      .allow_write()                          // eventfds, the log
      .allow_poll()                           // waiting for a device process that is being replaced
      .allow_clock_read()
      .allow_yield()
      .allow_restart()
      .allow_signal_return()  // the kick that takes it out of KVM_RUN
      .allow_heap()
      .allow_thread_heap()
      .deny_terminal_query()
      .allow_thread_exit()
      .allow_exit();
  return policy;
}

Result<CompiledFilter> compile_role_filter(SyscallGroups groups) { return compile(role_policy(groups)); }
Result<CompiledFilter> compile_standby_filter(SyscallGroups groups) { return compile(standby_policy(groups)); }
Result<CompiledFilter> compile_vcpu_filter(std::span<const std::uint32_t> ioctls, pid_t own_process) {
  return compile(vcpu_thread_policy(ioctls, own_process));
}

}  // namespace bulkhead::sandbox
