// Byte streams between the VMM and a device process: console output and input, key and mouse events.
//
// A stream's indexes are part of the device's committed state. The device writes bytes beyond the committed
// index and publishes the index after the commit, so a byte is never lost and never doubled, whenever the
// process dies. The VMM side keeps its own index in private memory and checks the device's on each look.
//
// Trust: the VMM treats the device's indexes and bytes as hostile.
// Threading: one reader and one writer thread a stream.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include "ipc/ring/layout.h"

namespace bulkhead::ipc {

// Copies between a flat buffer and a ring of a power-of-two size.
inline void copy_from_ring(std::span<const std::uint8_t> ring, std::uint64_t index, std::span<std::uint8_t> out) {
  const std::size_t at = index & (ring.size() - 1);
  const std::size_t first = std::min(out.size(), ring.size() - at);
  std::memcpy(out.data(), ring.data() + at, first);
  std::memcpy(out.data() + first, ring.data(), out.size() - first);
}
inline void copy_to_ring(std::span<std::uint8_t> ring, std::uint64_t index, std::span<const std::uint8_t> in) {
  const std::size_t at = index & (ring.size() - 1);
  const std::size_t first = std::min(in.size(), ring.size() - at);
  std::memcpy(ring.data() + at, in.data(), first);
  std::memcpy(ring.data(), in.data() + first, in.size() - first);
}

// The VMM's end of one stream, both directions.
class StreamEnd {
 public:
  StreamEnd(RequestArea& requests, const ReplyArea& replies, std::uint32_t stream)
      : requests_(requests), replies_(replies), stream_(stream) {}

  // Takes what the device has committed, at most out.size() bytes. nullopt: the index is one that no honest
  // device publishes.
  std::optional<std::size_t> take(std::span<std::uint8_t> out) {
    const std::uint64_t produced = replies_.output_produced[stream_].load(std::memory_order_acquire);
    const std::uint64_t waiting = produced - taken_;
    if (waiting > kOutputBytes) return std::nullopt;
    const std::size_t n = std::min<std::size_t>(waiting, out.size());
    copy_from_ring(replies_.output[stream_], taken_, out.first(n));
    taken_ += n;
    // Seen before the caller looks whether the device sleeps: one of the two then notices the other.
    requests_.output_consumed[stream_].store(taken_, std::memory_order_seq_cst);
    return n;
  }

  // Room for input; nullopt as above.
  [[nodiscard]] std::optional<std::size_t> room() const {
    const std::uint64_t consumed = replies_.input_consumed[stream_].load(std::memory_order_acquire);
    const std::uint64_t waiting = given_ - consumed;
    if (waiting > kInputBytes) return std::nullopt;
    return kInputBytes - waiting;
  }

  // `in` must fit room(). The caller rings the doorbell afterwards.
  void give(std::span<const std::uint8_t> in) {
    copy_to_ring(requests_.input[stream_], given_, in);
    given_ += in.size();
    requests_.input_produced[stream_].store(given_, std::memory_order_seq_cst);
  }

 private:
  RequestArea& requests_;
  const ReplyArea& replies_;
  std::uint32_t stream_;
  std::uint64_t taken_ = 0;
  std::uint64_t given_ = 0;
};

}  // namespace bulkhead::ipc
