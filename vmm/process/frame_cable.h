// FrameCable: a network card's end of a frame ring to another VM: its own area, which it alone can map writable, and
// what the other VM gave for its end. Without that, the other end is an area of nobody's, and the link is down.
//
// Each connection has areas and bells of its own, so that a VM that was connected once has no hold on what follows.
// Threading: creation anywhere. Errors: a sentence. Trust: the other VM is hostile: the size and seals of its area are
// checked here and once more by the device process, and what comes for a bell must be an eventfd. It shares that
// eventfd's flags with us, so it can make our device process wait on it; the supervisor then takes that for a hang.
#pragma once

#include <memory>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"
#include "vmm/process/frame_link.h"

namespace bulkhead::vmm {

class FrameCable {
 public:
  // Plugged into nothing.
  static Result<std::shared_ptr<FrameCable>> create();
  // What the other VM is given: our area, for reading, and the bell that rings for us.
  [[nodiscard]] BorrowedFd readable_area() const { return link_.readable(kOwn); }
  [[nodiscard]] BorrowedFd bell() const { return link_.end(kOwn).bell; }
  // Takes what the other VM gave.
  Status plug(UniqueFd area, UniqueFd bell);

  [[nodiscard]] bool plugged() const { return peer_area_.valid(); }
  [[nodiscard]] FrameRingEnd end() const;

 private:
  static constexpr std::size_t kOwn = 0;
  explicit FrameCable(FrameLink link) : link_(std::move(link)) {}

  FrameLink link_;  // its other side is nobody's
  UniqueFd peer_area_;
  UniqueFd peer_bell_;
};

}  // namespace bulkhead::vmm
