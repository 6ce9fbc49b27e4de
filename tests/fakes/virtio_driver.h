// VirtioDriver: the guest's side of one virtqueue, split or packed, as an honest driver keeps it (VIRTIO 1.2,
// sections 2.7 and 2.8). It believes nothing of the device: what a device may not do becomes a complaint.
//
// What it adds is visible to the device at once; whether it would kick then, must_kick() says. Buffers are the test's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "devproc/core/guest_memory.h"
#include "devproc/models/virtio/chain_builder.h"
#include "devproc/models/virtio/queue.h"
#include "devproc/models/virtio/spec.h"

namespace bulkhead::devproc {

class VirtioDriver {
 public:
  struct Layout {
    bool packed = false;
    bool event_idx = false;
    std::uint16_t size = 8;
    GuestPhys at = 0;  // 4 KiB aligned; bytes() from here on are the ring's
  };
  struct Buffer {
    GuestPhys address = 0;
    std::uint32_t length = 0;
    bool writable = false;
  };
  struct Used {
    std::uint16_t id = 0;
    std::uint32_t written = 0;
  };
  static constexpr std::uint32_t kTableEntries = 16;  // of each indirect table

  VirtioDriver(GuestMemory& memory, const Layout& layout) : memory_(memory), layout_(layout) {
    for (std::uint16_t i = layout.size; i > 0; --i) free_.push_back(static_cast<std::uint16_t>(i - 1));
    for (GuestPhys at = layout.at; at < layout.at + bytes(); at += 8) memory_.store<std::uint64_t>(at, 0);
  }

  [[nodiscard]] const Layout& layout() const { return layout_; }
  [[nodiscard]] GuestPhys desc() const { return layout_.at; }
  [[nodiscard]] GuestPhys driver() const { return align_up(desc() + 16U * layout_.size, 16); }
  [[nodiscard]] GuestPhys device() const { return align_up(driver() + 6 + 2U * layout_.size, 16); }
  [[nodiscard]] GuestPhys table(std::uint16_t id) const {
    return align_up(device() + 6 + 8U * layout_.size, 16) + std::uint64_t{16} * kTableEntries * id;
  }
  [[nodiscard]] std::uint64_t bytes() const { return align_up(table(layout_.size) - layout_.at, 4096); }
  // What the driver tells the transport.
  void place(virtio::QueueState& state) const {
    state.desc = desc();
    state.driver = driver();
    state.device = device();
    state.size = layout_.size;
  }

  [[nodiscard]] std::uint16_t free_descriptors() const { return free_slots(); }
  [[nodiscard]] std::size_t in_flight() const { return chains_.size(); }
  [[nodiscard]] std::uint16_t next_avail() const { return next_avail_; }
  [[nodiscard]] std::uint16_t last_used() const { return last_used_; }
  [[nodiscard]] const std::string& complaint() const { return complaint_; }

  // The id of the chain made available; nothing if it does not fit now.
  std::optional<std::uint16_t> add(std::span<const Buffer> buffers, bool indirect = false) {
    const std::size_t slots = indirect ? 1 : buffers.size();
    if (buffers.empty() || slots > free_slots()) return std::nullopt;
    if (indirect && (buffers.size() > kTableEntries || buffers.size() > layout_.size)) return std::nullopt;
    return layout_.packed ? add_packed(buffers, indirect) : add_split(buffers, indirect);
  }

  // Whether the device wants to be told of what was added since the last call.
  bool must_kick() {
    virtio::full_fence();
    const std::uint16_t added = added_;
    added_ = 0;
    if (added == 0) return false;
    return layout_.packed ? must_kick_packed(added) : must_kick_split(added);
  }

  std::optional<Used> take_used() {
    auto used = layout_.packed ? take_packed() : take_split();
    // As Linux does while it wants interrupts; where "where" lies does not matter otherwise.
    if (used && wants_interrupts_ && layout_.event_idx) write_used_event(last_used_);
    return used;
  }
  [[nodiscard]] bool has_used() {
    if (!layout_.packed) return memory_.load_acquire(device() + virtio::kVirtqIdx) != last_used_;
    return is_used(memory_.load_acquire(desc_at(last_used_) + virtio::kPvirtqDescFlags).value());
  }
  // Asks for an interrupt at the next used element, or at the one after `later` more. True: look again, there may be
  // something.
  bool want_interrupts(std::uint16_t later = 0) {
    wants_interrupts_ = true;
    if (layout_.event_idx) write_used_event(layout_.packed ? step(last_used_, later) : wrap16(last_used_ + later));
    if (layout_.packed)
      memory_.store_release(driver() + virtio::kPvirtqEventFlags,
                            layout_.event_idx ? virtio::kRingEventFlagsDesc : virtio::kRingEventFlagsEnable);
    else if (!layout_.event_idx)
      memory_.store_release(driver() + virtio::kVirtqFlags, 0);
    virtio::full_fence();
    return has_used();
  }
  void refuse_interrupts() {
    wants_interrupts_ = false;
    if (layout_.packed)
      memory_.store_release(driver() + virtio::kPvirtqEventFlags, virtio::kRingEventFlagsDisable);
    else if (!layout_.event_idx)
      memory_.store_release(driver() + virtio::kVirtqFlags, virtio::kVirtqAvailFNoInterrupt);
  }

