#include "devproc/models/virtio_vsock/virtio_vsock.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "devproc/models/virtio/spec.h"

namespace bulkhead::devproc {

using namespace virtio;
using namespace virtio_vsock_spec;

VirtioVsock::VirtioVsock(Persistent<VirtioVsockState> state, const VirtioVsockConfig& config, GuestMemory& memory,
                         PacketLink& link)
    : state_(state), config_(config), memory_(memory), link_(link), payload_(kMostPayload) {}

std::uint64_t VirtioVsock::features() const { return feature_bit(kVirtioFInOrder) | feature_bit(kVsockFStream); }

// Section 5.10.4: guest_cid, of which the upper half is zero.
std::uint8_t VirtioVsock::read_config(std::uint32_t offset) const {
  return offset < sizeof(config_.guest_cid) ? static_cast<std::uint8_t>(config_.guest_cid >> (8 * offset)) : 0;
}

// ---- Life ----

void VirtioVsock::on_ready(VirtioPort&) {
  // A driver that begins has no connections that it could lose.
  const std::uint32_t epoch = link_.peer_epoch();
  if (epoch == state_->peer_epoch && state_->reset_owed == 0) return;
  state_.mut().peer_epoch = epoch;
  state_.mut().reset_owed = 0;
}

void VirtioVsock::reset() {
  link_.restore();
  drop_received();
  link_.begin_epoch();
  VirtioVsockState& state = state_.mut();
  state.received_done = 0;
  state.send_blocked = 0;
  state.reset_owed = 0;
}

void VirtioVsock::restore() {
  VirtioVsockState state = state_.get();
  state.received_done = std::min(state.received_done, kMostPayload);
  state.send_blocked = state.send_blocked != 0 ? 1 : 0;
  state.reset_owed = state.reset_owed != 0 ? 1 : 0;
  state.reserved = {};
  if (state != state_.get()) state_.mut() = state;
  link_.restore();
}

// Of connections that are gone. The link holds only so much, and its other side may go on filling it.
void VirtioVsock::drop_received() {
  constexpr int kMost = 8192;
  for (int i = 0; i < kMost && !link_.receive().empty(); ++i) link_.consume();
}

// ---- Queues ----

QueueWork VirtioVsock::on_queue(VirtioPort& port, QueueId queue) {
  if (queue == kTxVq) return transmit(port);
  if (queue == kRxVq) return receive(port);
  return tell_of_reset(port);
}

bool VirtioVsock::on_backend(VirtioPort& port, BackendId) {
  if (!port.may_work()) return false;
  if (const std::uint32_t epoch = link_.peer_epoch(); epoch != state_->peer_epoch) {
    state_.mut().peer_epoch = epoch;
    state_.mut().reset_owed = 1;
  }
  bool more = false;
  const auto work = [&](QueueId index, QueueWork outcome) {
    VirtQueue& queue = port.queue(index);
    if (outcome == QueueWork::kDrained) queue.set_kicks(true);  // what came while they were off did not ring
    more |= outcome == QueueWork::kMore || (outcome == QueueWork::kDrained && queue.has_more());
  };
  if (state_->reset_owed != 0) work(kEventVq, tell_of_reset(port));
  work(kRxVq, receive(port));
  if (state_->send_blocked != 0) {
    const QueueWork outcome = transmit(port);
    work(kTxVq, outcome);
    // The next input comes here again, not to on_queue().
    if (outcome == QueueWork::kMore) state_.mut().send_blocked = 1;
  }
  return more;
}

void VirtioVsock::on_backend_poisoned(VirtioPort&, BackendId) {
  if (link_.receive().empty()) return;
  link_.consume();
  state_.mut().received_done = 0;
  ++state_.mut().received_dropped;
}

QueueWork VirtioVsock::tell_of_reset(VirtioPort& port) {
  VirtQueue& queue = port.queue(kEventVq);
  if (state_->reset_owed == 0) return QueueWork::kBlocked;
  Chain chain;
  switch (queue.pop(chain)) {
    case Pop::kEmpty: return QueueWork::kDrained;
    case Pop::kBroken: return QueueWork::kBlocked;
    case Pop::kChain: break;
  }
  const std::uint32_t event = kEventTransportReset;
  if (!write_segments(memory_, chain.writable, 0, std::as_bytes(std::span(&event, 1)))) {
    port.needs_reset();
    return QueueWork::kBlocked;
  }
  queue.push({chain.id, chain.descriptors, sizeof event});
  state_.mut().reset_owed = 0;
  ++state_.mut().transport_resets;
  return QueueWork::kBlocked;
}

// ---- Transmission ----

QueueWork VirtioVsock::transmit(VirtioPort& port) {
  VirtQueue& queue = port.queue(kTxVq);
  if (state_->send_blocked != 0) state_.mut().send_blocked = 0;
  Chain chain;
  for (std::uint64_t bytes = 0; queue.room() != 0 && bytes < kMostBytes;) {
    const std::uint16_t mark = queue.mark();
    switch (queue.pop(chain)) {
      case Pop::kEmpty: return QueueWork::kDrained;
      case Pop::kBroken: return QueueWork::kBlocked;
      case Pop::kChain: break;
    }
    switch (send(chain, bytes)) {
      case Sending::kDone: break;
      case Sending::kFull:
        queue.put_back(mark);
        state_.mut().send_blocked = 1;
        return QueueWork::kBlocked;
      case Sending::kBadMemory: port.needs_reset(); return QueueWork::kBlocked;
    }
    queue.push({chain.id, chain.descriptors, 0});
  }
  return QueueWork::kMore;
}

VirtioVsock::Sending VirtioVsock::send(const Chain& chain, std::uint64_t& bytes) {
  VsockHeader header;
  bytes += sizeof header;
  const auto drop = [this] {
    ++state_.mut().sent_dropped;
    return Sending::kDone;
  };
  if (chain.readable_bytes < sizeof header) return drop();
  if (!read_segments(memory_, chain.readable, 0, std::as_writable_bytes(std::span(&header, 1))))
    return Sending::kBadMemory;
  if (header.len > kMostPayload || chain.readable_bytes - sizeof header < header.len ||
      header.src_cid != to_cid(config_.guest_cid) || header.dst_cid != to_cid(kHostCid))
    return drop();
  if (!link_.has_room(sizeof header + header.len)) return Sending::kFull;
  const auto payload = std::span(payload_).first(header.len);
  if (!read_segments(memory_, chain.readable, sizeof header, payload)) return Sending::kBadMemory;
  link_.send(std::as_bytes(std::span(&header, 1)), payload);
  VirtioVsockState& state = state_.mut();
  ++state.sent_packets;
  state.sent_bytes += header.len;
  bytes += header.len;
  return Sending::kDone;
}

// ---- Reception ----

std::span<const std::byte> VirtioVsock::next_packet(VsockHeader& header) {
  // A hostile relay could make them as fast as they are taken away. An honest one rings again for what follows.
  constexpr int kMostBad = 64;
  for (int i = 0; i < kMostBad; ++i) {
    const std::span<const std::byte> packet = link_.receive();
    if (packet.empty()) return {};
    if (packet.size() >= sizeof header) {
      std::memcpy(&header, packet.data(), sizeof header);
      if (header.len == packet.size() - sizeof header && header.len <= kMostPayload &&
          (header.len == 0 || header.op == kOpRw)) {
        header.src_cid = to_cid(kHostCid);
        header.dst_cid = to_cid(config_.guest_cid);
        return packet;
      }
    }
    link_.consume();
    state_.mut().received_done = 0;
    ++state_.mut().received_dropped;
  }
  return {};
}

QueueWork VirtioVsock::receive(VirtioPort& port) {
  VirtQueue& queue = port.queue(kRxVq);
  Chain chain;
  VsockHeader header;
  std::span<const std::byte> payload;
  bool at_hand = false;
  for (std::uint64_t bytes = 0; queue.room() != 0 && bytes < kMostBytes;) {
    if (!at_hand) {
      const std::span<const std::byte> packet = next_packet(header);
      if (packet.empty()) return QueueWork::kBlocked;  // whatever buffers there are
      payload = packet.subspan(sizeof header);
      if (state_->received_done > payload.size()) state_.mut().received_done = 0;
      at_hand = true;
    }
    switch (queue.pop(chain)) {
      case Pop::kEmpty: return QueueWork::kDrained;
      case Pop::kBroken: return QueueWork::kBlocked;
      case Pop::kChain: break;
    }
    const std::size_t left = payload.size() - state_->received_done;
    const std::uint64_t room = chain.writable_bytes - std::min<std::uint64_t>(chain.writable_bytes, sizeof header);
    const auto piece = payload.subspan(state_->received_done, std::min<std::uint64_t>(left, room));
    if (chain.writable_bytes < sizeof header || (left != 0 && piece.empty()) || !deliver(chain, header, piece)) {
      port.needs_reset();
      return QueueWork::kBlocked;
    }
    queue.push({chain.id, chain.descriptors, static_cast<std::uint32_t>(sizeof header + piece.size())});
    bytes += sizeof header + piece.size();
    VirtioVsockState& state = state_.mut();
    state.received_done += static_cast<std::uint32_t>(piece.size());
    state.received_bytes += piece.size();
    if (state.received_done < payload.size()) continue;
    state.received_done = 0;
    ++state.received_packets;
    link_.consume();
    at_hand = false;
  }
  return QueueWork::kMore;
}

bool VirtioVsock::deliver(const Chain& chain, VsockHeader header, std::span<const std::byte> payload) {
  header.len = static_cast<std::uint32_t>(payload.size());
  return write_segments(memory_, chain.writable, 0, std::as_bytes(std::span(&header, 1))) &&
         write_segments(memory_, chain.writable, sizeof header, payload);
}

void VirtioVsock::inspect(Inspector& inspector) const {
  const VirtioVsockState& s = state_.get();
  inspector.field("guest_cid", config_.guest_cid);
  inspector.field("sent_packets", s.sent_packets);
  inspector.field("sent_bytes", s.sent_bytes);
  inspector.field("received_packets", s.received_packets);
  inspector.field("received_bytes", s.received_bytes);
  inspector.field("sent_dropped", s.sent_dropped);
  inspector.field("received_dropped", s.received_dropped);
  inspector.field("transport_resets", s.transport_resets);
  inspector.field("send_blocked", s.send_blocked);
}

}  // namespace bulkhead::devproc
