// dispatch(): what a vCPU's exit means. Register accesses go to the address space; everything else ends the loop
// or the VM. Pure of KVM: tests drive it with scripted exits.
// Threading: the vCPU's thread. Trust: values in exits are the guest's.
#pragma once

#include <cstdint>

#include "vmm/bus/address_space.h"
#include "vmm/hypervisor/hypervisor.h"

namespace bulkhead::vmm {

enum class ExitAction : std::uint8_t {
  kContinue,     // handled; run on
  kInterrupted,  // nothing happened; look at the gate
  kShutdown,     // triple fault
  kReset,        // the hypervisor says that the guest asked for a reset
  kPowerOff,
  kFailed,  // the vCPU cannot go on: internal error, failed entry, unknown exit
};

[[nodiscard]] ExitAction dispatch(const Exit& exit, AddressSpace& space, std::uint32_t vcpu);

}  // namespace bulkhead::vmm
