// A virtio disk between an honest driver and a disk whose every step is the test's.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "devproc/models/virtio/transport.h"
#include "devproc/models/virtio/transport_spec.h"
#include "devproc/models/virtio_blk/virtio_blk.h"
#include "ipc/roles/virtio_decl.h"
#include "tests/fakes/fake_block.h"
#include "tests/fakes/fake_wires.h"
#include "tests/fakes/virtio_driver.h"
#include "tests/unit/devproc/models/virtio_queue_rig.h"

namespace bulkhead::devproc {

struct BlkSetup {
  bool packed = false;
  bool event_idx = false;
  std::uint16_t queues = 1;
  std::uint16_t queue_size = 16;
  std::uint64_t without = 0;  // features that the driver does not take
  BlockGeometry disk = {.bytes = 64 * 512, .discard = true, .write_zeroes = true};
  bool stop_on_no_space = false;
  RateLimit limit{};
};

inline std::ostream& operator<<(std::ostream& out, const BlkSetup& s) {
  return out << (s.packed ? "packed" : "split") << (s.event_idx ? ", event idx" : "") << ", " << s.queues
             << " queues of " << s.queue_size;
}

class BlkRig {
 public:
  using Buffers = std::vector<VirtioDriver::Buffer>;
  static constexpr std::size_t kRam = 0x200000;
  static constexpr GuestPhys kRings = 0x4000;            // 0x8000 each
  static constexpr GuestPhys kRequests = 0x40000;        // of raw()
  static constexpr std::uint64_t kOutside = 1ULL << 40;  // no RAM

  explicit BlkRig(const BlkSetup& s = {}) : setup(s), disk(fakes.memory, s.disk) {
    for (std::size_t i = 0; i < disk.disk.size(); ++i) disk.disk[i] = static_cast<std::byte>(i / 512 + 7 * (i % 512));
    build();
    device->reset();
    device->on_function_control(kControlMemoryEnable | kControlBusMaster);
    start_driver();
  }

  // The model anew, on the same state.
  void build() {
    if (!blk_storage) {
      transport_storage = virtio::TransportStorage::allocate(fakes.state, setup.queues);
      blk_storage = VirtioBlkStorage::allocate(fakes.state);
    }
    const VirtioBlkConfig config{.queues = setup.queues,
                                 .serial = "disk-serial",
                                 .stop_on_no_space = setup.stop_on_no_space,
                                 .limit = setup.limit};
    auto model =
        std::make_unique<VirtioBlk>(*blk_storage, config, memory, disk, fakes.clock, fakes.clock, fakes.effects);
    device =
        std::make_unique<virtio::VirtioPci>(*transport_storage, std::move(model), fakes.lines[0], fakes.msi, memory);
    fakes.clock.attach(*device);
  }

  // ---- Registers ----

