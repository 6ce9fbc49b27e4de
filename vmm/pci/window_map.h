// WindowMap: which of the windows that the `pci` process asks for are in force.
//
// Each effect carries one window's whole desired state; the map is recomputed from all of them. RAM comes
// first, then fixed claims, then the lower function (and the lower window of one function): a window that
// is in the way of one of these stays refused until it fits, and then takes hold by itself. Pure.
// Threading: none (its owner locks). Trust: bases come from the guest by way of a hostile process; the
// windows' sizes and kinds are the plan's, never the effect's.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ipc/base/checked.h"
#include "ipc/state/effects.h"
#include "vmm/bus/address_space.h"

namespace bulkhead::vmm {

// A window that the machine's plan knows of: a BAR, or the PM base of the PIIX4.
struct WindowPlan {
  std::uint8_t devfn = 0;
  std::uint32_t index = 0;  // BAR number
  Space space = Space::kMemory;
  std::uint64_t size = 0;
  DeviceChannel* channel = nullptr;  // who answers there
  std::uint16_t instance = 0;
  std::uint16_t region = 0;
  bool posted = false;
  std::string owner;
  std::span<std::byte> memory{};  // an expansion ROM or video memory: its bytes
  bool writable = false;          // by the guest
};

class WindowMap {
 public:
  // `reserved`: memory that no window may cover (RAM, the local APICs, the IOAPIC, the TSS pages).
  WindowMap(std::vector<WindowPlan> windows, std::vector<Range> reserved, std::vector<Claim> fixed);

  // Records what is wanted of one window. False: there is no such window, or its size is another.
  bool want(const Effect& window);
  // Every window off, as after a reset.
  void reset();
  // The windows of an isolated function are out of force, whatever is wanted of them.
  void set_present(std::uint8_t devfn, bool present);

  // The fixed claims and all windows that are in force now.
  [[nodiscard]] std::vector<Claim> claims() const;

 private:
  struct Window {
    WindowPlan plan;
    bool enabled = false;
    bool present = true;
    std::uint64_t base = 0;
  };
  [[nodiscard]] bool allowed(const Range& range, Space space, const std::vector<Claim>& taken) const;

  std::vector<Window> windows_;  // by function, then index
  std::vector<Range> reserved_;
  std::vector<Claim> fixed_;
};

}  // namespace bulkhead::vmm
