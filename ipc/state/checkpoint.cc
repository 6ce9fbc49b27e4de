#include "ipc/state/checkpoint.h"

#include <cstring>

#include "ipc/base/check.h"
#include "ipc/base/checked.h"

namespace bulkhead::ipc {
namespace {

constexpr std::uint64_t kMostCommits = std::uint64_t{1} << 62;

}  // namespace

Checkpoint::Checkpoint(std::span<std::byte> region)
    : header_(reinterpret_cast<StateHeader*>(region.data())),
      banks_(region.data() + align_up(sizeof(StateHeader), 4096)),
      bank_size_((region.size() - align_up(sizeof(StateHeader), 4096)) / 2 / 4096 * 4096) {
  CHECK(region.size() >= 4 * 4096, region.size());
}

StateSegment& Checkpoint::allocate(std::uint32_t size, std::uint32_t alignment) {
  CHECK(alignment <= kCacheLine, alignment);
  const std::size_t offset = used_;
  used_ += align_up(size, kCacheLine);
  if (used_ > bank_size_) {
    // Said by open(); until then the segment lies at the bank's start, where nothing is touched.
    overflow_ = true;
    used_ = offset;
  }
  layout_ = (layout_ ^ size) * 0x100000001b3;
  StateSegment& segment = segments_.emplace_back();
  segment.offset = overflow_ ? 0 : offset;
  segment.size = size;
  segment.bank = &working_bank_;
  segment.dirty_list = &dirty_;
  return segment;
}

void Checkpoint::mix_layout(std::string_view text, std::uint32_t version) {
  for (const char c : text) layout_ = (layout_ ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  layout_ = (layout_ ^ version) * 0x100000001b3;
}

Result<bool> Checkpoint::open() {
  if (overflow_) return make_error("the role's state does not fit its region");
  dirty_.reserve(segments_.size());
  number_ = header_->commit_word.load(std::memory_order_acquire);
  working_bank_ = banks_ + spare() * bank_size_;
  if (number_ == 0) {
    // A predecessor may have died before its first commit, half-way through the reset; a hostile one may have put the
    // word back. Both banks: sync() copies only what the first commit touched, and no model looks at the rest again.
    for (const std::size_t bank : {0U, 1U}) std::memset(banks_ + bank * bank_size_, 0, used_);
    header_->magic = kStateMagic;
    header_->layout = layout_;
    return false;
  }
  if (header_->magic != kStateMagic || header_->layout != layout_)
    return make_error("the state in the region was written by an incompatible version of this role");
  // A predecessor died at some point of its work: the spare bank may hold anything.
  std::memcpy(working_bank_, banks_ + (1 - spare()) * bank_size_, used_);
  if (number_ > kMostCommits) {
    // No honest process commits that often. Left alone the number would pass zero, which means a new region.
    number_ = 2 + (number_ & 1);
    header_->commit_word.store(number_, std::memory_order_release);
  }
  return true;
}

void Checkpoint::commit() {
  ++number_;
  header_->commit_word.store(number_, std::memory_order_release);
  // Nor may the compiler move what follows before the store: sync() writes over the bank that was committed until now.
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

void Checkpoint::sync() {
  std::byte* const from = banks_ + (1 - spare()) * bank_size_;
  std::byte* const to = banks_ + spare() * bank_size_;
  // The last request's answer stays in the record while other inputs are committed after it.
  const Bank& newest = *reinterpret_cast<const Bank*>(from);
  Bank& stale = *reinterpret_cast<Bank*>(to);
  stale.input = newest.input;
  if (newest.input.reply.effect_count != 0) std::memcpy(stale.effects, newest.effects, sizeof stale.effects);
  for (StateSegment* segment : dirty_) {
    std::memcpy(to + segment->offset, from + segment->offset, segment->size);
    segment->dirty = false;
  }
  dirty_.clear();
  working_bank_ = to;
#ifdef BULKHEAD_DEBUG
  for (const StateSegment& segment : segments_)
    CHECK(std::memcmp(to + segment.offset, from + segment.offset, segment.size) == 0, segment.offset);
#endif
}

}  // namespace bulkhead::ipc
