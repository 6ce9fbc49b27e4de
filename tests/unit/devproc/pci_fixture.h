// A PciBus with fakes around it, and the guest's side of configuration mechanism 1.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <random>
#include <string_view>
#include <tuple>
#include <vector>

#include "devproc/models/pci/pci_bus.h"
#include "ipc/roles/pci_test_decl.h"
#include "tests/fakes/fake_effects.h"

namespace bulkhead::devproc {

// State that a second device can take over: rewind(), then build it in the same order.
class TakeOverAllocator final : public StateAllocator {
 public:
  StateSegment& allocate(std::uint32_t size, std::uint32_t) override {
    if (next_ == blocks_.size()) {
      auto block = std::make_unique<Block>();
      block->bytes.reset(new (std::align_val_t(64)) std::byte[size]());
      block->start = block->bytes.get();
      block->segment = StateSegment{&block->start, 0, size, false, nullptr};
      blocks_.push_back(std::move(block));
    }
    return blocks_[next_++]->segment;
  }
  void rewind() { next_ = 0; }
  [[nodiscard]] std::vector<std::byte> bytes() const {
    std::vector<std::byte> all;
    for (const auto& block : blocks_) all.insert(all.end(), block->start, block->start + block->segment.size);
    return all;
  }
  void randomise(std::mt19937_64& random) {
    for (const auto& block : blocks_) {
      for (std::uint32_t i = 0; i < block->segment.size; ++i) block->start[i] = static_cast<std::byte>(random());
    }
  }
  [[nodiscard]] std::size_t count() const { return blocks_.size(); }
  [[nodiscard]] std::size_t dirty_bytes() const {
    std::size_t n = 0;
    for (const auto& block : blocks_) n += block->segment.dirty ? block->segment.size : 0;
    return n;
  }
  void commit() {
    for (const auto& block : blocks_) block->segment.dirty = false;
  }

 private:
  struct AlignedDelete {
    void operator()(std::byte* p) const { operator delete[](p, std::align_val_t(64)); }
  };
  struct Block {
    std::unique_ptr<std::byte[], AlignedDelete> bytes;
    std::byte* start = nullptr;
    StateSegment segment;
  };
  std::vector<std::unique_ptr<Block>> blocks_;
  std::size_t next_ = 0;
};

// Device types for the tests, one for each corner of PciDecl.
inline constexpr std::array<BarDecl, 5> kWideBars{{
    {.bar = 0, .kind = BarKind::kMemory64, .size = 16U << 20, .prefetchable = true, .region = 0},
    {.bar = 2, .kind = BarKind::kMemory64, .size = 8192, .msix = true},
    {.bar = 4, .kind = BarKind::kIo, .size = 256, .region = 1},
    {.bar = 5, .kind = BarKind::kIo, .size = 4, .region = 2},
    {.bar = 6, .kind = BarKind::kMemory32, .size = 65536, .region = 3},
}};
inline constexpr std::array<VirtioCapDecl, 5> kWideVirtioCaps{{
    {.cfg_type = VirtioPciCap::kCommonCfg, .bar = 0, .offset = 0, .length = 0x38},
    {.cfg_type = VirtioPciCap::kIsrCfg, .bar = 0, .offset = 0x39, .length = 1},
    {.cfg_type = VirtioPciCap::kDeviceCfg, .bar = 0, .offset = 0x100, .length = 0x40},
    {.cfg_type = VirtioPciCap::kNotifyCfg, .bar = 0, .offset = 0x1002, .length = 0x1000, .notify_off_multiplier = 4},
    {.cfg_type = VirtioPciCap::kPciCfg},
}};
inline constexpr PciDecl kWideDecl{.vendor_id = 0x1111,
                                   .device_id = 0x2222,
                                   .class_code = 0x030000,
                                   .interrupt_pin = 4,
                                   .msi_vectors = 32,
                                   .msix_vectors = 100,
                                   .power_management = true,
                                   .bars = kWideBars,
                                   .virtio_caps = kWideVirtioCaps};
inline constexpr std::array<BarDecl, 6> kSixBars{{
    {.bar = 0, .size = 16},
    {.bar = 1, .size = 4096},
    {.bar = 2, .size = 1U << 31},
    {.bar = 3, .size = 65536, .msix = true},
    {.bar = 4, .kind = BarKind::kIo, .size = 16},
    {.bar = 5, .kind = BarKind::kIo, .size = 32},
}};
inline constexpr PciDecl kSixDecl{.vendor_id = 0x3333,
                                  .device_id = 0x4444,
                                  .interrupt_pin = 2,
                                  .msi_vectors = 1,
                                  .msix_vectors = 2048,
                                  .power_management = true,
                                  .bars = kSixBars};
inline constexpr PciDecl kPlainDecl{.vendor_id = 0x5555, .device_id = 0x6666};
static_assert(pci_decl_valid(kWideDecl) && pci_decl_valid(kSixDecl) && pci_decl_valid(kPlainDecl));

inline const PciDecl* test_decl(std::string_view type) {
  if (type == "pci_test") return &kPciTestDecl;
  if (type == "wide") return &kWideDecl;
  if (type == "six") return &kSixDecl;
  if (type == "plain") return &kPlainDecl;
  return nullptr;
}

inline constexpr std::uint8_t devfn(unsigned device, unsigned function = 0) {
  return static_cast<std::uint8_t>(device << 3 | function);
}
inline constexpr std::uint8_t kTestFunction = devfn(3);
inline constexpr std::uint8_t kWideFunction = devfn(4);
inline constexpr std::uint8_t kSixFunction = devfn(5, 2);
inline constexpr std::uint8_t kPlainFunction = devfn(5);

inline PciBusConfig test_config(std::uint16_t pm_base = 0) {
  return PciBusConfig{
      .pm_base = pm_base,
      .ram_below_4g = 128U << 20,
      .functions = {
          {kTestFunction, "pci_test"}, {kPlainFunction, "plain"}, {kWideFunction, "wide"}, {kSixFunction, "six"}}};
}

// What a VMM that applied every effect believes.
class DesiredMap {
 public:
  // False when the effect changes nothing: it need not have been sent.
  bool apply(const Effect& effect) {
    const bool route = effect.kind == static_cast<std::uint16_t>(EffectKind::kMsiRoute);
    const bool msix = route && (effect.flags & kEffectMsix) != 0;
    const bool msi = route && !msix;
    const Key key{effect.kind, effect.function, msi ? 0 : effect.index, msix};
    Effect& known = map_[key];
    const bool changed = !(known == effect);
    known = effect;
    return changed;
  }
  bool operator==(const DesiredMap&) const = default;
  [[nodiscard]] std::size_t size() const { return map_.size(); }

