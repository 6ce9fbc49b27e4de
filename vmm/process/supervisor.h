// Supervisor: the one thread that spawns, traces and watches every device process, and lives as long as the VM.
//
// A role outlives its processes: when one dies (proof is its exit stop, sandbox/tracer.h), breaks a rule or does not
// answer within the deadline, a warm standby takes the role and goes on from the last commit (DESIGN.md, section 4).
// What a device that keeps dying leads to is RestartPolicy's to say; the VM hears of it through the loss handler.
// Threading: methods from any thread; all process state belongs to the supervisor's thread. At most one tick a second
// while nothing happens.
// Errors: one sentence. Trust: device processes are hostile (device_child.h).
#pragma once

#include <bitset>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "sandbox/filter.h"
#include "sandbox/spawn.h"
#include "sandbox/tracer.h"
#include "vmm/process/awake_clock.h"
#include "vmm/process/device_child.h"
#include "vmm/process/device_events.h"
#include "vmm/process/device_process.h"
#include "vmm/process/restart_policy.h"

namespace bulkhead::vmm {

// One role, and what became of its processes. The supervisor's thread only.
struct Ward {
  Ward(DeviceProcess& its_role, RestartPolicy its_policy, std::shared_ptr<const sandbox::Executable> its_executable)
      : role(&its_role), policy(std::move(its_policy)), executable(std::move(its_executable)) {}

  DeviceProcess* role;
  RestartPolicy policy;
  std::shared_ptr<const sandbox::Executable> executable;
  DeviceChild* child = nullptr;  // starting or serving
  bool ever_served = false;
  bool isolated = false;
  std::function<void(Status)> revived;  // somebody waits for the role to be brought back
  std::uint32_t failed_starts = 0;      // in a row: the host is short of something
  bool blame = false;                   // the last death counts against the input at hand
  std::int64_t stalled_since_ns = 0;    // nobody serves; 0: somebody does
  std::optional<std::int64_t> restart_at_ns;
  std::string last_cause;
  // Posted requests have nobody who waits for them: here since when (by the awake clock)
  // the oldest one has not moved.
  ipc::Ticket behind = 0;
  std::int64_t behind_since_ns = 0;
  // The same for kicks: since when one has waited, while no queue was worked on (DeviceCounters::kicks).
  std::int64_t kicked_since_ns = 0;
  std::uint64_t kicks_done = 0;
  bool tap_gone = false;               // and said so
  std::int64_t draining_since_ns = 0;  // DeviceCounters::draining; 0: it does not
  bool drain_told = false;

  struct Upgrade {
    DeviceChild* candidate = nullptr;
    std::shared_ptr<const sandbox::Executable> executable;
    std::function<void(Status)> done;
    bool quiescing = false;
  };
  std::optional<Upgrade> upgrade;

  std::uint32_t restarts = 0;
  std::int64_t last_stall_ns = 0;
  std::int64_t longest_stall_ns = 0;
  std::uint64_t replayed = 0;

  // A failure now is one of the VM's start.
  [[nodiscard]] bool launching() const { return !ever_served && !revived; }
};

class Supervisor {
 public:
  struct Options {
    std::string vm;
    std::int64_t deadline_ns = 1'000'000'000;      // for whatever is asked of a device process
    bool standby = true;                           // keep a warm one (the benchmark's cold figure does without)
    std::optional<sandbox::Executable> usernet{};  // the program of roles that stay in the host's network
  };
  // Called on the supervisor's thread when a role is given up: its device reads all ones from then on (`stop` false),
  // or the VM has to stop. The event says why; the VM announces it once the guest sees no trace of the device.
  using LossHandler = std::function<void(DeviceProcess& role, bool stop, const control::DeviceEvent& isolated)>;

  // `child_signals`: sandbox::child_signal_fd(), made before any thread was started. `events` outlives this.
  static Result<std::unique_ptr<Supervisor>> start(sandbox::Executable executable, UniqueFd child_signals,
                                                   Options options, DeviceEvents& events, LossHandler on_loss);
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  struct Role {
    DeviceProcess* process = nullptr;
    RestartPolicy policy;
  };
  // Spawns a process for each role and hands the roles over; returns at once. wait_until_serving() waits for them.
  void launch(std::vector<Role> roles);
  Status wait_until_serving();

  // Ends the process that plays the role now, which misbehaves or (`hung`) does not answer; a successor follows. Safe
  // on vCPU threads: it only leaves a note.
  // `incarnation`: the one that is meant; a note about another one is dropped.
  void condemn(DeviceProcess& role, std::uint32_t incarnation, std::string reason, bool hung);

  // A control message and its answer. Waits; not for vCPU threads.
  Result<control::FromDevice> ask(DeviceProcess& role, const control::ToDevice& message);

  // A fault drill: sends a signal to the role's process. What follows does not count against the device.
  Status drill(DeviceProcess& role, int signal);
  Status drill_standby(int signal);
  // Puts another executable under the role; waits until it serves. An executable whose state has another layout is
  // refused while the old process goes on.
  Status upgrade(DeviceProcess& role, sandbox::Executable executable);
  // Changes what the role's processes are handed (`change`, on the supervisor's thread) and has a successor take over,
  // as nobody's fault. `event` and `why` say what happened to its cable.
  Status rewire(DeviceProcess& role, control::DeviceEventKind event, const std::string& why,
                const std::function<Status()>& change);
  // Starts an isolated role anew, from reset; the caller has reopened its ring. Waits until it serves.
  Status revive(DeviceProcess& role);

