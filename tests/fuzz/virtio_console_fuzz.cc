// Fuzzes VirtioConsole behind its transport: registers, rings, guest memory and both streams, honest chains among
// hostile ones, random state under restore(), resets, another terminal size.
#include <cstdint>
#include <memory>

#include "devproc/models/virtio_console/virtio_console.h"
#include "ipc/roles/virtio_decl.h"
#include "tests/fakes/virtio_start.h"
#include "tests/fuzz/device_fuzzer.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio;

constexpr GuestPhys kBuffers = 0x8000;
constexpr std::uint64_t kBuffersSize = 0x8000;

void offer(VirtioDriver& driver, bool writable, FuzzBytes& bytes, unsigned what) {
  std::vector<VirtioDriver::Buffer> buffers;
  for (unsigned i = 0; i <= what % 4; ++i)
    buffers.push_back({.address = kBuffers + bytes.number(2) % (kBuffersSize - 1024),
                       .length = static_cast<std::uint32_t>(1 + bytes.byte() * 3U),
                       .writable = writable});
  (void)driver.add(buffers, (what & 4) != 0);
}

void run(std::span<const std::uint8_t> script) {
  FakeWires fakes({.lines = 1, .streams = 1, .queues = kVirtioConsoleQueues});
  auto model = std::make_unique<VirtioConsole>(allocate_state<VirtioConsoleState>(fakes.state),
                                               VirtioConsoleConfig{.columns = 80, .rows = 25}, fakes.memory,
                                               fakes.streams[0], fakes.clock, fakes.clock);
  VirtioPci device(TransportStorage::allocate(fakes.state, kVirtioConsoleQueues), std::move(model), fakes.lines[0],
                   fakes.msi, fakes.memory);
  DeviceFuzzer fuzzer(device, fakes);
  FuzzBytes bytes(script);
  const std::uint8_t start = bytes.byte();
  fakes.streams[0].room_left = start;
  const bool packed = (start & 2) != 0;
  const bool event_idx = (start & 4) != 0;
  VirtioDriver drivers[] = {{fakes.memory, {.packed = packed, .event_idx = event_idx, .at = 0x1000}},
                            {fakes.memory, {.packed = packed, .event_idx = event_idx, .at = 0x4000}}};
  device.on_function_control(kControlMemoryEnable | kControlBusMaster);
  if ((start & 1) != 0) start_virtio(device, drivers, feature_bit(kVirtioFIndirectDesc) | feature_bit(0));
  while (!bytes.empty() && fuzzer.complaint().empty()) {
    const std::uint8_t what = bytes.byte();
    const auto queue = static_cast<QueueId>(what >> 2 & 1);
    if (what % 4 == 0) {
      offer(drivers[queue], queue == 0, bytes, what >> 3);
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
