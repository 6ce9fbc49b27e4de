#include "vmm/hypervisor/gsi_table.h"

namespace bulkhead::vmm {

namespace {

constexpr std::uint32_t kPicPins = 8;
constexpr std::uint32_t kCascade = 2;

kvm_irq_routing_entry pin_route(std::uint32_t gsi, std::uint32_t chip, std::uint32_t pin) {
  kvm_irq_routing_entry entry{};
  entry.gsi = gsi;
  entry.type = KVM_IRQ_ROUTING_IRQCHIP;
  entry.u.irqchip.irqchip = chip;
  entry.u.irqchip.pin = pin;
  return entry;
}

kvm_irq_routing_entry msi_route(std::uint32_t gsi, const MsiRoute::Message& message) {
  kvm_irq_routing_entry entry{};
  entry.gsi = gsi;
  entry.type = KVM_IRQ_ROUTING_MSI;
  entry.u.msi.address_lo = static_cast<std::uint32_t>(message.address);
  entry.u.msi.address_hi = static_cast<std::uint32_t>(message.address >> 32);
  entry.u.msi.data = message.data;
  return entry;
}

}  // namespace

std::optional<std::uint32_t> GsiTable::allocate() {
  std::uint32_t index = 0;
  while (index < slots_.size() && slots_[index].allocated) ++index;
  if (kIoapicPins + index >= limit_) return std::nullopt;
  if (index == slots_.size()) slots_.emplace_back();
  slots_[index] = Slot{true, std::nullopt};
  return kIoapicPins + index;
}

bool GsiTable::free(std::uint32_t gsi) {
  if (gsi < kIoapicPins || gsi - kIoapicPins >= slots_.size()) return false;
  Slot& slot = slots_[gsi - kIoapicPins];
  const bool was_allocated = slot.allocated;
  slot = Slot{};
  return was_allocated;
}

bool GsiTable::set(std::uint32_t gsi, const std::optional<MsiRoute::Message>& message) {
  if (gsi < kIoapicPins || gsi - kIoapicPins >= slots_.size()) return false;
  Slot& slot = slots_[gsi - kIoapicPins];
  if (!slot.allocated) return false;
  slot.message = message;
  return true;
}

std::vector<kvm_irq_routing_entry> GsiTable::entries() const {
  std::vector<kvm_irq_routing_entry> entries;
  entries.reserve(2 * kPicPins + kIoapicPins + slots_.size());
  for (std::uint32_t pin = 0; pin < 2 * kPicPins; ++pin) {
    if (pin == kCascade) continue;
    entries.push_back(pin < kPicPins ? pin_route(pin, KVM_IRQCHIP_PIC_MASTER, pin)
                                     : pin_route(pin, KVM_IRQCHIP_PIC_SLAVE, pin - kPicPins));
  }
  for (std::uint32_t pin = 0; pin < kIoapicPins; ++pin) {
    if (pin == kCascade) continue;
    // The MADT says that ISA IRQ 0 (the PIT) comes in at IOAPIC pin 2.
    entries.push_back(pin_route(pin, KVM_IRQCHIP_IOAPIC, pin == 0 ? 2 : pin));
  }
  for (std::uint32_t index = 0; index < slots_.size(); ++index) {
    if (slots_[index].message) entries.push_back(msi_route(kIoapicPins + index, *slots_[index].message));
  }
  return entries;
}

}  // namespace bulkhead::vmm
