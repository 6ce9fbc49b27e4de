#include "vmm/process/frame_link.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>

#include "ipc/ring/frame_ring.h"

namespace bulkhead::vmm {

Result<FrameLink> FrameLink::create() {
  FrameLink link;
  std::uint64_t epoch = 0;
  if (::getrandom(&epoch, sizeof epoch, 0) != sizeof epoch) return make_errno_error("cannot number a frame ring");
  for (Side& side : link.sides_) {
    ASSIGN_OR_RETURN(side.area, ipc::WritableRegion::create("bulkhead-frames", ipc::kFrameRingAreaSize,
                                                            ipc::PeerRights::kReadWrite));
    auto* area = side.area.as<ipc::FrameRingArea>();
    area->magic = ipc::kFrameRingMagic;
    area->epoch = epoch;
    area->link.store(1, std::memory_order_release);
    // Rights belong to the open file: this one can never be mapped for writing.
    ASSIGN_OR_RETURN(side.readable, UniqueFd::open(fmt::format("/proc/self/fd/{}", side.area.fd().get()), O_RDONLY));
    ASSIGN_OR_RETURN(side.bell, UniqueFd::create_eventfd());
  }
  return link;
}

FrameRingEnd FrameLink::end(std::size_t side) const {
  const Side& own = sides_[side];
  const Side& peer = sides_[1 - side];
  return {own.area.fd(), peer.readable.borrow(), own.bell.borrow(), peer.bell.borrow()};
}

void FrameLink::set_present(std::size_t side, bool present) const {
  sides_[side].area.as<ipc::FrameRingArea>()->link.store(present ? 1 : 0, std::memory_order_seq_cst);
  signal_eventfd(sides_[1 - side].bell.borrow());
}

}  // namespace bulkhead::vmm
