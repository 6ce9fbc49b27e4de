// fw_cfg between its device and the VMM: the region of data that both read, and the transfer that only the VMM can do.
//
// The VMM builds the region once, before the VM runs, and seals it: a FwCfgCatalogue, then the items' bytes. The device
// serves bytes from it, the VMM copies from it to guest memory (DMA). Which item is selected, and how far it was read,
// is the device's state.
// Source: QEMU, docs/specs/fw_cfg.rst, "QEMU Firmware Configuration (fw_cfg) Device".
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace bulkhead {

// Selector values. Files have those from kFwCfgFirstFile on, in the order of the directory.
inline constexpr std::uint16_t kFwCfgSignature = 0x00;  // "QEMU"
inline constexpr std::uint16_t kFwCfgId = 0x01;         // u32, little-endian, kFwCfgId... bits
inline constexpr std::uint16_t kFwCfgRamSize = 0x03;    // u64
inline constexpr std::uint16_t kFwCfgNoGraphic = 0x04;  // u16
inline constexpr std::uint16_t kFwCfgCpus = 0x05;       // u16, that are there
inline constexpr std::uint16_t kFwCfgBootMenu = 0x0e;   // u16, whether to show it
inline constexpr std::uint16_t kFwCfgMaxCpus = 0x0f;    // u16, the largest APIC ID + 1
inline constexpr std::uint16_t kFwCfgFileDirectory = 0x19;
inline constexpr std::uint16_t kFwCfgFirstFile = 0x20;
inline constexpr std::uint16_t kFwCfgIrq0Override = 0x8002;  // u8: GSI 0 is pin 2 of the IOAPIC

inline constexpr std::uint32_t kFwCfgIdTraditional = 1U << 0;
inline constexpr std::uint32_t kFwCfgIdDma = 1U << 1;

inline constexpr std::uint32_t kFwCfgMaxItems = 128;
inline constexpr std::uint64_t kFwCfgMaxBytes = std::uint64_t{64} << 20;  // of the region

struct FwCfgItem {
  std::uint32_t offset = 0;  // into the region
  std::uint32_t size = 0;
  std::uint16_t selector = 0;
  std::uint16_t reserved = 0;
};
static_assert(sizeof(FwCfgItem) == 12);

struct FwCfgCatalogue {
  std::uint32_t count = 0;
  FwCfgItem items[kFwCfgMaxItems] = {};
};
static_assert(sizeof(FwCfgCatalogue) == 4 + 12 * kFwCfgMaxItems);

// The bytes of the item that `selector` names: none when there is no such item, or the region is none.
[[nodiscard]] std::span<const std::byte> fw_cfg_item(std::span<const std::byte> region, std::uint16_t selector);

// The guest wrote the address of an FWCfgDmaAccess: what the device knows of the transfer that this starts.
struct FwCfgTransfer {
  std::uint64_t address = 0;  // guest-physical, of the FWCfgDmaAccess
  std::uint32_t offset = 0;   // into the selected item
  std::uint16_t selector = 0;
  std::uint16_t reserved = 0;
  bool operator==(const FwCfgTransfer&) const = default;
};
static_assert(sizeof(FwCfgTransfer) == 16);

}  // namespace bulkhead
