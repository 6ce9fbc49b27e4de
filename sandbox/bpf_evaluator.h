// Runs a seccomp filter in user space, so that tests can ask "what would the kernel do?" for any system
// call without loading anything.
//
// Trust: any program; bad ones (jumps out of range, unknown instructions, no return) are an Error, as they
// would be for the kernel. Threading: pure.
// Sources: Linux kernel/seccomp.c (seccomp_check_filter lists what a filter may contain),
// net/core/filter.c.
#pragma once

#include <linux/audit.h>

#include <array>
#include <cstdint>

#include "ipc/base/result.h"
#include "sandbox/filter.h"

namespace bulkhead::sandbox {

struct SyscallAttempt {
  int number = 0;
  std::array<std::uint64_t, 6> arguments{};
  std::uint32_t arch = AUDIT_ARCH_X86_64;
  std::uint64_t instruction_pointer = 0;
};

// The filter's verdict: SECCOMP_RET_*.
Result<std::uint32_t> evaluate(const CompiledFilter& filter, const SyscallAttempt& attempt);

}  // namespace bulkhead::sandbox
