// Fuzzes Uart16550 through tests/fuzz/device_fuzzer.h.
#include <memory>

#include "devproc/models/uart16550/uart16550.h"
#include "tests/fuzz/device_fuzzer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bulkhead::devproc;
  return fuzz_device({.lines = 1, .streams = 1}, {data, size}, [](FakeWires& fakes) {
    return std::make_unique<Uart16550>(allocate_state<Uart16550State>(fakes.state), fakes.lines[0], fakes.streams[0],
                                       fakes.clock, fakes.clock);
  });
}
