#include "devproc/backends/file_block.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <numeric>

#include "devproc/backends/segment_copy.h"
#include "ipc/base/check.h"

namespace bulkhead::devproc {
namespace {

// Calls `call` until no signal interrupts it: its result, or -errno.
template <class Call>
std::int64_t uninterrupted(Call&& call) {
  for (;;) {
    const std::int64_t result = call();
    if (result >= 0) return result;
    if (errno != EINTR) return -errno;
  }
}

BlockStatus status_of(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT: return BlockStatus::kNoSpace;
    case EOPNOTSUPP: return BlockStatus::kUnsupported;
    default: return BlockStatus::kError;
  }
}

}  // namespace

FileBlock::FileBlock(BorrowedFd file, const BlockGeometry& geometry, GuestRanges& memory)
    : file_(file),
      geometry_(geometry),
      memory_(memory),
      memory_align_(geometry.memory_align),
      buffer_(new (std::align_val_t(kBufferAlign)) std::byte[kBufferBytes]),
      requests_(kMostInFlight),
      segments_(std::size_t{kMostInFlight} * kMostSegments),
      free_(kMostInFlight),
      noted_(kMostInFlight),
      done_(kMostInFlight),
      free_count_(kMostInFlight) {
  CHECK(geometry.logical_block >= 512 && geometry.logical_block <= kBufferBytes, geometry.logical_block);
  CHECK(memory_align_ >= 1 && memory_align_ <= kBufferAlign, memory_align_);
  std::iota(free_.rbegin(), free_.rend(), Slot{0});
}

// ---- Requests ----

bool FileBlock::knows(std::uint32_t tag) const {
  const auto is_it = [&](Slot slot) { return requests_[slot].what.tag == tag; };
  return std::ranges::any_of(std::span(noted_).first(noted_count_), is_it) ||
         std::ranges::any_of(std::span(done_).first(done_count_), is_it);
}

bool FileBlock::submit(const BlockRequest& request) {
  if (knows(request.tag)) return true;
  if (free_count_ == 0 || request.memory.size() > kMostSegments) return false;
  const Slot slot = free_[--free_count_];
  requests_[slot] = {.what = request, .segments = static_cast<std::uint16_t>(request.memory.size())};
  requests_[slot].what.memory = {};
  std::ranges::copy(request.memory, segments_.begin() + std::ptrdiff_t{slot} * kMostSegments);
  noted_[noted_count_++] = slot;
  return true;
}

std::optional<BlockCompletion> FileBlock::complete() {
  if (done_count_ == 0) return std::nullopt;
  const Slot slot = done_[0];
  std::copy_n(done_.begin() + 1, --done_count_, done_.begin());
  free_[free_count_++] = slot;
  return BlockCompletion{requests_[slot].what.tag, requests_[slot].status};
}

bool FileBlock::cancel(std::uint32_t tag) {
  take_out(noted_, noted_count_, tag);
  take_out(done_, done_count_, tag);
  return false;
}

void FileBlock::take_out(std::vector<Slot>& list, std::size_t& count, std::uint32_t tag) {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const Slot slot = list[i];
    if (requests_[slot].what.tag == tag)
      free_[free_count_++] = slot;
    else
      list[kept++] = slot;
  }
  count = kept;
}

bool FileBlock::begin_submitted() {
  std::uint64_t budget = kMostBytesAtOnce;
  std::size_t over = 0;
  while (over < noted_count_ && budget != 0) {
    const Slot slot = noted_[over];
    if (!work(slot, budget)) break;
    done_[done_count_++] = slot;
    ++over;
  }
  noted_count_ -= over;
  std::copy_n(noted_.begin() + static_cast<std::ptrdiff_t>(over), noted_count_, noted_.begin());
  return noted_count_ != 0;
}

bool FileBlock::work(Slot slot, std::uint64_t& budget) {
  Request& request = requests_[slot];
  switch (request.what.op) {
    case BlockOp::kRead:
    case BlockOp::kWrite: return transfer(slot, budget);
    case BlockOp::kFlush: return sync(request, budget);
    case BlockOp::kDiscard:
      budget = 0;  // as long as the file system likes: nothing else in this turn
      if (const int error =
              allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, request.what.offset, request.what.length))
        return fail(request, error);
      return true;
    case BlockOp::kWriteZeroes: return zero(request, budget);
  }
  return fail(request, EINVAL);
}

bool FileBlock::fail(Request& request, int error) {
  request.status = status_of(error);
  return true;
}

bool FileBlock::sync(Request& request, std::uint64_t& budget) {
  budget = 0;  // as long as the disk likes: nothing else in this turn
  const std::int64_t result = uninterrupted([&] { return ::fdatasync(file_.get()); });
  if (result < 0) return fail(request, static_cast<int>(-result));
  return true;
}

// ---- Reads and writes ----

