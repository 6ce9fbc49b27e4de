// RunDirectory: where the running VMs of one user are found by name.
//
// NAME.lock is locked (open file description lock) for as long as the VMM of that name lives, and holds its
// pid; NAME.sock is its management socket. A dead VMM's lock is free, so what it left behind is known to be
// stale. Claiming, releasing and sweeping happen under a lock on the directory itself; probing (`bulkhead
// ls`) takes no lock at all. So two starts with one name have one winner, and a sweep never takes a live
// socket. Trust: the directory must belong to this user and be closed to all others; symbolic links are
// refused. Threading: one thread per object.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"

namespace bulkhead::control {

// $BULKHEAD_RUN_DIR; else /run/bulkhead for root; else $XDG_RUNTIME_DIR/bulkhead; else /tmp/bulkhead-UID.
[[nodiscard]] std::string default_run_directory();

// A name that is ours while this object lives. Destroying it removes NAME.sock and NAME.lock.
class ClaimedName {
 public:
  ClaimedName(ClaimedName&&) noexcept = default;
  ClaimedName& operator=(ClaimedName&&) noexcept;
  ~ClaimedName();

  [[nodiscard]] const std::string& name() const { return name_; }
  // Listens on NAME.sock (mode 0600, non-blocking, CLOEXEC).
  Result<UniqueFd> listen();

 private:
  friend class RunDirectory;
  ClaimedName(std::string name, UniqueFd directory, UniqueFd lock)
      : name_(std::move(name)), directory_(std::move(directory)), lock_(std::move(lock)) {}
  void release();
  std::string name_;
  UniqueFd directory_;
  UniqueFd lock_;
};

struct LiveVm {
  std::string name;
  pid_t pid = 0;  // as the VMM sees itself; 0 when it has yet to write it
};

class RunDirectory {
 public:
  // Makes the directory (0700) when it is missing.
  static Result<RunDirectory> open(const std::string& path);

  // Fails with one sentence when a VM of that name is running. With `derived`, tries NAME-2, NAME-3 ...
  Result<ClaimedName> claim(std::string_view name, bool derived = false);
  // Removes the lock and socket of every VM that is no longer alive; returns how many.
  Result<unsigned> sweep();
  // The same for one name, if it is dead.
  Status sweep(std::string_view name);

  [[nodiscard]] Result<std::vector<LiveVm>> live() const;
  [[nodiscard]] bool is_live(std::string_view name) const;
  // A connected, non-blocking stream socket; an error in one sentence when no such VM is running.
  [[nodiscard]] Result<UniqueFd> connect(std::string_view name) const;

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  RunDirectory(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  std::string path_;
  UniqueFd fd_;
};

}  // namespace bulkhead::control
