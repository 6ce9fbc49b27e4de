// BarAccess: an access to a BAR that software asks for through configuration space (VIRTIO 1.2, section 4.1.4.9,
// VIRTIO_PCI_CAP_PCI_CFG). The `pci` process says what is to be done, the VMM does it on the ring of the BAR's owner.
// Plain data of fixed layout: it travels in the payload of a reply (ipc/wire/bar_access.h).
#pragma once

#include <cstdint>

namespace bulkhead {

// Whether it reads or writes is what the redirected access did.
struct BarAccess {
  std::uint32_t offset = 0;  // bytes into the BAR
  std::uint32_t value = 0;   // pci_cfg_data as it is stored: what is written; behind `size` bytes, what is read
  std::uint16_t devfn = 0;
  std::uint8_t bar = 0;
  std::uint8_t size = 0;  // 1, 2, 4
  // A read of pci_cfg_data: its byte `first` is byte `lead` of the answer; bytes before that are ones.
  std::uint8_t first = 0;
  std::uint8_t lead = 0;
  std::uint16_t reserved = 0;

  bool operator==(const BarAccess&) const = default;
};
static_assert(sizeof(BarAccess) == 16);

}  // namespace bulkhead
