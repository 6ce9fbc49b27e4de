// Fuzzes FwCfg through tests/fuzz/device_fuzzer.h.
#include <memory>

#include "devproc/models/fw_cfg/fw_cfg.h"
#include "tests/fuzz/device_fuzzer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bulkhead::devproc;
  return fuzz_device({}, {data, size}, [](FakeWires& fakes) {
    return std::make_unique<FwCfg>(allocate_state<FwCfgState>(fakes.state), fakes.data, fakes.redirect);
  });
}