bool FileBlock::transfer(Slot slot, std::uint64_t& budget) {
  Request& request = requests_[slot];
  // Nothing is moved of a request that is not RAM throughout.
  if (request.progress == 0) {
    for (const Segment& segment : segments(slot)) {
      for (std::uint64_t at = 0; at < segment.length;) {
        const std::size_t here = memory_.host_range(segment.address + at, segment.length - at).size();
        if (here == 0) return fail(request, EFAULT);
        at += here;
      }
    }
  }
  while (request.progress < request.what.length) {
    if (budget == 0) return false;
    const auto batch = next_batch(slot, std::min(budget, request.what.length - request.progress));
    if (!batch) return fail(request, EFAULT);
    const bool fits = memory_align_ == 1 || (batch->aligned && batch->bytes % geometry_.logical_block == 0);
    const std::int64_t moved =
        fits ? move(request, std::span(batch->pieces).first(batch->count)) : move_by_buffer(slot, budget);
    if (moved < 0) return fail(request, static_cast<int>(-moved));
    // What O_DIRECT goes on with has to be a whole block.
    const std::uint64_t unit = memory_align_ > 1 ? geometry_.logical_block : 1;
    const std::uint64_t whole = static_cast<std::uint64_t>(moved) / unit * unit;
    if (whole == 0) return fail(request, EIO);  // the file has become shorter
    request.progress += whole;
    budget -= std::min(budget, whole);
  }
  return request.what.op == BlockOp::kWrite && request.what.stable ? sync(request, budget) : true;
}

std::optional<FileBlock::Batch> FileBlock::next_batch(Slot slot, std::uint64_t most) const {
  Batch batch;
  std::uint64_t skip = requests_[slot].progress;
  for (const Segment& segment : segments(slot)) {
    if (skip >= segment.length) {
      skip -= segment.length;
      continue;
    }
    for (std::uint64_t at = skip; at < segment.length && batch.bytes < most;
         at += batch.pieces[batch.count - 1].iov_len) {
      if (batch.count == batch.pieces.size()) return batch;
      const auto bytes =
          memory_.host_range(segment.address + at, std::min<std::uint64_t>(segment.length - at, most - batch.bytes));
      if (bytes.empty()) return std::nullopt;
      batch.pieces[batch.count++] = {bytes.data(), bytes.size()};
      batch.bytes += bytes.size();
      if (((reinterpret_cast<std::uintptr_t>(bytes.data()) | bytes.size()) & (memory_align_ - 1)) != 0)
        batch.aligned = false;
    }
    skip = 0;
  }
  return batch;
}

std::int64_t FileBlock::move(const Request& request, std::span<const iovec> pieces) {
  const auto offset = static_cast<off_t>(request.what.offset + request.progress);
  const auto count = static_cast<int>(pieces.size());
  return uninterrupted([&] {
    return request.what.op == BlockOp::kRead ? ::preadv(file_.get(), pieces.data(), count, offset)
                                             : ::pwritev(file_.get(), pieces.data(), count, offset);
  });
}

std::int64_t FileBlock::move_by_buffer(Slot slot, std::uint64_t most) {
  const Request& request = requests_[slot];
  const std::uint64_t left = request.what.length - request.progress;
  // At least a block, whatever the budget.
  most = std::max<std::uint64_t>(most / geometry_.logical_block, 1) * geometry_.logical_block;
  const auto buffer = std::span(buffer_.get(), std::min<std::uint64_t>({left, most, kBufferBytes}));
  const iovec piece{buffer.data(), buffer.size()};
  const bool read = request.what.op == BlockOp::kRead;
  if (!read && !copy(slot, buffer, false)) return -EFAULT;
  const std::int64_t moved = move(request, std::span(&piece, 1));
  if (read && moved > 0 && !copy(slot, buffer.first(static_cast<std::size_t>(moved)), true)) return -EFAULT;
  return moved;
}

bool FileBlock::copy(Slot slot, std::span<std::byte> buffer, bool to_guest) {
  return copy_segments(memory_, segments(slot), requests_[slot].progress, buffer, to_guest);
}

// ---- Zeroes and holes ----

int FileBlock::allocate(int mode, std::uint64_t offset, std::uint64_t length) {
  const std::int64_t result = uninterrupted(
      [&] { return ::fallocate(file_.get(), mode, static_cast<off_t>(offset), static_cast<off_t>(length)); });
  // A file system that knows no such thing, a kernel, a file that is no disk: all the same here.
  return result == -ENOSYS || result == -ENODEV ? EOPNOTSUPP : static_cast<int>(-result);
}

bool FileBlock::zero(Request& request, std::uint64_t& budget) {
  const bool hole = request.what.unmap;
  if (request.progress == 0 && (hole ? can_punch_ : can_zero_)) {
    const int how = hole ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
    const int error = allocate(how | FALLOC_FL_KEEP_SIZE, request.what.offset, request.what.length);
    budget = 0;
    if (error == 0) return request.what.stable ? sync(request, budget) : true;
    if (error != EOPNOTSUPP) return fail(request, error);
    (hole ? can_punch_ : can_zero_) = false;
    budget = kMostBytesAtOnce;
  }
  return zero_by_writing(request, budget);
}

bool FileBlock::zero_by_writing(Request& request, std::uint64_t& budget) {
  const auto buffer = std::span(buffer_.get(), std::min<std::uint64_t>(request.what.length, kBufferBytes));
  std::ranges::fill(buffer, std::byte{0});
  while (request.progress < request.what.length) {
    if (budget == 0) return false;
    const iovec piece{buffer.data(), std::min<std::uint64_t>(buffer.size(), request.what.length - request.progress)};
    const std::int64_t moved = move(request, std::span(&piece, 1));
    if (moved < 0) return fail(request, static_cast<int>(-moved));
    const std::uint64_t whole = static_cast<std::uint64_t>(moved) / geometry_.logical_block * geometry_.logical_block;
    if (whole == 0) return fail(request, EIO);
    request.progress += whole;
    budget -= std::min(budget, whole);
  }
  return request.what.stable ? sync(request, budget) : true;
}

}  // namespace bulkhead::devproc
