// Fuzzes VirtioRng behind its transport: registers, rings and guest memory, honest chains among hostile ones, kicks,
// random state under restore(), resets.
#include <cstdint>
#include <memory>

#include "devproc/models/virtio_rng/virtio_rng.h"
#include "ipc/roles/virtio_decl.h"
#include "tests/fakes/virtio_start.h"
#include "tests/fuzz/device_fuzzer.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio;

constexpr GuestPhys kBuffers = 0x8000;
constexpr std::uint64_t kBuffersSize = 0x8000;

// An honest chain of one to four buffers; what it is used with, the driver checks.
void offer(VirtioDriver& driver, FuzzBytes& bytes, unsigned what) {
  std::vector<VirtioDriver::Buffer> buffers;
  for (unsigned i = 0; i <= what % 4; ++i)
    buffers.push_back({.address = kBuffers + bytes.number(2) % (kBuffersSize - 256),
                       .length = static_cast<std::uint32_t>(1 + bytes.byte()),
                       .writable = true});
  (void)driver.add(buffers, (what & 4) != 0);
}

void run(std::span<const std::uint8_t> script) {
  FakeWires fakes({.lines = 1, .queues = kVirtioRngQueues});
  VirtioPci device(TransportStorage::allocate(fakes.state, kVirtioRngQueues),
                   std::make_unique<VirtioRng>(fakes.memory, fakes.entropy), fakes.lines[0], fakes.msi, fakes.memory);
  DeviceFuzzer fuzzer(device, fakes);
  FuzzBytes bytes(script);
  const std::uint8_t start = bytes.byte();
  VirtioDriver driver(fakes.memory, {.packed = (start & 2) != 0, .event_idx = (start & 4) != 0, .at = 0x1000});
  device.on_function_control(kControlMemoryEnable | kControlBusMaster);
  if ((start & 1) != 0) start_virtio(device, {&driver, 1}, feature_bit(kVirtioFIndirectDesc));
  while (!bytes.empty() && fuzzer.complaint().empty()) {
    const std::uint8_t what = bytes.byte();
    if (what % 4 == 0) {
      offer(driver, bytes, what >> 2);
    } else if (what % 4 == 1) {
      fuzzer.work_on_queue(0);
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
