// Checkpoint: a role's state, in two banks, committed by one atomic store (DESIGN.md, sections 1 and 3).
//
// The commit word is the commit's number, whose low bit names the bank that holds it. All work on an input
// is done in the other, spare bank. commit() makes everything visible at once: models' state, the reply,
// effects, interrupt levels, timers and stream indexes. sync(), after the reply is out, brings the new spare
// bank up to date by copying the segments that changed. Before the store nothing happened; after it,
// everything did: a process may be killed between any two instructions.
//
//   state region:  | header: magic, commit word, attempt | bank 0 | bank 1 |
//   bank:          | InputRecord | effects | segments, 64-byte aligned, in order of allocation |
//
// Trust: the region is written by the device process alone; the VMM creates it and keeps it for the successor.
// A successor treats the bytes as hostile: only numbers that it checks are used as indexes.
// Threading: single-threaded.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <span>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/state/publication.h"
#include "ipc/state/segment.h"
#include "ipc/wire/io_message.h"

namespace bulkhead::ipc {

inline constexpr std::size_t kStateRegionSize = 1U << 20;  // sparse: only pages that are used cost memory
inline constexpr std::uint64_t kStateMagic = 0x3154'4154'534b'4c42;

// What the last committed input left behind, with the last request's answer.
struct alignas(kCacheLine) InputRecord {
  Ticket last_ticket = 0;          // the last request that was committed
  Reply reply{};                   // its answer
  std::uint64_t messages[4] = {};  // bit i: MSI vector i of the role is to be raised
  std::uint32_t generation = 1;
  std::uint32_t reserved = 0;
};

inline constexpr std::size_t kMostTakers = 64;

struct StateHeader {
  std::uint64_t magic;
  std::uint64_t layout;  // hash of the role's segments and versions
  alignas(kCacheLine) std::atomic<std::uint64_t> commit_word;
  // The input being worked on, noted before work on it starts (devproc/host/attempt_log.h). 0: none.
  alignas(kCacheLine) std::atomic<std::uint64_t> attempt;
  // The input that the last deaths are laid to, and how many of them.
  std::atomic<std::uint64_t> suspect;
  std::atomic<std::uint32_t> suspect_deaths;
  // Frames that the role's processes have taken off the network, by backing: each counted before it is read, so that a
  // death between the two shows as one frame lost, not as one frame forgotten.
  alignas(kCacheLine) std::atomic<std::uint64_t> frames_taken[kMostTakers];
  alignas(kCacheLine) PublicationWords publication;
};

class Checkpoint final : public StateAllocator {
 public:
  explicit Checkpoint(std::span<std::byte> region);
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;

  // Segments are allocated in the same order by every process that plays the role; seal() ends it.
  StateSegment& allocate(std::uint32_t size, std::uint32_t alignment) override;

  // Mixes a device type's name and state version into the layout hash.
  void mix_layout(std::string_view text, std::uint32_t version);

  // After the last allocation: true when the region holds commits of this very layout (a take-over; both
  // banks now equal the last commit), false when it is new. An error when it holds something else.
  Result<bool> open();

  [[nodiscard]] InputRecord& input() { return bank(spare())->input; }
  [[nodiscard]] const InputRecord& committed_input() const { return bank(1 - spare())->input; }
  [[nodiscard]] Effect* effects() { return bank(spare())->effects; }
  [[nodiscard]] const Effect* committed_effects() const { return bank(1 - spare())->effects; }

  // A segment's bytes as last committed: what the host acts on between commit() and sync().
  [[nodiscard]] const std::byte* committed_bytes(const StateSegment& segment) const {
    return banks_ + (1 - spare()) * bank_size_ + segment.offset;
  }

  // The one atomic store. From here to sync() no segment may be touched.
  void commit();
  void sync();

  [[nodiscard]] std::uint64_t commits() const { return number_; }
  [[nodiscard]] StateHeader& header() { return *header_; }
  [[nodiscard]] std::uint64_t layout() const { return layout_; }

 private:
  struct Bank {
    InputRecord input;
    Effect effects[kMaxEffects];
    std::byte padding[kCacheLine];
  };
  static_assert(sizeof(Bank) % kCacheLine == 0);

  [[nodiscard]] std::uint32_t spare() const { return static_cast<std::uint32_t>(number_ + 1) & 1; }
  [[nodiscard]] Bank* bank(std::uint32_t index) const { return reinterpret_cast<Bank*>(banks_ + index * bank_size_); }

  StateHeader* header_;
  std::byte* banks_;
  std::byte* working_bank_ = nullptr;
  std::size_t bank_size_;
  std::size_t used_ = sizeof(Bank);
  std::uint64_t number_ = 0;  // of the last commit; its low bit is the bank
  std::uint64_t layout_ = 0xcbf29ce484222325;
  bool overflow_ = false;
  std::list<StateSegment> segments_;
  std::vector<StateSegment*> dirty_;
};

}  // namespace bulkhead::ipc