  // Whether the descriptors of all chains that are not used are as they were added. Not so in a packed ring that is
  // used out of order, nor while a batch is half shown.
  [[nodiscard]] bool intact() {
    return std::ranges::all_of(chains_, [this](const auto& entry) {
      return std::ranges::all_of(entry.second.written, [this](const auto& written) {
        const auto now = memory_.load<std::array<std::byte, 16>>(written.first);
        return now && std::ranges::equal(*now, written.second);
      });
    });
  }

 private:
  struct InFlight {
    std::vector<std::uint16_t> descriptors;  // split: entries of the table
    std::uint16_t slots = 0;
    std::map<GuestPhys, std::array<std::byte, 16>> written;
  };

  static std::uint16_t wrap16(unsigned value) { return static_cast<std::uint16_t>(value); }
  [[nodiscard]] std::uint16_t free_slots() const {
    return layout_.packed ? wrap16(layout_.size - slots_out_) : static_cast<std::uint16_t>(free_.size());
  }
  void complain(const std::string& what) {
    if (complaint_.empty()) complaint_ = what;
  }
  template <class Descriptor>
  void put(InFlight& chain, GuestPhys at, const Descriptor& descriptor) {
    memory_.store(at, descriptor);
    chain.written[at] = std::bit_cast<std::array<std::byte, 16>>(descriptor);
  }
  std::uint16_t take_free() {
    const std::uint16_t taken = free_.back();
    free_.pop_back();
    return taken;
  }
  static std::uint16_t flags_of(const Buffer& buffer) { return buffer.writable ? virtio::kVirtqDescFWrite : 0; }
  void write_used_event(std::uint16_t where) {
    if (layout_.packed)
      memory_.store_release(driver() + virtio::kPvirtqEventDesc, where);
    else
      memory_.store_release(driver() + virtio::kVirtqRing + 2U * layout_.size, where);
  }

  // ---- Split ----

  std::uint16_t add_split(std::span<const Buffer> buffers, bool indirect) {
    InFlight chain;
    const std::uint16_t head = take_free();
    chain.descriptors.push_back(head);
    if (indirect) {
      for (std::uint16_t i = 0; i < buffers.size(); ++i) {
        const bool more = i + 1U < buffers.size();
        const auto flags = wrap16(flags_of(buffers[i]) | (more ? virtio::kVirtqDescFNext : 0));
        put(chain, table(head) + 16U * i,
            virtio::VirtqDesc{buffers[i].address, buffers[i].length, flags, wrap16(more ? i + 1 : 0)});
      }
      const auto length = static_cast<std::uint32_t>(16 * buffers.size());
      put(chain, desc() + 16U * head, virtio::VirtqDesc{table(head), length, virtio::kVirtqDescFIndirect, 0});
    } else {
      std::uint16_t at = head;
      for (std::size_t i = 0; i < buffers.size(); ++i) {
        const bool more = i + 1 < buffers.size();
        const std::uint16_t next = more ? take_free() : std::uint16_t{0};
        if (more) chain.descriptors.push_back(next);
        const auto flags = wrap16(flags_of(buffers[i]) | (more ? virtio::kVirtqDescFNext : 0));
        put(chain, desc() + 16U * at, virtio::VirtqDesc{buffers[i].address, buffers[i].length, flags, next});
        at = next;
      }
    }
    chains_[head] = chain;
    memory_.store<std::uint16_t>(driver() + virtio::kVirtqRing + 2U * (next_avail_ % layout_.size), head);
    memory_.store_release(driver() + virtio::kVirtqIdx, ++next_avail_);
    ++added_;
    return head;
  }
  bool must_kick_split(std::uint16_t added) {
    if (!layout_.event_idx) return (*memory_.load_acquire(device()) & virtio::kVirtqUsedFNoNotify) == 0;
    const std::uint16_t event = *memory_.load_acquire(device() + virtio::kVirtqRing + 8U * layout_.size);
    return wrap16(next_avail_ - event - 1U) < added;
  }
  std::optional<Used> take_split() {
    if (!has_used()) return std::nullopt;
    const auto element =
        *memory_.load<virtio::VirtqUsedElem>(device() + virtio::kVirtqRing + 8U * (last_used_ % layout_.size));
    ++last_used_;
    const auto chain = chains_.find(element.id);
    if (chain == chains_.end()) {
      complain("used element " + std::to_string(last_used_ - 1) + " names chain " + std::to_string(element.id));
      return std::nullopt;
    }
    for (const std::uint16_t one : chain->second.descriptors) free_.push_back(one);
    chains_.erase(chain);
    return Used{static_cast<std::uint16_t>(element.id), element.len};
  }

  // ---- Packed. Positions: slot, and the wrap counter in bit 15. ----

