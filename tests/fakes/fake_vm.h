// FakeVm: a hypervisor's VM that keeps books of its irqfds and routes, and can refuse. deliver() plays KVM: it takes
// what assigned eventfds hold and says which GSI got it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "vmm/hypervisor/hypervisor.h"

namespace bulkhead::vmm {

class FakeVm final : public Vm {
 public:
  static constexpr std::uint32_t kFirstMsiGsi = 24;

  Status set_memory_slot(const MemorySlot& slot) override {
    if (slot.size == 0) {
      slots.erase(slot.slot);
    } else {
      slots[slot.slot] = slot;
    }
    return ok();
  }
  Result<std::uint32_t> allocate_msi_gsi() override {
    if (allocated.size() == gsi_limit) return make_error("no GSI is left");
    const auto gsi = static_cast<std::uint32_t>(kFirstMsiGsi + allocated.size());
    allocated.insert(gsi);
    return gsi;
  }
  void free_msi_gsi(std::uint32_t gsi) override { allocated.erase(gsi); }
  Status set_msi_routes(std::span<const MsiRoute> changed) override {
    ++route_calls;
    for (const MsiRoute& route : changed) {
      if (!allocated.contains(route.gsi)) return make_error("a GSI that nobody allocated");
      if (route.message && refused_addresses.contains(route.message->address))
        return make_error("KVM refuses the route");
    }
    for (const MsiRoute& route : changed) {
      if (route.message) {
        routes[route.gsi] = *route.message;
      } else {
        routes.erase(route.gsi);
      }
    }
    return ok();
  }
  Status assign_irqfd(BorrowedFd event, std::uint32_t gsi, BorrowedFd resample = {}) override {
    if (refuse_irqfds) return make_error("KVM refuses the irqfd");
    if (irqfds.contains(event.get())) ++mistakes;  // KVM: EBUSY
    irqfds[event.get()] = {gsi, resample.get()};
    ++assigns;
    return ok();
  }
  Status deassign_irqfd(BorrowedFd event, std::uint32_t gsi) override {
    const auto it = irqfds.find(event.get());
    if (it == irqfds.end() || it->second.gsi != gsi) ++mistakes;
    irqfds.erase(event.get());
    return ok();
  }
  Status add_io_event(const IoEvent&) override { return ok(); }
  Status remove_io_event(const IoEvent&) override { return ok(); }
  Status add_coalesced(const CoalescedRange&) override { return ok(); }
  Status remove_coalesced(const CoalescedRange&) override { return ok(); }
  Result<bool> signal_msi(const MsiRoute::Message&) override { return true; }

  // GSIs raised since the last look, lowest first; each once.
  std::set<std::uint32_t> deliver() {
    std::set<std::uint32_t> raised;
    for (const auto& [event, assigned] : irqfds) {
      if (drain_eventfd(BorrowedFd(event)) != 0) raised.insert(assigned.gsi);
    }
    return raised;
  }
  // The messages that the guest gets of them.
  std::vector<MsiRoute::Message> deliver_messages() {
    std::vector<MsiRoute::Message> messages;
    for (const std::uint32_t gsi : deliver()) {
      if (gsi < kFirstMsiGsi) continue;
      const auto route = routes.find(gsi);
      if (route != routes.end()) messages.push_back(route->second);
    }
    return messages;
  }
  [[nodiscard]] std::optional<std::uint32_t> gsi_of(BorrowedFd event) const {
    const auto it = irqfds.find(event.get());
    return it == irqfds.end() ? std::nullopt : std::optional(it->second.gsi);
  }

  struct Assigned {
    std::uint32_t gsi = 0;
    int resample = -1;
  };
  std::map<std::uint32_t, MemorySlot> slots;
  std::map<int, Assigned> irqfds;  // by eventfd
  std::map<std::uint32_t, MsiRoute::Message> routes;
  std::set<std::uint32_t> allocated;
  std::set<std::uint64_t> refused_addresses;
  std::size_t gsi_limit = 4096;
  bool refuse_irqfds = false;
  int route_calls = 0;
  int assigns = 0;
  int mistakes = 0;  // an irqfd assigned twice, or taken from where it is not
};

}  // namespace bulkhead::vmm
