// devproc/registry.cc of a bulkhead-device whose PCI test function dies whenever the guest touches certain registers,
// and whose entropy device never comes back from a request of a certain length: models with bugs that a guest has
// found.
#include <cstdlib>

#include "devproc/models/acpi_pm/acpi_pm.h"
#include "devproc/models/cmos_rtc/cmos_rtc.h"
#include "devproc/models/debug_exit/debug_exit.h"
#include "devproc/models/i8042/i8042.h"
#include "devproc/models/pci/pci_bus.h"
#include "devproc/models/pci_test/pci_test.h"
#include "devproc/models/pci_test/spec.h"
#include "devproc/models/system_ports/system_ports.h"
#include "devproc/models/uart16550/uart16550.h"
#include "devproc/models/virtio/transport.h"
#include "devproc/models/virtio_blk/virtio_blk.h"
#include "devproc/models/virtio_rng/virtio_rng.h"
#include "devproc/registry.h"

namespace bulkhead::devproc {
namespace {

// guests/monitor.S, T_DEADLY and T_BELL_DEADLY
constexpr std::uint64_t kDeadly = pci_test_spec::kScratch + 0x20;
constexpr std::uint64_t kDoorbellDeadly = 0x40;

class FrailPciTest final : public Device {
 public:
  static constexpr std::uint32_t kStateVersion = PciTest::kStateVersion;

  FrailPciTest(const PciTestStorage& storage, IrqLine& intx, MsiSender& msi, GuestMemory& memory, Clock& clock,
               TimerQueue& timers)
      : model_(storage, intx, msi, memory, clock, timers) {}

  [[nodiscard]] std::string_view name() const override { return model_.name(); }
  [[nodiscard]] std::span<const RegionSpec> regions() const override { return model_.regions(); }
  std::optional<std::uint64_t> read(const Access& access) override {
    const std::optional<std::uint64_t> value = model_.read(access);
    die_at(access);
    return value;
  }
  bool write(const Access& access, std::uint64_t value) override {
    const bool known = model_.write(access, value);
    die_at(access);
    return known;
  }
  void reset() override { model_.reset(); }
  void restore() override { model_.restore(); }
  void on_timer(TimerId timer) override { model_.on_timer(timer); }
  void on_function_control(std::uint32_t bits) override { model_.on_function_control(bits); }
  void inspect(Inspector& inspector) const override { model_.inspect(inspector); }

 private:
  // In the middle of its work: the model has already changed.
  static void die_at(const Access& access) {
    if (access.offset == (access.region == 0 ? kDeadly : kDoorbellDeadly) && access.region <= 1) std::abort();
  }
  PciTest model_;
};

// guests/virtqueue.S, HANGING
constexpr std::size_t kHangingBytes = 13;

class HangingEntropy final : public Entropy {
 public:
  explicit HangingEntropy(Entropy& real) : real_(real) {}
  void fill(std::span<std::byte> out) override {
    volatile bool for_ever = out.size() == kHangingBytes;
    while (for_ever) {
    }
    real_.fill(out);
  }

 private:
  Entropy& real_;
};

class FrailVirtioRng final : public virtio::VirtioModel {
 public:
  FrailVirtioRng(GuestMemory& memory, Entropy& entropy) : entropy_(entropy), model_(memory, entropy_) {}
  [[nodiscard]] std::string_view name() const override { return model_.name(); }
  [[nodiscard]] std::uint16_t queues() const override { return model_.queues(); }
  [[nodiscard]] std::uint64_t features() const override { return model_.features(); }
  virtio::QueueWork on_queue(virtio::VirtioPort& port, QueueId queue) override { return model_.on_queue(port, queue); }
  void reset() override { model_.reset(); }
  void restore() override { model_.restore(); }

 private:
  HangingEntropy entropy_;
  VirtioRng model_;
};

}  // namespace
}  // namespace bulkhead::devproc

#define VirtioRng FrailVirtioRng
#define PciTest FrailPciTest
#include "devproc/registry.cc"  // NOLINT(bugprone-suspicious-include)
