// SplitRing: a split virtqueue (VIRTIO 1.2, section 2.7) as QueueState has it, in guest memory. It changes guest memory
// only; the state is VirtQueue's to change. Made for one call and forgotten. Trust: as in queue.h.
#pragma once

#include "devproc/models/virtio/chain_builder.h"

namespace bulkhead::devproc::virtio {

class SplitRing {
 public:
  static constexpr std::uint16_t kStart = 0;  // of next_avail and next_used

  SplitRing(GuestMemory& memory, const QueueState& state) : memory_(memory), state_(state) {}

  // Whether the driver's size and addresses can be worked with: every other function relies on it.
  [[nodiscard]] bool well_formed() const;
  [[nodiscard]] bool in_ram() const;
  // Whether the indexes and `shown` agree, in a state that may be anything.
  [[nodiscard]] bool consistent() const;

  [[nodiscard]] static std::uint16_t slots(const UsedElement&) { return 1; }
  [[nodiscard]] std::uint16_t after(std::uint16_t position, std::uint16_t slots) const;
  // Taken and not used yet.
  [[nodiscard]] std::uint16_t in_flight() const;
  // Whether what was taken since next_avail was `mark` is not used yet.
  [[nodiscard]] bool was_taken(std::uint16_t mark) const {
    return static_cast<std::uint16_t>(state_.next_avail - mark) <= in_flight();
  }
  [[nodiscard]] bool may_use(const UsedElement& element) const;

  // kChain: there is one at next_avail.
  [[nodiscard]] Pop look() const;
  Pop take(bool indirect, ChainBuilder& builder, Chain& chain) const;
  Pop take_again(std::uint16_t head, bool indirect, ChainBuilder& builder, Chain& chain) const;

  void publish() const;
  [[nodiscard]] bool interrupt_wanted(bool event_idx) const;
  // False: the ring is not in RAM.
  bool set_kicks(bool wanted, bool event_idx) const;
  // Kicks were wanted and no longer are, although nothing was taken since.
  bool hold_kicks(bool event_idx) const;

 private:
  // A table of descriptors: the ring's own, or an indirect one.
  struct Table {
    GuestPhys address = 0;
    std::uint32_t entries = 0;
  };
  // Follows the chain that begins at `first`. It may end in a pointer to an indirect table if there is a place for it.
  bool walk(const Table& table, std::uint16_t first, ChainBuilder& builder, VirtqDesc* pointer) const;

  [[nodiscard]] std::uint32_t avail_bytes() const { return kVirtqRing + 2U * state_.size + kVirtqEvent; }
  [[nodiscard]] std::uint32_t used_bytes() const { return kVirtqRing + 8U * state_.size + kVirtqEvent; }
  [[nodiscard]] std::uint16_t first_shown() const {
    return static_cast<std::uint16_t>(state_.next_used - state_.shown_count);
  }

  GuestMemory& memory_;
  const QueueState& state_;
};

}  // namespace bulkhead::devproc::virtio
