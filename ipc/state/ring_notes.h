// RingNotes: what the processes of a disk's role have put into its io_uring, in memory that outlives each of them.
//
// The ring itself tells how far the kernel has taken what was submitted (the head of its submission queue) and what is
// over (its completion queue), but not which of a device's requests it has taken. That is here: one note for each
// request that may be in flight, written before its entry is published. A successor that finds a note whose position
// the kernel has passed leaves that request alone until its completion comes (devproc/backends/ring_block.h).
//
// Trust: written by the device process alone; the VMM makes the region, never maps it and keeps it through restarts,
// resets and isolation, since I/O may outlive all of these. A successor takes what is in it for hostile.
// Threading: single-threaded; the order of stores matters, since a process may end between any two.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace bulkhead::ipc {

inline constexpr std::uint32_t kRingEntries = 256;  // of a disk's submission queue: one for each note

struct RingNote {
  // io_uring_sqe::user_data of the entry: its position in the submission queue in the high half, the request's tag in
  // the low one. Written last, and set to 0 first; 0 is no entry.
  std::atomic<std::uint64_t> user_data{0};
  std::uint32_t expected = 0;  // the completion's result if all went well
  std::uint32_t whole = 0;     // 1: then the whole request is done
};
static_assert(sizeof(RingNote) == 16 && std::atomic<std::uint64_t>::is_always_lock_free);

struct RingNotes {
  RingNote notes[kRingEntries];
};
inline constexpr std::size_t kRingNotesSize = 4096;
static_assert(sizeof(RingNotes) == kRingNotesSize);

}  // namespace bulkhead::ipc
