// Doorbells: guest writes that ring a device process's eventfd inside KVM, so that the VMM is not on the way of a
// queue's notification (ioeventfd; DESIGN.md, idea 4).
//
// A doorbell is a place in a device's region; where the guest sees it follows from the claims in force. One that KVM
// refuses costs nothing but speed: the write then travels to the device as a request.
// Threading: its owner locks. Trust: places and eventfds are the plan's; addresses come from checked claims.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ipc/base/unique_fd.h"
#include "vmm/bus/address_space.h"
#include "vmm/hypervisor/hypervisor.h"

namespace bulkhead::vmm {

class Doorbells {
 public:
  struct Place {
    DeviceChannel* channel = nullptr;
    std::uint16_t instance = 0;
    std::uint16_t region = 0;
    std::uint64_t offset = 0;  // bytes into the region
  };

  explicit Doorbells(Vm& vm) : vm_(vm) {}

  void add(const Place& place, BorrowedFd event) { bells_.push_back({place, event, {}}); }
  // Attaches and detaches until each doorbell rings where `claims` have it, and nowhere else.
  void publish(std::span<const Claim> claims);

 private:
  struct Bell {
    Place place;
    BorrowedFd event;
    std::optional<IoEvent> attached;
  };
  Vm& vm_;
  std::vector<Bell> bells_;
};

}  // namespace bulkhead::vmm
