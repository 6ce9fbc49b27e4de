// Fuzzes AcpiPm through tests/fuzz/device_fuzzer.h.
#include <memory>

#include "devproc/models/acpi_pm/acpi_pm.h"
#include "tests/fuzz/device_fuzzer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bulkhead::devproc;
  return fuzz_device({.lines = 1}, {data, size}, [](FakeWires& fakes) {
    return std::make_unique<AcpiPm>(allocate_state<AcpiPmState>(fakes.state), fakes.lines[0], fakes.clock, fakes.clock,
                                    fakes.effects, bulkhead::AcpiPmConfig{});
  });
}
