// FileBlock: a disk in a file or on a block device, on an already opened descriptor, with ordinary blocking calls.
//
// submit() only notes a request. The host calls begin_submitted() after each commit: it does what is noted, in order,
// and ready() says that complete() has something to tell. A long request is done in steps of kMostBytesAtOnce, so that
// no call blocks for longer than the disk needs for that much, and a reset need not wait for the rest.
//
// A process that dies takes its requests with it (its supervisor waits for the end of those in the kernel: pread and
// pwrite end with their process). A successor's model submits them again and they are done again, from the beginning:
// none of them was shown to the guest as complete.
//
// O_DIRECT is a property of the descriptor, and what it asks of addresses is in the geometry. What
// does not fit goes through an aligned buffer, allocated at construction like everything else. System calls: preadv,
// pwritev, fdatasync, fallocate. Nothing is probed here: the VMM found out the geometry.
//
// Units: bytes. Threading: single-threaded; the calling thread blocks. Errors: BlockStatus, one for a request; a file
// that has become shorter is kError. Trust: requests were checked by the model, but for their segments, which are the
// guest's: each byte is looked up in GuestRanges. The guest may change the data at any time; nothing here reads it.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <vector>

#include "devproc/backends/backend.h"
#include "devproc/backends/guest_ranges.h"
#include "devproc/core/block_backend.h"
#include "ipc/base/unique_fd.h"

namespace bulkhead::devproc {

class FileBlock final : public BlockBackend, public Backend {
 public:
  static constexpr std::uint64_t kMostBytesAtOnce = 8 << 20;  // of one begin_submitted()
  static constexpr std::size_t kBufferBytes = 1 << 20;
  static constexpr std::size_t kBufferAlign = 4096;

  // `file` and `memory` outlive it.
  FileBlock(BorrowedFd file, const BlockGeometry& geometry, GuestRanges& memory);

  [[nodiscard]] const BlockGeometry& geometry() const override { return geometry_; }
  bool submit(const BlockRequest& request) override;
  std::optional<BlockCompletion> complete() override;
  // Nothing goes on between calls.
  bool cancel(std::uint32_t tag) override;

  // Does what was submitted, or a fair part of it; while there is more it is ready() for another turn.
  void begin() override { unfinished_ = begin_submitted(); }
  [[nodiscard]] bool ready() const override { return done_count_ != 0 || unfinished_; }
  // After a commit. True: there is more to do; call again when other inputs have had their turn.
  bool begin_submitted();

 private:
  struct Request {
    BlockRequest what;
    std::uint16_t segments = 0;
    std::uint64_t progress = 0;  // bytes done
    BlockStatus status = BlockStatus::kOk;
  };
  using Slot = std::uint16_t;
  // What one system call moves: a run of bytes in guest memory.
  struct Batch {
    std::array<iovec, 64> pieces;
    std::size_t count = 0;
    std::uint64_t bytes = 0;
    bool aligned = true;
  };
  struct Free {
    void operator()(std::byte* bytes) const { operator delete[](bytes, std::align_val_t(kBufferAlign)); }
  };

  [[nodiscard]] bool knows(std::uint32_t tag) const;
  [[nodiscard]] std::span<const Segment> segments(Slot slot) const {
    return std::span(segments_).subspan(std::size_t{slot} * kMostSegments, requests_[slot].segments);
  }
  // Goes on with a request. True: it is over. `budget` is what it may still move.
  bool work(Slot slot, std::uint64_t& budget);
  bool transfer(Slot slot, std::uint64_t& budget);
  bool zero(Request& request, std::uint64_t& budget);
  bool zero_by_writing(Request& request, std::uint64_t& budget);
  bool sync(Request& request, std::uint64_t& budget);
  // The part of a request from `progress` on, at most `most` bytes. nullopt: it is not RAM.
  std::optional<Batch> next_batch(Slot slot, std::uint64_t most) const;
  // Bytes moved, or -errno.
  std::int64_t move(const Request& request, std::span<const iovec> pieces);
  std::int64_t move_by_buffer(Slot slot, std::uint64_t most);
  bool copy(Slot slot, std::span<std::byte> buffer, bool to_guest);
  // 0 or errno; EOPNOTSUPP if it cannot be done here.
  [[nodiscard]] int allocate(int mode, std::uint64_t offset, std::uint64_t length);
  bool fail(Request& request, int error);
  void take_out(std::vector<Slot>& list, std::size_t& count, std::uint32_t tag);

  BorrowedFd file_;
  bool unfinished_ = false;
  const BlockGeometry geometry_;
  GuestRanges& memory_;
  const std::uint32_t memory_align_;
  bool can_zero_ = true;   // fallocate() knows how to zero a range, as far as is known
  bool can_punch_ = true;  // and how to make a hole
  std::unique_ptr<std::byte[], Free> buffer_;
  std::vector<Request> requests_;  // kMostInFlight
  std::vector<Segment> segments_;  // kMostSegments of each
  // Lists of slots with room for all; the first so many count.
  std::vector<Slot> free_, noted_, done_;
  std::size_t free_count_ = 0, noted_count_ = 0, done_count_ = 0;
};

}  // namespace bulkhead::devproc
