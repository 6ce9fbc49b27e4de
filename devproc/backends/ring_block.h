// RingBlock: a disk in a file or on a block device, by an io_uring that the VMM made and that outlives this process.
//
// submit() only notes a request; begin(), after the commit, puts what is noted into the ring with one system call.
// complete() takes results off the ring; they stay in it until the input that took them is committed. So at every
// moment a request is in exactly one place that a successor can see:
//
//   the model's state says in flight, no note of it, or one at a position     it was never begun: begun now
//     that the kernel has not taken (the entry was withdrawn, io_ring.h)
//   a note at a position that the kernel has taken                            under way, or over with its result in the
//                                                                             ring: waited for, never begun again
//                                                                             before
//   the model's state says over, or nothing                                   its result, if still there, means nothing
//
// What a predecessor's death did to its own requests shows in their results. The kernel ends what its threads were
// doing (EINTR, ECANCELED, EFAULT, a short count) and finishes what the disk was doing. A result that is not whole is
// thus «over, not done»: the request is begun again, now that nothing of it can be under way. Only a flush that failed
// stands: the kernel tells of a write-back error once, and it stays in the ring until it is committed.
//
// Requests of which the model knows nothing (its state was erased, or is a liar's) may still be under way: nothing new
// begins until they are over, or an old write could land on a new one. A model that begins anew has the tags of the
// first requests again: nothing is its own of what is under way then.
//
// O_DIRECT asks for aligned memory. What is not goes through a buffer of this process, one request at a time; such a
// request that a predecessor had begun is done again when it is over, as its buffer is gone.
//
// Units: bytes. Threading: single-threaded; nothing here waits. Errors: BlockStatus, one for a request. Trust: requests
// were checked by the model, but for their segments, which are the guest's: each is looked up in GuestRanges. What a
// predecessor left in ring and notes may be anything: it can make a request wait for ever, no more.
// System calls: io_uring_enter.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <vector>

#include "devproc/backends/backend.h"
#include "devproc/backends/guest_ranges.h"
#include "devproc/backends/io_ring.h"
#include "devproc/core/block_backend.h"
#include "ipc/base/unique_fd.h"
#include "ipc/state/ring_notes.h"

namespace bulkhead::devproc {

class RingBlock final : public BlockBackend, public Backend {
 public:
  static constexpr std::size_t kBufferBytes = 1 << 20;
  static constexpr std::size_t kBufferAlign = 4096;
  static constexpr std::uint64_t kMostBytesAtOnce = 1 << 30;  // of one entry
  static constexpr std::uint32_t kMostTries = 16;  // of a request whose results say that it is to be repeated

  // `watched`: becomes readable at a completion. `notes` and `memory` outlive it. An Error: the ring cannot be used.
  static Result<std::unique_ptr<RingBlock>> create(IoRing ring, BorrowedFd watched, ipc::RingNotes& notes,
                                                   const BlockGeometry& geometry, GuestRanges& memory);

  [[nodiscard]] const BlockGeometry& geometry() const override { return geometry_; }
  bool submit(const BlockRequest& request) override;
  std::optional<BlockCompletion> complete() override;
  bool cancel(std::uint32_t tag) override;

  [[nodiscard]] BorrowedFd watched() const override { return watched_; }
  void start(bool resumed) override { claims_ = resumed; }
  void begin() override;
  [[nodiscard]] bool ready() const override;
  [[nodiscard]] bool draining() const override { return cancelled_ != 0 || unclaimed_count_ != 0; }

