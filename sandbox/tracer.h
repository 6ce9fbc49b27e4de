// Tracer: learns of the death of device processes at their exit stop, with registers, before the kernel
// takes their memory apart.
//
// Threading: ONE thread (the supervisor) makes it, spawns with it, polls it and outlives it: ptrace belongs
// to a thread, and when that thread ends the kernel kills everything it traces (PTRACE_O_EXITKILL). Trust:
// traced processes are hostile. They can stop, and die at any time; no call here waits for one. Errors: a
// process that is already gone is no error; its report comes from poll(). Costs: nothing while a process
// runs (no stop at system calls); one stop for a fatal signal, one at exit. Sources: ptrace(2); DESIGN.md,
// section 4.
#pragma once

#include <sys/types.h>

#include <map>
#include <optional>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"
#include "sandbox/exit_report.h"

namespace bulkhead::sandbox {

class Tracer {
 public:
  Tracer() = default;
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  // Starts to trace a child that has not dropped dumpable yet. spawn() calls this before the child's exec.
  Status seize(pid_t pid);

  // Handles everything that traced processes have done since the last call, never blocks, and returns a
  // report for each that died or stands at its exit stop (`held`). Call it when child_signal_fd() is
  // readable.
  [[nodiscard]] std::vector<ExitReport> poll();

  // The same for one wait status, for callers that wait on their own with __WALL. Signals on their way to a
  // process are passed on to it, and a fault (SIGSEGV and the like) ends it.
  [[nodiscard]] std::optional<ExitReport> handle(pid_t pid, int wait_status);

  // Lets a process that is held at its exit stop finish dying: `idle`, as SCHED_IDLE, so that its teardown does not
  // compete with its successor. Not so one whose io_uring requests are under way: the kernel tells of their completion
  // only when it has come to its end. Somebody still has to reap it (ChildProcess does).
  enum class Teardown { kIdle, kNow };
  void release(pid_t pid, Teardown how = Teardown::kIdle);

  // A fault drill: the signal, when somebody sends it, ends the process as a fault of its own would. Without this the
  // first process of a pid namespace ignores what it does not handle.
  void make_deadly(pid_t pid, int signal);

  [[nodiscard]] bool traces(pid_t pid) const { return traced_.contains(pid); }
  // Whether SIGSTOP or the like has stopped it, and nobody has continued it yet.
  [[nodiscard]] bool is_stopped(pid_t pid) const {
    const auto at = traced_.find(pid);
    return at != traced_.end() && at->second.stopped;
  }

 private:
  struct Traced {
    bool at_exit_stop = false;
    bool stopped = false;
    int last_signal = 0;      // the signal that was last on its way to it
    int deadly = 0;           // see make_deadly()
    int fault = 0;            // the fault that ended it
    std::uint64_t steps = 0;  // tests: instructions that it may still begin (stepping.h)
    std::optional<std::uint64_t> fault_address;
  };
  std::optional<ExitReport> at_exit_stop(pid_t pid, Traced& traced);
  void at_signal_stop(pid_t pid, Traced& traced, int signal);
  void step(pid_t pid, Traced& traced);
  std::map<pid_t, Traced> traced_;
};

// A non-blocking signalfd for SIGCHLD, which it blocks in the calling thread: make it before other threads
// start, so that they inherit the mask. Read it empty (any read size of at least 128 bytes), then call
// Tracer::poll().
Result<UniqueFd> child_signal_fd();

}  // namespace bulkhead::sandbox