 private:
  using Key = std::tuple<std::uint16_t, std::uint16_t, std::uint32_t, bool>;
  std::map<Key, Effect> map_;
};

class PciMachine {
 public:
  explicit PciMachine(PciBusConfig config = test_config()) : config_(std::move(config)) {
    build();
    bus->reset();
  }
  // A successor takes the role over.
  void build() {
    state.rewind();
    bus = std::make_unique<PciBus>(config_, test_decl, state, effects, redirect);
  }

  void select(std::uint8_t function, unsigned offset, unsigned bus_number = 0) {
    effects.next_input();
    bus->write({0, 0, 4}, 0x80000000U | bus_number << 16 | std::uint32_t{function} << 8 | (offset & 0xfc));
  }
  std::uint32_t read(std::uint8_t function, unsigned offset, std::uint8_t size) {
    select(function, offset);
    const auto value = bus->read({0, 4 + (offset & 3), size});
    return static_cast<std::uint32_t>(value.value_or(all_ones(size)));
  }
  std::uint32_t read32(std::uint8_t function, unsigned offset) { return read(function, offset, 4); }
  std::uint16_t read16(std::uint8_t function, unsigned offset) {
    return static_cast<std::uint16_t>(read(function, offset, 2));
  }
  std::uint8_t read8(std::uint8_t function, unsigned offset) {
    return static_cast<std::uint8_t>(read(function, offset, 1));
  }
  // The effects of this write alone are in effects.emitted afterwards.
  void write(std::uint8_t function, unsigned offset, std::uint8_t size, std::uint32_t value) {
    select(function, offset);
    effects.clear();
    bus->write({0, 4 + (offset & 3), size}, value & all_ones(size));
  }
  void write32(std::uint8_t function, unsigned offset, std::uint32_t v) { write(function, offset, 4, v); }
  void write16(std::uint8_t function, unsigned offset, std::uint32_t v) { write(function, offset, 2, v); }
  void write8(std::uint8_t function, unsigned offset, std::uint32_t v) { write(function, offset, 1, v); }

  // The offset of a capability, found as a guest finds it; 0: none.
  std::uint8_t capability(std::uint8_t function, std::uint8_t id) {
    if ((read16(function, 0x06) & 0x10) == 0) return 0;
    std::uint8_t at = read8(function, 0x34);
    for (int hops = 0; at != 0 && hops < 48; ++hops) {
      if (read8(function, at) == id) return at;
      at = read8(function, at + 1U);
    }
    return 0;
  }

  [[nodiscard]] std::uint16_t msix_region(std::uint8_t function) const {
    return msix_region_of(config_, test_decl, function).value_or(0xffff);
  }
  void msix_write(std::uint8_t function, std::uint64_t offset, std::uint8_t size, std::uint64_t value) {
    effects.clear();
    bus->write({msix_region(function), offset, size}, value);
  }
  std::uint64_t msix_read(std::uint8_t function, std::uint64_t offset, std::uint8_t size) {
    return bus->read({msix_region(function), offset, size}).value_or(all_ones(size));
  }

  [[nodiscard]] DesiredMap desired() const {
    DesiredMap map;
    for (std::size_t i = 0; i < bus->desired_effect_count(); ++i) map.apply(bus->desired_effect(i));
    return map;
  }

  TakeOverAllocator state;
  FakeEffectSink effects;
  FakeRedirect redirect;
  std::unique_ptr<PciBus> bus;

 private:
  PciBusConfig config_;
};

inline Effect window(std::uint8_t function, std::uint32_t bar, std::uint64_t address, std::uint64_t size,
                     std::uint32_t flags) {
  return Effect{.kind = static_cast<std::uint16_t>(EffectKind::kWindow),
                .function = function,
                .index = bar,
                .address = address,
                .size = size,
                .flags = flags};
}
inline Effect control(std::uint8_t function, std::uint32_t bits) {
  return Effect{.kind = static_cast<std::uint16_t>(EffectKind::kFunctionControl), .function = function, .flags = bits};
}
inline Effect pirq(std::uint32_t pin, std::uint32_t irq, bool routed) {
  return Effect{.kind = static_cast<std::uint16_t>(EffectKind::kIntxRoute),
                .index = pin,
                .data = irq,
                .flags = routed ? kEffectEnabled : 0U};
}

}  // namespace bulkhead::devproc
