#include "vmm/vcpu/dispatch.h"

namespace bulkhead::vmm {
namespace {

struct Visitor {
  AddressSpace& space;
  std::uint32_t vcpu;

  ExitAction operator()(const PioIn& io) const {
    space.read(vcpu, Space::kPort, io.port, io.size, io.count, io.data);
    return ExitAction::kContinue;
  }
  ExitAction operator()(const PioOut& io) const {
    space.write(vcpu, Space::kPort, io.port, io.size, io.count, io.data);
    return ExitAction::kContinue;
  }
  ExitAction operator()(const MmioRead& access) const {
    space.read(vcpu, Space::kMemory, access.address, access.size, 1, access.data);
    return ExitAction::kContinue;
  }
  ExitAction operator()(const MmioWrite& access) const {
    space.write(vcpu, Space::kMemory, access.address, access.size, 1, access.data);
    return ExitAction::kContinue;
  }
  ExitAction operator()(const Hlt&) const { return ExitAction::kContinue; }
  ExitAction operator()(const Interrupted&) const { return ExitAction::kInterrupted; }
  ExitAction operator()(const Shutdown&) const { return ExitAction::kShutdown; }
  ExitAction operator()(const SystemEvent& event) const {
    switch (event.kind) {
      case SystemEvent::Kind::kReset: return ExitAction::kReset;
      case SystemEvent::Kind::kShutdown: return ExitAction::kPowerOff;
      case SystemEvent::Kind::kCrash:
      case SystemEvent::Kind::kOther: break;
    }
    return ExitAction::kFailed;
  }
  ExitAction operator()(const InternalError&) const { return ExitAction::kFailed; }
  ExitAction operator()(const FailEntry&) const { return ExitAction::kFailed; }
  ExitAction operator()(const RunFailed&) const { return ExitAction::kFailed; }
  ExitAction operator()(const UnknownExit&) const { return ExitAction::kFailed; }
};

}  // namespace

ExitAction dispatch(const Exit& exit, AddressSpace& space, std::uint32_t vcpu) {
  return std::visit(Visitor{space, vcpu}, exit);
}

}  // namespace bulkhead::vmm
