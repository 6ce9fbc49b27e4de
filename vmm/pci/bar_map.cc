#include "vmm/pci/bar_map.h"

#include <algorithm>

#include "ipc/base/checked.h"

namespace bulkhead::vmm {
namespace {

BusAccess to_bus_access(const WindowPlan& bar, const BarAccess& access) {
  return {.instance = bar.instance,
          .region = bar.region,
          .size = access.size,
          .count = 1,
          .offset = access.offset,
          .redirected = true};
}

}  // namespace

const WindowPlan* BarMap::find(const BarAccess& access) const {
  const auto bar = std::find_if(bars_.begin(), bars_.end(), [&](const WindowPlan& plan) {
    return plan.devfn == access.devfn && plan.index == access.bar;
  });
  return bar != bars_.end() && fits(access.offset, access.size, bar->size) ? &*bar : nullptr;
}

bool BarMap::read(std::uint32_t vcpu, const BarAccess& access, std::span<std::byte> out) {
  const WindowPlan* bar = find(access);
  if (bar == nullptr) return false;
  bar->channel->read(vcpu, to_bus_access(*bar, access), out);
  return true;
}

bool BarMap::write(std::uint32_t vcpu, const BarAccess& access, std::span<const std::byte> in) {
  const WindowPlan* bar = find(access);
  if (bar == nullptr) return false;
  BusAccess write = to_bus_access(*bar, access);
  write.posted = bar->posted;
  bar->channel->write(vcpu, write, in);
  return true;
}

}  // namespace bulkhead::vmm
