#include <fmt/format.h>
#include <linux/kvm.h>

#include <cstring>
#include <string>
#include <type_traits>

#include "vmm/hypervisor/hypervisor.h"

namespace bulkhead::vmm {

namespace {

const char* suberror_name(std::uint32_t suberror) {
  switch (suberror) {
    case KVM_INTERNAL_ERROR_EMULATION: return "an instruction that it cannot emulate";
    case KVM_INTERNAL_ERROR_SIMUL_EX: return "unexpected simultaneous exceptions";
    case KVM_INTERNAL_ERROR_DELIVERY_EV: return "an exit in the middle of event delivery";
    case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: return "an unexpected exit reason";
    default: return "an unknown kind";
  }
}

struct Describer {
  std::string operator()(const PioIn& e) const {
    return fmt::format("read of {} x {} bytes from port {:#x}", e.count, e.size, e.port);
  }
  std::string operator()(const PioOut& e) const {
    return fmt::format("write of {} x {} bytes to port {:#x}", e.count, e.size, e.port);
  }
  std::string operator()(const MmioRead& e) const {
    return fmt::format("read of {} bytes from address {:#x}", e.size, e.address);
  }
  std::string operator()(const MmioWrite& e) const {
    return fmt::format("write of {} bytes to address {:#x}", e.size, e.address);
  }
  std::string operator()(const Hlt&) const { return "halt"; }
  std::string operator()(const Shutdown&) const { return "triple fault"; }
  std::string operator()(const Interrupted&) const { return "interrupted"; }
  std::string operator()(const SystemEvent& e) const { return fmt::format("system event {}", e.type); }
  std::string operator()(const InternalError& e) const {
    std::string text = fmt::format("internal error of KVM: {} (suberror {})", suberror_name(e.suberror), e.suberror);
    for (const std::uint64_t word : e.data) text += fmt::format(" {:#x}", word);
    return text;
  }
  std::string operator()(const FailEntry& e) const {
    return fmt::format("the CPU refused to enter the guest (hardware reason {:#x})", e.reason);
  }
  std::string operator()(const RunFailed& e) const {
    return fmt::format("KVM_RUN failed: {}", std::strerror(e.error_number));
  }
  std::string operator()(const UnknownExit& e) const {
    return fmt::format("unknown exit reason {} of KVM (hardware reason {:#x})", e.reason, e.hardware_reason);
  }
};

}  // namespace

std::string describe(const Exit& exit) { return std::visit(Describer{}, exit); }

}  // namespace bulkhead::vmm
