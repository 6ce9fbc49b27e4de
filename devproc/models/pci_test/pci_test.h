// PciTest: a PCI function whose every register is there to test the machine around it.
//
// Chip: none; spec.h is its data sheet. Ids, BARs and capabilities: ipc/roles/pci_test_decl.h.
// Implemented: posted and non-posted memory registers, ports with string I/O, INTx, MSI (4 vectors), MSI-X
//   (8 vectors), DMA copies, a timer, a register whose reads cannot be repeated (VM time), a log of the
//   last 64 accesses in the order in which they were served.
// Missing: what the `pci` process answers (configuration space, the MSI-X table), reset by D3hot (the
//   function declares no_soft_reset).
// Interrupts: INTx needs kControlIntxDisable clear, and neither MSI nor MSI-X enabled (PCI 3.0, section
//   6.8.1.3). Messages need bus mastering and D0; a vector beyond those declared is dropped.
// Threading: single-threaded. Trust: every access and all of guest memory come from the guest.
// Config: PciTestConfig{}
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "devproc/core/clock.h"
#include "devproc/core/device.h"
#include "devproc/core/guest_memory.h"
#include "devproc/core/persistent.h"
#include "devproc/core/wires.h"
#include "devproc/models/pci_test/spec.h"

namespace bulkhead::devproc {

struct PciTestState {
  std::uint64_t last_posted = 0;
  std::uint64_t dma_source = 0;
  std::uint64_t dma_target = 0;
  std::uint64_t last_time = 0;
  std::int64_t timer_deadline = 0;  // VM time in ns; 0: not armed
  std::uint32_t counter = 0;
  std::uint32_t accesses = 0;
  std::uint32_t posted_count = 0;
  std::uint32_t posted_where = 0;
  std::uint32_t int_status = 0;
  std::uint32_t int_mask = 0;
  std::uint32_t dma_length = 0;
  std::uint32_t dma_status = 0;
  std::uint32_t dma_count = 0;
  std::uint32_t timer_delay = 0;
  std::uint32_t timer_action = 0;
  std::uint32_t timer_fired = 0;
  std::uint32_t messages_sent = 0;
  std::uint32_t control = 0;
  std::uint32_t log_control = 1;
  std::uint32_t log_count = 0;
  std::uint32_t port_counter = 0;
  std::uint32_t stream_in = 0;
  std::uint32_t stream_out = 0;
  std::uint32_t stream_hash = pci_test_spec::kFnvBasis;
  std::array<std::uint32_t, pci_test_spec::kScratchCount> scratch{};
  std::array<std::uint32_t, pci_test_spec::kPortScratchCount> port_scratch{};
  bool operator==(const PciTestState&) const = default;
};
static_assert(sizeof(PciTestState) == 5 * 8 + 44 * 4);

// A quarter of the access log: a commit copies only the part that an access added to.
struct PciTestLogPart {
  struct Entry {
    std::uint32_t what = 0;
    std::uint32_t offset = 0;
    std::uint64_t value = 0;
  };
  std::array<Entry, 16> entries{};
};
inline constexpr std::size_t kPciTestLogParts = pci_test_spec::kLogEntries / 16;

// What the function commits; for the registry, which allocates it.
struct PciTestStorage {
  Persistent<PciTestState> state;
  std::array<Persistent<PciTestLogPart>, kPciTestLogParts> log;

  [[nodiscard]] static PciTestStorage allocate(StateAllocator& allocator);
};

class PciTest final : public Device {
 public:
  static constexpr std::uint16_t kLines = 1;
  static constexpr std::uint16_t kStreams = 0;
  static constexpr std::uint16_t kTimers = 1;
  static constexpr std::uint32_t kStateVersion = 1;

  PciTest(const PciTestStorage& storage, IrqLine& intx, MsiSender& msi, GuestMemory& memory, Clock& clock,
          TimerQueue& timers);

  [[nodiscard]] std::string_view name() const override { return "pci_test"; }
  [[nodiscard]] std::span<const RegionSpec> regions() const override;
  std::optional<std::uint64_t> read(const Access& access) override;
  bool write(const Access& access, std::uint64_t value) override;
  void reset() override;
  void restore() override;
  void on_timer(TimerId timer) override;
  void on_function_control(std::uint32_t bits) override;
  void inspect(Inspector& inspector) const override;

 private:
  std::optional<std::uint64_t> read_lanes(const Access& access, std::uint32_t unit);
  bool write_lanes(const Access& access, std::uint64_t value, std::uint32_t unit);
  // One dword. Reads have their side effects; `mask` has the written bytes.
  std::optional<std::uint32_t> read_register(std::uint32_t offset);
  std::optional<std::uint32_t> read_counter(std::uint32_t offset);
  std::optional<std::uint32_t> read_log(std::uint32_t offset) const;
  bool write_register(std::uint32_t offset, std::uint32_t value, std::uint32_t mask);
  bool write_timer(std::uint32_t offset, std::uint32_t value, std::uint32_t mask);
  bool write_dma(std::uint32_t offset, std::uint32_t value, std::uint32_t mask);
  std::optional<std::uint32_t> read_port(std::uint32_t offset);
  bool write_port(std::uint32_t offset, std::uint32_t value, std::uint32_t mask);
  std::uint64_t read_stream(std::uint8_t size);
  void write_stream(std::uint8_t size, std::uint64_t value);
  void ring_doorbell(const Access& access, std::uint64_t value);

  void record(const Access& access, bool write, std::uint64_t value);
  void raise(std::uint32_t bits);
  void send_message(std::uint32_t vector);
  void start_dma(std::uint32_t command);
  [[nodiscard]] std::uint32_t copy();
  void arm_timer();
  [[nodiscard]] bool may_master() const;
  void update_irq();

  Persistent<PciTestState> state_;
  std::array<Persistent<PciTestLogPart>, kPciTestLogParts> log_;
  IrqLine& intx_;
  MsiSender& msi_;
  GuestMemory& memory_;
  Clock& clock_;
  TimerQueue& timers_;
};

}  // namespace bulkhead::devproc