  [[nodiscard]] GuestPhys desc_at(std::uint16_t position) const { return desc() + 16U * (position & 0x7fff); }
  [[nodiscard]] std::uint16_t step(std::uint16_t position, unsigned slots) const {
    const unsigned slot = (position & 0x7fffU) + slots;
    return wrap16(slot < layout_.size ? slot | (position & 0x8000U)
                                      : (slot - layout_.size) | ((position & 0x8000U) ^ 0x8000U));
  }
  std::uint16_t add_packed(std::span<const Buffer> buffers, bool indirect) {
    InFlight chain;
    const std::uint16_t id = take_free();
    const std::uint16_t first = next_avail_;
    const auto flags_at = [](std::uint16_t position, unsigned flags) {
      return wrap16(flags | ((position & 0x8000) != 0 ? virtio::kVirtqDescFAvail : virtio::kVirtqDescFUsed));
    };
    std::uint16_t first_flags = 0;
    const auto place_slot = [&](GuestPhys address, std::uint32_t length, unsigned flags) {
      // The last descriptor's id counts; the others' are anything.
      const bool last = (flags & virtio::kVirtqDescFNext) == 0;
      const auto its_id = wrap16(last ? id : ~unsigned{id});
      const std::uint16_t all = flags_at(next_avail_, flags);
      const GuestPhys at = desc_at(next_avail_);
      chain.written[at] = std::bit_cast<std::array<std::byte, 16>>(virtio::PvirtqDesc{address, length, its_id, all});
      memory_.write(at, std::span(chain.written[at]).first(14));
      if (next_avail_ == first)
        first_flags = all;
      else
        memory_.store<std::uint16_t>(at + 14, all);
      next_avail_ = step(next_avail_, 1);
      ++chain.slots;
    };
    if (indirect) {
      for (std::size_t i = 0; i < buffers.size(); ++i)
        put(chain, table(id) + 16U * i,
            virtio::PvirtqDesc{buffers[i].address, buffers[i].length, 0, flags_of(buffers[i])});
      place_slot(table(id), static_cast<std::uint32_t>(16 * buffers.size()), virtio::kVirtqDescFIndirect);
    } else {
      for (std::size_t i = 0; i < buffers.size(); ++i) {
        const unsigned more = i + 1 < buffers.size() ? virtio::kVirtqDescFNext : 0;
        place_slot(buffers[i].address, buffers[i].length, flags_of(buffers[i]) | more);
      }
    }
    memory_.store_release(desc_at(first) + 14, first_flags);
    slots_out_ = wrap16(slots_out_ + chain.slots);
    added_ = wrap16(added_ + chain.slots);
    chains_[id] = chain;
    return id;
  }
  bool must_kick_packed(std::uint16_t added) {
    const std::uint16_t flags = *memory_.load_acquire(device() + virtio::kPvirtqEventFlags);
    if (flags == virtio::kRingEventFlagsDisable) return false;
    if (flags != virtio::kRingEventFlagsDesc || !layout_.event_idx) return true;
    const std::uint16_t event = *memory_.load_acquire(device() + virtio::kPvirtqEventDesc);
    // As Linux computes it: an event of the turn before lies `size` behind.
    unsigned where = event & 0x7fffU;
    if (((event ^ next_avail_) & 0x8000) != 0) where -= layout_.size;
    return wrap16((next_avail_ & 0x7fffU) - where - 1U) < added;
  }
  [[nodiscard]] bool is_used(std::uint16_t flags) const {
    const bool wrap = (last_used_ & 0x8000) != 0;
    return ((flags & virtio::kVirtqDescFAvail) != 0) == wrap && ((flags & virtio::kVirtqDescFUsed) != 0) == wrap;
  }
  std::optional<Used> take_packed() {
    if (!has_used()) return std::nullopt;
    const auto element = *memory_.load<virtio::PvirtqDesc>(desc_at(last_used_));
    const auto chain = chains_.find(element.id);
    if (chain == chains_.end()) {
      complain("the element used in slot " + std::to_string(last_used_ & 0x7fff) + " names chain " +
               std::to_string(element.id));
      last_used_ = step(last_used_, 1);
      return std::nullopt;
    }
    last_used_ = step(last_used_, chain->second.slots);
    slots_out_ = wrap16(slots_out_ - chain->second.slots);
    free_.push_back(element.id);
    chains_.erase(chain);
    const bool wrote = (element.flags & virtio::kVirtqDescFWrite) != 0;
    return Used{element.id, wrote ? element.len : 0};
  }

  GuestMemory& memory_;
  Layout layout_;
  std::vector<std::uint16_t> free_;  // split: entries of the table; packed: buffer ids
  std::map<std::uint32_t, InFlight> chains_;
  std::uint16_t next_avail_ = layout_.packed ? 0x8000 : 0;
  std::uint16_t last_used_ = layout_.packed ? 0x8000 : 0;
  std::uint16_t slots_out_ = 0;  // packed: of chains in flight
  std::uint16_t added_ = 0;      // since must_kick(): chains, or slots
  bool wants_interrupts_ = true;
  std::string complaint_;
};

}  // namespace bulkhead::devproc
