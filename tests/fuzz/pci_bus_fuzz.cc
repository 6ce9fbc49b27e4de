// Fuzzes PciBus: random accesses to every region, random state under restore(), resets. After each input
// the VMM's view (all effects replayed) must equal the desired state, and no effect may be malformed.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>

#include "tests/unit/devproc/pci_fixture.h"

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

void settle(PciMachine& m, DesiredMap& vmm) {
  require(m.effects.emitted.size() <= kMaxEffects);
  require(m.effects.refused == 0);
  for (const Effect& effect : m.effects.emitted) {
    if (effect.kind != static_cast<std::uint16_t>(EffectKind::kPower)) require(vmm.apply(effect));
  }
  m.effects.clear();
  require(m.redirect.bar_accesses.size() <= 1);
  for (const BarAccess& access : m.redirect.bar_accesses) {
    const bool wide = access.devfn == kWideFunction;
    require(wide || access.devfn == kTestFunction);
    const std::span<const BarDecl> bars = wide ? kWideDecl.bars : kPciTestDecl.bars;
    const auto bar = std::find_if(bars.begin(), bars.end(), [&](const BarDecl& b) { return b.bar == access.bar; });
    require(bar != bars.end() && access.bar < 6 && std::uint64_t{access.offset} + access.size <= bar->size);
    require(access.size == 1 || access.size == 2 || access.size == 4);
    require(access.lead < 4 && access.first < 4 && (access.lead == 0 || access.first == 0));
  }
  m.redirect.bar_accesses.clear();
}

void run(Input& input) {
  PciBusConfig config = test_config(input.take(1) % 2 == 0 ? 0 : 0x600);
  config.functions.pop_back();  // 2,048 vectors: too slow to compare after every input
  PciMachine m(config);
  DesiredMap vmm = m.desired();
  while (!input.empty()) {
    const auto what = static_cast<unsigned>(input.take(1));
    const auto size = static_cast<std::uint8_t>(1U << (what >> 3) % 4);
    switch (what % 8) {
      case 0:
      case 1:
        m.write(static_cast<std::uint8_t>(input.take(1)), input.take(1) & ~3U, 4,
                static_cast<std::uint32_t>(input.take(4)));
        break;
      case 2: {
        const auto region = static_cast<RegionIndex>(input.take(1) % 4);
        m.bus->write({region, input.take(2), size}, input.take(size));
        break;
      }
      case 3: {
        const auto region = static_cast<RegionIndex>(input.take(1) % 4);
        const auto value = m.bus->read({region, input.take(2), size});
        require(!value || (*value & ~all_ones(size)) == 0);
        break;
      }
      case 4: m.bus->write({0, input.take(1) % 9, size}, input.take(size)); break;
      case 5:
        m.bus->reset();
        vmm = m.desired();
        break;
      case 6: {
        const auto before = m.state.bytes();
        m.build();
        m.bus->restore();
        require(m.state.bytes() == before);
        break;
      }
      default: {
        std::mt19937_64 random(input.take(4));
        m.state.randomise(random);
        m.bus->restore();
        vmm = m.desired();
        break;
      }
    }
    settle(m, vmm);
  }
  require(vmm == m.desired());
}

}  // namespace
}  // namespace bulkhead::devproc

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bulkhead::devproc::Input input(data, size);
  bulkhead::devproc::run(input);
  return 0;
}
