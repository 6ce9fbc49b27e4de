#include "vmm/pci/window_map.h"

#include <algorithm>
#include <tuple>

namespace bulkhead::vmm {

WindowMap::WindowMap(std::vector<WindowPlan> windows, std::vector<Range> reserved, std::vector<Claim> fixed)
    : reserved_(std::move(reserved)), fixed_(std::move(fixed)) {
  for (WindowPlan& plan : windows) windows_.push_back({std::move(plan)});
  std::sort(windows_.begin(), windows_.end(), [](const Window& a, const Window& b) {
    return std::tie(a.plan.devfn, a.plan.index) < std::tie(b.plan.devfn, b.plan.index);
  });
}

bool WindowMap::want(const Effect& effect) {
  const bool io = (effect.flags & kEffectIoSpace) != 0;
  for (Window& window : windows_) {
    if (window.plan.devfn != effect.function || window.plan.index != effect.index) continue;
    if (window.plan.size != effect.size || (window.plan.space == Space::kPort) != io) return false;
    window.enabled = (effect.flags & kEffectEnabled) != 0;
    window.base = effect.address;
    return true;
  }
  return false;
}

void WindowMap::reset() {
  for (Window& window : windows_) window.enabled = false;
}

void WindowMap::set_present(std::uint8_t devfn, bool present) {
  for (Window& window : windows_) {
    if (window.plan.devfn != devfn) continue;
    window.present = present;
    window.enabled = false;  // it comes back from reset
  }
}

bool WindowMap::allowed(const Range& range, Space space, const std::vector<Claim>& taken) const {
  if (space == Space::kPort && range.last() > 0xffff) return false;
  const auto hits = [&range](const Range& other) { return range.overlaps(other); };
  if (space == Space::kMemory && std::any_of(reserved_.begin(), reserved_.end(), hits)) return false;
  return std::none_of(taken.begin(), taken.end(), [&](const Claim& claim) {
    return claim.space == space && hits(*Range::make(claim.base, claim.length));
  });
}

std::vector<Claim> WindowMap::claims() const {
  std::vector<Claim> taken = fixed_;
  for (const Window& window : windows_) {
    if (!window.enabled || !window.present) continue;
    const WindowPlan& plan = window.plan;
    const std::optional<Range> range = Range::make(window.base, plan.size);
    if (!range || !allowed(*range, plan.space, taken)) continue;
    taken.push_back({plan.space, window.base, plan.size, plan.channel, plan.instance, plan.region, plan.posted,
                     plan.owner, plan.memory, plan.writable});
  }
  return taken;
}

}  // namespace bulkhead::vmm
