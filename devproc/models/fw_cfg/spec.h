// QEMU's firmware configuration device, by which SeaBIOS and OVMF learn what a virtual machine consists of.
//
// Document: QEMU, docs/specs/fw_cfg.rst: "Hardware Interface" (x86), "Guest-side DMA Interface". The selector register
// is little-endian, the address register of the DMA interface big-endian; both as bytes at increasing ports.
#pragma once

#include <cstdint>

namespace bulkhead::devproc::fw_cfg {

// 510h: selector, 16 bits, write only. 511h: data, 8 bits, each read gives the item's next byte.
inline constexpr std::uint64_t kSelector = 0;
inline constexpr std::uint64_t kData = 1;
inline constexpr std::uint64_t kSelectorPorts = 2;

// 514h-51Bh: address of an FWCfgDmaAccess, most significant byte first. The second half starts the transfer.
inline constexpr std::uint64_t kAddressHigh = 0;
inline constexpr std::uint64_t kAddressLow = 4;
inline constexpr std::uint64_t kAddressPorts = 8;
// What the address register reads as, in the order of its ports.
inline constexpr std::uint8_t kDmaSignature[kAddressPorts] = {'Q', 'E', 'M', 'U', ' ', 'C', 'F', 'G'};

}  // namespace bulkhead::devproc::fw_cfg