 private:
  using Slot = std::uint16_t;  // the low half of a tag
  enum class Phase : std::uint8_t {
    kNone,
    kNoted,     // to be begun
    kUnderWay,  // in the kernel, or its result in the ring
    kRefused,   // over before it began
  };
  struct Request {
    BlockRequest what;
    std::uint64_t user_data = 0;  // kUnderWay: of its entry
    std::uint64_t progress = 0;   // bytes done
    std::uint64_t expected = 0;   // of the entry under way
    std::uint32_t tries = 0;
    std::uint16_t segments = 0;
    Phase phase = Phase::kNone;
    BlockStatus status = BlockStatus::kOk;  // kRefused
    bool inherited = false;                 // a predecessor began it
    bool whole = false;                     // inherited: the expected result ends it
    bool cancelled = false;
    bool by_writing = false;  // kWriteZeroes: the disk does not do it by itself
    bool syncing = false;     // kWriteZeroes: what is left is its flush
  };
  // What one entry moves: a run of bytes in guest memory.
  struct Batch {
    std::span<iovec> pieces;
    std::uint64_t bytes = 0;
    bool aligned = true;
  };
  struct FreeAligned {
    void operator()(std::byte* bytes) const { operator delete[](bytes, std::align_val_t(kBufferAlign)); }
  };
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  // Of slots; with room for all.
  struct List {
    std::array<Slot, std::size_t{2} * kMostInFlight> slots;
    std::size_t count = 0;
    void add(Slot slot) { slots[count++] = slot; }
    void remove(Slot slot);
  };

  RingBlock(IoRing ring, BorrowedFd watched, ipc::RingNotes& notes, const BlockGeometry& geometry, GuestRanges& memory);
  void look_at_notes();
  static Slot slot_of(std::uint32_t tag) { return static_cast<Slot>(tag & 0xffff); }
  [[nodiscard]] std::span<const Segment> segments(Slot slot) const {
    return {segments_.get() + std::size_t{slot} * kMostSegments, requests_[slot].segments};
  }
  // A predecessor's request of this tag, if it is under way, becomes the slot's.
  bool claim(std::uint32_t tag);

  // Beginning. False: it waits for room in the ring or for the buffer.
  bool begin_one(Slot slot);
  bool begin_transfer(Slot slot);
  bool begin_bounced(Slot slot, std::uint64_t most);
  void begin_zeroes(Slot slot);
  bool refuse(Slot slot);
  io_uring_sqe& add_entry(Slot slot, std::uint8_t opcode, std::uint64_t expected, bool whole);
  void add_transfer(Slot slot, std::span<const iovec> pieces, std::uint64_t bytes, bool whole);
  void add_allocation(Slot slot, int mode, bool whole);
  void add_flush(Slot slot);
  bool reserve_pieces();
  bool submit_entries();
  [[nodiscard]] bool in_ram(Slot slot);
  std::optional<Batch> next_batch(Slot slot, std::uint64_t most);
  bool copy(Slot slot, std::span<std::byte> buffer, bool to_guest);

  // Ending. nullopt: there is more to do.
  std::optional<BlockStatus> judge(Slot slot, std::int32_t result);
  std::optional<BlockStatus> judge_inherited(Slot slot, std::int32_t result);
  std::optional<BlockStatus> judge_transfer(Slot slot, std::int32_t result);
  std::optional<BlockStatus> judge_allocation(Slot slot, std::int32_t result);
  std::optional<BlockStatus> failed(Slot slot, std::int32_t error);
  std::optional<BlockStatus> repeat(Slot slot);

  IoRing ring_;
  BorrowedFd watched_;
  ipc::RingNotes& notes_;
  const BlockGeometry geometry_;
  GuestRanges& memory_;
  const std::uint32_t memory_align_;
  bool can_zero_ = true;   // fallocate() knows how to zero a range, as far as is known
  bool can_punch_ = true;  // and how to make a hole
  std::optional<Slot> buffer_user_;
  std::unique_ptr<std::byte[], FreeAligned> buffer_;
  std::vector<Request> requests_;              // one for each note
  std::unique_ptr<Segment[], Free> segments_;  // kMostSegments of each; what is never used costs no memory
  std::unique_ptr<iovec[], Free> pieces_;      // of entries that the kernel has not taken
  std::size_t pieces_used_ = 0;
  // user_data of what predecessors began and the model has not claimed, by slot; 0: none.
  std::vector<std::uint64_t> unclaimed_;
  std::uint32_t unclaimed_count_ = 0;
  bool claims_ = true;  // the model goes on from a predecessor's state; one that begins anew has its tags by chance
  std::uint32_t cancelled_ = 0;  // of those under way
  List noted_, refused_;
  List ended_;  // whose results were taken since the last commit: their notes are to be cleared
};

}  // namespace bulkhead::devproc
