#include "devproc/backends/ring_block.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "devproc/backends/segment_copy.h"
#include "devproc/host/failpoint.h"
#include "ipc/base/check.h"

namespace bulkhead::devproc {
namespace {

// Every segment may lie across the border of two pieces of RAM.
constexpr std::size_t kMostPieces = std::size_t{2} * BlockBackend::kMostSegments;
constexpr std::size_t kPieces = 4 * kMostPieces;  // of entries that are submitted together

alignas(4096) constinit std::array<std::byte, 65536> zeroes{};

BlockStatus status_of(std::int32_t error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT: return BlockStatus::kNoSpace;
    case EOPNOTSUPP: return BlockStatus::kUnsupported;
    default: return BlockStatus::kError;
  }
}

template <class T>
T* zeroed(std::size_t count) {
  void* memory = std::calloc(count, sizeof(T));
  CHECK(memory != nullptr, count);
  return static_cast<T*>(memory);
}

}  // namespace

RingBlock::RingBlock(IoRing ring, BorrowedFd watched, ipc::RingNotes& notes, const BlockGeometry& geometry,
                     GuestRanges& memory)
    : ring_(ring),
      watched_(watched),
      notes_(notes),
      geometry_(geometry),
      memory_(memory),
      memory_align_(geometry.memory_align),
      buffer_(new (std::align_val_t(kBufferAlign)) std::byte[kBufferBytes]),
      requests_(kMostInFlight),
      segments_(zeroed<Segment>(std::size_t{kMostInFlight} * kMostSegments)),
      pieces_(zeroed<iovec>(kPieces)),
      unclaimed_(kMostInFlight) {
  static_assert(ipc::kRingEntries >= kMostInFlight);
  CHECK(geometry.logical_block >= 512 && geometry.logical_block <= kBufferBytes, geometry.logical_block);
  CHECK(memory_align_ >= 1 && memory_align_ <= kBufferAlign, memory_align_);
}

Result<std::unique_ptr<RingBlock>> RingBlock::create(IoRing ring, BorrowedFd watched, ipc::RingNotes& notes,
                                                     const BlockGeometry& geometry, GuestRanges& memory) {
  std::unique_ptr<RingBlock> block(new RingBlock(ring, watched, notes, geometry, memory));
  RETURN_IF_ERROR(block->ring_.take_over());
  block->look_at_notes();
  return block;
}

void RingBlock::List::remove(Slot slot) {
  const auto end = std::remove(slots.begin(), slots.begin() + static_cast<std::ptrdiff_t>(count), slot);
  count = static_cast<std::size_t>(end - slots.begin());
}

// After take_over(): what the kernel has not taken by now, it never takes.
void RingBlock::look_at_notes() {
  for (std::size_t slot = 0; slot < kMostInFlight; ++slot) {
    const std::uint64_t user_data = notes_.notes[slot].user_data.load(std::memory_order_acquire);
    if (user_data == 0) continue;
    if (slot_of(static_cast<std::uint32_t>(user_data)) == slot &&
        ring_.was_taken(static_cast<std::uint32_t>(user_data >> 32))) {
      unclaimed_[slot] = user_data;
      ++unclaimed_count_;
    } else {
      notes_.notes[slot].user_data.store(0, std::memory_order_release);
    }
  }
}

// ---- What the model asks for ----

bool RingBlock::claim(std::uint32_t tag) {
  const Slot slot = slot_of(tag);
  if (!claims_ || unclaimed_[slot] == 0 || static_cast<std::uint32_t>(unclaimed_[slot]) != tag) return false;
  const ipc::RingNote& note = notes_.notes[slot];
  requests_[slot] = {.what = {.tag = tag},
                     .user_data = unclaimed_[slot],
                     .expected = note.expected,
                     .phase = Phase::kUnderWay,
                     .inherited = true,
                     .whole = note.whole != 0};
  unclaimed_[slot] = 0;
  --unclaimed_count_;
  return true;
}

bool RingBlock::submit(const BlockRequest& request) {
  const Slot slot = slot_of(request.tag);
  if (slot >= kMostInFlight || request.memory.size() > kMostSegments) return false;
  const bool inherited = claim(request.tag);
  Request& own = requests_[slot];
  if (!inherited && own.phase != Phase::kNone) return own.what.tag == request.tag;
  if (!inherited) {
    own = Request{.what = {}, .phase = Phase::kNoted};
    noted_.add(slot);
  }
  own.what = request;
  own.what.memory = {};
  own.segments = static_cast<std::uint16_t>(request.memory.size());
  std::ranges::copy(request.memory, segments_.get() + std::size_t{slot} * kMostSegments);
  return true;
}

