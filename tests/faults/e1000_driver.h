// The driver's side of an e1000 in the fault tests: where its rings are, and what it does before it opens them.
#pragma once

#include <cstring>
#include <vector>

#include "devproc/models/e1000/spec.h"
#include "ipc/roles/e1000_decl.h"
#include "tests/unit/devproc/host/role_rig.h"

namespace bulkhead::devproc {

inline constexpr GuestPhys kE1000ReceiveRing = 0x1000;
inline constexpr GuestPhys kE1000TransmitRing = 0x2000;
inline constexpr std::uint32_t kE1000Ring = 8;  // descriptors of each

inline ipc::Request e1000_register(std::uint32_t offset, std::uint32_t value) {
  return posted(writes(0, kE1000Registers, offset, 4, value));
}

// Both directions on, with every interrupt; no descriptor is offered yet.
inline std::vector<ipc::Request> e1000_driver_start() {
  using namespace e1000_spec;
  ipc::Request control;
  control.kind = ipc::RequestKind::kFunctionControl;
  const std::uint32_t bits = kControlMemoryEnable | kControlBusMaster;
  std::memcpy(control.payload, &bits, sizeof bits);
  return {control,
          e1000_register(kCtrl, kCtrlSlu),
          e1000_register(kRdbal, kE1000ReceiveRing),
          e1000_register(kRdlen, 16 * kE1000Ring),
          e1000_register(kTdbal, kE1000TransmitRing),
          e1000_register(kTdlen, 16 * kE1000Ring),
          e1000_register(kIms, kIntAll),
          e1000_register(kRctl, kRctlEn | kRctlUpe | kRctlSecrc),
          e1000_register(kTctl, kTctlEn)};
}

}  // namespace bulkhead::devproc
