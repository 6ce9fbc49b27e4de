// The PHY inside the 82540EM: a Marvell 88E1011 as a driver meets it through MDIC.
//
// Document: IEEE 802.3, clause 22.2.4 (registers 0 to 15), 28 and 40 (auto-negotiation); the 88E1011's own registers 16
// to 20. Implemented: reset, power-down, isolation, loopback, auto-negotiation that ends at once with a partner that
// can do everything, forced speeds, latched link status, interrupt status. Missing: next pages, cable tests.
// Pure. Trust: any register value is harmless.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "devproc/models/e1000/spec.h"

namespace bulkhead::devproc {

struct E1000Phy {
  std::array<std::uint16_t, 32> registers{};
  std::uint8_t cable = 0;        // plugged in, at the other end as well
  std::uint8_t link_failed = 0;  // since register 1 was read
  std::uint16_t reserved = 0;

  void reset();
  [[nodiscard]] std::uint16_t read(std::uint8_t reg);
  // True: negotiation began anew, or what the link depends on was changed.
  bool write(std::uint8_t reg, std::uint16_t value);
  void set_cable(bool plugged);
  [[nodiscard]] bool link() const;
  [[nodiscard]] bool loopback() const;
  [[nodiscard]] std::uint32_t speed() const;  // 0: 10, 1: 100, 2: 1000 Mbit/s
  [[nodiscard]] bool full_duplex() const;
  bool operator==(const E1000Phy&) const = default;

 private:
  [[nodiscard]] bool negotiates() const { return (registers[e1000_spec::kPhyControl] & e1000_spec::kPhyCtlAneg) != 0; }
  void note(std::uint16_t interrupts) { registers[e1000_spec::kPhyIntStatus] |= interrupts; }
};
static_assert(std::has_unique_object_representations_v<E1000Phy>);

}  // namespace bulkhead::devproc