bool RingBlock::cancel(std::uint32_t tag) {
  const Slot slot = slot_of(tag);
  if (slot >= kMostInFlight) return false;
  Request& own = requests_[slot];
  if (claim(tag) || (own.phase == Phase::kUnderWay && own.what.tag == tag)) {
    cancelled_ += own.cancelled ? 0 : 1;
    own.cancelled = true;
    return true;
  }
  if (own.phase == Phase::kNone || own.what.tag != tag) return false;
  (own.phase == Phase::kNoted ? noted_ : refused_).remove(slot);
  own.phase = Phase::kNone;
  return false;
}

// ---- Beginning ----

bool RingBlock::ready() const { return refused_.count != 0 || ring_.has_completion() || ring_.has_unsubmitted(); }

void RingBlock::begin() {
  // The commit has what these results meant. First the notes: a result that is gone must not be waited for.
  for (std::size_t i = 0; i < ended_.count; ++i)
    notes_.notes[ended_.slots[i]].user_data.store(0, std::memory_order_release);
  ended_.count = 0;
  FAILPOINT("ring: notes cleared");
  ring_.release();
  FAILPOINT("ring: results released");
  if ((noted_.count == 0 && !ring_.has_unsubmitted()) || unclaimed_count_ != 0) return;
  std::size_t left = 0;
  for (std::size_t i = 0; i < noted_.count; ++i) {
    const Slot slot = noted_.slots[i];
    if (!begin_one(slot)) noted_.slots[left++] = slot;
  }
  noted_.count = left;
  (void)submit_entries();
  memory_.trim();
}

// What the kernel does not take now waits in the ring; ready() has us try again.
bool RingBlock::submit_entries() {
  FAILPOINT("ring: entries filled");
  (void)ring_.submit();
  FAILPOINT("ring: entries submitted");
  if (ring_.has_unsubmitted()) return false;
  pieces_used_ = 0;
  return true;
}

bool RingBlock::begin_one(Slot slot) {
  if (ring_.room() == 0) return false;
  Request& request = requests_[slot];
  switch (request.what.op) {
    case BlockOp::kRead:
    case BlockOp::kWrite: return begin_transfer(slot);
    case BlockOp::kFlush: add_flush(slot); return true;
    case BlockOp::kDiscard: add_allocation(slot, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, true); return true;
    case BlockOp::kWriteZeroes:
      if (!reserve_pieces()) return false;
      begin_zeroes(slot);
      return true;
  }
  return refuse(slot);
}

bool RingBlock::refuse(Slot slot) {
  requests_[slot].phase = Phase::kRefused;
  requests_[slot].status = BlockStatus::kError;
  refused_.add(slot);
  return true;
}

bool RingBlock::reserve_pieces() { return kPieces - pieces_used_ >= kMostPieces || submit_entries(); }

bool RingBlock::begin_transfer(Slot slot) {
  Request& request = requests_[slot];
  if (!reserve_pieces()) return false;
  // Nothing is moved of a request that is not RAM throughout; one that takes a single entry shows that in its batch.
  if (request.what.length > kMostBytesAtOnce && request.progress == 0 && !in_ram(slot)) return refuse(slot);
  const std::uint64_t left = request.what.length - request.progress;
  const auto batch = next_batch(slot, std::min(left, kMostBytesAtOnce));
  if (!batch) return refuse(slot);
  const bool fits = memory_align_ == 1 || (batch->aligned && batch->bytes % geometry_.logical_block == 0);
  if (!fits) return begin_bounced(slot, left);
  pieces_used_ += batch->pieces.size();
  add_transfer(slot, batch->pieces, batch->bytes, request.progress == 0 && batch->bytes == request.what.length);
  return true;
}

bool RingBlock::begin_bounced(Slot slot, std::uint64_t most) {
  if (buffer_user_) return false;
  const auto buffer = std::span(buffer_.get(), std::min<std::uint64_t>(most, kBufferBytes));
  if (requests_[slot].what.op == BlockOp::kWrite && !copy(slot, buffer, false)) return refuse(slot);
  buffer_user_ = slot;
  const iovec piece{buffer.data(), buffer.size()};
  add_transfer(slot, std::span(&piece, 1), buffer.size(), false);
  return true;
}

