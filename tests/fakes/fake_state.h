// FakeStateAllocator: state on the heap, and for each segment whether it was changed through mut().
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "devproc/core/persistent.h"

namespace bulkhead::devproc {

class FakeStateAllocator final : public StateAllocator {
 public:
  StateSegment& allocate(std::uint32_t size, std::uint32_t alignment) override {
    StateSegment& segment = local_.allocate(size, alignment);
    segments_.push_back(&segment);
    return segment;
  }
  // Plays the commit.
  void reset_dirty() { local_.reset_dirty(); }
  [[nodiscard]] std::size_t count() const { return segments_.size(); }
  [[nodiscard]] std::span<std::byte> bytes(std::size_t i) { return {segments_[i]->working(), segments_[i]->size}; }
  [[nodiscard]] bool dirty(std::size_t i) const { return segments_[i]->dirty; }

  // All segments, one after the other.
  [[nodiscard]] std::vector<std::byte> snapshot() {
    std::vector<std::byte> all;
    for (std::size_t i = 0; i < count(); ++i) all.insert(all.end(), bytes(i).begin(), bytes(i).end());
    return all;
  }

 private:
  LocalStateAllocator local_;
  std::vector<StateSegment*> segments_;
};

}  // namespace bulkhead::devproc
