// The system-call policies of this project: one commented base list, and what each SyscallGroup adds to it.
//
//   role_policy(groups)      what a device process may do once it runs its role (stage 2)
//   standby_policy(groups)   what it may do before, jailed but without a role (stage 1): the union of what
//   the
//                            roles of its jail class need, plus kTakeRole
//   vcpu_thread_policy(...)  a vCPU thread of the VMM
//
// Filters add up, so stage 1 must permit whatever stage 2 of any role of that class permits.
// tests/sandbox/golden/*.pfc shows each in full.
//
// Trust: in a device process everything outside these lists kills it (SECCOMP_RET_KILL_PROCESS).
// Threading: pure functions. Errors: in the builder, surfaced by compile().
#pragma once

#include <csignal>
#include <cstdint>
#include <span>

#include "ipc/roles/syscall_groups.h"
#include "sandbox/policy.h"

namespace bulkhead::sandbox {

// The descriptor number of a device process's control socket: the only one that it may sendmsg and recvmsg
// on.
inline constexpr int kControlFd = 3;
inline constexpr int kKickSignal = SIGUSR1;  // takes a vCPU thread out of KVM_RUN
inline constexpr int kStandbyFilterFd = 4;   // the filter of a process that has no role yet, exported
// From here on, without a gap: the io_urings of all roles. A process that takes a role keeps that role's alone.
inline constexpr int kFirstRingFd = 5;

[[nodiscard]] PolicyBuilder role_policy(SyscallGroups groups);
[[nodiscard]] PolicyBuilder standby_policy(SyscallGroups groups);

// `ioctls`: the request numbers that the thread may use (KVM_RUN and the vCPU ioctls after set-up). The
// program calls warm_libc() (sandbox/enter.h) before it starts threads: a thread's own malloc arena would
// open files under /proc.
// `own_process`: where the thread may send kKickSignal to other threads; 0: nowhere.
[[nodiscard]] PolicyBuilder vcpu_thread_policy(std::span<const std::uint32_t> ioctls, pid_t own_process = 0);

// Short forms: build and compile.
[[nodiscard]] Result<CompiledFilter> compile_role_filter(SyscallGroups groups);
[[nodiscard]] Result<CompiledFilter> compile_standby_filter(SyscallGroups groups);
[[nodiscard]] Result<CompiledFilter> compile_vcpu_filter(std::span<const std::uint32_t> ioctls, pid_t own_process = 0);

}  // namespace bulkhead::sandbox
