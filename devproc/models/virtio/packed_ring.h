// PackedRing: a packed virtqueue (VIRTIO 1.2, section 2.8) as QueueState has it, in guest memory. It changes guest
// memory only; the state is VirtQueue's to change. Made for one call and forgotten. Trust: as in queue.h.
//
// A position is a slot with the wrap counter of its turn in bit 15. Positions of two turns are told apart, and since no
// more than `size` slots are the device's at a time, that is enough to measure distances.
#pragma once

#include "devproc/models/virtio/chain_builder.h"

namespace bulkhead::devproc::virtio {

class PackedRing {
 public:
  static constexpr std::uint16_t kStart = kPvirtqWrap;  // of next_avail and next_used: the wrap counters begin as 1

  PackedRing(GuestMemory& memory, const QueueState& state) : memory_(memory), state_(state) {}

  // Whether the driver's size and addresses can be worked with: every other function relies on it.
  [[nodiscard]] bool well_formed() const;
  [[nodiscard]] bool in_ram() const;
  // Whether the positions and `shown` agree, in a state that may be anything.
  [[nodiscard]] bool consistent() const;

  [[nodiscard]] static std::uint16_t slots(const UsedElement& element) { return element.descriptors; }
  [[nodiscard]] std::uint16_t after(std::uint16_t position, std::uint16_t slots) const;
  // Slots taken and not used yet.
  [[nodiscard]] std::uint16_t in_flight() const { return distance(state_.next_used, state_.next_avail); }
  // Whether what was taken since next_avail was `mark` is not used yet.
  [[nodiscard]] bool was_taken(std::uint16_t mark) const {
    return is_slot(mark) && distance(mark, state_.next_avail) <= in_flight();
  }
  [[nodiscard]] bool may_use(const UsedElement& element) const {
    return element.descriptors != 0 && element.descriptors <= in_flight();
  }

  // kChain: there is one at next_avail.
  [[nodiscard]] Pop look() const;
  Pop take(bool indirect, ChainBuilder& builder, Chain& chain) const;
  Pop take_again(std::uint16_t position, bool indirect, ChainBuilder& builder, Chain& chain) const;

  void publish() const;
  [[nodiscard]] bool interrupt_wanted(bool event_idx) const;
  // False: the ring is not in RAM.
  bool set_kicks(bool wanted, bool event_idx) const;
  bool hold_kicks(bool event_idx) const { return set_kicks(false, event_idx); }

 private:
  // The chain at `position`, which has at most `limit` slots.
  Pop read(std::uint16_t position, std::uint32_t limit, bool indirect, ChainBuilder& builder, Chain& chain) const;
  bool read_table(const PvirtqDesc& pointer, ChainBuilder& builder) const;
  // 0 to 2 * size - 1.
  [[nodiscard]] std::uint16_t distance(std::uint16_t from, std::uint16_t to) const;
  // Slots that `shown` takes.
  [[nodiscard]] std::uint32_t shown_slots() const;
  [[nodiscard]] std::uint16_t first_shown() const;
  [[nodiscard]] bool is_slot(std::uint16_t position) const { return (position & ~kPvirtqWrap) < state_.size; }
  [[nodiscard]] GuestPhys at(std::uint16_t position) const {
    return state_.desc + sizeof(PvirtqDesc) * static_cast<std::uint16_t>(position & ~kPvirtqWrap);
  }

  GuestMemory& memory_;
  const QueueState& state_;
};

}  // namespace bulkhead::devproc::virtio
