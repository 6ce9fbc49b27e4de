// Supervisor: the one thread that spawns, traces and watches every device process, and lives as long as the VM.
//
// Proof of a process's death is its exit stop (sandbox/tracer.h). A process that breaks a rule of the shared areas or
// does not answer within the deadline is killed here; what then happens to the VM is the death handler's to say.
// Threading: methods from any thread; all process state belongs to the supervisor's thread.
// Errors: one sentence. Trust: device processes are hostile; what they write to their log pipe is cleaned, bounded
// and rate-limited.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "ipc/base/log.h"
#include "sandbox/filter.h"
#include "sandbox/spawn.h"
#include "sandbox/tracer.h"
#include "vmm/process/device_process.h"

namespace bulkhead::vmm {

class Supervisor {
 public:
  // Called on the supervisor's thread when a device process has died, with a sentence that says how.
  using DeathHandler = std::function<void(DeviceProcess& process, const std::string& sentence)>;

  // `child_signals`: sandbox::child_signal_fd(), made before any thread was started.
  static Result<std::unique_ptr<Supervisor>> start(sandbox::Executable executable, UniqueFd child_signals,
                                                   std::string vm, DeathHandler on_death);
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // Spawns a process for each role and hands the roles over; returns at once. wait_until_serving() waits for them.
  void launch(std::vector<DeviceProcess*> roles);
  Status wait_until_serving();

  // Ends a process that misbehaves; the death handler gets `reason`. Safe on vCPU threads: it only leaves a note.
  void condemn(DeviceProcess& process, std::string reason);

  // A control message and its answer. Not for vCPU threads.
  Result<control::FromDevice> ask(DeviceProcess& process, const control::ToDevice& message);

  // 0 when the role has no process.
  [[nodiscard]] pid_t pid_of(const DeviceProcess& process);

  // Ends every process, without telling the death handler. Idempotent.
  void end_all();

 private:
  enum class State : std::uint8_t { kStarting, kServing, kDead };
  struct Child {
    DeviceProcess* role = nullptr;
    sandbox::ChildProcess process;
    control::ControlChannel control;
    UniqueFd log;
    std::string log_line;
    LogLimiter log_limiter{64};
    State state = State::kStarting;
    std::string reason;   // why it was condemned
    bool killed = false;  // SIGKILL was sent; what it says from then on counts for nothing
    std::vector<control::FromDevice> answers;
  };

  Supervisor(sandbox::Executable executable, UniqueFd child_signals, std::string vm, DeathHandler on_death);

  void thread_main();
  void post(std::function<void()> task);
  // Runs `task` on the supervisor's thread and waits for it.
  void run_there(std::function<void()> task);
  void wake();
  void run_tasks();
  Status spawn(DeviceProcess& role);
  Status hand_over(Child& child);
  void watch_once();
  void read_control(Child& child);
  void read_log(Child& child);
  void handle_deaths();
  void bury(Child& child, const sandbox::ExitReport& report);
  void fail_launch(std::string sentence);
  Child* find(const DeviceProcess& role);

  sandbox::Executable executable_;
  UniqueFd child_signals_;
  std::string vm_;
  DeathHandler on_death_;
  UniqueFd wake_;
  UniqueFd standby_filter_;
  UniqueFd role_filter_;

  // The supervisor's thread only.
  sandbox::Tracer tracer_;
  std::vector<std::unique_ptr<Child>> children_;
  std::uint32_t identities_ = 0;
  bool ending_ = false;

  std::mutex lock_;  // guards what follows
  std::condition_variable changed_;
  std::vector<std::function<void()>> tasks_;
  std::vector<std::pair<DeviceProcess*, std::string>> condemned_;
  bool stop_ = false;
  std::string launch_error_;
  std::size_t expected_ = 0;
  std::size_t serving_ = 0;

  std::thread thread_;
};

}  // namespace bulkhead::vmm
