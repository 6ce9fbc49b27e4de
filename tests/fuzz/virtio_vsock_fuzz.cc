// Fuzzes VirtioVsock behind its transport: registers, rings and guest memory, honest packets among hostile ones from
// the guest and from the relay, links that are full, random state under restore(), resets.
#include <cstdint>
#include <cstring>
#include <memory>

#include "devproc/models/virtio_vsock/virtio_vsock.h"
#include "ipc/roles/virtio_decl.h"
#include "tests/fakes/virtio_start.h"
#include "tests/fuzz/device_fuzzer.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio;
using namespace virtio_vsock_spec;

constexpr GuestPhys kBuffers = 0x10000;
constexpr std::uint64_t kBuffersSize = 0x10000;

VsockHeader header_of(FuzzBytes& bytes, std::uint32_t len) {
  VsockHeader header;
  header.src_cid = to_cid(bytes.byte() % 8 == 0 ? bytes.number(8) : 3);
  header.dst_cid = to_cid(bytes.byte() % 8 == 0 ? bytes.number(8) : kHostCid);
  header.len = bytes.byte() % 8 == 0 ? static_cast<std::uint32_t>(bytes.number(4)) : len;
  header.type = kTypeStream;
  header.op = bytes.byte() % 10;
  return header;
}

void offer(FakeWires& fakes, VirtioDriver& driver, bool writable, FuzzBytes& bytes, unsigned what) {
  const GuestPhys at = kBuffers + bytes.number(2) % (kBuffersSize - 4096);
  const std::uint32_t length = bytes.byte() * 16U;
  fakes.memory.store(at, header_of(bytes, length));
  std::vector<VirtioDriver::Buffer> buffers{{at, sizeof(VsockHeader), writable}};
  if (length != 0) buffers.push_back({at + sizeof(VsockHeader), length, writable});
  (void)driver.add(buffers, (what & 4) != 0);
}

void from_relay(FakeWires& fakes, VirtioPci& device, FuzzBytes& bytes) {
  const std::uint8_t how = bytes.byte();
  fakes.link.room = how * 512U;
  if ((how & 7) == 0) ++fakes.link.peers;
  const std::uint32_t length = bytes.byte() * 64U;
  FakeLink::Packet packet((how & 15) == 1 ? length : sizeof(VsockHeader) + length);
  const VsockHeader header = header_of(bytes, length);
  std::memcpy(packet.data(), &header, std::min(sizeof header, packet.size()));
  if (!packet.empty() && fakes.link.incoming.size() < 64) fakes.link.incoming.push_back(std::move(packet));
  (void)device.on_backend(0);
}

void run(std::span<const std::uint8_t> script) {
  FakeWires fakes({.lines = 1, .queues = kVirtioVsockQueues, .memory_bytes = 0x20000});
  auto model = std::make_unique<VirtioVsock>(allocate_state<VirtioVsockState>(fakes.state), VirtioVsockConfig{},
                                             fakes.memory, fakes.link);
  VirtioPci device(TransportStorage::allocate(fakes.state, kVirtioVsockQueues), std::move(model), fakes.lines[0],
                   fakes.msi, fakes.memory);
  DeviceFuzzer fuzzer(device, fakes);
  FuzzBytes bytes(script);
  const std::uint8_t start = bytes.byte();
  std::vector<VirtioDriver> drivers;
  for (unsigned i = 0; i < kVirtioVsockQueues; ++i)
    drivers.emplace_back(fakes.memory, VirtioDriver::Layout{.packed = (start & 2) != 0,
                                                            .event_idx = (start & 4) != 0,
                                                            .at = 0x1000 + i * GuestPhys{0x4000}});
  device.on_function_control(kControlMemoryEnable | kControlBusMaster);
  if ((start & 1) != 0) start_virtio(device, drivers, feature_bit(kVirtioFIndirectDesc));
  while (!bytes.empty() && fuzzer.complaint().empty()) {
    const std::uint8_t what = bytes.byte();
    const auto queue = static_cast<QueueId>((what >> 3) % kVirtioVsockQueues);
    switch (what % 5) {
      case 0: offer(fakes, drivers[queue], queue != kTxVq, bytes, what >> 3); break;
      case 1: fuzzer.work_on_queue(queue); break;
      case 2:
        from_relay(fakes, device, bytes);
        fuzzer.work_on_queue(kEventVq);  // ends the input as the host does
        break;
      default: fuzzer.step(bytes); break;
    }
    if (fakes.link.sent.size() > 64) fakes.link.sent.clear();
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
