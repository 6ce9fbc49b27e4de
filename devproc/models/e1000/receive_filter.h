// Which received frames the 82540EM's driver wants: by destination (or source) address, by hash of a multicast address,
// by VLAN.
//
// Document: SDM, section 3.2.1 (packet address filtering), 9.3 (VLAN filtering), 13.5 (the tables). Pure: frames are
// hostile, any table is harmless.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <type_traits>

#include "devproc/models/e1000/spec.h"

namespace bulkhead::devproc {

struct E1000Filter {
  std::array<std::array<std::uint32_t, 2>, e1000_spec::kReceiveAddresses> addresses{};  // RAL, RAH
  std::array<std::uint32_t, e1000_spec::kMtaSize> multicast{};
  std::array<std::uint32_t, e1000_spec::kVftaSize> vlans{};

  enum class Verdict : std::uint8_t {
    kRefused,
    kExact,    // promiscuous modes and broadcasts as well
    kInexact,  // by hash alone: the driver has to look again (status PIF)
  };

  void set_address(std::size_t index, const std::array<std::uint8_t, 6>& mac);
  // `frame` has an Ethernet header. RCTL and VET as they are.
  [[nodiscard]] Verdict judge(std::span<const std::byte> frame, std::uint32_t rctl, std::uint32_t vet) const;
  bool operator==(const E1000Filter&) const = default;

 private:
  [[nodiscard]] Verdict judge_address(std::span<const std::byte> frame, std::uint32_t rctl) const;
  [[nodiscard]] bool in_addresses(std::span<const std::byte> frame) const;
};
static_assert(std::has_unique_object_representations_v<E1000Filter>);

}  // namespace bulkhead::devproc
