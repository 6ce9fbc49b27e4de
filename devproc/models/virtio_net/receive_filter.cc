#include "devproc/models/virtio_net/receive_filter.h"

#include <algorithm>
#include <cstring>

namespace bulkhead::devproc {

using namespace virtio_net_spec;

namespace {

constexpr MacAddress kBroadcast{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

std::uint16_t big_endian_16(std::span<const std::byte> bytes) {
  return static_cast<std::uint16_t>(std::to_integer<unsigned>(bytes[0]) << 8 | std::to_integer<unsigned>(bytes[1]));
}

}  // namespace

ReceiveFilter ReceiveFilter::after_reset(const MacAddress& mac) {
  ReceiveFilter filter;
  filter.mac = mac;
  filter.set_mode(kNetCtrlRxPromisc, true);
  return filter;
}

void ReceiveFilter::set_mode(unsigned command, bool on) {
  const auto bit = static_cast<std::uint8_t>(1U << command);
  modes = static_cast<std::uint8_t>(on ? modes | bit : modes & ~bit);
}

void ReceiveFilter::set_vlan(std::uint16_t vlan, bool on) {
  const std::uint64_t bit = std::uint64_t{1} << (vlan % 64);
  std::uint64_t& word = vlans[vlan % kVlans / 64];
  word = on ? word | bit : word & ~bit;
}

bool ReceiveFilter::Table::contains(const MacAddress& address) const {
  if (count == kOverflow) return true;
  const auto some = std::span(addresses).first(std::min<std::size_t>(count, kMostAddresses));
  return std::find(some.begin(), some.end(), address) != some.end();
}

bool ReceiveFilter::accepts(std::span<const std::byte> frame, bool by_address, bool by_vlan) const {
  if (mode(kNetCtrlRxPromisc)) return true;
  if (by_vlan && !accepts_vlan(frame)) return false;
  MacAddress to;
  std::memcpy(to.data(), frame.data(), to.size());
  return !by_address || accepts_address(to);
}

bool ReceiveFilter::accepts_vlan(std::span<const std::byte> frame) const {
  if (frame.size() < kEthernetHeader + 4 || big_endian_16(frame.subspan(kEthernetType)) != kTypeVlan) return true;
  const unsigned vlan = big_endian_16(frame.subspan(kEthernetHeader)) % kVlans;
  return vlan == 0 || (vlans[vlan / 64] >> (vlan % 64) & 1) != 0;
}

bool ReceiveFilter::accepts_address(const MacAddress& to) const {
  if (to == kBroadcast) return !mode(kNetCtrlRxNobcast);
  if ((to[0] & 1) != 0) return !mode(kNetCtrlRxNomulti) && (mode(kNetCtrlRxAllmulti) || multicast.contains(to));
  return !mode(kNetCtrlRxNouni) && (mode(kNetCtrlRxAlluni) || to == mac || unicast.contains(to));
}

void ReceiveFilter::sanitize() {
  modes &= kModes;
  reserved = 0;
  reserved_more = {};
  for (Table* table : {&unicast, &multicast}) {
    if (table->count > kMostAddresses) table->count = kOverflow;  // the one that is safe: it hides nothing
  }
}

}  // namespace bulkhead::devproc
