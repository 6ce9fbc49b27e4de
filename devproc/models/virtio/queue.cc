#include "devproc/models/virtio/queue.h"

#include "devproc/models/virtio/packed_ring.h"
#include "devproc/models/virtio/split_ring.h"
#include "ipc/base/check.h"

namespace bulkhead::devproc::virtio {
namespace {

// Calls `act` with the ring in the layout that the driver accepted.
template <class Act>
auto with_ring(QueueFeatures features, GuestMemory& memory, const QueueState& state, Act&& act) {
  return features.packed ? act(PackedRing(memory, state)) : act(SplitRing(memory, state));
}

// Goes through the part of `segments` that `bytes` covers from `offset` on.
template <class Bytes, class Move>
bool each_piece(std::span<const Segment> segments, std::uint64_t offset, Bytes bytes, Move&& move) {
  for (const Segment& segment : segments) {
    if (offset >= segment.length) {
      offset -= segment.length;
      continue;
    }
    const std::size_t here = std::min<std::size_t>(bytes.size(), segment.length - offset);
    if (here != 0 && !move(segment.address + offset, bytes.first(here))) return false;
    bytes = bytes.subspan(here);
    offset = 0;
  }
  return bytes.empty();
}

}  // namespace

VirtQueue::VirtQueue(Persistent<QueueState> state, GuestMemory& memory) : state_(state), memory_(memory) {
  segments_.reserve(kMaxQueueSize);
}

void VirtQueue::enable() {
  QueueState& state = mut();
  state.enabled = 1;
  state.broken = 0;
  start_over(state);
  if (!with_ring(features_, memory_, state, [](const auto& ring) { return ring.well_formed() && ring.in_ram(); }))
    mark_broken();
}

void VirtQueue::start_over(QueueState& state) const {
  state.next_avail = features_.packed ? PackedRing::kStart : SplitRing::kStart;
  state.next_used = state.next_avail;
  state.shown_count = 0;
}

void VirtQueue::mark_broken() {
  if (state_->broken != 0) return;
  QueueState& state = mut();
  state.broken = 1;
  ++state.faults;
}

void VirtQueue::begin() {
  if (state_->shown_count != 0) mut().shown_count = 0;
}

Pop VirtQueue::pop(Chain& chain) {
  if (!usable()) return Pop::kEmpty;
  return with_ring(features_, memory_, state_.get(), [&](const auto& ring) {
    ChainBuilder builder(segments_, std::min(state_->size, kMaxQueueSize));
    const Pop result = ring.well_formed() ? ring.take(features_.indirect, builder, chain) : Pop::kBroken;
    if (result == Pop::kChain) mut().next_avail = ring.after(state_->next_avail, chain.descriptors);
    if (result == Pop::kBroken) mark_broken();
    return result;
  });
}

void VirtQueue::put_back(std::uint16_t mark) {
  if (!usable() || mark == state_->next_avail) return;
  with_ring(features_, memory_, state_.get(), [&](const auto& ring) {
    CHECK(ring.was_taken(mark), mark, state_->next_avail, state_->next_used);
    mut().next_avail = mark;
  });
}

Pop VirtQueue::fetch(std::uint16_t position, Chain& chain) {
  if (!usable()) return Pop::kEmpty;
  return with_ring(features_, memory_, state_.get(), [&](const auto& ring) {
    ChainBuilder builder(segments_, std::min(state_->size, kMaxQueueSize));
    const Pop result =
        ring.well_formed() ? ring.take_again(position, features_.indirect, builder, chain) : Pop::kBroken;
    if (result == Pop::kBroken) mark_broken();
    return result;
  });
}

void VirtQueue::push(std::uint16_t id, std::uint16_t descriptors, std::uint32_t written) {
  if (!usable()) return;
  const UsedElement element{id, descriptors, written};
  CHECK(room() != 0, state_->shown_count);
  with_ring(features_, memory_, state_.get(), [&](const auto& ring) {
    // The element comes from a device's state, which may have been a hostile process's.
    if (!ring.well_formed() || !ring.may_use(element)) return mark_broken();
    QueueState& state = mut();
    UsedElement& to = state.shown[state.shown_count++];
    to.id = id;
    to.descriptors = descriptors;
    to.written = written;
    state.next_used = ring.after(state.next_used, ring.slots(element));
  });
}

bool VirtQueue::has_more() {
  // What is broken shows itself to pop(), which is to be called for that reason.
  return usable() && with_ring(features_, memory_, state_.get(),
                               [](const auto& ring) { return !ring.well_formed() || ring.look() != Pop::kEmpty; });
}

void VirtQueue::set_kicks(bool wanted) {
  if (!usable()) return;
  with_ring(features_, memory_, state_.get(), [&](const auto& ring) {
    if (!ring.well_formed() || !ring.set_kicks(wanted, features_.event_idx)) mark_broken();
  });
  if (wanted) full_fence();
}

bool VirtQueue::ask_for_kicks() {
  if (!usable()) return false;
  const bool asked = with_ring(features_, memory_, state_.get(), [&](const auto& ring) {
    return ring.well_formed() && ring.set_kicks(true, features_.event_idx);
  });
  full_fence();
  return !asked || has_more();
}

void VirtQueue::hold_kicks() {
  if (!usable()) return;
  // A ring that this is not possible in shows itself to the next look.
  with_ring(features_, memory_, state_.get(),
            [&](const auto& ring) { return ring.well_formed() && ring.hold_kicks(features_.event_idx); });
}

void VirtQueue::restore() {
  QueueState state = state_.get();
  state.enabled = state.enabled != 0 ? 1 : 0;
  state.broken = state.broken != 0 ? 1 : 0;
  state.size = std::min(state.size, kMaxQueueSize);
  const bool sound = state.enabled == 0 || with_ring(features_, memory_, state, [](const auto& ring) {
                       return ring.well_formed() && ring.in_ram() && ring.consistent();
                     });
  if (!sound) start_over(state);                             // as enable() leaves what it finds broken
  if (state.shown_count > kMaxShown) state.shown_count = 0;  // of a queue that is not enabled
  if (std::memcmp(&state, &state_.get(), sizeof(state)) != 0) mut() = state;
  if (!sound) mark_broken();
}

bool VirtQueue::show(bool again) {
  if (state_->enabled == 0 || state_->shown_count == 0) return false;
  // A queue that broke in this input still shows what it used before.
  return with_ring(features_, memory_, state_.get(), [&](const auto& ring) {
    if (!ring.well_formed()) return false;
    ring.publish();
    full_fence();
    return again || ring.interrupt_wanted(features_.event_idx);
  });
}

bool read_segments(GuestMemory& memory, std::span<const Segment> segments, std::uint64_t offset,
                   std::span<std::byte> out) {
  return each_piece(segments, offset, out,
                    [&](GuestPhys address, std::span<std::byte> piece) { return memory.read(address, piece); });
}

bool write_segments(GuestMemory& memory, std::span<const Segment> segments, std::uint64_t offset,
                    std::span<const std::byte> in) {
  return each_piece(segments, offset, in,
                    [&](GuestPhys address, std::span<const std::byte> piece) { return memory.write(address, piece); });
}

}  // namespace bulkhead::devproc::virtio
