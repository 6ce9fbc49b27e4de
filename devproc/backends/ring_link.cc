#include "devproc/backends/ring_link.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "devproc/host/failpoint.h"
#include "ipc/base/check.h"
#include "ipc/ring/stream.h"

namespace bulkhead::devproc {

using ipc::kPacketRingBytes;

Result<std::unique_ptr<RingLink>> RingLink::create(Persistent<PacketLinkState> state, std::uint32_t side,
                                                   BorrowedFd area, BorrowedFd wake, BorrowedFd peer) {
  auto link = std::make_unique<RingLink>(state, side, nullptr, wake, peer);
  if (!area.valid()) return link;
  ASSIGN_OR_RETURN(link->region_, ipc::WritableRegion::map_borrowed(area, ipc::kPacketLinkSize));
  link->area_ = link->region_->as<ipc::PacketLinkArea>();
  return link;
}

RingLink::RingLink(Persistent<PacketLinkState> state, std::uint32_t side, ipc::PacketLinkArea* area, BorrowedFd wake,
                   BorrowedFd peer)
    : state_(state), side_(side), area_(area), wake_(wake), peer_(peer), packet_(kMostPacket) {}

bool RingLink::has_room(std::size_t size) const {
  if (area_ == nullptr) return false;
  const std::uint64_t waiting = state_->produced - out().consumed.load(std::memory_order_acquire);
  return waiting <= kPacketRingBytes && kPacketRingBytes - waiting >= ipc::packet_footprint(size);
}

void RingLink::put(std::uint64_t at, std::span<const std::byte> bytes) {
  ipc::copy_to_ring(out().bytes, at, {reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()});
}

void RingLink::send(std::span<const std::byte> head, std::span<const std::byte> body) {
  const std::size_t size = head.size() + body.size();
  CHECK(size <= kMostPacket, size);
  // It had room when its sender asked. Only a hostile other side takes that back, and what it loses is its own.
  if (!has_room(size)) return;
  const auto length = static_cast<std::uint32_t>(size);
  PacketLinkState& state = state_.mut();
  put(state.produced, std::as_bytes(std::span(&length, 1)));
  put(state.produced + sizeof length, head);
  put(state.produced + sizeof length + head.size(), body);
  FAILPOINT("link: packet put");
  state.produced += ipc::packet_footprint(size);
  now_ = state;
}

std::span<const std::byte> RingLink::receive() {
  packet_size_ = 0;
  if (area_ == nullptr) return {};
  const std::uint64_t produced = in().produced.load(std::memory_order_acquire);
  const std::uint64_t waiting = produced - state_->consumed;
  if (waiting == 0) return {};
  std::uint32_t length = 0;
  const auto copy = [&](std::uint64_t at, std::span<std::byte> to) {
    ipc::copy_from_ring(in().bytes, at, {reinterpret_cast<std::uint8_t*>(to.data()), to.size()});
  };
  if (waiting <= kPacketRingBytes && waiting >= sizeof length)
    copy(state_->consumed, std::as_writable_bytes(std::span(&length, 1)));
  if (length == 0 || length > kMostPacket || ipc::packet_footprint(length) > waiting) {
    // No honest side writes that: nothing of what waits can be told apart any more.
    state_.mut().consumed = produced;
    now_ = state_.get();
    return {};
  }
  copy(state_->consumed + sizeof length, std::span(packet_).first(length));
  packet_size_ = length;
  return std::span(packet_).first(length);
}

void RingLink::consume() {
  if (packet_size_ == 0) return;
  state_.mut().consumed += ipc::packet_footprint(packet_size_);
  packet_size_ = 0;
  now_ = state_.get();
}

void RingLink::begin_epoch() {
  ++state_.mut().epoch;
  now_ = state_.get();
}

std::uint32_t RingLink::peer_epoch() const {
  return area_ == nullptr ? 0 : area_->epoch[1 - side_].load(std::memory_order_acquire);
}

void RingLink::restore() {
  PacketLinkState state = state_.get();
  state.reserved = 0;
  if (area_ != nullptr) {
    // What the other side holds is as good as anything when our own cannot be: it is where both began.
    const std::uint64_t taken = out().consumed.load(std::memory_order_acquire);
    if (state.produced - taken > kPacketRingBytes) state.produced = taken;
    const std::uint64_t given = in().produced.load(std::memory_order_acquire);
    if (given - state.consumed > kPacketRingBytes) state.consumed = given;
    state.epoch = std::max(state.epoch, area_->epoch[side_].load(std::memory_order_acquire));
  }
  if (std::memcmp(&state, &state_.get(), sizeof state) != 0) state_.mut() = state;
  now_ = state_.get();
}

void RingLink::on_events(std::uint32_t) { drain_eventfd(wake_); }

void RingLink::begin() {
  if (area_ == nullptr) return;
  const auto publish = [](auto& word, auto value) {
    if (word.load(std::memory_order_relaxed) == value) return false;
    word.store(value, std::memory_order_release);
    return true;
  };
  bool news = !told_;
  news |= publish(area_->epoch[side_], now_.epoch);
  news |= publish(out().produced, now_.produced);
  FAILPOINT("link: packets out");
  news |= publish(in().consumed, now_.consumed);
  told_ = true;
  if (news) signal_eventfd(peer_);
}

}  // namespace bulkhead::devproc
