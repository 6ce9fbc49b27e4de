// A role played without a jail: a forked child that runs the device runtime's own event loop on real regions, and an
// AF_UNIX SEQPACKET echo beside it, so that both can be timed between the same two processes.
#pragma once

#include <memory>

#include "ipc/control/channel.h"
#include "ipc/ring/request_producer.h"
#include "vmm/process/device_process.h"

namespace bulkhead::bench {

class LocalRole final : public ipc::EffectReceiver, public vmm::PendingBits {
 public:
  // Whether the child commits what it does, as every device process, or works in place: the base of commit_cost.
  enum class Serve : std::uint8_t { kCommit, kInPlace };
  // `cpu`: where the child is pinned, -1 for nowhere.
  static Result<std::unique_ptr<LocalRole>> start(int cpu, vmm::RolePlan plan, Serve serve = Serve::kCommit);
  // A role with one `system_ports` device.
  static Result<std::unique_ptr<LocalRole>> start(int cpu);
  ~LocalRole() override;

  // One non-posted write to port 80h.
  bool request(ipc::AdaptiveWait& wait);
  bool request(const ipc::Request& request, ipc::AdaptiveWait& wait);
  // One 64-byte message there and back.
  bool echo();

  bool apply_effect(const Effect&) override { return true; }
  std::uint64_t pending_bits(std::uint8_t, std::uint16_t) override { return 0; }

 private:
  LocalRole() = default;
  [[noreturn]] void serve_in_place(int cpu, ipc::ReplyArea& replies);
  [[noreturn]] void child(int cpu, UniqueFd echo_socket, control::ControlChannel control);

  vmm::RolePlan plan_;
  std::unique_ptr<vmm::GuestRam> ram_;
  std::unique_ptr<vmm::DeviceProcess> process_;
  control::ControlChannel control_;
  UniqueFd echo_;
  int pid_ = -1;
};

}  // namespace bulkhead::bench
