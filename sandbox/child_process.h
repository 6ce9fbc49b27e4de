// ChildProcess owns a process: dropping it kills the process and reaps it, so that none outlives its owner
// and none stays a zombie.
//
// Threading: one owner at a time, on any thread. A traced process (sandbox/tracer.h) is dropped on its
// tracer's thread, or while that thread still polls: a process at its exit stop needs its tracer to go on.
// Errors: Result; the destructor logs instead and gives up after a bounded time.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <span>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"
#include "sandbox/exit_report.h"

namespace bulkhead::sandbox {

class ChildProcess {
 public:
  // Long enough for a process with much memory to be taken apart; a stuck one is logged and left.
  static constexpr std::chrono::seconds kPatience{20};

  ChildProcess() = default;
  ChildProcess(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ~ChildProcess();

  [[nodiscard]] bool valid() const { return pidfd_.valid(); }  // false once reaped or moved from
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] BorrowedFd pidfd() const { return pidfd_.borrow(); }  // readable once it is dead

  // Sends SIGKILL. One that is dead already is no error.
  Status kill();
  // Reaps it if it is dead; nullopt while it lives. Afterwards the object owns nothing.
  Result<std::optional<ExitReport>> try_wait();
  // Waits for its end and reaps it.
  Result<ExitReport> wait();
  // Kills and reaps now, as the destructor does.
  void end();
  // The same for many at once: `patience` is for all of them together.
  static void end_all(std::span<ChildProcess* const> processes, std::chrono::milliseconds patience = kPatience);

 private:
  // Lets it end, if this thread traces it, and reaps it if it has.
  bool has_ended();

  pid_t pid_ = 0;
  UniqueFd pidfd_;
};

}  // namespace bulkhead::sandbox
