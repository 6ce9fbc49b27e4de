#include "devproc/backends/ring_frames.h"

#include <algorithm>
#include <cstring>

#include "ipc/ring/stream.h"

namespace bulkhead::devproc {
namespace {

using ipc::kFrameRecordAlign;
using ipc::kFrameRecordHeader;
using ipc::kFrameRingBytes;

static_assert(ipc::frame_record_size(kMostFrame) * 4 <= kFrameRingBytes, "a ring holds some frames of any size");

constexpr bool aligned(std::uint64_t index) { return index % kFrameRecordAlign == 0; }

std::span<const std::uint8_t> octets(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()};
}

}  // namespace

RingFrames::RingFrames(const FrameRingWires& wires, Persistent<ipc::FrameRingState> state, GuestRanges* memory)
    : wires_(wires), state_(state), memory_(memory), frame_(std::make_unique<std::array<std::byte, kMostFrame>>()) {}

// ---- Life ----

void RingFrames::start(bool resumed) {
  ipc::FrameRingState state = state_.get();
  const std::uint64_t theirs = wires_.peer->produced.load(std::memory_order_acquire);
  const bool same_ring = state.epoch == wires_.own->epoch;
  if (!resumed || !same_ring) {
    // A ring that is new, or of what an earlier life of this device has left the ring alone knows.
    if (!resumed) state = {};
    state.epoch = wires_.own->epoch;
    state.produced = wires_.own->produced.load(std::memory_order_relaxed);
    state.consumed = theirs;
  }
  const std::uint64_t taken = wires_.peer->consumed.load(std::memory_order_acquire);
  if (state.produced - taken > kFrameRingBytes || !aligned(state.produced)) {
    // Either the state is garbage or the peer lies: a number that both can go on from.
    state.produced = aligned(taken) ? taken : 0;
    ++state.broken;
  }
  if (theirs - state.consumed > kFrameRingBytes || !aligned(state.consumed)) {
    state.consumed = aligned(theirs) ? theirs : 0;
    ++state.broken;
  }
  if (state != state_.get()) state_.mut() = state;
  produced_ = state.produced;
  consumed_ = state.consumed;
  wires_.own->wants_room.store(0, std::memory_order_relaxed);
  to_announce_ = true;
  look_at_link();
}

void RingFrames::begin() {
  const bool more = published_produced_ != produced_ || to_announce_;
  const bool less = published_consumed_ != consumed_ || to_announce_;
  if (!more && !less) return;
  ipc::FrameRingArea& own = *wires_.own;
  published_produced_ = produced_;
  published_consumed_ = consumed_;
  own.produced.store(produced_, std::memory_order_seq_cst);
  own.consumed.store(consumed_, std::memory_order_seq_cst);
  const bool asleep = wires_.peer->asleep.load(std::memory_order_seq_cst) != 0;
  const bool for_room = less && wires_.peer->wants_room.load(std::memory_order_seq_cst) != 0;
  if (to_announce_ || (asleep && (more || for_room))) signal_eventfd(wires_.peer_bell);
  to_announce_ = false;
}

void RingFrames::set_asleep(bool asleep) {
  ipc::FrameRingArea& own = *wires_.own;
  if (!asleep) {
    own.asleep.store(0, std::memory_order_relaxed);
    return;
  }
  if (!wanted_ && starved_for_ == 0) return;  // nobody is to wake us
  own.wants_room.store(starved_for_ != 0 ? 1 : 0, std::memory_order_relaxed);
  own.asleep.exchange(1, std::memory_order_seq_cst);
}

void RingFrames::on_events(std::uint32_t /*epoll_events*/) { look_at_link(); }

void RingFrames::look_at_link() { link_ = wires_.peer->link.load(std::memory_order_acquire) == 1; }

bool RingFrames::ready() const {
  if (wanted_ && (held_ != 0 || waiting() != 0)) return true;
  return starved_for_ != 0 && kFrameRingBytes - std::min(outstanding(), kFrameRingBytes) >= starved_for_;
}

