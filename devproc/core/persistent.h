// Persistent<State>: a model's state, in memory that outlives the process.
//
// A model's State is a plain value (trivially copyable, no pointers). It lives in the spare bank of the
// role's checkpoint (ipc/state/checkpoint.h): the model changes it freely while it handles one input, and
// the host then makes all changes visible at once. Changes made through mut() are the only ones that
// survive, so that the checkpoint knows what to copy.
//
// Trust: after a take-over the bytes come from a process that may have been hostile; Device::restore()
// brings every field into its range before anything is believed.
// Threading: single-threaded, like everything in a device process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <list>
#include <memory>
#include <new>
#include <span>
#include <type_traits>

#include "ipc/state/segment.h"

namespace bulkhead::devproc {

using ipc::StateAllocator;
using ipc::StateSegment;

template <class State>
class Persistent {
  static_assert(std::is_trivially_copyable_v<State>, "a checkpoint copies bytes");
  static_assert(std::is_trivially_default_constructible_v<State> || std::is_nothrow_default_constructible_v<State>);

 public:
  explicit Persistent(StateSegment& segment) : segment_(&segment) {}

  [[nodiscard]] const State& get() const { return *reinterpret_cast<const State*>(segment_->working()); }
  const State* operator->() const { return &get(); }
  [[nodiscard]] const StateSegment& segment() const { return *segment_; }

  // The state for writing. The reference is good for the current input only.
  [[nodiscard]] State& mut() {
    segment_->mark_dirty();
    return *reinterpret_cast<State*>(segment_->working());
  }

 private:
  StateSegment* segment_;
};

// A device's own state, allocated in the order in which its registry entry asks for it.
template <class State>
Persistent<State> allocate_state(StateAllocator& allocator) {
  static_assert(alignof(State) <= 64);
  return Persistent<State>(allocator.allocate(sizeof(State), 64));
}

// State on the heap, for unit tests, fuzzers and in-process use. reset_dirty() plays the commit.
class LocalStateAllocator final : public StateAllocator {
 public:
  StateSegment& allocate(std::uint32_t size, std::uint32_t alignment) override {
    auto& block = blocks_.emplace_back();
    block.bytes.reset(new (std::align_val_t(64)) std::byte[size]());
    (void)alignment;  // every block is 64-byte aligned, the most that a segment may ask for
    block.start = block.bytes.get();
    block.segment = StateSegment{&block.start, 0, size, false, nullptr};
    return block.segment;
  }
  void reset_dirty() {
    for (auto& block : blocks_) block.segment.dirty = false;
  }
  [[nodiscard]] std::size_t count() const { return blocks_.size(); }
  [[nodiscard]] std::span<std::byte> bytes(std::size_t i) {
    auto it = blocks_.begin();
    std::advance(it, static_cast<std::ptrdiff_t>(i));
    return {it->bytes.get(), it->segment.size};
  }

 private:
  struct AlignedDelete {
    void operator()(std::byte* p) const { operator delete[](p, std::align_val_t(64)); }
  };
  struct Block {
    std::unique_ptr<std::byte[], AlignedDelete> bytes;
    std::byte* start = nullptr;
    StateSegment segment;
  };
  std::list<Block> blocks_;
};

}  // namespace bulkhead::devproc
