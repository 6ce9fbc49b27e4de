// BlockBackend: the disk behind a block device model: an image, a block device, an export of a block server.
//
// A model takes a request from its guest, notes in its state that it did, and submits it here. What was submitted
// begins after the input's commit, so a disk never does what nobody remembers. Completions come as inputs of their
// own (Device::on_backend). A successor's model submits, in restore(), what its state says is in flight: the backend
// knows which of it its predecessor had begun, and neither runs it again nor reports it before it is over
// (DESIGN.md, section 4.2).
//
// Order: none is kept between requests in flight; who needs one waits for a completion. What a driver's reset cancels
// may be under way, and then goes on: its device shows that the reset has not come to its end until it is over, so that
// no old write lands on a newer one and no old read in memory that the driver has freed since.
//
// Units: bytes. Threading: single-threaded. Errors: BlockStatus. Trust: offsets, lengths and segments are the guest's;
// the backend checks that memory is RAM, the model that the range is on the disk and the request is whole blocks.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "devproc/core/guest_memory.h"
#include "ipc/roles/device_config.h"

namespace bulkhead::devproc {

enum class BlockOp : std::uint8_t {
  kRead,         // disk to memory
  kWrite,        // memory to disk
  kFlush,        // all writes that were completed before it reach stable storage
  kDiscard,      // the range's contents no longer matter
  kWriteZeroes,  // the range reads zero from then on
};

enum class BlockStatus : std::uint8_t {
  kOk,
  kError,        // EIO, or memory that is not RAM
  kNoSpace,      // ENOSPC, EDQUOT: the same write may succeed later
  kUnsupported,  // the disk cannot do this (discard, write zeroes)
};

using BlockGeometry = DiskGeometry;

struct BlockRequest {
  // The model's. Its low 16 bits are less than kMostInFlight and unlike those of everything else in flight; the high
  // ones, never all zero, tell one request from others that had the same before.
  std::uint32_t tag = 0;
  BlockOp op = BlockOp::kRead;
  bool unmap = false;   // kWriteZeroes: may deallocate
  bool stable = false;  // kWrite, kWriteZeroes: on stable storage before it is over, as if a flush had followed
  std::uint64_t offset = 0;
  std::uint64_t length = 0;           // bytes; kFlush: 0
  std::span<const Segment> memory{};  // kRead, kWrite: `length` bytes together; copied by submit()
};

struct BlockCompletion {
  std::uint32_t tag = 0;
  BlockStatus status = BlockStatus::kOk;
};

class BlockBackend {
 public:
  static constexpr std::uint32_t kMostInFlight = 256;
  static constexpr std::uint32_t kMostSegments = 256;  // of one request

  virtual ~BlockBackend() = default;
  [[nodiscard]] virtual const BlockGeometry& geometry() const = 0;
  // False: kMostInFlight are in flight, or the request has too many segments; nothing has happened. A tag that is in
  // flight already is a successor's: the request goes on as it was submitted first.
  virtual bool submit(const BlockRequest& request) = 0;
  // The next one that is over, taken with this input: if that is never committed, a successor is told again. nullopt
  // when there is none.
  virtual std::optional<BlockCompletion> complete() = 0;
  // Gives a request up, without a wait. False: it has not begun, and now never does (or is not in flight); nothing is
  // told of it. True: it is under way, or was begun by a predecessor; complete() tells when it is over. It acts at
  // once, before the input's commit: a successor that finds the old state submits it again, which does no harm as the
  // driver's register access is not over.
  virtual bool cancel(std::uint32_t tag) = 0;
};

}  // namespace bulkhead::devproc
