// VirtioNet's control queue: VIRTIO 1.2, section 5.1.6.5. A command that is malformed, unknown, or of a feature that
// was not agreed on changes nothing and is answered with VIRTIO_NET_ERR.
#include <algorithm>
#include <cstring>

#include "devproc/models/virtio_net/virtio_net.h"

namespace bulkhead::devproc {

using namespace virtio;
using namespace virtio_net_spec;

namespace {

constexpr std::uint64_t kCommand = 2;      // bytes: class and command
constexpr std::size_t kMostSmallData = 8;  // of every command but MAC_TABLE_SET

std::uint64_t little_endian(std::span<const std::byte> bytes) {
  std::uint64_t value = 0;
  std::memcpy(&value, bytes.data(), bytes.size());
  return value;
}

}  // namespace

QueueWork VirtioNet::control(VirtioPort& port, QueueId index) {
  VirtQueue& queue = port.queue(index);
  Chain chain;
  while (queue.room() != 0) {
    switch (queue.pop(chain)) {
      case Pop::kEmpty: return QueueWork::kDrained;
      case Pop::kBroken: return QueueWork::kBlocked;
      case Pop::kChain: break;
    }
    // Without a place for the answer it is no command.
    const bool done = chain.writable_bytes != 0 && obey(port, chain);
    if (!done) count(&VirtioNetCounters::commands_refused);
    const auto ack = static_cast<std::byte>(done ? kNetOk : kNetErr);
    if (chain.writable_bytes != 0 && !write_segments(memory_, chain.writable, 0, std::span(&ack, 1))) {
      port.needs_reset();
      return QueueWork::kBlocked;
    }
    queue.push({chain.id, chain.descriptors, chain.writable_bytes != 0 ? 1U : 0U});
  }
  return QueueWork::kMore;
}

bool VirtioNet::obey(const VirtioPort& port, const Chain& chain) {
  std::array<std::byte, kCommand> bytes{};
  if (!read_segments(memory_, chain.readable, 0, bytes)) return false;
  const auto its_class = std::to_integer<std::uint8_t>(bytes[0]);
  const auto command = std::to_integer<std::uint8_t>(bytes[1]);
  const std::uint64_t features = port.features();
  if (its_class == kNetCtrlMac && command == kNetCtrlMacTableSet)
    return has_feature(features, kNetFCtrlRx) && set_mac_table(chain);

  std::array<std::byte, kMostSmallData> small{};
  const std::uint64_t length = chain.readable_bytes - kCommand;
  if (length > small.size()) return false;
  const auto data = std::span(small).first(length);
  if (!read_segments(memory_, chain.readable, kCommand, data)) return false;
  switch (its_class) {
    case kNetCtrlRx: return set_receive_mode(features, command, data);
    case kNetCtrlMac:
      if (command != kNetCtrlMacAddrSet || !has_feature(features, kNetFCtrlMacAddr) || length != sizeof(MacAddress))
        return false;
      std::memcpy(filter_.mut().mac.data(), data.data(), sizeof(MacAddress));
      return true;
    case kNetCtrlVlan:
      return has_feature(features, kNetFCtrlVlan) && length == 2 &&
             set_vlan(command, static_cast<std::uint16_t>(little_endian(data)));
    case kNetCtrlMq:
      return command == kNetCtrlMqVqPairsSet && has_feature(features, kNetFMq) && length == 2 &&
             set_pairs(static_cast<std::uint16_t>(little_endian(data)));
    case kNetCtrlGuestOffloads:
      return command == kNetCtrlGuestOffloadsSet && length == 8 && set_guest_offloads(features, little_endian(data));
    default: return false;
  }
}

bool VirtioNet::set_receive_mode(std::uint64_t features, std::uint8_t command, std::span<const std::byte> data) {
  const bool extra = command >= kNetCtrlRxAlluni;
  if (command > kNetCtrlRxNobcast || !has_feature(features, extra ? kNetFCtrlRxExtra : kNetFCtrlRx) || data.size() != 1)
    return false;
  filter_.mut().set_mode(command, data[0] != std::byte{0});
  return true;
}

// Two tables, unicast and multicast, back to back. Either both are taken or none.
bool VirtioNet::set_mac_table(const Chain& chain) {
  ReceiveFilter::Table unicast;
  ReceiveFilter::Table multicast;
  const auto middle = read_mac_table(chain, kCommand, unicast);
  if (!middle) return false;
  const auto end = read_mac_table(chain, *middle, multicast);
  if (!end || *end != chain.readable_bytes) return false;
  ReceiveFilter& filter = filter_.mut();
  filter.unicast = unicast;
  filter.multicast = multicast;
  return true;
}

// Where the table says that it ends; nothing: it is cut short. One that overflows is not read: its end shows that.
std::optional<std::uint64_t> VirtioNet::read_mac_table(const Chain& chain, std::uint64_t offset,
                                                       ReceiveFilter::Table& table) {
  std::uint32_t entries = 0;
  if (!read_segments(memory_, chain.readable, offset, std::as_writable_bytes(std::span(&entries, 1))))
    return std::nullopt;
  offset += sizeof(entries);
  const std::uint64_t end = offset + std::uint64_t{entries} * sizeof(MacAddress);
  if (entries > table.addresses.size()) {
    table.count = ReceiveFilter::kOverflow;
    return end;
  }
  table.count = static_cast<std::uint8_t>(entries);
  const auto addresses = std::as_writable_bytes(std::span(table.addresses).first(entries));
  if (!read_segments(memory_, chain.readable, offset, addresses)) return std::nullopt;
  return end;
}

bool VirtioNet::set_vlan(std::uint8_t command, std::uint16_t vlan) {
  if (command > kNetCtrlVlanDel || vlan >= ReceiveFilter::kVlans) return false;
  filter_.mut().set_vlan(vlan, command == kNetCtrlVlanAdd);
  return true;
}

bool VirtioNet::set_pairs(std::uint16_t pairs) {
  if (pairs == 0 || pairs > most_pairs()) return false;
  state_.mut().pairs = pairs;
  want_all(true);  // backends feed other queues now, which may have buffers
  return true;
}

bool VirtioNet::set_guest_offloads(std::uint64_t features, std::uint64_t offloads) {
  constexpr std::uint64_t kMay = feature_bit(kNetFGuestCsum) | feature_bit(kNetFGuestTso4) |
                                 feature_bit(kNetFGuestTso6) | feature_bit(kNetFGuestEcn);
  if (!has_feature(features, kNetFCtrlGuestOffloads) || (offloads & ~(features & kMay)) != 0) return false;
  state_.mut().guest_offloads = offloads;
  tell_offloads();
  return true;
}

}  // namespace bulkhead::devproc
