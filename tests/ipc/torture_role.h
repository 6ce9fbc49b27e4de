// TortureRole: a role's shared regions in this process, and its device processes as children that are
// killed and replaced at any moment.
//
// The children come from a zygote, a process that was forked before this one had threads; so every
// incarnation is a plain fork of a process with one thread. Construct it before the first thread. The role:
// pci_test, uart16550, system_ports and two debug_exit, served by the device runtime's own event loop.
#pragma once

#include <cstdint>

#include "ipc/control/channel.h"
#include "ipc/ring/layout.h"
#include "ipc/shm/region.h"

namespace bulkhead::torture {

// Instances, in order.
enum Instance : std::uint16_t { kTest, kSerial, kPorts, kExit, kOutbound };
// Streams, in order.
enum Stream : std::uint32_t { kSerialStream, kDebugStream };

class TortureRole {
 public:
  TortureRole();
  ~TortureRole();
  TortureRole(const TortureRole&) = delete;
  TortureRole& operator=(const TortureRole&) = delete;

  // Kills the device process, with SIGKILL, and returns when it is dead.
  void kill();
  // Starts the next one. False: the zygote is gone.
  bool start(std::uint32_t incarnation);
  // How many device processes ended on their own account, which none should.
  [[nodiscard]] std::uint32_t ended_by_themselves() const { return ended_by_themselves_; }

  [[nodiscard]] ipc::RequestArea& requests() { return *requests_.as<ipc::RequestArea>(); }
  [[nodiscard]] ipc::ReplyArea& replies() { return *replies_.as<ipc::ReplyArea>(); }
  [[nodiscard]] BorrowedFd doorbell() const { return doorbell_.borrow(); }
  [[nodiscard]] BorrowedFd output_doorbell() const { return output_doorbell_.borrow(); }

 private:
  [[noreturn]] void zygote(int socket);
  [[noreturn]] void play(std::uint32_t incarnation);
  std::uint32_t command(std::uint32_t word);

  ipc::WritableRegion requests_;
  ipc::WritableRegion replies_;
  ipc::WritableRegion state_;
  UniqueFd doorbell_;
  UniqueFd output_doorbell_;
  control::ControlChannel vmm_;  // never says anything; its end ends a device process
  control::ControlChannel device_;
  UniqueFd socket_;
  int zygote_ = -1;
  std::uint32_t ended_by_themselves_ = 0;
};

}  // namespace bulkhead::torture
