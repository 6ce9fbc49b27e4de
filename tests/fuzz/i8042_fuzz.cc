// Fuzzes I8042 through tests/fuzz/device_fuzzer.h.
#include <memory>

#include "devproc/models/i8042/i8042.h"
#include "tests/fuzz/device_fuzzer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bulkhead::devproc;
  return fuzz_device({.lines = 2, .streams = 1}, {data, size}, [](FakeWires& fakes) {
    return std::make_unique<I8042>(allocate_state<I8042State>(fakes.state), fakes.lines[0], fakes.lines[1],
                                   fakes.streams[0], fakes.clock, fakes.clock, fakes.effects);
  });
}
