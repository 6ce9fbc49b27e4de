// BarMap: the BARs that the `pci` process may redirect an access to, and who answers there.
//
// An access goes to the channel of the BAR's owner as a vCPU's would that found the BAR in the address space: it waits,
// carries out effects, is posted where the region is, and reads ones from an isolated function. Where the BAR is, and
// whether it decodes, does not matter (VIRTIO 1.2, section 4.1.4.9). An MSI-X BAR's owner is `pci` itself: the access
// is marked, so that it cannot be redirected once more. Threading: add() before the first vCPU runs; read and write
// from any vCPU thread. Trust: accesses come from a process that may be hostile; the windows are the plan's.
#pragma once

#include <vector>

#include "vmm/bus/remote_channel.h"
#include "vmm/pci/window_map.h"

namespace bulkhead::vmm {

class BarMap final : public BarAccesses {
 public:
  // A BAR of a function that has VIRTIO_PCI_CAP_PCI_CFG.
  void add(const WindowPlan& bar) { bars_.push_back(bar); }

  bool read(std::uint32_t vcpu, const BarAccess& access, std::span<std::byte> out) override;
  bool write(std::uint32_t vcpu, const BarAccess& access, std::span<const std::byte> in) override;

 private:
  [[nodiscard]] const WindowPlan* find(const BarAccess& access) const;

  std::vector<WindowPlan> bars_;
};

}  // namespace bulkhead::vmm
