// Fuzzes VirtioBalloon behind its transport: registers, rings and guest memory, honest page lists, reports and
// statistics among hostile ones, random state under restore(), resets, targets.
#include <cstdint>
#include <memory>

#include "devproc/models/virtio_balloon/virtio_balloon.h"
#include "ipc/roles/virtio_decl.h"
#include "tests/fakes/virtio_start.h"
#include "tests/fuzz/device_fuzzer.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio;

constexpr GuestPhys kBuffers = 0x18000;
constexpr std::uint64_t kBuffersSize = 0x8000;

void offer(VirtioDriver& driver, bool writable, FuzzBytes& bytes, unsigned what) {
  std::vector<VirtioDriver::Buffer> buffers;
  for (unsigned i = 0; i <= what % 4; ++i)
    buffers.push_back({.address = kBuffers + bytes.number(2) % (kBuffersSize - 1024),
                       .length = static_cast<std::uint32_t>(1 + bytes.byte() * (writable ? 64U : 4U)),
                       .writable = writable});
  (void)driver.add(buffers, (what & 4) != 0);
}

void run(std::span<const std::uint8_t> script) {
  FakeWires fakes({.lines = 1, .queues = kVirtioBalloonQueues, .memory_bytes = 0x20000});
  auto model = std::make_unique<VirtioBalloon>(allocate_state<VirtioBalloonState>(fakes.state),
                                               VirtioBalloonConfig{.target = 1 << 16, .stats_seconds = 1}, fakes.memory,
                                               fakes.ram, fakes.clock, fakes.clock);
  VirtioPci device(TransportStorage::allocate(fakes.state, kVirtioBalloonQueues), std::move(model), fakes.lines[0],
                   fakes.msi, fakes.memory);
  DeviceFuzzer fuzzer(device, fakes);
  FuzzBytes bytes(script);
  const std::uint8_t start = bytes.byte();
  std::vector<VirtioDriver> drivers;
  for (unsigned i = 0; i < kVirtioBalloonQueues; ++i)
    drivers.emplace_back(fakes.memory, VirtioDriver::Layout{.packed = (start & 2) != 0,
                                                            .event_idx = (start & 4) != 0,
                                                            .at = 0x1000 + i * GuestPhys{0x3000}});
  device.on_function_control(kControlMemoryEnable | kControlBusMaster);
  const std::uint64_t features = feature_bit(5) | ((start & 8) != 0 ? feature_bit(1) | feature_bit(4) : 0);
  if ((start & 1) != 0) start_virtio(device, drivers, feature_bit(kVirtioFIndirectDesc) | features);
  while (!bytes.empty() && fuzzer.complaint().empty()) {
    const std::uint8_t what = bytes.byte();
    const auto queue = static_cast<QueueId>((what >> 2) % kVirtioBalloonQueues);
    if (what % 4 == 0) {
      offer(drivers[queue], queue > 2, bytes, what >> 3);
    } else if (what % 4 == 1) {
      fuzzer.work_on_queue(queue);
    } else {
      fuzzer.step(bytes);
    }
  }
  if (!fuzzer.complaint().empty()) {
    std::fprintf(stderr, "%.*s\n", static_cast<int>(fuzzer.complaint().size()), fuzzer.complaint().data());
    std::abort();
  }
}

}  // namespace
}  // namespace bulkhead::devproc

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bulkhead::devproc::run({data, size});
  return 0;
}
