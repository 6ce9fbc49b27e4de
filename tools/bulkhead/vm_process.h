// VmProcess: the bulkhead-vmm that belongs to this `bulkhead run`, and the socket to it.
// Destroying it ends the VM: the socket closes, and after a short wait the process is killed.
// Threading: one thread.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>

#include "ipc/control/channel.h"
#include "ipc/control/vm_config.h"

namespace bulkhead::cli {

class VmProcess {
 public:
  // Starts `program` in a session of its own, so that what the terminal sends to this program's process
  // group (Ctrl-C, Ctrl-Z, hang-up) does not reach it. It has the socket as descriptor 3, standard error as
  // it is or `error_output`, and nothing else. `config` waits in the socket before the process exists, so
  // that it need not wait for us.
  static Result<VmProcess> start(const std::string& program, const control::VmConfig& config, BorrowedFd error_output);
  VmProcess(VmProcess&& other) noexcept;
  VmProcess& operator=(VmProcess&&) = delete;
  ~VmProcess();

  [[nodiscard]] control::ControlChannel& channel() { return channel_; }
  Status send(const control::ToVmm& message);

  [[nodiscard]] BorrowedFd pidfd() const { return pidfd_.borrow(); }  // readable once the process has ended
  // Waits for the process to end; kills it when it has not by `patience`. Returns its wait status.
  int wait(std::chrono::milliseconds patience);
  void kill_now() const;

 private:
  VmProcess(control::ControlChannel channel, pid_t pid, UniqueFd pidfd)
      : channel_(std::move(channel)), pid_(pid), pidfd_(std::move(pidfd)) {}
  control::ControlChannel channel_;
  pid_t pid_ = -1;  // -1 once waited for
  UniqueFd pidfd_;
};

// "was killed by signal 11 (Segmentation fault)"
[[nodiscard]] std::string describe_wait_status(int status);

}  // namespace bulkhead::cli
