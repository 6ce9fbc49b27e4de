// GsiTable: the whole GSI routing table of a VM, as KVM_SET_GSI_ROUTING wants it every time.
//
// The PIC and IOAPIC pins of a PC are always in it, as QEMU's pc has them: GSI 0-15 to the PICs (not 2,
// the cascade), GSI 0-23 to the IOAPIC, of which GSI 0 goes to pin 2 to match the MADT's override and GSI
// 2 to none. MSI GSIs are handed out above those.
// Units: none. Errors: nullopt/false when there is no such GSI or no room. Threading: none (its owner
// locks). Trust: callers check what a device process asked for; a wrong GSI here is refused, not obeyed.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "vmm/hypervisor/hypervisor.h"

namespace bulkhead::vmm {

inline constexpr std::uint32_t kIoapicPins = 24;

class GsiTable {
 public:
  // `limit`: GSIs are below it (KVM_CAP_IRQ_ROUTING's answer).
  explicit GsiTable(std::uint32_t limit) : limit_(limit) {}

  [[nodiscard]] std::optional<std::uint32_t> allocate();
  bool free(std::uint32_t gsi);
  // False when `gsi` is not an allocated MSI GSI.
  bool set(std::uint32_t gsi, const std::optional<MsiRoute::Message>& message);

  [[nodiscard]] std::vector<kvm_irq_routing_entry> entries() const;

 private:
  struct Slot {
    bool allocated = false;
    std::optional<MsiRoute::Message> message{};
  };
  std::uint32_t limit_;
  std::vector<Slot> slots_;  // GSI kIoapicPins + index
};

}  // namespace bulkhead::vmm
