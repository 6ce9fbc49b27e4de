#include "vmm/pci/doorbells.h"

#include <algorithm>

#include "ipc/base/log.h"

namespace bulkhead::vmm {
namespace {

std::optional<IoEvent> wanted(const Doorbells::Place& place, BorrowedFd event, std::span<const Claim> claims) {
  const auto holds = [&place](const Claim& claim) {
    return claim.channel == place.channel && claim.instance == place.instance && claim.region == place.region &&
           place.offset < claim.length;
  };
  const auto claim = std::find_if(claims.begin(), claims.end(), holds);
  if (claim == claims.end()) return std::nullopt;
  return IoEvent{
      .address = claim->base + place.offset, .size = 0, .port = claim->space == Space::kPort, .event = event};
}

}  // namespace

void Doorbells::publish(std::span<const Claim> claims) {
  static constinit LogLimiter limiter{4};  // a guest moves its windows as often as it likes
  const auto same = [](const std::optional<IoEvent>& a, const std::optional<IoEvent>& b) {
    return a.has_value() == b.has_value() && (!a || (a->address == b->address && a->port == b->port));
  };
  // All that go, then all that come: two functions may have changed places.
  std::vector<std::optional<IoEvent>> places;
  for (Bell& bell : bells_) {
    places.push_back(wanted(bell.place, bell.event, claims));
    if (!bell.attached || same(bell.attached, places.back())) continue;
    const Status removed = vm_.remove_io_event(*bell.attached);
    if (!removed && limiter.allow()) log(LogLevel::kError, "{}", removed.error().message);
    bell.attached.reset();
  }
  for (std::size_t i = 0; i < bells_.size(); ++i) {
    if (!places[i] || bells_[i].attached) continue;
    const Status added = vm_.add_io_event(*places[i]);
    if (added) {
      bells_[i].attached = places[i];
    } else if (limiter.allow()) {
      log(LogLevel::kWarning, "{}; its writes leave the guest instead", added.error().message);
    }
  }
}

}  // namespace bulkhead::vmm
