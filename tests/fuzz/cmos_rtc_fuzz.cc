// Fuzzes CmosRtc through tests/fuzz/device_fuzzer.h.
#include <memory>

#include "devproc/models/cmos_rtc/cmos_rtc.h"
#include "tests/fuzz/device_fuzzer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bulkhead::devproc;
  return fuzz_device({.lines = 1}, {data, size}, [](FakeWires& fakes) {
    return std::make_unique<CmosRtc>(allocate_state<CmosRtcState>(fakes.state), fakes.lines[0], fakes.clock,
                                     fakes.clock, bulkhead::CmosRtcConfig{.ram_below_4g = 1 << 30, .cpus = 2});
  });
}
