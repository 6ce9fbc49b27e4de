// What drivers of virtio devices do in the fault tests: a start, and requests of a disk.
#pragma once

#include <cstring>
#include <optional>
#include <vector>

#include "devproc/models/virtio/transport_spec.h"
#include "devproc/models/virtio_blk/spec.h"
#include "ipc/roles/virtio_decl.h"
#include "tests/fakes/virtio_driver.h"
#include "tests/faults/inputs.h"

namespace bulkhead::devproc {

using namespace virtio;

inline constexpr GuestPhys kRing = 0x1000;
inline constexpr GuestPhys kBuffers = 0x8000;

struct Way {
  bool packed = false;
  bool event_idx = false;
  bool msix = false;
  bool in_order = false;
};

inline ipc::Request common(std::uint32_t offset, std::uint8_t size, std::uint64_t value) {
  return writes(0, kVirtioRegisters, kVirtioCommonOffset + offset, size, value);
}

// Where each queue's ring is.
inline VirtioDriver::Layout layout(const Way& way, QueueId queue = 0) {
  return {.packed = way.packed, .event_idx = way.event_idx, .at = kRing + 0x1000U * queue};
}

// What a driver does before DRIVER_OK, with `queues` queues of eight from `first` on; layout(way) is that of `first`.
inline std::vector<ipc::Request> driver_start(const Way& way, std::uint64_t device_features, QueueId queues = 1,
                                              QueueId first = 0) {
  std::uint64_t features = device_features | std::uint64_t{1} << kVirtioFVersion1;
  if (way.packed) features |= std::uint64_t{1} << kVirtioFRingPacked;
  if (way.event_idx) features |= std::uint64_t{1} << kVirtioFEventIdx;
  if (way.in_order) features |= std::uint64_t{1} << kVirtioFInOrder;
  std::vector<std::byte> scratch(kRigMemory);
  SpanMemory memory(scratch);
  ipc::Request control;
  control.kind = ipc::RequestKind::kFunctionControl;
  const std::uint32_t bits = kControlMemoryEnable | kControlBusMaster | (way.msix ? kControlMsixEnable : 0U);
  std::memcpy(control.payload, &bits, sizeof bits);
  std::vector<ipc::Request> all{control,
                                common(kDeviceStatus, 1, kStatusAcknowledge | kStatusDriver),
                                common(kDriverFeatureSelect, 4, 0),
                                common(kDriverFeature, 4, features & 0xffffffff),
                                common(kDriverFeatureSelect, 4, 1),
                                common(kDriverFeature, 4, features >> 32),
                                common(kDeviceStatus, 1, kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk)};
  for (QueueId i = 0; i < queues; ++i) {
    const auto queue = static_cast<QueueId>(first + i);
    QueueState places{};
    VirtioDriver(memory, layout(way, i)).place(places);
    all.push_back(common(kQueueSelect, 2, queue));
    all.push_back(common(kQueueSize, 2, places.size));
    for (const auto& [offset, value] : {std::pair(kQueueDesc, places.desc), std::pair(kQueueDriver, places.driver),
                                        std::pair(kQueueDevice, places.device)}) {
      all.push_back(common(offset, 4, value & 0xffffffff));
      all.push_back(common(offset + 4, 4, value >> 32));
    }
    if (way.msix) all.push_back(common(kQueueMsixVector, 2, queue + 1U));
    all.push_back(common(kQueueEnable, 2, 1));
  }
  all.push_back(common(kDeviceStatus, 1, kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk));
  return all;
}

inline constexpr GuestPhys kDiskStep = 0x1000;
inline constexpr std::uint32_t kDataAt = 0x200;
inline constexpr std::uint32_t kStatusAt = 0x1f0;

// A request of a disk: its header, its data and its status byte, each in a buffer of its own.
struct DiskRequest {
  std::uint32_t type = 0;
  std::uint64_t sector = 0;
  std::uint32_t bytes = 0;
  bool to_guest = false;
  std::optional<virtio_blk_spec::VirtioBlkRange> range = {};  // its data
  std::uint8_t status = virtio_blk_spec::kVirtioBlkSOk;       // what it is answered with
  std::uint32_t data_at = kDataAt;                            // behind its header
  std::optional<std::uint8_t> first_byte = {};                // of what is written
};

inline void ask_the_disk(RoleRig& rig, const Way& way, const std::vector<DiskRequest>& requests, bool new_disk = true) {
  for (std::size_t i = 0; new_disk && i < rig.disk_bytes().size(); ++i)
    rig.disk_bytes()[i] = static_cast<std::byte>(i % 251 + 1);
  SpanMemory memory(rig.memory_bytes());
  VirtioDriver driver(memory, layout(way));
  GuestPhys at = kBuffers;
  for (const DiskRequest& request : requests) {
    const virtio_blk_spec::VirtioBlkHeader header{.type = request.type, .sector = request.sector};
    memory.store(at, header);
    memory.store(at + kStatusAt, std::uint8_t{0xee});
    for (std::uint32_t i = 0; i < request.bytes; ++i)
      memory.store(at + request.data_at + i,
                   static_cast<std::uint8_t>(request.to_guest ? 0xee : request.sector * 7 + i));
    if (request.range) memory.store(at + request.data_at, *request.range);
    if (request.first_byte) memory.store(at + request.data_at, *request.first_byte);
    std::vector<VirtioDriver::Buffer> buffers{{at, sizeof header, false}};
    if (request.bytes != 0) buffers.push_back({at + request.data_at, request.bytes, request.to_guest});
    buffers.push_back({at + kStatusAt, 1, true});
    EXPECT_TRUE(driver.add(buffers, way.event_idx));
    at += kDiskStep;
  }
  driver.want_interrupts();
  rig.let_time_go();
  rig.host->kick(0);
}

inline bool answered(const Seen& seen, const std::vector<DiskRequest>& requests) {
  for (std::size_t i = 0; i < requests.size(); ++i) {
    if (seen.memory[kBuffers + i * kDiskStep + kStatusAt] != std::byte{requests[i].status}) return false;
  }
  return true;
}

}  // namespace bulkhead::devproc
