#include "sandbox/spawn.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <memory>

#include "ipc/base/host_ids.h"

namespace bulkhead::sandbox {
namespace {

// Between clone3 and execveat the child runs on this process's memory, beside the thread that made it: it
// shares even that thread's errno. So child_main() and what it calls make raw system calls, use plain types
// on their stack and in the ChildPlan, and are never instrumented.
#define BULKHEAD_CHILD_CODE __attribute__((no_sanitize("address", "thread", "undefined")))

enum class Step : int { kWait, kIdentity, kSession, kDescriptors, kExec };

struct ChildPlan {
  // Written before clone3, read by the child.
  const char* const* arguments = nullptr;
  int executable = -1;
  int parent_pidfd = -1;
  bool change_identity = false;
  int sources[kMaxFdTarget] = {};  // sources[i] becomes targets[i]; targets ascend
  int targets[kMaxFdTarget] = {};
  std::size_t descriptors = 0;
  // Shared while both run: only through load() and store().
  int go = 0;     // 1: id maps are written and the tracer holds on
  int alive = 1;  // cleared by the kernel when the child leaves this memory (exec or death)
  int step = 0;
  int error = 0;
};

BULKHEAD_CHILD_CODE int load(const int& word) { return __atomic_load_n(&word, __ATOMIC_ACQUIRE); }
BULKHEAD_CHILD_CODE void store(int& word, int value) { __atomic_store_n(&word, value, __ATOMIC_RELEASE); }

constexpr std::size_t kStackSize = std::size_t{64} << 10;

BULKHEAD_CHILD_CODE long raw(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0) {
  long result = number;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  asm volatile("syscall" : "+a"(result) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
  return result;
}

template <class T>
BULKHEAD_CHILD_CODE long address(T* pointer) {
  return reinterpret_cast<long>(pointer);
}

[[noreturn]] BULKHEAD_CHILD_CODE void child_fail(ChildPlan& plan, long error) {
  store(plan.error, static_cast<int>(-error));
  for (;;) raw(SYS_exit_group, 127);
}

#define BULKHEAD_CHILD_TRY(call)                           \
  do {                                                     \
    if (const long r = (call); r < 0) child_fail(plan, r); \
  } while (false)

// Asks to die with the spawning thread, and makes sure that it was not too late to ask.
BULKHEAD_CHILD_CODE void child_bind_to_parent(ChildPlan& plan) {
  BULKHEAD_CHILD_TRY(raw(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL));
  pollfd parent{plan.parent_pidfd, POLLIN, 0};
  if (raw(SYS_poll, address(&parent), 1, 0) != 0) child_fail(plan, -ESRCH);
}

BULKHEAD_CHILD_CODE void child_default_signals() {
  // Handlers are gone already (CLONE_CLEAR_SIGHAND); what this process ignores, SIGPIPE for one, is not.
  struct {
    void* handler;
    unsigned long flags;
    void* restorer;
    unsigned long mask;
  } action{};
  for (int signal = 1; signal < 65; ++signal) {
    if (signal != SIGKILL && signal != SIGSTOP) raw(SYS_rt_sigaction, signal, address(&action), 0, 8);
  }
}

BULKHEAD_CHILD_CODE void child_descriptors(ChildPlan& plan) {
  // First out of the way of all targets, then into place, then everything else closes at exec.
  plan.executable = static_cast<int>(raw(SYS_fcntl, plan.executable, F_DUPFD_CLOEXEC, kMaxFdTarget));
  BULKHEAD_CHILD_TRY(plan.executable);
  for (std::size_t i = 0; i < plan.descriptors; ++i) {
    plan.sources[i] = static_cast<int>(raw(SYS_fcntl, plan.sources[i], F_DUPFD_CLOEXEC, kMaxFdTarget));
    BULKHEAD_CHILD_TRY(plan.sources[i]);
  }
  unsigned next = 0;
  for (std::size_t i = 0; i < plan.descriptors; ++i) {
    const auto target = static_cast<unsigned>(plan.targets[i]);
    BULKHEAD_CHILD_TRY(raw(SYS_dup2, plan.sources[i], target));
    if (target > next) BULKHEAD_CHILD_TRY(raw(SYS_close_range, next, target - 1, CLOSE_RANGE_CLOEXEC));
    next = target + 1;
  }
  BULKHEAD_CHILD_TRY(raw(SYS_close_range, next, ~0U, CLOSE_RANGE_CLOEXEC));
}

[[noreturn]] BULKHEAD_CHILD_CODE __attribute__((noinline)) void child_main(ChildPlan* shared) {
  ChildPlan& plan = *shared;
  child_bind_to_parent(plan);
  while (load(plan.go) == 0) raw(SYS_futex, address(&plan.go), FUTEX_WAIT, 0);

  if (plan.change_identity) {
    store(plan.step, static_cast<int>(Step::kIdentity));
    BULKHEAD_CHILD_TRY(raw(SYS_setgroups, 0, 0));
    BULKHEAD_CHILD_TRY(raw(SYS_setresgid, 0, 0, 0));
    BULKHEAD_CHILD_TRY(raw(SYS_setresuid, 0, 0, 0));
    child_bind_to_parent(plan);  // a change of identity clears it
  }
  store(plan.step, static_cast<int>(Step::kSession));
  BULKHEAD_CHILD_TRY(raw(SYS_setsid));
  child_default_signals();

  store(plan.step, static_cast<int>(Step::kDescriptors));
  child_descriptors(plan);
  const std::uint64_t none_blocked = 0;
  raw(SYS_rt_sigprocmask, SIG_SETMASK, address(&none_blocked), 0, sizeof none_blocked);

  store(plan.step, static_cast<int>(Step::kExec));
  const char* const no_environment[] = {nullptr};
  child_fail(plan, raw(SYS_execveat, plan.executable, address(""), address(plan.arguments), address(no_environment),
                       AT_EMPTY_PATH));
}

// clone3 that starts the child in child_main() on its own stack. Returns the pid, or -errno.
long clone_child(clone_args& args, ChildPlan& plan) {
  long result = SYS_clone3;
  register ChildPlan* child_plan asm("r12") = &plan;
  register void (*child_code)(ChildPlan*) asm("r13") = &child_main;
  asm volatile(
      "syscall\n\t"
      "testq %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xorl %%ebp, %%ebp\n\t"
      "movq %%r12, %%rdi\n\t"
      "callq *%%r13\n\t"
      "ud2\n"
      "1:"
      : "+a"(result)
      : "D"(&args), "S"(sizeof args), "r"(child_plan), "r"(child_code)
      : "rcx", "r11", "memory", "cc");
  return result;
}

// While the child borrows this process's memory, it also shares whether that may be dumped, which decides
// who owns its /proc files: an ordinary user can write its id maps only while it may be. The child's change
// of identity clears it, too.
class DumpableForNow {
 public:
  DumpableForNow() : before_(::prctl(PR_GET_DUMPABLE)) {
    if (before_ != 1 && ::geteuid() != 0) ::prctl(PR_SET_DUMPABLE, 1);
  }
  ~DumpableForNow() { ::prctl(PR_SET_DUMPABLE, before_ == 1 ? 1 : 0); }
  DumpableForNow(const DumpableForNow&) = delete;
  DumpableForNow& operator=(const DumpableForNow&) = delete;

 private:
  int before_;
};

// The child starts with the spawning thread's mask: until it has its own dispositions, every signal waits.
class AllSignalsBlocked {
 public:
  AllSignalsBlocked() {
    const std::uint64_t all = ~std::uint64_t{0};
    ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before_, sizeof before_);
  }
  ~AllSignalsBlocked() { ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before_, nullptr, sizeof before_); }
  AllSignalsBlocked(const AllSignalsBlocked&) = delete;
  AllSignalsBlocked& operator=(const AllSignalsBlocked&) = delete;

