// VirtQueue: the device's side of one virtqueue, split or packed, for every virtio device.
//
// Document: Virtual I/O Device (VIRTIO) Version 1.2, sections 2.6 to 2.8 (virtqueues), 2.7 (split), 2.8 (packed).
// The layouts are in spec.h, split_ring.h and packed_ring.h.
// Implemented: both layouts, indirect descriptors, event index, in-order use, notification suppression both ways.
//
// How it survives a kill (DESIGN.md, section 4): data buffers are written before the commit, which is before the driver
// is shown them. push() only notes what is used, in the committed state; show(), after the commit, puts it into the
// ring, and a successor does so again. Doing it again is harmless: entries of a split ring belong to the device and get
// the same bytes; a packed slot that the driver has seen no longer looks available in this turn, and is left alone.
// In a packed ring a used element overwrites the slot after the last used one, whoever's descriptor that held. So what
// a device wants to fetch() again there it uses in the order in which it took it.
//
// Trust: the rings are the guest's, which may change any word at any time. Each is read once, and the copy is checked:
// a chain that loops, leaves RAM, is longer than the queue or mixes its parts, and an index that jumps, make the queue
// broken, which its device answers with DEVICE_NEEDS_RESET. Nothing here allocates after construction.
// Threading: single-threaded. Errors: kBroken; never an exception.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "devproc/core/guest_memory.h"
#include "devproc/core/persistent.h"

namespace bulkhead::devproc::virtio {

inline constexpr std::uint16_t kMaxQueueSize = 1024;  // of every queue of every device here; a power of two
inline constexpr std::uint16_t kMaxShown = 64;        // chains that one input can use

// Feature bits that concern the queue (section 6), as the driver accepted them.
struct QueueFeatures {
  bool packed = false;     // VIRTIO_F_RING_PACKED
  bool indirect = false;   // VIRTIO_F_INDIRECT_DESC
  bool event_idx = false;  // VIRTIO_F_EVENT_IDX
  bool in_order = false;   // VIRTIO_F_IN_ORDER
};

struct UsedElement {
  std::uint16_t id = 0;           // split: head of the chain; packed: buffer id
  std::uint16_t descriptors = 0;  // slots of the ring that the chain took (packed)
  std::uint32_t written = 0;      // bytes that the device wrote
};

// Committed with the device. What the driver set, and how far the device is.
struct QueueState {
  std::uint64_t desc = 0;    // queue_desc: descriptor table, or descriptor ring
  std::uint64_t driver = 0;  // queue_driver: available ring, or driver event suppression
  std::uint64_t device = 0;  // queue_device: used ring, or device event suppression
  std::uint16_t size = 0;    // queue_size, 1 to kMaxQueueSize; a power of two when split
  std::uint16_t vector = 0;  // queue_msix_vector
  std::uint8_t enabled = 0;  // queue_enable
  std::uint8_t broken = 0;
  // Split: free-running indexes. Packed: bit 15 is the wrap counter, the rest a slot (as in event suppression).
  std::uint16_t next_avail = 0;
  std::uint16_t next_used = 0;  // behind everything that is in `shown`
  std::uint16_t shown_count = 0;
  std::uint32_t faults = 0;                    // how often it broke
  std::array<UsedElement, kMaxShown> shown{};  // what the last input used
};
static_assert(std::has_unique_object_representations_v<QueueState>);

// A chain of descriptors that the driver made available.
struct Chain {
  std::uint16_t position = 0;         // where it began: fetch() finds it again until it is used
  std::uint16_t id = 0;               // UsedElement::id
  std::uint16_t descriptors = 0;      // UsedElement::descriptors
  std::span<const Segment> readable;  // valid until the next pop() or fetch()
  std::span<const Segment> writable;
  std::uint64_t readable_bytes = 0;
  std::uint64_t writable_bytes = 0;
};

enum class Pop : std::uint8_t { kEmpty, kChain, kBroken };

class VirtQueue {
 public:
  VirtQueue(Persistent<QueueState> state, GuestMemory& memory);

  // The driver's FEATURES_OK, or its reset.
  void set_features(QueueFeatures features) { features_ = features; }
  [[nodiscard]] const QueueState& state() const { return state_.get(); }
  [[nodiscard]] QueueState& mut() { return state_.mut(); }
  // The driver's write to queue_enable, after its features, size and addresses: the ring begins anew. A queue that
  // cannot work is broken at once.
  void enable();
  [[nodiscard]] bool usable() const { return state_->enabled != 0 && state_->broken == 0; }

  // ---- While an input is handled ----

  // Forgets what the last input used. The first thing in each input that works on the queue.
  void begin();
  // The next chain, taken: it is to be used by push(), now or at a later input. kEmpty as well when the queue is not
  // usable. kBroken marks the queue.
  Pop pop(Chain& chain);
  // Where the next pop() looks; and going back there, which undoes the pops since: none of them may be used yet.
  [[nodiscard]] std::uint16_t mark() const { return state_->next_avail; }
  void put_back(std::uint16_t mark);
  // The chain that began at `position`, which was taken and is not used yet, read anew. kBroken if it is none, or any
  // more.
  Pop fetch(std::uint16_t position, Chain& chain);
  // How many chains push() still takes in this input.
  [[nodiscard]] std::uint16_t room() const { return static_cast<std::uint16_t>(kMaxShown - state_->shown_count); }
  // An element that was not taken breaks the queue. With in_order, chains are used in the order in which they were
  // taken: that is up to the caller. Nothing happens on a queue that is not usable.
  void push(const UsedElement& element) { push(element.id, element.descriptors, element.written); }
  // Field by field: an element that was just put together is not read back as one word, which would have to wait until
  // all stores before it, such as a frame's, have left the processor.
  void push(std::uint16_t id, std::uint16_t descriptors, std::uint32_t written);
  // Whether the driver has made more available than pop() has taken, as far as one look tells.
  [[nodiscard]] bool has_more();
  // Asks the driver not to kick, or to kick at the next chain. After enabling look at has_more() once more.
  void set_kicks(bool wanted);
  // Asks for a kick at the next chain, outside of any input. True: there is something to do already, be it to find the
  // queue broken.
  [[nodiscard]] bool ask_for_kicks();
  // Takes that back.
  void hold_kicks();

  // Brings every field of a state that may be anything into its range; after set_features(). An honest state stays as
  // it is; a queue that is enabled and contradicts itself is broken.
  void restore();

  // ---- After the commit ----

  // Puts what the last input used into the ring. True: the driver wants an interrupt for it. `again`: a successor's
  // show(), which asks for the interrupt in any case when there is something.
  bool show(bool again);

 private:
  void start_over(QueueState& state) const;
  void mark_broken();

  Persistent<QueueState> state_;
  GuestMemory& memory_;
  QueueFeatures features_;
  std::vector<Segment> segments_;  // reserved for the longest chain
};

// Reads or writes a chain's bytes as if they were one buffer, from `offset` on. False: it leaves RAM or the segments.
bool read_segments(GuestMemory& memory, std::span<const Segment> segments, std::uint64_t offset,
                   std::span<std::byte> out);
bool write_segments(GuestMemory& memory, std::span<const Segment> segments, std::uint64_t offset,
                    std::span<const std::byte> in);

}  // namespace bulkhead::devproc::virtio
