#include "devproc/models/usernet/outgoing_filter.h"

#include "devproc/models/usernet/spec.h"

namespace bulkhead::devproc {

using namespace usernet_spec;

namespace {

std::uint32_t load(std::span<const std::byte> bytes, std::size_t at, std::size_t size) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < size; ++i) value = value << 8 | std::to_integer<std::uint32_t>(bytes[at + i]);
  return value;
}

// "This network" and loopback (RFC 6890): a socket that connects to 0.0.0.0 connects to the host itself.
bool is_the_host_itself(std::uint32_t address) { return address >> 24 == 127 || address >> 24 == 0; }

bool is_domain_query(std::span<const std::byte> packet) {
  const std::uint32_t protocol = load(packet, kIpv4Protocol, 1);
  if (protocol != kProtocolTcp && protocol != kProtocolUdp) return protocol == kProtocolIcmp;
  // Fragments could put another port where this one was looked at.
  if ((load(packet, kIpv4Fragment, 2) & kIpv4IsFragment) != 0) return false;
  const std::size_t header = (load(packet, kIpv4VersionIhl, 1) & 0xf) * 4;
  if (header < kIpv4Header || packet.size() < header + kPorts) return false;
  return load(packet, header + kDestinationPort, 2) == kPortDomain;
}

}  // namespace

Outgoing judge_outgoing(std::span<const std::byte> frame, const UsernetConfig& config) {
  if (frame.size() < kEthernetHeader) return Outgoing::kTooShort;
  const std::uint32_t type = load(frame, kEthernetType, 2);
  if (type == kTypeArp) return Outgoing::kPass;
  // There is no other network layer here.
  if (type != kTypeIpv4) return Outgoing::kForbidden;
  const auto packet = frame.subspan(kEthernetHeader);
  if (packet.size() < kIpv4Header) return Outgoing::kTooShort;
  if (config.host_loopback) return Outgoing::kPass;
  const std::uint32_t to = load(packet, kIpv4Destination, 4);
  if (is_the_host_itself(to)) return Outgoing::kForbidden;
  if (to == config.dns && !is_domain_query(packet)) return Outgoing::kForbidden;
  return Outgoing::kPass;
}

}  // namespace bulkhead::devproc