 private:
  std::uint64_t before_ = 0;
};

Error clone_error(const std::string& name, int error) {
  switch (error) {
    case EPERM:
      return Error{fmt::format("cannot start {}: this system does not let user {} create user namespaces (look at "
                               "kernel.unprivileged_userns_clone, AppArmor, or the container's own filter)",
                               name, ::geteuid()),
                   error};
    case ENOSPC:
    case EUSERS:
      return Error{fmt::format("cannot start {}: the limit of namespaces is reached (user.max_*_namespaces)", name),
                   error};
    case EAGAIN: return Error{fmt::format("cannot start {}: the limit of processes is reached", name), error};
    default: return make_errno_error(fmt::format("cannot start {} in namespaces of its own", name), error);
  }
}

Error child_error(const std::string& name, Step step, int error) {
  constexpr std::array<const char*, 5> kWhat = {"wait for its parent", "take on its identity", "start a session",
                                                "put its descriptors in place", "execute"};
  return make_errno_error(fmt::format("cannot start {}: it could not {}", name, kWhat[static_cast<std::size_t>(step)]),
                          error);
}

Status write_proc(pid_t pid, const char* file, const std::string& text) {
  const std::string path = fmt::format("/proc/{}/{}", pid, file);
  ASSIGN_OR_RETURN(const UniqueFd fd, UniqueFd::open(path, O_WRONLY));
  if (::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return make_errno_error(fmt::format("cannot write \"{}\" to {}", text, path));
  return ok();
}

// Inside it is 0 and 0; outside, an id without any privilege.
Status write_id_maps(pid_t pid, const HostIdentity& identity, bool as_root) {
  // The kernel lets an ordinary user map a group only once its namespace has given up setgroups(2). Root's
  // child drops its supplementary groups instead, for which it needs setgroups; afterwards it has no
  // capability for it.
  if (!as_root) RETURN_IF_ERROR(write_proc(pid, "setgroups", "deny"));
  RETURN_IF_ERROR(write_proc(pid, "gid_map", fmt::format("0 {} 1", identity.gid)));
  return write_proc(pid, "uid_map", fmt::format("0 {} 1", identity.uid));
}

// Fills in /dev/null at 0, 1 and 2 where the caller lists nothing.
Status plan_descriptors(ChildPlan& plan, const Executable& executable, const std::vector<FdGrant>& grants) {
  std::vector<FdGrant> all = grants;
  for (int standard = 0; standard < 3; ++standard) {
    if (std::none_of(grants.begin(), grants.end(), [&](const FdGrant& grant) { return grant.target == standard; }))
      all.push_back({executable.null_device(), standard});
  }
  std::sort(all.begin(), all.end(), [](const FdGrant& a, const FdGrant& b) { return a.target < b.target; });
  int last = -1;
  for (const FdGrant& grant : all) {
    if (grant.target == last || grant.target < 0 || grant.target >= kMaxFdTarget)
      return make_error(fmt::format("cannot start {}: descriptor number {} is listed twice or out of range",
                                    executable.name(), grant.target));
    if (!grant.source.valid())
      return make_error(
          fmt::format("cannot start {}: nothing is open to become its descriptor {}", executable.name(), grant.target));
    last = grant.target;
    plan.sources[plan.descriptors] = grant.source.get();
    plan.targets[plan.descriptors++] = grant.target;
  }
  return ok();
}

std::uint64_t clone_flags(const SpawnOptions& options) {
  std::uint64_t flags = CLONE_VM | CLONE_PIDFD | CLONE_CHILD_CLEARTID | CLONE_CLEAR_SIGHAND | CLONE_NEWUSER |
                        CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
  if (options.namespaces.network) flags |= CLONE_NEWNET;
  if (options.cgroup.valid()) flags |= CLONE_INTO_CGROUP;
  return flags;
}

// Until the child runs its own program, or is dead. Then it has left this process's memory.
void wait_for_exec(ChildPlan& plan, pid_t pid) {
  const timespec timeout{0, 5'000'000};
  while (const int alive = load(plan.alive)) {
    const long result = ::syscall(SYS_futex, &plan.alive, FUTEX_WAIT, alive, &timeout);
    // One that died on the way stands at its exit stop, and this thread is the one that has to let it go.
    if (result != 0 && errno == ETIMEDOUT) ::ptrace(PTRACE_CONT, pid, nullptr, nullptr);
    if (load(plan.error) != 0) return;
  }
}

}  // namespace

HostIdentity host_identity(pid_t vmm_pid, unsigned index) {
  const std::uint32_t id =
      kFirstHostId + (static_cast<std::uint32_t>(vmm_pid) % kMostPids) * kHostIdsPerVmm + index % kHostIdsPerVmm;
  return {id, id};
}

Result<Executable> Executable::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_PATH | O_CLOEXEC);
  if (fd < 0) return make_errno_error("cannot open the program " + path);
  return from_fd(UniqueFd(fd), path);
}

