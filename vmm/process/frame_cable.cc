#include "vmm/process/frame_cable.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <string_view>

#include "ipc/ring/frame_ring.h"

namespace bulkhead::vmm {

Result<std::shared_ptr<FrameCable>> FrameCable::create() {
  ASSIGN_OR_RETURN(FrameLink link, FrameLink::create());
  link.set_present(1 - kOwn, false);
  return std::shared_ptr<FrameCable>(new FrameCable(std::move(link)));
}

Status FrameCable::plug(UniqueFd area, UniqueFd bell) {
  ASSIGN_OR_RETURN(UniqueFd copy, UniqueFd::duplicate(area.borrow()));
  RETURN_IF_ERROR(ipc::ReadOnlyRegion::import(std::move(copy), ipc::kFrameRingAreaSize));
  std::array<char, 64> what{};
  const ssize_t length = ::readlink(fmt::format("/proc/self/fd/{}", bell.get()).c_str(), what.data(), what.size());
  if (length <= 0 || std::string_view(what.data(), static_cast<std::size_t>(length)) != "anon_inode:[eventfd]")
    return make_error("what came for a bell is no eventfd");
  peer_area_ = std::move(area);
  peer_bell_ = std::move(bell);
  return ok();
}

FrameRingEnd FrameCable::end() const {
  FrameRingEnd end = link_.end(kOwn);
  if (peer_area_.valid()) {
    end.peer = peer_area_.borrow();
    end.peer_bell = peer_bell_.borrow();
  }
  return end;
}

}  // namespace bulkhead::vmm
