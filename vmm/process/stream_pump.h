// StreamPump: one thread that moves bytes between device processes' streams and the console, debug output and the
// log, and collects the effects that devices emit on their own account (outbound queue).
//
// A console is the first serial port or a virtio console. Its output is byte-exact: a reader that is slow makes the
// guest wait, and nothing is dropped, except on a terminal that nobody has opened and on a file that cannot be written.
// Threading: start and stop from one thread; everything else on its own. Trust: stream indexes come from hostile
// processes; one that cannot be is reported as a violation and the stream is left alone until a successor has taken
// over and published it anew.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "ipc/control/vm_config.h"
#include "vmm/machine/plan.h"
#include "vmm/process/console_log.h"
#include "vmm/process/device_process.h"

namespace bulkhead::vmm {

struct ConsoleFiles {
  control::ConsoleKind kind = control::ConsoleKind::kNone;
  UniqueFd input{};           // may be invalid
  UniqueFd output{};          // may be invalid
  UniqueFd typed{};           // likewise: a pipe, for what comes from elsewhere
  ConsoleLog* log = nullptr;  // gets all output as well; outlives the pump
};

class StreamPump {
 public:
  struct Role {
    DeviceProcess* process = nullptr;
    ipc::EffectReceiver* effects = nullptr;
  };
  struct Console {
    StreamRef stream;
    ConsoleFiles files;
  };
  using Violation = std::function<void(DeviceProcess& process, const char* what, std::uint32_t incarnation)>;

  static Result<std::unique_ptr<StreamPump>> start(std::vector<Role> roles, std::vector<Console> consoles,
                                                   StreamRef debug, Violation on_violation);
  ~StreamPump();
  StreamPump(const StreamPump&) = delete;
  StreamPump& operator=(const StreamPump&) = delete;

  // Moves what the guest has written so far to the consoles (waiting at most a moment for a slow reader), then
  // stops. Idempotent.
  void finish();

 private:
  struct Terminal {
    StreamRef stream;
    ConsoleFiles files;
    std::vector<std::uint8_t> pending{};  // taken from the stream, not yet written
    std::size_t pending_done = 0;
    bool input_full = false;
    bool input_hung_up = false;
  };
  struct Stream {
    std::size_t role;
    std::uint32_t index;
    ipc::StreamEnd end;
    std::uint32_t broken_by = 0;   // the incarnation that broke its rules, 0: none
    Terminal* terminal = nullptr;  // one of terminals_, or nullptr
    bool debug = false;
  };

  StreamPump(std::vector<Role> roles, std::vector<Console> consoles, Violation on_violation);
  void add_streams(StreamRef debug);
  void thread_main();
  // True when something moved.
  bool move_all();
  bool move_output(Stream& stream);
  bool move_input(Stream& stream);
  // Bytes read from one of the terminal's descriptors; 0: none now.
  static std::size_t read_input(Terminal& terminal, UniqueFd& input, std::span<std::uint8_t> out);
  bool collect_effects(std::size_t role);
  static bool flush(Terminal& terminal);
  void wait_for_writers();
  void log_debug(std::span<const std::uint8_t> bytes);
  void wait();
  void set_asleep(bool asleep);

  std::vector<Role> roles_;
  std::vector<Terminal> terminals_;
  Violation on_violation_;
  std::vector<Stream> streams_;
  struct Outbound {
    std::uint64_t taken = 0;
    std::uint32_t broken_by = 0;
  };
  bool is_broken(const DeviceProcess& process, std::uint32_t& broken_by) const;
  // `serving`: the incarnation that served before the look that found this.
  void violation(DeviceProcess& process, std::uint32_t serving, std::uint32_t& broken_by, const char* what);
  std::vector<Outbound> outbound_;  // by role
  std::string debug_line_;
  UniqueFd wake_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace bulkhead::vmm
