// Registers of the common configuration structure. Document: VIRTIO 1.2, sections 2.1 (status) and 4.1.4.3.
#pragma once

#include <cstdint>

namespace bulkhead::devproc::virtio {

// struct virtio_pci_common_cfg: offsets in bytes.
inline constexpr std::uint32_t kDeviceFeatureSelect = 0x00;  // RW 32
inline constexpr std::uint32_t kDeviceFeature = 0x04;        // RO 32
inline constexpr std::uint32_t kDriverFeatureSelect = 0x08;  // RW 32
inline constexpr std::uint32_t kDriverFeature = 0x0c;        // RW 32
inline constexpr std::uint32_t kConfigMsixVector = 0x10;     // RW 16
inline constexpr std::uint32_t kNumQueues = 0x12;            // RO 16
inline constexpr std::uint32_t kDeviceStatus = 0x14;         // RW 8
inline constexpr std::uint32_t kConfigGeneration = 0x15;     // RO 8
inline constexpr std::uint32_t kQueueSelect = 0x16;          // RW 16
inline constexpr std::uint32_t kQueueSize = 0x18;            // RW 16
inline constexpr std::uint32_t kQueueMsixVector = 0x1a;      // RW 16
inline constexpr std::uint32_t kQueueEnable = 0x1c;          // RW 16
inline constexpr std::uint32_t kQueueNotifyOff = 0x1e;       // RO 16
inline constexpr std::uint32_t kQueueDesc = 0x20;            // RW 64
inline constexpr std::uint32_t kQueueDriver = 0x28;          // RW 64
inline constexpr std::uint32_t kQueueDevice = 0x30;          // RW 64
inline constexpr std::uint32_t kQueueNotifyData = 0x38;      // RO 16
inline constexpr std::uint32_t kQueueReset = 0x3a;           // RW 16

inline constexpr std::uint16_t kNoVector = 0xffff;  // VIRTIO_MSI_NO_VECTOR

// device_status.
inline constexpr std::uint8_t kStatusAcknowledge = 0x01;
inline constexpr std::uint8_t kStatusDriver = 0x02;
inline constexpr std::uint8_t kStatusDriverOk = 0x04;
inline constexpr std::uint8_t kStatusFeaturesOk = 0x08;
inline constexpr std::uint8_t kStatusNeedsReset = 0x40;
inline constexpr std::uint8_t kStatusFailed = 0x80;

// ISR status.
inline constexpr std::uint8_t kIsrQueue = 0x01;
inline constexpr std::uint8_t kIsrConfig = 0x02;

}  // namespace bulkhead::devproc::virtio
