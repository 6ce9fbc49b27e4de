// Virtqueues as they lie in guest memory, and the feature bits that shape them. The specification's names, spelled as
// constants are here: VIRTQ_DESC_F_NEXT is kVirtqDescFNext. All fields are little-endian, as is this host.
//
// Document: Virtual I/O Device (VIRTIO) Version 1.2, sections 2.7 (split virtqueues), 2.8 (packed virtqueues) and 6
// (reserved feature bits). Bit 41 is of Version 1.3.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bulkhead::devproc::virtio {

// Feature bits, as numbers of bits.
inline constexpr unsigned kVirtioFIndirectDesc = 28;
inline constexpr unsigned kVirtioFEventIdx = 29;
inline constexpr unsigned kVirtioFVersion1 = 32;
inline constexpr unsigned kVirtioFAccessPlatform = 33;
inline constexpr unsigned kVirtioFRingPacked = 34;
inline constexpr unsigned kVirtioFInOrder = 35;
inline constexpr unsigned kVirtioFOrderPlatform = 36;
inline constexpr unsigned kVirtioFSrIov = 37;
inline constexpr unsigned kVirtioFNotificationData = 38;
inline constexpr unsigned kVirtioFNotifConfigData = 39;
inline constexpr unsigned kVirtioFRingReset = 40;
inline constexpr unsigned kVirtioFAdminVq = 41;

// Descriptor flags, both layouts.
inline constexpr std::uint16_t kVirtqDescFNext = 1U << 0;
inline constexpr std::uint16_t kVirtqDescFWrite = 1U << 1;
inline constexpr std::uint16_t kVirtqDescFIndirect = 1U << 2;
// Packed only: a driver makes them {wrap, !wrap}, a device {wrap, wrap}.
inline constexpr std::uint16_t kVirtqDescFAvail = 1U << 7;
inline constexpr std::uint16_t kVirtqDescFUsed = 1U << 15;

// ---- Split virtqueues, section 2.7 ----

// struct virtq_desc: an entry of the descriptor table or of an indirect table.
struct VirtqDesc {
  std::uint64_t addr = 0;
  std::uint32_t len = 0;
  std::uint16_t flags = 0;
  std::uint16_t next = 0;
};
static_assert(sizeof(VirtqDesc) == 16);

// struct virtq_used_elem.
struct VirtqUsedElem {
  std::uint32_t id = 0;
  std::uint32_t len = 0;
};
static_assert(sizeof(VirtqUsedElem) == 8);

// struct virtq_avail {flags, idx, ring[size], used_event} and struct virtq_used {flags, idx, ring[size], avail_event}.
inline constexpr std::uint32_t kVirtqFlags = 0;
inline constexpr std::uint32_t kVirtqIdx = 2;
inline constexpr std::uint32_t kVirtqRing = 4;
inline constexpr std::uint32_t kVirtqEvent = 2;  // bytes behind ring[size], with or without VIRTIO_F_EVENT_IDX

inline constexpr std::uint16_t kVirtqAvailFNoInterrupt = 1;
inline constexpr std::uint16_t kVirtqUsedFNoNotify = 1;

inline constexpr std::uint64_t kVirtqDescAlign = 16;
inline constexpr std::uint64_t kVirtqAvailAlign = 2;
inline constexpr std::uint64_t kVirtqUsedAlign = 4;

// ---- Packed virtqueues, section 2.8 ----

// struct pvirtq_desc: an entry of the descriptor ring or of an indirect table.
struct PvirtqDesc {
  std::uint64_t addr = 0;
  std::uint32_t len = 0;
  std::uint16_t id = 0;
  std::uint16_t flags = 0;
};
static_assert(sizeof(PvirtqDesc) == 16);
// What a device writes of it: len and id, then flags.
inline constexpr std::uint32_t kPvirtqDescLen = offsetof(PvirtqDesc, len);
inline constexpr std::uint32_t kPvirtqDescFlags = offsetof(PvirtqDesc, flags);

// struct pvirtq_event_suppress: where (slot in bits 0-14, wrap counter in bit 15), and whether.
inline constexpr std::uint32_t kPvirtqEventDesc = 0;
inline constexpr std::uint32_t kPvirtqEventFlags = 2;
inline constexpr std::uint32_t kPvirtqEventSize = 4;
inline constexpr std::uint16_t kPvirtqWrap = 1U << 15;

inline constexpr std::uint16_t kRingEventFlagsEnable = 0;
inline constexpr std::uint16_t kRingEventFlagsDisable = 1;
inline constexpr std::uint16_t kRingEventFlagsDesc = 2;
inline constexpr std::uint16_t kRingEventFlagsMask = 3;  // the other bits are reserved

inline constexpr std::uint64_t kPvirtqDescAlign = 16;
inline constexpr std::uint64_t kPvirtqEventAlign = 4;

}  // namespace bulkhead::devproc::virtio
