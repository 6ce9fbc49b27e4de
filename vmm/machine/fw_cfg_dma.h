// FwCfgDma: the transfers of fw_cfg's DMA interface, which the VMM does on behalf of the device.
//
// The guest's FWCfgDmaAccess is read once; what it asks for is bounded by the items of the region and by guest RAM. A
// transfer may be done again (the vCPU that asked waits for it), since it is a copy of what does not change.
// Errors: the guest gets them in the control word. Threading: any vCPU's thread. Trust: where the item stands comes
// from a hostile process and is checked against the region; addresses are the guest's. Source: QEMU,
// docs/specs/fw_cfg.rst, "Guest-side DMA Interface".
#pragma once

#include <cstddef>
#include <span>

#include "vmm/bus/remote_channel.h"
#include "vmm/memory/guest_ram.h"

namespace bulkhead::vmm {

class FwCfgDma final : public FwCfgTransfers {
 public:
  FwCfgDma(std::span<const std::byte> region, GuestRam& ram) : region_(region), ram_(ram) {}

  Position transfer(const FwCfgTransfer& from) override;

 private:
  // False: not all of it is RAM.
  bool read_item(Position& at, std::uint64_t address, std::uint32_t length);

  std::span<const std::byte> region_;
  GuestRam& ram_;
};

}  // namespace bulkhead::vmm