// ---- Sending ----

std::uint64_t RingFrames::outstanding() const {
  return produced_ - wires_.peer->consumed.load(std::memory_order_seq_cst);
}

FrameBackend::Sent RingFrames::send(std::span<const std::byte> header, std::span<const Segment> memory) {
  std::uint64_t length = header.size();
  for (const Segment& segment : memory) length += segment.length;
  starved_for_ = 0;
  if (length == 0 || length > kMostFrame) {
    ++state_.mut().dropped;
    return Sent::kSent;
  }
  const std::uint64_t size = ipc::frame_record_size(length);
  const std::uint64_t used = outstanding();
  if (used > kFrameRingBytes) {
    // What such a peer reads is its own affair: frames for it go nowhere until it keeps to the rules.
    ++state_.mut().broken;
    return Sent::kSent;
  }
  if (size > kFrameRingBytes - used) {
    starved_for_ = size;
    return Sent::kFull;
  }
  if (!copy_out(produced_ + kFrameRecordHeader, header, memory)) {
    ++state_.mut().dropped;
    return Sent::kSent;
  }
  const std::array<std::uint32_t, 2> record{static_cast<std::uint32_t>(length), 0};
  put(produced_, std::as_bytes(std::span(record)));
  produced_ += size;
  state_.mut().produced = produced_;
  return Sent::kSent;
}

bool RingFrames::copy_out(std::uint64_t at, std::span<const std::byte> header, std::span<const Segment> memory) {
  put(at, header);
  at += header.size();
  for (Segment left : memory) {
    while (left.length != 0) {
      const std::span<const std::byte> bytes =
          memory_ == nullptr ? std::span<std::byte>{} : memory_->host_range(left.address, left.length);
      if (bytes.empty()) return false;
      put(at, bytes);
      at += bytes.size();
      left.address += bytes.size();
      left.length -= static_cast<std::uint32_t>(bytes.size());
    }
  }
  return true;
}

void RingFrames::put(std::uint64_t at, std::span<const std::byte> bytes) {
  ipc::copy_to_ring(wires_.own->data, at, octets(bytes));
}

// ---- Receiving ----

std::uint64_t RingFrames::waiting() const { return wires_.peer->produced.load(std::memory_order_seq_cst) - consumed_; }

// The peer has broken the rules: what it has produced so far is not looked at.
void RingFrames::give_up_waiting() {
  consumed_ = wires_.peer->produced.load(std::memory_order_acquire);
  ipc::FrameRingState& state = state_.mut();
  state.consumed = consumed_;
  ++state.broken;
}

std::span<const std::byte> RingFrames::receive() {
  if (held_ != 0) return std::span(*frame_).first(held_);
  const std::uint64_t there = waiting();
  if (there == 0) return {};
  std::array<std::uint8_t, kFrameRecordHeader> record{};
  if (there > kFrameRingBytes || there < kFrameRecordHeader || !aligned(consumed_)) {
    give_up_waiting();
    return {};
  }
  ipc::copy_from_ring(wires_.peer->data, consumed_, record);
  std::uint32_t length = 0;
  std::memcpy(&length, record.data(), sizeof length);
  if (length == 0 || length > kMostFrame || ipc::frame_record_size(length) > there) {
    give_up_waiting();
    return {};
  }
  ipc::copy_from_ring(wires_.peer->data, consumed_ + kFrameRecordHeader,
                      {reinterpret_cast<std::uint8_t*>(frame_->data()), length});
  held_ = length;
  return std::span(*frame_).first(held_);
}

void RingFrames::consume() {
  if (held_ == 0) return;
  consumed_ += ipc::frame_record_size(held_);
  held_ = 0;
  ipc::FrameRingState& state = state_.mut();
  state.consumed = consumed_;
  ++state.taken;
}

}  // namespace bulkhead::devproc