void RingBlock::begin_zeroes(Slot slot) {
  Request& request = requests_[slot];
  const bool hole = request.what.unmap;
  if (request.syncing) return add_flush(slot);
  if (!request.by_writing && (hole ? can_punch_ : can_zero_))
    return add_allocation(slot, (hole ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE,
                          !request.what.stable);
  request.by_writing = true;
  const auto pieces = std::span(pieces_.get() + pieces_used_, kMostPieces);
  std::uint64_t bytes = 0;
  std::size_t count = 0;
  for (; count < pieces.size() && request.progress + bytes < request.what.length; ++count) {
    pieces[count] = {zeroes.data(),
                     std::min<std::uint64_t>(zeroes.size(), request.what.length - request.progress - bytes)};
    bytes += pieces[count].iov_len;
  }
  pieces_used_ += count;
  add_transfer(slot, pieces.first(count), bytes, request.progress == 0 && bytes == request.what.length);
}

// The note first, then the entry, then (in submit()) the queue's tail: a successor that finds the note finds out from
// the position in it whether the kernel has the entry.
io_uring_sqe& RingBlock::add_entry(Slot slot, std::uint8_t opcode, std::uint64_t expected, bool whole) {
  Request& request = requests_[slot];
  request.user_data = (std::uint64_t{ring_.next_position()} << 32) | request.what.tag;
  request.expected = expected;
  request.phase = Phase::kUnderWay;
  ipc::RingNote& note = notes_.notes[slot];
  note.user_data.store(0, std::memory_order_release);
  note.expected = static_cast<std::uint32_t>(expected);
  note.whole = whole ? 1 : 0;
  note.user_data.store(request.user_data, std::memory_order_release);
  FAILPOINT("ring: noted");
  io_uring_sqe& entry = ring_.add();
  entry.opcode = opcode;
  entry.flags = IOSQE_FIXED_FILE;
  entry.fd = 0;
  entry.user_data = request.user_data;
  return entry;
}

void RingBlock::add_transfer(Slot slot, std::span<const iovec> pieces, std::uint64_t bytes, bool whole) {
  const Request& request = requests_[slot];
  const bool read = request.what.op == BlockOp::kRead;
  const bool one = pieces.size() == 1;
  const int opcode = read ? (one ? IORING_OP_READ : IORING_OP_READV) : (one ? IORING_OP_WRITE : IORING_OP_WRITEV);
  const std::uint64_t offset = request.what.offset + request.progress;
  io_uring_sqe& entry = add_entry(slot, static_cast<std::uint8_t>(opcode), bytes, whole);
  entry.off = offset;
  entry.addr =
      one ? reinterpret_cast<std::uintptr_t>(pieces[0].iov_base) : reinterpret_cast<std::uintptr_t>(pieces.data());
  entry.len = static_cast<std::uint32_t>(one ? pieces[0].iov_len : pieces.size());
  if (!read && request.what.stable) entry.rw_flags = RWF_DSYNC;
}

void RingBlock::add_allocation(Slot slot, int mode, bool whole) {
  const BlockRequest what = requests_[slot].what;
  io_uring_sqe& entry = add_entry(slot, IORING_OP_FALLOCATE, 0, whole);
  entry.off = what.offset;
  entry.addr = what.length;
  entry.len = static_cast<std::uint32_t>(mode);
}

void RingBlock::add_flush(Slot slot) { add_entry(slot, IORING_OP_FSYNC, 0, true).fsync_flags = IORING_FSYNC_DATASYNC; }

// ---- Memory ----

bool RingBlock::in_ram(Slot slot) {
  for (const Segment& segment : segments(slot)) {
    for (std::uint64_t at = 0; at < segment.length;) {
      const std::size_t here = memory_.host_range(segment.address + at, segment.length - at).size();
      if (here == 0) return false;
      at += here;
    }
  }
  return true;
}

// The part of a request from `progress` on, at most `most` bytes. nullopt: it is not RAM.
std::optional<RingBlock::Batch> RingBlock::next_batch(Slot slot, std::uint64_t most) {
  const auto pieces = std::span(pieces_.get() + pieces_used_, kMostPieces);
  Batch batch;
  std::size_t count = 0;
  std::uintptr_t unaligned = 0;
  std::uint64_t skip = requests_[slot].progress;
  for (const Segment& segment : segments(slot)) {
    if (skip >= segment.length) {
      skip -= segment.length;
      continue;
    }
    for (std::uint64_t at = skip; at < segment.length && batch.bytes < most;) {
      const auto bytes =
          memory_.host_range(segment.address + at, std::min<std::uint64_t>(segment.length - at, most - batch.bytes));
      if (bytes.empty()) return std::nullopt;
      if (count == pieces.size()) break;
      pieces[count++] = {bytes.data(), bytes.size()};
      unaligned |= reinterpret_cast<std::uintptr_t>(bytes.data()) | bytes.size();
      batch.bytes += bytes.size();
      at += bytes.size();
    }
    skip = 0;
  }
  batch.pieces = pieces.first(count);
  batch.aligned = (unaligned & (memory_align_ - 1)) == 0;
  return batch;
}

bool RingBlock::copy(Slot slot, std::span<std::byte> buffer, bool to_guest) {
  return copy_segments(memory_, segments(slot), requests_[slot].progress, buffer, to_guest);
}

// ---- Ending ----

std::optional<BlockCompletion> RingBlock::complete() {
  if (refused_.count != 0) {
    const Slot slot = refused_.slots[0];
    refused_.remove(slot);
    requests_[slot].phase = Phase::kNone;
    return BlockCompletion{requests_[slot].what.tag, requests_[slot].status};
  }
  while (const auto result = ring_.next_completion()) {
    const Slot slot = slot_of(static_cast<std::uint32_t>(result->user_data));
    if (slot >= kMostInFlight || result->user_data == 0) continue;
    Request& request = requests_[slot];
    if (unclaimed_[slot] == result->user_data) {
      unclaimed_[slot] = 0;
      --unclaimed_count_;
      ended_.add(slot);
      continue;
    }
    // Anything else is the result of something that is long over, or of nothing.
    if (request.phase != Phase::kUnderWay || request.user_data != result->user_data) continue;
    ended_.add(slot);
    if (request.cancelled) --cancelled_;
    const auto status = request.cancelled ? BlockStatus::kError : judge(slot, result->res);
    if (buffer_user_ == slot) buffer_user_.reset();
    request.phase = status ? Phase::kNone : Phase::kNoted;
    if (status) return BlockCompletion{request.what.tag, *status};
    noted_.add(slot);
  }
  return std::nullopt;
}

std::optional<BlockStatus> RingBlock::judge(Slot slot, std::int32_t result) {
  Request& request = requests_[slot];
  if (request.inherited) return judge_inherited(slot, result);
  switch (request.what.op) {
    case BlockOp::kRead:
    case BlockOp::kWrite: return judge_transfer(slot, result);
    case BlockOp::kFlush: break;
    case BlockOp::kDiscard:
    case BlockOp::kWriteZeroes:
      if (request.by_writing && !request.syncing) return judge_transfer(slot, result);
      if (!request.syncing) return judge_allocation(slot, result);
      break;
  }
  return result >= 0 ? BlockStatus::kOk : failed(slot, -result);
}

// The kernel ends what a dead process's threads were doing, in several ways. Only what is whole is done.
std::optional<BlockStatus> RingBlock::judge_inherited(Slot slot, std::int32_t result) {
  Request& request = requests_[slot];
  if (request.whole && result >= 0 && static_cast<std::uint64_t>(result) == request.expected) return BlockStatus::kOk;
  request.inherited = false;
  const int error = result < 0 ? -result : 0;
  if (request.what.op == BlockOp::kFlush && error != 0 && error != EFAULT) return failed(slot, error);
  return std::nullopt;
}

// What only says that it is to be done again.
std::optional<BlockStatus> RingBlock::failed(Slot slot, std::int32_t error) {
  if (error == EINTR || error == EAGAIN || error == ECANCELED) return repeat(slot);
  return status_of(error);
}

std::optional<BlockStatus> RingBlock::repeat(Slot slot) {
  if (++requests_[slot].tries > kMostTries) return BlockStatus::kError;
  return std::nullopt;
}

std::optional<BlockStatus> RingBlock::judge_transfer(Slot slot, std::int32_t result) {
  Request& request = requests_[slot];
  if (result < 0) return failed(slot, -result);
  // What O_DIRECT goes on with has to be a whole block.
  const std::uint64_t unit = memory_align_ > 1 ? geometry_.logical_block : 1;
  const std::uint64_t moved = std::min<std::uint64_t>(static_cast<std::uint32_t>(result), request.expected);
  const std::uint64_t whole = moved / unit * unit;
  if (whole == 0) return BlockStatus::kError;  // the file has become shorter
  if (buffer_user_ == slot && request.what.op == BlockOp::kRead && !copy(slot, std::span(buffer_.get(), whole), true))
    return BlockStatus::kError;
  request.progress += whole;
  if (request.progress < request.what.length) return std::nullopt;
  return BlockStatus::kOk;
}

std::optional<BlockStatus> RingBlock::judge_allocation(Slot slot, std::int32_t result) {
  Request& request = requests_[slot];
  const bool zeroes_wanted = request.what.op == BlockOp::kWriteZeroes;
  if (result >= 0) {
    if (!zeroes_wanted || !request.what.stable) return BlockStatus::kOk;
    request.syncing = true;
    return std::nullopt;
  }
  // A file system that knows no such thing, a kernel, a file that is no disk: all the same here.
  const bool unknown = result == -EOPNOTSUPP || result == -ENOSYS || result == -ENODEV;
  if (!unknown) return failed(slot, -result);
  if (!zeroes_wanted) return BlockStatus::kUnsupported;
  (request.what.unmap ? can_punch_ : can_zero_) = false;
  request.by_writing = true;
  return std::nullopt;
}

}  // namespace bulkhead::devproc
