// Fuzzes SystemPorts through tests/fuzz/device_fuzzer.h.
#include <memory>

#include "devproc/models/system_ports/system_ports.h"
#include "tests/fuzz/device_fuzzer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bulkhead::devproc;
  return fuzz_device({.streams = 1}, {data, size}, [](FakeWires& fakes) {
    return std::make_unique<SystemPorts>(allocate_state<SystemPortsState>(fakes.state), fakes.streams[0],
                                         fakes.effects);
  });
}
