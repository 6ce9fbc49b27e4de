#include "devproc/models/virtio/split_ring.h"

namespace bulkhead::devproc::virtio {
namespace {

[[nodiscard]] std::uint16_t distance(std::uint16_t from, std::uint16_t to) {
  return static_cast<std::uint16_t>(to - from);
}

}  // namespace

bool SplitRing::well_formed() const {
  // A power of two, asked without a count of bits: that is a call on the least of processors, for every frame.
  const unsigned size = state_.size;
  return size <= kMaxQueueSize && size != 0 && (size & (size - 1)) == 0 &&
         placed(state_.desc, sizeof(VirtqDesc) * state_.size, kVirtqDescAlign) &&
         placed(state_.driver, avail_bytes(), kVirtqAvailAlign) && placed(state_.device, used_bytes(), kVirtqUsedAlign);
}

bool SplitRing::in_ram() const {
  return is_ram(memory_, state_.desc, sizeof(VirtqDesc) * state_.size) &&
         is_ram(memory_, state_.driver, avail_bytes()) && is_ram(memory_, state_.device, used_bytes());
}

bool SplitRing::consistent() const {
  if (state_.shown_count > kMaxShown || in_flight() + state_.shown_count > state_.size) return false;
  const auto shown = std::span(state_.shown).first(state_.shown_count);
  return std::ranges::all_of(shown, [this](const UsedElement& element) { return element.id < state_.size; });
}

std::uint16_t SplitRing::after(std::uint16_t position, std::uint16_t slots) const {
  return static_cast<std::uint16_t>(position + slots);
}

std::uint16_t SplitRing::in_flight() const { return distance(state_.next_used, state_.next_avail); }

bool SplitRing::may_use(const UsedElement& element) const { return in_flight() != 0 && element.id < state_.size; }

Pop SplitRing::look() const {
  const auto idx = memory_.load_acquire(state_.driver + kVirtqIdx);
  if (!idx) return Pop::kBroken;
  if (*idx == state_.next_avail) return Pop::kEmpty;
  // What the driver has not been shown as used is still the device's. So no honest driver is further than this.
  if (distance(state_.next_avail, *idx) > state_.size || distance(first_shown(), *idx) > state_.size)
    return Pop::kBroken;
  return Pop::kChain;
}

Pop SplitRing::take(bool indirect, ChainBuilder& builder, Chain& chain) const {
  const Pop there = look();
  if (there != Pop::kChain) return there;
  const std::uint32_t entry = state_.next_avail % state_.size;
  const auto head = memory_.load<std::uint16_t>(state_.driver + kVirtqRing + 2 * entry);
  return head ? take_again(*head, indirect, builder, chain) : Pop::kBroken;
}

Pop SplitRing::take_again(std::uint16_t head, bool indirect, ChainBuilder& builder, Chain& chain) const {
  VirtqDesc pointer;
  if (!walk({state_.desc, state_.size}, head, builder, indirect ? &pointer : nullptr)) return Pop::kBroken;
  if ((pointer.flags & kVirtqDescFIndirect) != 0) {
    const Table table{pointer.addr, indirect_entries(pointer.addr, pointer.len)};
    if (!walk(table, 0, builder, nullptr)) return Pop::kBroken;
  }
  chain.position = head;
  chain.id = head;
  chain.descriptors = 1;
  builder.give(chain);
  return Pop::kChain;
}

bool SplitRing::walk(const Table& table, std::uint16_t first, ChainBuilder& builder, VirtqDesc* pointer) const {
  std::uint16_t index = first;
  // A chain has at most as many descriptors as the queue: what goes on is a loop.
  for (std::uint32_t steps = 0; steps < state_.size; ++steps) {
    if (index >= table.entries) return false;
    const auto descriptor = memory_.load<VirtqDesc>(table.address + sizeof(VirtqDesc) * index);
    if (!descriptor) return false;
    const bool more = (descriptor->flags & kVirtqDescFNext) != 0;
    if ((descriptor->flags & kVirtqDescFIndirect) != 0) {
      if (pointer == nullptr || more) return false;
      *pointer = *descriptor;
      return true;
    }
    if (!builder.add(descriptor->addr, descriptor->len, (descriptor->flags & kVirtqDescFWrite) != 0)) return false;
    if (!more) return true;
    index = descriptor->next;
  }
  return false;
}

void SplitRing::publish() const {
  std::uint16_t index = first_shown();
  for (const UsedElement& element : std::span(state_.shown).first(state_.shown_count)) {
    const std::uint32_t entry = index++ % state_.size;
    memory_.store(state_.device + kVirtqRing + sizeof(VirtqUsedElem) * entry,
                  VirtqUsedElem{element.id, element.written});
  }
  memory_.store_release(state_.device + kVirtqIdx, state_.next_used);
}

bool SplitRing::interrupt_wanted(bool event_idx) const {
  if (!event_idx) {
    const auto flags = memory_.load_acquire(state_.driver + kVirtqFlags);
    return !flags || (*flags & kVirtqAvailFNoInterrupt) == 0;
  }
  const auto event = memory_.load_acquire(state_.driver + kVirtqRing + 2U * state_.size);
  // "When used_event is passed": it is the index of one of those just shown.
  return !event || distance(first_shown(), *event) < state_.shown_count;
}

bool SplitRing::set_kicks(bool wanted, bool event_idx) const {
  if (!event_idx) return memory_.store_release(state_.device + kVirtqFlags, wanted ? 0 : kVirtqUsedFNoNotify);
  // An event that lies behind is never passed: to want no kicks, leave it where it is.
  return !wanted ||
         memory_.store_release(state_.device + kVirtqRing + sizeof(VirtqUsedElem) * state_.size, state_.next_avail);
}

bool SplitRing::hold_kicks(bool event_idx) const {
  if (!event_idx) return set_kicks(false, event_idx);
  const auto behind = static_cast<std::uint16_t>(state_.next_avail - 1);
  return memory_.store_release(state_.device + kVirtqRing + sizeof(VirtqUsedElem) * state_.size, behind);
}

}  // namespace bulkhead::devproc::virtio