  std::uint32_t common(std::uint32_t offset, std::uint8_t size) {
    return static_cast<std::uint32_t>(device->read({kVirtioRegisters, kVirtioCommonOffset + offset, size}).value());
  }
  void set_common(std::uint32_t offset, std::uint8_t size, std::uint32_t value) {
    EXPECT_TRUE(device->write({kVirtioRegisters, kVirtioCommonOffset + offset, size}, value));
    commit();
  }
  std::uint64_t config(std::uint32_t offset, std::uint8_t size) {
    std::uint64_t value = 0;
    for (std::uint8_t i = 0; i < size; ++i)
      value |= device->read({kVirtioRegisters, kVirtioDeviceOffset + offset + i, 1}).value() << (8 * i);
    return value;
  }
  std::uint64_t offered() {
    std::uint64_t all = 0;
    for (std::uint32_t half = 0; half < 2; ++half) {
      set_common(virtio::kDeviceFeatureSelect, 4, half);
      all |= std::uint64_t{common(virtio::kDeviceFeature, 4)} << (32 * half);
    }
    return all;
  }
  void start_driver() {
    using namespace virtio;
    set_common(kDeviceStatus, 1, kStatusAcknowledge);
    set_common(kDeviceStatus, 1, kStatusAcknowledge | kStatusDriver);
    std::uint64_t features = offered() & ~setup.without;
    if (!setup.packed) features &= ~feature_bit(kVirtioFRingPacked);
    if (!setup.event_idx) features &= ~feature_bit(kVirtioFEventIdx);
    for (std::uint32_t half = 0; half < 2; ++half) {
      set_common(kDriverFeatureSelect, 4, half);
      set_common(kDriverFeature, 4, static_cast<std::uint32_t>(features >> (32 * half)));
    }
    set_common(kDeviceStatus, 1, kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
    drivers.clear();
    for (std::uint16_t queue = 0; queue < setup.queues; ++queue) {
      drivers.push_back(std::make_unique<VirtioDriver>(
          fakes.memory,
          VirtioDriver::Layout{setup.packed, setup.event_idx, setup.queue_size, kRings + 0x8000U * queue}));
      start_queue(queue);
    }
    set_common(kDeviceStatus, 1, kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk);
  }
  void start_queue(std::uint16_t queue) {
    using namespace virtio;
    QueueState places{};
    drivers[queue]->place(places);
    set_common(kQueueSelect, 2, queue);
    set_common(kQueueSize, 2, setup.queue_size);
    for (const auto& [offset, value] : {std::pair(kQueueDesc, places.desc), std::pair(kQueueDriver, places.driver),
                                        std::pair(kQueueDevice, places.device)}) {
      set_common(offset, 4, static_cast<std::uint32_t>(value));
      set_common(offset + 4, 4, static_cast<std::uint32_t>(value >> 32));
    }
    set_common(kQueueEnable, 2, 1);
  }
  [[nodiscard]] bool needs_reset() { return (common(virtio::kDeviceStatus, 1) & virtio::kStatusNeedsReset) != 0; }

  // ---- Inputs, each with its commit ----

  void commit() {
    fakes.state.reset_dirty();
    disk.commit();
    committed = fakes.state.snapshot();
    if (device->show(false, fakes.msi)) device->after_show();
    fakes.state.reset_dirty();
    committed = fakes.state.snapshot();
  }
  void kick(QueueId queue = 0) {
    for (bool more = true; more;) {
      more = device->on_queue(queue);
      commit();
    }
  }
  void on_backend() {
    for (bool more = true; more;) {
      more = device->on_backend(0);
      commit();
    }
  }
  // Everything that was made available, to the end.
  void settle(FakeBlock::Order order = FakeBlock::kInOrder) {
    for (QueueId queue = 0; queue < setup.queues; ++queue) kick(queue);
    while (disk.run_one(order)) on_backend();
    on_backend();
  }
  // The process dies: what the input at hand changed is lost. Its successor takes over; an honest state stays.
  void take_over() {
    disk.die();
    std::size_t at = 0;
    for (std::size_t i = 0; i < fakes.state.count(); ++i) {
      const auto segment = fakes.state.bytes(i);
      std::memcpy(segment.data(), committed.data() + at, segment.size());
      at += segment.size();
    }
    fakes.state.reset_dirty();
    build();
    const auto before = fakes.state.snapshot();
    device->restore();
    EXPECT_EQ(fakes.state.snapshot(), before) << "an honest state does not stay";
    (void)device->show(true, fakes.msi);
    disk.commit();
  }

  // ---- The driver ----

  VirtioDriver& driver(QueueId queue = 0) { return *drivers[queue]; }
  std::vector<std::uint8_t> bytes(GuestPhys at, std::size_t count) {
    std::vector<std::uint8_t> all(count);
    EXPECT_TRUE(fakes.memory.read(at, std::as_writable_bytes(std::span(all))));
    return all;
  }
  std::vector<std::uint8_t> on_disk(std::size_t sector, std::size_t count = 1) {
    const auto part = std::span(disk.disk).subspan(sector * 512, count * 512);
    std::vector<std::uint8_t> all(part.size());
    std::memcpy(all.data(), part.data(), part.size());
    return all;
  }

  // A request at `at`: header, `data` bytes from at + 512 on, and the status byte at at + 256.
  void put_header(GuestPhys at, std::uint32_t type, std::uint64_t sector) {
    fakes.memory.store(at, virtio_blk_spec::VirtioBlkHeader{type, 0, sector});
    fakes.memory.store<std::uint8_t>(at + 256, kNoStatus);
  }
  static Buffers simple(GuestPhys at, std::uint32_t type, std::uint32_t data) {
    Buffers all = {{at, 16, false}};
    const bool writable = type == virtio_blk_spec::kVirtioBlkTIn || type == virtio_blk_spec::kVirtioBlkTGetId;
    if (data != 0) all.push_back({at + 512, data, writable});
    all.push_back({at + 256, 1, true});
    return all;
  }
  std::uint16_t add(GuestPhys at, std::uint32_t type, std::uint64_t sector, std::uint32_t data, QueueId queue = 0,
                    bool indirect = false) {
    put_header(at, type, sector);
    return driver(queue).add(simple(at, type, data), indirect).value();
  }
  std::uint8_t status(GuestPhys at) { return bytes(at + 256, 1)[0]; }

  // One request to its end: its status byte; kNoStatus if it was not used.
  std::uint8_t request(std::uint32_t type, std::uint64_t sector, std::uint32_t data, bool indirect = false) {
    add(kRequests, type, sector, data, 0, indirect);
    return finish();
  }
  // A request of any shape, whose header and status are where put_header() has them.
  std::uint8_t raw(const Buffers& buffers, bool indirect = false) {
    driver().add(buffers, indirect).value();
    return finish();
  }
  std::uint8_t finish() {
    settle();
    used = driver().take_used();
    EXPECT_EQ(disk.complaint, "");
    EXPECT_EQ(driver().complaint(), "");
    return used ? status(kRequests) : kNoStatus;
  }

  static constexpr std::uint8_t kNoStatus = 0xee;

  BlkSetup setup;
  FakeWires fakes{{.lines = 1, .memory_bytes = kRam}};
  virtio::WatchedMemory memory{fakes.memory};  // the device's view
  FakeBlock disk;
  std::optional<virtio::TransportStorage> transport_storage;
  std::optional<VirtioBlkStorage> blk_storage;
  std::unique_ptr<virtio::VirtioPci> device;
  std::vector<std::unique_ptr<VirtioDriver>> drivers;
  std::vector<std::byte> committed;        // state
  std::optional<VirtioDriver::Used> used;  // of the last finish()
};

}  // namespace bulkhead::devproc
