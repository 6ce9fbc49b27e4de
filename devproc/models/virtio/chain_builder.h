// ChainBuilder: collects a chain's segments and checks what both layouts ask of them; and what both rings share.
#pragma once

#include <algorithm>
#include <atomic>

#include "devproc/models/virtio/queue.h"
#include "devproc/models/virtio/spec.h"
#include "ipc/base/checked.h"

namespace bulkhead::devproc::virtio {

class ChainBuilder {
 public:
  // `segments` has room for `limit`, the most that a chain may have.
  ChainBuilder(std::vector<Segment>& segments, std::uint16_t limit) : segments_(segments), limit_(limit) {
    segments_.clear();
  }

  // False: the chain is malformed.
  bool add(GuestPhys address, std::uint32_t length, bool writable) {
    if (segments_.size() >= limit_ || !Range::make(address, length)) return false;
    if (!writable && writable_bytes_ != 0) return false;  // what is read comes before what is written
    (writable ? writable_bytes_ : readable_bytes_) += length;
    if (readable_bytes_ + writable_bytes_ > kMaxBytes) return false;
    if (!writable) ++readable_;
    segments_.push_back({address, length});
    return true;
  }

  void give(Chain& chain) const {
    const std::span<const Segment> all(segments_);
    chain.readable = all.first(readable_);
    chain.writable = all.subspan(readable_);
    chain.readable_bytes = readable_bytes_;
    chain.writable_bytes = writable_bytes_;
  }

 private:
  static constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 32;  // of a chain: sections 2.7.5 and 2.8

  std::vector<Segment>& segments_;
  std::uint16_t limit_;
  std::size_t readable_ = 0;
  std::uint64_t readable_bytes_ = 0;
  std::uint64_t writable_bytes_ = 0;
};

// How many entries an indirect table of `length` bytes has; 0: none, which is malformed.
[[nodiscard]] inline std::uint32_t indirect_entries(GuestPhys table, std::uint32_t length) {
  return length % sizeof(VirtqDesc) == 0 && Range::make(table, length) ? length / sizeof(VirtqDesc) : 0;
}

// Whether an area of the ring is aligned and does not wrap around the end of the address space.
[[nodiscard]] inline bool placed(GuestPhys area, std::uint64_t length, std::uint64_t alignment) {
  return area % alignment == 0 && Range::make(area, length).has_value();
}

// Whether an area is RAM throughout. RAM begins and ends at pages, so one look at each page tells.
[[nodiscard]] inline bool is_ram(GuestMemory& memory, GuestPhys area, std::uint64_t length) {
  constexpr std::uint64_t kPage = 4096;
  for (std::uint64_t at = 0; at < length; at += kPage) {
    if (!memory.load<std::byte>(area + at)) return false;
  }
  return memory.load<std::byte>(area + length - 1).has_value();
}

// Between a store that the driver looks for and a look at what it stored: each side sees at least one of the two.
inline void full_fence() {
#if defined(__GNUC__) && !defined(__clang__) && defined(__SANITIZE_THREAD__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"  // the sanitizer does not follow fences; no test relies on that
#endif
  std::atomic_thread_fence(std::memory_order_seq_cst);
#if defined(__GNUC__) && !defined(__clang__) && defined(__SANITIZE_THREAD__)
#pragma GCC diagnostic pop
#endif
}

}  // namespace bulkhead::devproc::virtio
