// StateSegment and StateAllocator: runs of bytes in a checkpoint's banks, as their users hold them.
// Threading: single-threaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace bulkhead::ipc {

struct StateSegment {
  std::byte* const* bank = nullptr;  // start of the bank being worked in; it moves at each commit
  std::size_t offset = 0;            // bytes from the bank's start
  std::uint32_t size = 0;
  bool dirty = false;                                // changed since the last commit
  std::vector<StateSegment*>* dirty_list = nullptr;  // where the checkpoint learns of it, if it asks

  [[nodiscard]] std::byte* working() const { return *bank + offset; }
  void mark_dirty() {
    if (dirty) return;
    dirty = true;
    if (dirty_list != nullptr) dirty_list->push_back(this);
  }
};

// Hands out a role's segments, in the same order in every process that plays the role.
class StateAllocator {
 public:
  virtual ~StateAllocator() = default;
  // `alignment` is at most 64.
  virtual StateSegment& allocate(std::uint32_t size, std::uint32_t alignment) = 0;
};

}  // namespace bulkhead::ipc
