// FrameLink: the memory and the bells of one frame ring between two device processes of this VM
// (ipc/ring/frame_ring.h).
//
// Each side's area is mapped writable by that side alone: the other one gets a descriptor that was opened for reading.
// Threading: creation anywhere; set_present() from one thread at a time. Errors: a sentence. Trust: both sides are
// hostile to each other and to the VMM, which reads nothing in here.
#pragma once

#include <array>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"
#include "ipc/shm/region.h"

namespace bulkhead::vmm {

// What one side holds.
struct FrameRingEnd {
  BorrowedFd own;   // its area
  BorrowedFd peer;  // the other side's area, for reading
  BorrowedFd bell;  // rings for it
  BorrowedFd peer_bell;
};

class FrameLink {
 public:
  static constexpr std::size_t kSides = 2;

  static Result<FrameLink> create();

  [[nodiscard]] FrameRingEnd end(std::size_t side) const;
  // The area of `side`, for reading.
  [[nodiscard]] BorrowedFd readable(std::size_t side) const { return sides_[side].readable.borrow(); }
  // Whether `side` takes part: the other one sees it as its link, up or down.
  void set_present(std::size_t side, bool present) const;

 private:
  struct Side {
    ipc::WritableRegion area;
    UniqueFd readable;
    UniqueFd bell;
  };
  FrameLink() = default;
  std::array<Side, kSides> sides_;
};

}  // namespace bulkhead::vmm
