// FrameRing: Ethernet frames between two processes, each way, over memory that each side writes for itself alone.
//
//   area of A (A writes, B reads):  | what A has produced, what A has consumed of B's, whether A sleeps | A's frames |
//   area of B (B writes, A reads):  | the same of B                                                     | B's frames |
//
// A frame lies in its sender's data as a record: its length (32 bits), 32 bits of zero, its bytes, padding to 8 bytes.
// A record may go on at the data's begin; its first 8 bytes never do. Indexes count bytes and never wrap in practice.
//
// Both indexes of a side are part of that side's committed state: it writes records beyond what it has published, or
// reads some of its peer's, commits, and only then stores the index here. So a process may die anywhere, and no frame
// that was committed is lost, and none comes twice (DESIGN.md, "Exactly once").
//
// A bell is an eventfd. It is rung after an index was stored, if the peer sleeps: a side stores `asleep`, looks at the
// other's indexes once more, and then sleeps. Who finds no room says so in `wants_room`, and is rung for room as well.
// A successor takes everything as new and wakes its peer.
//
// Trust: none. Who reads takes each word once and checks the copy: an index that no honest peer stores, or a record
// that is longer than what was produced, drops all that the peer has produced so far. The memory is sealed against
// shrinking. Threading: one thread on each side.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ipc/ring/layout.h"

namespace bulkhead::ipc {

inline constexpr std::uint64_t kFrameRingMagic = 0x3152'4652'4b4c'4255;  // "UBLKRFR1"
inline constexpr std::size_t kFrameRingBytes = 512 << 10;                // of records; a power of two
inline constexpr std::size_t kFrameRecordHeader = 8;
inline constexpr std::size_t kFrameRecordAlign = 8;

struct FrameRingArea {
  std::uint64_t magic;
  std::atomic<std::uint32_t> link;  // 1: whoever writes this takes part
  std::uint64_t epoch;              // of the pair of areas, set by the VMM whose device writes this one
  alignas(kCacheLine) std::atomic<std::uint64_t> produced;
  alignas(kCacheLine) std::atomic<std::uint64_t> consumed;
  alignas(kCacheLine) std::atomic<std::uint32_t> asleep;
  std::atomic<std::uint32_t> wants_room;
  alignas(kPage) std::uint8_t data[kFrameRingBytes];
};
static_assert(std::is_standard_layout_v<FrameRingArea>);
static_assert(offsetof(FrameRingArea, link) == 8);
static_assert(offsetof(FrameRingArea, epoch) == 16);
static_assert(offsetof(FrameRingArea, produced) == kCacheLine);
static_assert(offsetof(FrameRingArea, consumed) == 2 * kCacheLine);
static_assert(offsetof(FrameRingArea, asleep) == 3 * kCacheLine);
static_assert(offsetof(FrameRingArea, wants_room) == 3 * kCacheLine + 4);
static_assert(offsetof(FrameRingArea, data) == kPage);
static_assert((kFrameRingBytes & (kFrameRingBytes - 1)) == 0);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free && std::atomic<std::uint32_t>::is_always_lock_free);

inline constexpr std::size_t kFrameRingAreaSize = sizeof(FrameRingArea);
static_assert(kFrameRingAreaSize == kPage + kFrameRingBytes);

// Bytes of a record.
[[nodiscard]] constexpr std::uint64_t frame_record_size(std::uint64_t frame) {
  return kFrameRecordHeader + (frame + kFrameRecordAlign - 1) / kFrameRecordAlign * kFrameRecordAlign;
}

// The committed indexes of one side.
struct FrameRingState {
  std::uint64_t produced = 0;
  std::uint64_t consumed = 0;
  std::uint64_t taken = 0;    // frames
  std::uint64_t dropped = 0;  // frames to send that were too long or not in RAM
  std::uint64_t broken = 0;   // times that the peer broke the rules
  std::uint64_t epoch = 0;    // of the areas that the indexes are of
  bool operator==(const FrameRingState&) const = default;
};
static_assert(std::has_unique_object_representations_v<FrameRingState>);

}  // namespace bulkhead::ipc
