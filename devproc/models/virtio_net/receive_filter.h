// Which received frames a guest wants: by destination address and by VLAN, as its driver said.
//
// Document: VIRTIO 1.2, section 5.1.6.5.1 (packet receive filtering), 5.1.6.5.2 (MAC address filtering), 5.1.6.5.3
// (VLAN filtering). After a reset everything is accepted until the driver says otherwise: there are drivers that never
// do. A priority tag (VLAN 0) belongs to no VLAN and always passes. Tables that overflow accept their whole kind.
// Trust: state may be anything after restore(), until sanitize(); frames are hostile. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <type_traits>

#include "devproc/models/virtio_net/spec.h"

namespace bulkhead::devproc {

using MacAddress = std::array<std::uint8_t, 6>;

// Committed with the device, apart from what changes with each frame.
struct ReceiveFilter {
  static constexpr std::size_t kMostAddresses = 64;  // of each kind
  static constexpr std::uint8_t kModes = 0x3f;
  static constexpr std::uint8_t kOverflow = 0xff;  // a count: more than there is room for
  static constexpr std::uint16_t kVlans = 4096;

  struct Table {
    std::array<MacAddress, kMostAddresses> addresses{};
    std::uint8_t count = 0;
    [[nodiscard]] bool contains(const MacAddress& address) const;
    bool operator==(const Table&) const = default;
  };

  MacAddress mac{};
  std::uint8_t modes = 0;  // bit n: the command n of class kNetCtrlRx
  std::uint8_t reserved = 0;
  Table unicast;
  Table multicast;
  std::array<std::uint8_t, 6> reserved_more{};
  std::array<std::uint64_t, kVlans / 64> vlans{};

  [[nodiscard]] static ReceiveFilter after_reset(const MacAddress& mac);
  [[nodiscard]] bool mode(unsigned command) const { return (modes >> command & 1) != 0; }
  void set_mode(unsigned command, bool on);
  void set_vlan(std::uint16_t vlan, bool on);
  // `frame` begins with its Ethernet header, and has one.
  [[nodiscard]] bool accepts(std::span<const std::byte> frame, bool by_address, bool by_vlan) const;
  void sanitize();
  bool operator==(const ReceiveFilter&) const = default;

 private:
  [[nodiscard]] bool accepts_vlan(std::span<const std::byte> frame) const;
  [[nodiscard]] bool accepts_address(const MacAddress& to) const;
};
static_assert(std::has_unique_object_representations_v<ReceiveFilter>);

}  // namespace bulkhead::devproc