Result<Executable> Executable::from_fd(UniqueFd fd, std::string name) {
  ASSIGN_OR_RETURN(UniqueFd null, UniqueFd::open("/dev/null", O_RDWR));
  return Executable(std::move(fd), std::move(null), std::move(name));
}

Result<ChildProcess> spawn(const Executable& executable, const SpawnOptions& options) {
  const bool as_root = ::geteuid() == 0;
  const HostIdentity identity = !as_root ? HostIdentity{::geteuid(), ::getegid()}
                                         : options.identity.value_or(host_identity(::getpid(), options.identity_index));
  const auto plan = std::make_unique<ChildPlan>();
  RETURN_IF_ERROR(plan_descriptors(*plan, executable, options.descriptors));
  std::vector<const char*> arguments;
  for (const std::string& argument : options.arguments) arguments.push_back(argument.c_str());
  arguments.push_back(nullptr);
  const UniqueFd self(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  if (!self.valid()) return make_errno_error("cannot open a descriptor for this process");
  plan->arguments = arguments.data();
  plan->executable = executable.fd().get();
  plan->parent_pidfd = self.get();
  plan->change_identity = as_root;

  const auto stack = std::make_unique<std::byte[]>(kStackSize);
  int pidfd = -1;
  clone_args args{};
  args.flags = clone_flags(options);
  args.pidfd = reinterpret_cast<std::uintptr_t>(&pidfd);
  args.child_tid = reinterpret_cast<std::uintptr_t>(&plan->alive);
  args.exit_signal = SIGCHLD;
  args.stack = reinterpret_cast<std::uintptr_t>(stack.get());
  args.stack_size = kStackSize;
  if (options.cgroup.valid()) args.cgroup = static_cast<std::uint64_t>(options.cgroup.get());

  const DumpableForNow dumpable;
  const AllSignalsBlocked blocked;
  const long pid = clone_child(args, *plan);
  if (pid < 0) return clone_error(executable.name(), static_cast<int>(-pid));
  // Dropped on any early return: kills and reaps the child, which then uses neither stack nor plan any
  // more.
  ChildProcess child(static_cast<pid_t>(pid), UniqueFd(pidfd));
  if (const Status mapped = write_id_maps(child.pid(), identity, as_root); !mapped)
    return Error{fmt::format("cannot start {}: {}", executable.name(), mapped.error().message),
                 mapped.error().error_number};
  if (options.tracer != nullptr) RETURN_IF_ERROR(options.tracer->seize(child.pid()));
  store(plan->go, 1);
  ::syscall(SYS_futex, &plan->go, FUTEX_WAKE, 1);
  wait_for_exec(*plan, child.pid());
  const auto step = static_cast<Step>(load(plan->step));
  if (const int error = load(plan->error); error != 0) return child_error(executable.name(), step, error);
  if (step != Step::kExec) return child_error(executable.name(), step, ESRCH);
  return child;
}

}  // namespace bulkhead::sandbox
