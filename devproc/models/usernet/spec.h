// Ethernet, IPv4 and UDP/TCP as far as the usernet model looks into its guest's frames.
//
// Documents: IEEE 802.3; RFC 791, section 3.1; RFC 768; RFC 9293, section 3.1. Numbers are in network byte order.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bulkhead::devproc::usernet_spec {

inline constexpr std::size_t kEthernetHeader = 14;
inline constexpr std::size_t kEthernetType = 12;  // 16 bits
inline constexpr std::uint16_t kTypeIpv4 = 0x0800;
inline constexpr std::uint16_t kTypeArp = 0x0806;

// IPv4, offsets from the header's begin.
inline constexpr std::size_t kIpv4Header = 20;            // the least
inline constexpr std::size_t kIpv4VersionIhl = 0;         // version << 4 | length in 32-bit words
inline constexpr std::size_t kIpv4Fragment = 6;           // 16 bits: flags << 13 | offset
inline constexpr std::uint16_t kIpv4IsFragment = 0x3fff;  // MF, or an offset
inline constexpr std::size_t kIpv4Protocol = 9;
inline constexpr std::size_t kIpv4Destination = 16;
inline constexpr std::uint8_t kProtocolIcmp = 1;
inline constexpr std::uint8_t kProtocolTcp = 6;
inline constexpr std::uint8_t kProtocolUdp = 17;

// UDP and TCP alike, offsets from the header's begin.
inline constexpr std::size_t kDestinationPort = 2;  // 16 bits
inline constexpr std::size_t kPorts = 4;            // bytes of both ports
inline constexpr std::uint16_t kPortDomain = 53;

}  // namespace bulkhead::devproc::usernet_spec
