// spawn(): starts a program in namespaces of its own, with exactly the descriptors it is given.
//
// The child gets: the listed descriptors at the listed numbers, /dev/null at any of 0, 1, 2 that is not
// listed, and no other; the given arguments; an empty environment; default signal dispositions and an empty
// mask; a session of its own; SIGKILL when the spawning thread ends (PR_SET_PDEATHSIG follows the THREAD:
// spawn from one that lives as long as the VM). In its user namespace it is uid 0 and gid 0, with every
// capability over its own namespaces and none outside: enter_jail() (sandbox/enter.h) uses and then drops
// them. On the host it is an unprivileged id: as root, one of a range that belongs to this process
// (host_identity()); as an ordinary user, that user.
//
// How: clone3 with CLONE_VM, so the child borrows this process's memory until its exec and costs the same
// however large that is. Meanwhile this side writes the id maps and seizes it, then lets it go on.
//
// Trust: the program is ours, and becomes hostile only after it has met the guest.
// Threading: any thread; with a tracer, that tracer's thread.
// Errors: one sentence each; a child that could not exec is reaped and leaves nothing.
// Sources: clone(2), user_namespaces(7), pid_namespaces(7), execveat(2), close_range(2).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"
#include "sandbox/child_process.h"
#include "sandbox/tracer.h"

namespace bulkhead::sandbox {

// A program that is opened once and started many times; later changes of the path do not matter.
class Executable {
 public:
  static Result<Executable> open(const std::string& path);
  // For an upgrade: a program that somebody else opened. `name` is for messages.
  static Result<Executable> from_fd(UniqueFd fd, std::string name);

  [[nodiscard]] BorrowedFd fd() const { return fd_.borrow(); }
  [[nodiscard]] BorrowedFd null_device() const { return null_.borrow(); }
  [[nodiscard]] const std::string& name() const { return name_; }

 private:
  Executable(UniqueFd fd, UniqueFd null, std::string name)
      : fd_(std::move(fd)), null_(std::move(null)), name_(std::move(name)) {}
  UniqueFd fd_;
  UniqueFd null_;
  std::string name_;
};

struct FdGrant {
  BorrowedFd source;
  int target = -1;  // its number in the child, below kMaxFdTarget
};
inline constexpr int kMaxFdTarget = 256;

struct HostIdentity {
  uid_t uid = 0;
  gid_t gid = 0;
};

// The id on the host for a device process of VMM `vmm_pid` when that runs as root: kHostIdsPerVmm for each pid
// (ipc/base/host_ids.h), so that two VMs never share one. `index` counts the VM's device processes, modulo that.
[[nodiscard]] HostIdentity host_identity(pid_t vmm_pid, unsigned index);

// Which namespaces are new. Mount, pid, ipc, uts and cgroup always are.
struct NamespaceChoice {
  bool network = true;  // false: the host's network (the usernet role)
};

struct SpawnOptions {
  std::vector<std::string> arguments{};  // argv, including argv[0]
  std::vector<FdGrant> descriptors{};
  NamespaceChoice namespaces{};
  unsigned identity_index = 0;             // see host_identity(); without effect for an ordinary user
  std::optional<HostIdentity> identity{};  // as root: instead of host_identity(this process, identity_index)
  BorrowedFd cgroup{};                     // a cgroup v2 directory to start in
  Tracer* tracer = nullptr;                // seized before the exec
};

Result<ChildProcess> spawn(const Executable& executable, const SpawnOptions& options);

}  // namespace bulkhead::sandbox
