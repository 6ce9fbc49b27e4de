// DeviceChild: one device process as the supervisor knows it: the process, its control channel and its log pipe.
//
// Threading: the supervisor's thread. Errors: a sentence. Trust: the process is hostile: it speaks only when it was
// asked, and what it writes to its log is cleaned, cut to lines and rationed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ipc/base/log.h"
#include "ipc/control/channel.h"
#include "ipc/control/device_messages.h"
#include "sandbox/spawn.h"
#include "vmm/machine/plan.h"

namespace bulkhead::vmm {

struct Ward;

class DeviceChild {
 public:
  enum class State : std::uint8_t {
    kStandby,   // holds nothing
    kChecking,  // was asked whether it could play a role
    kStarting,  // has the role; its Ready is awaited
    kServing,
    kDead,
  };
  using Answer = std::function<void(Result<control::FromDevice>)>;

  struct Spawn {
    const sandbox::Executable* executable = nullptr;
    std::string vm;
    std::string name;  // the role, or "standby"
    unsigned identity = 0;
    BorrowedFd standby_filter;
    std::vector<BorrowedFd> rings{};  // from sandbox::kFirstRingFd on
    sandbox::Tracer* tracer = nullptr;
    JailPlan jail{};
  };
  static Result<std::unique_ptr<DeviceChild>> spawn(const Spawn& how);

  [[nodiscard]] pid_t pid() const { return process_.pid(); }
  [[nodiscard]] bool reaped() const { return !process_.valid(); }
  [[nodiscard]] bool lives() const { return state != State::kDead; }
  [[nodiscard]] BorrowedFd control_fd() const { return control_.valid() ? control_.fd() : BorrowedFd(); }
  // Invalid while the log's ration is used up.
  [[nodiscard]] BorrowedFd log_fd() const { return ration_ > 0 ? log_.borrow() : BorrowedFd(); }
  [[nodiscard]] unsigned identity() const { return identity_; }

  Status send(std::span<const std::byte> bytes, std::span<const BorrowedFd> fds = {});
  Status send_signal(int signal);
  // No file becomes longer by its writes than `bytes` (RLIMIT_FSIZE).
  Status limit_file_size(std::uint64_t bytes);
  // Ends it for `why`; only the first reason counts, and what it says from then on counts for nothing.
  void kill(std::string why);
  // The next message, if one is there and the process may speak; an Error ended it.
  std::optional<control::FromDevice> receive();
  void read_log();
  // Once a second.
  void refill_log_ration();
  void close_channel() { control_ = {}; }
  void try_reap() { (void)process_.try_wait(); }
  // For ends that many share.
  [[nodiscard]] sandbox::ChildProcess& process() { return process_; }

  std::string name;  // of its log lines: the role, or "standby"
  State state = State::kStandby;
  Ward* ward = nullptr;  // whose role it plays, or is to play
  std::string reason;    // why it was killed
  bool killed = false;
  bool disowned = false;          // its answers no longer count
  std::uint32_t incarnation = 0;  // of the role, while it plays it
  bool hung = false;              // it was killed because it did not answer
  bool failed = false;            // it said itself that it cannot play the role
  int drill = 0;                  // the signal of a fault drill, 0: none
  bool planned = false;           // its end is part of an upgrade
  std::int64_t deadline_ns = 0;   // (awake clock) for what is awaited of it; 0: nothing
  // When (awake clock) the supervisor found it stopped, and killed but not yet gone; 0: it did not.
  std::int64_t stopped_since_ns = 0;
  std::int64_t dying_since_ns = 0;
  control::Ready ready;       // what it said about itself
  Answer asked;               // waits for its next message
  unsigned owed_answers = 0;  // to questions that nobody waits for any more
  std::shared_ptr<const sandbox::Executable> executable;
  JailPlan jail;

 private:
  std::optional<control::FromDevice> refuse(std::string why);
  void log_byte(char byte);

  sandbox::ChildProcess process_;
  control::ControlChannel control_;
  UniqueFd log_;
  std::string log_line_;
  LogLimiter log_limiter_{64};
  std::size_t ration_ = 0;
  unsigned identity_ = 0;
};

}  // namespace bulkhead::vmm