  struct Info {
    pid_t pid = 0;  // 0: no process now
    control::DeviceState state = control::DeviceState::kDead;
    std::uint32_t incarnation = 0;
    std::uint32_t restarts = 0;
    std::int64_t last_stall_ns = 0;
    std::int64_t longest_stall_ns = 0;
    std::uint64_t replayed = 0;
  };
  [[nodiscard]] Info info_of(const DeviceProcess& role);
  [[nodiscard]] pid_t pid_of(const DeviceProcess& role) { return info_of(role).pid; }
  // 0: there is none now.
  [[nodiscard]] pid_t standby_pid();

  // Ends every process; nothing is restarted from then on. Idempotent.
  void end_all();

 private:
  Supervisor(sandbox::Executable executable, UniqueFd child_signals, Options options, DeviceEvents& events,
             LossHandler on_loss);

  // The thread (supervisor.cc).
  void thread_main();
  void post(std::function<void()> task);
  void run_there(std::function<void()> task);
  void wake();
  void run_tasks();
  void watch_once();
  [[nodiscard]] int poll_timeout_ms() const;
  void act_on_time();
  void tick(std::int64_t now);
  void look(std::int64_t now);
  // True: it does not get on, and is to be looked at soon.
  bool watch_process(DeviceChild& child);
  bool watch_progress(Ward& ward);
  bool watch_kicks(Ward& ward);
  void watch_taps(Ward& ward);
  void watch_draining(Ward& ward);
  Status compile_filters(const std::vector<Role>& roles);
  [[nodiscard]] BorrowedFd filter_of(const Ward& ward) const;
  [[nodiscard]] std::int64_t deadline_of(const Ward& ward) const {
    return ward.role->plan().deadline_ns(options_.deadline_ns);
  }
  void fail_launch(std::string sentence);
  Ward* find(const DeviceProcess& role);

  // What processes say.
  void read_control(DeviceChild& child);
  void handle_ready(DeviceChild& child, control::Ready ready);
  void handle_failed(DeviceChild& child, const std::string& sentence);

  Status signal_child(DeviceChild* child, int signal);
  // Birth, death and succession (supervisor_takeover.cc).
  Result<DeviceChild*> spawn(const std::shared_ptr<const sandbox::Executable>& executable, const std::string& name,
                             const JailPlan& jail);
  [[nodiscard]] DeviceChild* take_standby(const Ward& ward);
  void retry_start(Ward& ward, const std::string& why);
  void play_role(Ward& ward);
  Status hand_over(Ward& ward, DeviceChild& child);
  void prepare_standbys();
  [[nodiscard]] bool all_serve();
  void handle_deaths();
  void bury(DeviceChild& child, const sandbox::ExitReport& report);
  void disown(Ward& ward, DeviceChild& child);
  void end_process(Ward& ward, std::string why, bool hung);
  void succeed(Ward& ward, const DeviceChild& dead, const std::string& cause);
  void give_up(Ward& ward, bool stop, const std::string& cause);
  void forget_corpses();
  void start_upgrade(Ward& ward, std::shared_ptr<const sandbox::Executable> executable,
                     std::function<void(Status)> done);
  void judge_candidate(Ward& ward, const control::Ready& ready);
  void end_upgrade(Ward& ward, Status status);
  control::DeviceEvent event_of(const Ward& ward, control::DeviceEventKind kind) const;

  std::shared_ptr<const sandbox::Executable> executable_;
  std::shared_ptr<const sandbox::Executable> usernet_executable_;
  UniqueFd child_signals_;
  Options options_;
  DeviceEvents& events_;
  LossHandler on_loss_;
  UniqueFd wake_;

  // The supervisor's thread only.
  UniqueFd standby_filter_;          // of processes without a network
  UniqueFd network_standby_filter_;  // of those in the host's
  std::vector<std::pair<SyscallGroups, UniqueFd>> role_filters_;
  std::vector<BorrowedFd> rings_;  // of all roles, which outlive this
  sandbox::Tracer tracer_;
  std::vector<std::unique_ptr<Ward>> wards_;
  std::vector<std::unique_ptr<DeviceChild>> children_;
  std::vector<DeviceChild*> standbys_;  // one for each executable that plays a role, and each jail
  std::int64_t standby_not_before_ns_ = 0;
  AwakeClock awake_;  // whoever is late is late by this one
  std::int64_t next_tick_ns_ = 0;
  std::int64_t next_look_ns_ = 0;
  std::bitset<64> identities_;
  bool ending_ = false;

  struct Condemned {
    DeviceProcess* role;
    std::uint32_t incarnation;
    std::string reason;
    bool hung;
  };
  std::mutex lock_;  // guards what follows
  std::condition_variable changed_;
  std::vector<std::function<void()>> tasks_;
  std::vector<Condemned> condemned_;
  bool stop_ = false;
  std::string launch_error_;
  std::size_t expected_ = 0;
  std::size_t serving_ = 0;

  std::thread thread_;
};

}  // namespace bulkhead::vmm
