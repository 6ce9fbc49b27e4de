// Session: one running VM as `bulkhead run` sees it. A single loop carries the console, listens to the VMM
// and to signals, and ends once the VMM is gone and its last byte of output is written. Threading: one
// thread; the termination and stop signals stay blocked from start() on.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/bulkhead/flow.h"
#include "tools/bulkhead/run_setup.h"
#include "tools/bulkhead/terminal.h"
#include "tools/bulkhead/vm_process.h"

namespace bulkhead::cli {

class Session {
 public:
  // Blocks the signals, starts the VMM and hands it its configuration.
  static Result<Session> start(RunSetup setup);
  // Until the VM has ended. Returns the exit status.
  int run();

 private:
  using Clock = std::chrono::steady_clock;

  Session(VmProcess vm, UniqueFd signals, RunSetup setup);
  void connect_console();

  void poll_once();
  void on_signals();
  void on_termination_signal();
  void on_vm_message();
  void on_typed();
  void on_started(const control::Started& started);
  void on_escape(EscapeFilter::Command command);
  void pass_size_on();
  void press_power_button();
  void end_vm();
  void limit_end();
  [[nodiscard]] bool is_over() const;
  [[nodiscard]] int poll_timeout() const;
  void drain_after_end();
  void say(std::string_view sentence);
  int finish();

  std::vector<ImageServer> image_servers_;  // outlive the VM
  VmProcess vm_;
  UniqueFd signals_;
  control::VmConfig config_;  // without its files
  ConsoleEnds console_;
  SocketFile vsock_;     // removed in the end
  NewFiles made_;        // removed unless the VM starts
  UniqueFd error_pipe_;  // the VMM's standard error, while the terminal is raw
  UniqueFd own_output_;  // the terminal behind standard output, opened anew to be non-blocking
  std::optional<RawTerminal> terminal_;
  Flow to_guest_;
  Flow from_guest_;
  Flow errors_;
  EscapeFilter escapes_;

  bool started_ = false;
  bool channel_open_ = true;
  bool process_ended_ = false;
  bool abandon_output_ = false;
  bool end_requested_ = false;
  unsigned termination_signals_ = 0;
  std::optional<Clock::time_point> kill_at_;
  std::optional<control::VmFailed> failed_;
  std::optional<control::Exited> exited_;
};

}  // namespace bulkhead::cli
