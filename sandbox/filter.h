// CompiledFilter: a seccomp filter as the kernel takes it, compiled once (sandbox/policy.h) and then loaded
// as often as needed. The process that loads it needs no libseccomp: the VMM compiles, and hands the
// program to its device processes as a sealed memfd.
//
// Trust: a filter only ever comes from the process that built the jail, hence from a more trusted one.
// import_filter() still checks size and seals, so that a mix-up of descriptors is an error and no half
// jail. Threading: values. load_filter() acts on the calling thread or on the whole process, as it is told.
// Errors: Result with one sentence; nothing was loaded then.
// Sources: seccomp(2), Linux Documentation/userspace-api/seccomp_filter.rst.
#pragma once

#include <linux/filter.h>

#include <span>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"

namespace bulkhead::sandbox {

class CompiledFilter {
 public:
  // Accepts what the kernel would accept as to length: 1 to 4096 instructions.
  static Result<CompiledFilter> from_program(std::vector<sock_filter> program);

  [[nodiscard]] std::span<const sock_filter> program() const { return program_; }

 private:
  explicit CompiledFilter(std::vector<sock_filter> program) : program_(std::move(program)) {}
  std::vector<sock_filter> program_;
};

enum class FilterScope : std::uint8_t {
  kThread,   // the calling thread and what it creates (the VMM's threads)
  kProcess,  // every thread of the process, or an error (device processes)
};

// no_new_privs, for good: no exec gains rights any more. The kernel asks for it before load_filter() when
// the process has no CAP_SYS_ADMIN; enter_jail() has done it.
Status forbid_new_privileges();

// From here on the filter cannot be taken off. Filters add up: a second one can only take away. A device
// process loads its standby filter and later its role's. Uses seccomp(2) only, since it runs under the
// standby filter too.
Status load_filter(const CompiledFilter& filter, FilterScope scope);

// A sealed memfd that holds the program, for passing to another process. One will do for many processes:
// import_filter() does not move the shared file position.
Result<UniqueFd> export_filter(const CompiledFilter& filter);
// Uses fcntl(F_GET_SEALS), fstat, mmap and munmap only: works under the standby filter (kTakeRole).
Result<CompiledFilter> import_filter(BorrowedFd fd);

}  // namespace bulkhead::sandbox
