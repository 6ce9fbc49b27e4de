// Fuzzes PciTest: accesses to every region, time, function control, random state under restore(), resets.
#include <cstdint>
#include <cstdlib>
#include <random>

#include "devproc/models/pci_test/pci_test.h"
#include "tests/fakes/fake_wires.h"

namespace bulkhead::devproc {
namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), left_(size) {}
  [[nodiscard]] bool empty() const { return left_ == 0; }
  std::uint64_t take(unsigned bytes) {
    std::uint64_t value = 0;
    for (unsigned i = 0; i < bytes && left_ > 0; ++i, --left_) value |= std::uint64_t{*data_++} << (8 * i);
    return value;
  }

 private:
  const std::uint8_t* data_;
  std::size_t left_;
};

void access(PciTest& device, Input& input, unsigned what) {
  const auto region = static_cast<RegionIndex>((what >> 3) % 3);
  const auto size = static_cast<std::uint8_t>(1U << (what >> 5) % (region == 2 ? 3 : 4));
  const std::uint64_t offset = input.take(2) % (device.regions()[region].length - size + 1);
  if (what % 8 < 3) {
    device.write({region, offset, size}, input.take(size));
    return;
  }
  const auto value = device.read({region, offset, size});
  require(!value || (*value & ~all_ones(size)) == 0);
}

void run(Input& input) {
  FakeWires fakes({.lines = 1, .memory_bytes = 160 * 1024});
  PciTest device(PciTestStorage::allocate(fakes.state), fakes.lines[0], fakes.msi, fakes.memory, fakes.clock,
                 fakes.clock);
  fakes.clock.attach(device);
  device.reset();
  while (!input.empty()) {
    const auto what = static_cast<unsigned>(input.take(1));
    switch (what % 8) {
      case 4: device.on_function_control(static_cast<std::uint32_t>(input.take(4))); break;
      case 5: fakes.clock.advance(std::chrono::nanoseconds(input.take(4))); break;
      case 6:
        if (what >= 0xf0)
          device.reset();
        else
          device.restore();
        break;
      case 7: {
        std::mt19937_64 random(input.take(4));
        for (std::size_t i = 0; i < fakes.state.count(); ++i) {
          for (std::byte& b : fakes.state.bytes(i)) b = static_cast<std::byte>(random());
        }
        device.restore();
        break;
      }
      default: access(device, input, what); break;
    }
    require(!fakes.clock.storm);
    for (const std::uint16_t vector : fakes.msi.sent) require(vector < 8);
    fakes.msi.sent.clear();
  }
  fakes.clock.advance(std::chrono::seconds(10));
  require(!fakes.clock.armed(0));
}

}  // namespace
}  // namespace bulkhead::devproc

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bulkhead::devproc::Input input(data, size);
  bulkhead::devproc::run(input);
  return 0;
}
