#include "devproc/models/virtio/packed_ring.h"

namespace bulkhead::devproc::virtio {
namespace {

// Whether a descriptor is the driver's to the device, and not used yet, in the turn of `position`.
[[nodiscard]] bool available(std::uint16_t flags, std::uint16_t position) {
  const bool wrap = (position & kPvirtqWrap) != 0;
  return ((flags & kVirtqDescFAvail) != 0) == wrap && ((flags & kVirtqDescFUsed) != 0) != wrap;
}

[[nodiscard]] std::uint16_t used_flags(const UsedElement& element, std::uint16_t position) {
  const unsigned turn = (position & kPvirtqWrap) != 0 ? kVirtqDescFAvail | kVirtqDescFUsed : 0;
  return static_cast<std::uint16_t>(turn | (element.written != 0 ? kVirtqDescFWrite : 0));
}

}  // namespace

bool PackedRing::well_formed() const {
  return state_.size != 0 && state_.size <= kMaxQueueSize && is_slot(state_.next_avail) && is_slot(state_.next_used) &&
         placed(state_.desc, sizeof(PvirtqDesc) * state_.size, kPvirtqDescAlign) &&
         placed(state_.driver, kPvirtqEventSize, kPvirtqEventAlign) &&
         placed(state_.device, kPvirtqEventSize, kPvirtqEventAlign);
}

bool PackedRing::in_ram() const {
  return is_ram(memory_, state_.desc, sizeof(PvirtqDesc) * state_.size) &&
         is_ram(memory_, state_.driver, kPvirtqEventSize) && is_ram(memory_, state_.device, kPvirtqEventSize);
}

bool PackedRing::consistent() const {
  if (state_.shown_count > kMaxShown || in_flight() + shown_slots() > state_.size) return false;
  const auto shown = std::span(state_.shown).first(state_.shown_count);
  return std::ranges::all_of(shown, [](const UsedElement& element) { return element.descriptors != 0; });
}

std::uint16_t PackedRing::after(std::uint16_t position, std::uint16_t slots) const {
  const unsigned slot = (position & ~kPvirtqWrap) + slots;
  const unsigned wrap = position & kPvirtqWrap;
  return static_cast<std::uint16_t>(slot < state_.size ? slot | wrap : (slot - state_.size) | (wrap ^ kPvirtqWrap));
}

std::uint16_t PackedRing::distance(std::uint16_t from, std::uint16_t to) const {
  const unsigned there = (to & ~kPvirtqWrap) + (((from ^ to) & kPvirtqWrap) != 0 ? state_.size : 0U);
  const unsigned here = from & ~kPvirtqWrap;
  return static_cast<std::uint16_t>(there >= here ? there - here : there + 2U * state_.size - here);
}

std::uint32_t PackedRing::shown_slots() const {
  std::uint32_t sum = 0;
  for (const UsedElement& element : std::span(state_.shown).first(state_.shown_count)) sum += element.descriptors;
  return sum;
}

std::uint16_t PackedRing::first_shown() const {
  // Twice around the ring, less these slots.
  const auto back = static_cast<std::uint16_t>(shown_slots());
  const auto rest = static_cast<std::uint16_t>(state_.size - back);
  return static_cast<std::uint16_t>(after(state_.next_used, rest) ^ kPvirtqWrap);
}

Pop PackedRing::look() const {
  const auto flags = memory_.load_acquire(at(state_.next_avail) + kPvirtqDescFlags);
  if (!flags) return Pop::kBroken;
  return available(*flags, state_.next_avail) ? Pop::kChain : Pop::kEmpty;
}

Pop PackedRing::take(bool indirect, ChainBuilder& builder, Chain& chain) const {
  // Slots that the driver has not been shown as used are not its to fill.
  const std::uint32_t free = state_.size - std::min<std::uint32_t>(state_.size, in_flight() + shown_slots());
  return read(state_.next_avail, free, indirect, builder, chain);
}

Pop PackedRing::take_again(std::uint16_t position, bool indirect, ChainBuilder& builder, Chain& chain) const {
  if (!is_slot(position)) return Pop::kBroken;
  const std::uint16_t back = distance(state_.next_used, position);
  if (back >= in_flight()) return Pop::kBroken;
  const Pop there = read(position, in_flight() - back, indirect, builder, chain);
  return there == Pop::kEmpty ? Pop::kBroken : there;
}

Pop PackedRing::read(std::uint16_t position, std::uint32_t limit, bool indirect, ChainBuilder& builder,
                     Chain& chain) const {
  const auto first_flags = memory_.load_acquire(at(position) + kPvirtqDescFlags);
  if (!first_flags) return Pop::kBroken;
  if (!available(*first_flags, position)) return Pop::kEmpty;
  std::uint16_t here = position;
  for (std::uint16_t slots = 1; slots <= limit; ++slots, here = after(here, 1)) {
    auto descriptor = memory_.load<PvirtqDesc>(at(here));
    if (!descriptor) return Pop::kBroken;
    // Read once: what was read before the rest of it counts. The others were complete before the first one's flags.
    if (slots == 1) descriptor->flags = *first_flags;
    // publish() tells by these bits whether a slot was reused, so each slot of a chain has to have them.
    if (!available(descriptor->flags, here)) return Pop::kBroken;
    const bool more = (descriptor->flags & kVirtqDescFNext) != 0;
    if ((descriptor->flags & kVirtqDescFIndirect) != 0) {
      // It is a chain by itself: a list linked by NEXT has no indirect descriptors.
      if (!indirect || more || slots != 1 || !read_table(*descriptor, builder)) return Pop::kBroken;
    } else if (!builder.add(descriptor->addr, descriptor->len, (descriptor->flags & kVirtqDescFWrite) != 0)) {
      return Pop::kBroken;
    }
    if (more) continue;
    chain.position = position;
    chain.id = descriptor->id;  // the last one's
    chain.descriptors = slots;
    builder.give(chain);
    return Pop::kChain;
  }
  return Pop::kBroken;
}

bool PackedRing::read_table(const PvirtqDesc& pointer, ChainBuilder& builder) const {
  // All entries, in order: NEXT, AVAIL, USED and the id mean nothing here.
  const std::uint32_t entries = indirect_entries(pointer.addr, pointer.len);
  if (entries == 0) return false;  // the builder refuses one that is too long
  for (std::uint32_t i = 0; i < entries; ++i) {
    const auto descriptor = memory_.load<PvirtqDesc>(pointer.addr + sizeof(PvirtqDesc) * i);
    if (!descriptor || (descriptor->flags & kVirtqDescFIndirect) != 0) return false;
    if (!builder.add(descriptor->addr, descriptor->len, (descriptor->flags & kVirtqDescFWrite) != 0)) return false;
  }
  return true;
}

void PackedRing::publish() const {
  // The driver goes from one used element to the next, and sees none before the first one's flags, which come last.
  // So a first slot that no longer looks as the driver made it available says that all of them were shown, and any of
  // them may be a new descriptor by now. If it looks so, the driver has seen none, and all may be written again.
  const std::uint16_t first = first_shown();
  const auto first_flags = memory_.load_acquire(at(first) + kPvirtqDescFlags);
  if (!first_flags || !available(*first_flags, first)) return;

  struct {
    std::uint32_t len;
    std::uint16_t id;
  } head;
  constexpr std::size_t kHeadBytes = kPvirtqDescFlags - kPvirtqDescLen;
  std::uint16_t position = first;
  for (const UsedElement& element : std::span(state_.shown).first(state_.shown_count)) {
    head = {element.written, element.id};
    memory_.write(at(position) + kPvirtqDescLen, std::as_bytes(std::span(&head, 1)).first(kHeadBytes));
    if (position != first) memory_.store_release(at(position) + kPvirtqDescFlags, used_flags(element, position));
    position = after(position, element.descriptors);
  }
  memory_.store_release(at(first) + kPvirtqDescFlags, used_flags(state_.shown[0], first));
}

bool PackedRing::interrupt_wanted(bool event_idx) const {
  // The driver writes "where" before "whether".
  const auto flags = memory_.load_acquire(state_.driver + kPvirtqEventFlags);
  if (!flags) return true;
  const unsigned mode = *flags & kRingEventFlagsMask;
  if (mode == kRingEventFlagsDisable) return false;
  if (mode != kRingEventFlagsDesc || !event_idx) return true;
  const auto event = memory_.load_acquire(state_.driver + kPvirtqEventDesc);
  return !event || !is_slot(*event) || distance(first_shown(), *event) < shown_slots();
}

bool PackedRing::set_kicks(bool wanted, bool event_idx) const {
  if (wanted && event_idx && !memory_.store_release(state_.device + kPvirtqEventDesc, state_.next_avail)) return false;
  const std::uint16_t wish = event_idx ? kRingEventFlagsDesc : kRingEventFlagsEnable;
  return memory_.store_release(state_.device + kPvirtqEventFlags, wanted ? wish : kRingEventFlagsDisable);
}

}  // namespace bulkhead::devproc::virtio
