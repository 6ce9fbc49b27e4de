// start_virtio: brings a virtio device from reset to DRIVER_OK as a driver does (VIRTIO 1.2, section 3.1.1), each of
// its queues in the layout and at the place of a VirtioDriver.
#pragma once

#include <cstdint>
#include <span>
#include <utility>

#include "devproc/core/device.h"
#include "devproc/models/virtio/transport.h"
#include "devproc/models/virtio/transport_spec.h"
#include "ipc/roles/virtio_decl.h"
#include "tests/fakes/virtio_driver.h"

namespace bulkhead::devproc {

// The common configuration structure, as a driver reaches it.
class VirtioRegisters {
 public:
  explicit VirtioRegisters(Device& device) : device_(device) {}

  std::uint32_t get(std::uint32_t offset, std::uint8_t size) {
    const auto value = device_.read({kVirtioRegisters, kVirtioCommonOffset + offset, size});
    return static_cast<std::uint32_t>(value.value_or(0));
  }
  void set(std::uint32_t offset, std::uint8_t size, std::uint32_t value) {
    device_.write({kVirtioRegisters, kVirtioCommonOffset + offset, size}, value);
  }
  void set64(std::uint32_t offset, std::uint64_t value) {
    set(offset, 4, static_cast<std::uint32_t>(value));
    set(offset + 4, 4, static_cast<std::uint32_t>(value >> 32));
  }
  std::uint8_t isr() {
    return static_cast<std::uint8_t>(device_.read({kVirtioRegisters, kVirtioIsrOffset, 1}).value_or(0));
  }
  std::uint64_t offered() {
    std::uint64_t all = 0;
    for (std::uint32_t half = 0; half < 2; ++half) {
      set(virtio::kDeviceFeatureSelect, 4, half);
      all |= std::uint64_t{get(virtio::kDeviceFeature, 4)} << (32 * half);
    }
    return all;
  }
  void accept(std::uint64_t features) {
    for (std::uint32_t half = 0; half < 2; ++half) {
      set(virtio::kDriverFeatureSelect, 4, half);
      set(virtio::kDriverFeature, 4, static_cast<std::uint32_t>(features >> (32 * half)));
    }
  }
  // Takes FEATURES_OK for agreed on if it stays set.
  [[nodiscard]] bool agree(std::uint64_t features) {
    using namespace virtio;
    set(kDeviceStatus, 1, kStatusAcknowledge);
    set(kDeviceStatus, 1, kStatusAcknowledge | kStatusDriver);
    accept(features);
    set(kDeviceStatus, 1, kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
    return (get(kDeviceStatus, 1) & kStatusFeaturesOk) != 0;
  }
  void place_queue(std::uint16_t index, const VirtioDriver& driver) {
    using namespace virtio;
    QueueState places{};
    driver.place(places);
    set(kQueueSelect, 2, index);
    set(kQueueSize, 2, places.size);
    set64(kQueueDesc, places.desc);
    set64(kQueueDriver, places.driver);
    set64(kQueueDevice, places.device);
    set(kQueueEnable, 2, 1);
  }
  void driver_ok() {
    using namespace virtio;
    set(kDeviceStatus, 1, kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk);
  }

 private:
  Device& device_;
};

// `features`: besides VERSION_1 and what the drivers' layouts ask for. False: they were refused.
inline bool start_virtio(Device& device, std::span<const VirtioDriver> drivers, std::uint64_t features = 0) {
  using namespace virtio;
  features |= feature_bit(kVirtioFVersion1);
  if (drivers[0].layout().packed) features |= feature_bit(kVirtioFRingPacked);
  if (drivers[0].layout().event_idx) features |= feature_bit(kVirtioFEventIdx);
  VirtioRegisters registers(device);
  if (!registers.agree(features)) return false;
  for (std::uint16_t i = 0; i < drivers.size(); ++i) registers.place_queue(i, drivers[i]);
  registers.driver_ok();
  return true;
}

}  // namespace bulkhead::devproc
