// KvmVm: one virtual machine of KVM, with the full in-kernel interrupt controller (level INTx with
// resampling needs it) and the in-kernel PIT.
//
// Order of use: create() -> set_memory_slot() for all RAM -> create_interrupts() -> create_vcpu() ... .
// Slots set before create_interrupts() cost 0.07 ms each, after it 7 ms (PEERS.md), so the order matters.
// Errors: Status with one sentence. Threading: any thread; the routing table and the interrupt state are
// locked inside. Only the process that created the VM may use it (KVM answers EIO to others).
// Trust: callers have checked what guests and device processes asked for.
// Source: Documentation/virt/kvm/api.rst, section 4.
#pragma once

#include <linux/kvm.h>

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"
#include "vmm/hypervisor/gsi_table.h"
#include "vmm/hypervisor/hypervisor.h"
#include "vmm/hypervisor/kvm_system.h"

namespace bulkhead::vmm {

class KvmVcpu;

// Pages that Intel hosts need for themselves, out of the way of OVMF's flash (MACHINE.md); e820 reserves
// them: one page of identity map, then three of TSS.
inline constexpr std::uint64_t kIdentityMapAddress = 0xFEFFC000;
inline constexpr std::uint64_t kTssAddress = 0xFEFFD000;

// ELCR bits (interrupts 0-15) that firmware leaves set: the SCI (9) and the PCI interrupts 10 and 11 are
// level.
inline constexpr std::uint16_t kFirmwareElcr = 0x0E00;

// What pause takes and resume gives back, so that guest time stands still (KVM_GET_CLOCK).
struct VmClock {
  std::uint64_t nanoseconds = 0;
};

class KvmVm final : public Vm {
 public:
  static Result<std::unique_ptr<KvmVm>> create(const KvmSystem& system);
  ~KvmVm() override;

  // irqchip, PIT with a dummy speaker, default routes; captures their power-on state. `elcr`: which PIC
  // inputs are level at power-on; 0 where a firmware runs that sets them itself.
  Status create_interrupts(std::uint16_t elcr = kFirmwareElcr);
  // Puts PICs, IOAPIC and PIT back as create_interrupts() left them, for a VM reset. Every vCPU must be
  // out of KVM_RUN. MSI routes and irqfds stay as they are: the caller owns those.
  Status reset_interrupts();

  // A vCPU whose APIC ID and KVM ID are `apic_id`. The KvmVm must outlive it.
  Result<std::unique_ptr<KvmVcpu>> create_vcpu(std::uint32_t apic_id);

  Status set_memory_slot(const MemorySlot& slot) override;
  Result<std::uint32_t> allocate_msi_gsi() override;
  void free_msi_gsi(std::uint32_t gsi) override;
  Status set_msi_routes(std::span<const MsiRoute> routes) override;
  Status assign_irqfd(BorrowedFd event, std::uint32_t gsi, BorrowedFd resample = {}) override;
  Status deassign_irqfd(BorrowedFd event, std::uint32_t gsi) override;
  Status add_io_event(const IoEvent& io_event) override;
  Status remove_io_event(const IoEvent& io_event) override;
  Status add_coalesced(const CoalescedRange& range) override;
  Status remove_coalesced(const CoalescedRange& range) override;
  Result<bool> signal_msi(const MsiRoute::Message& message) override;

  // Drives a GSI by hand (KVM_IRQ_LINE), for tests and for lines that no irqfd drives.
  Status set_irq_line(std::uint32_t gsi, bool level);

  [[nodiscard]] Result<VmClock> clock() const;
  Status set_clock(VmClock clock);

  [[nodiscard]] BorrowedFd fd() const { return fd_.borrow(); }
  [[nodiscard]] const KvmSystem& system() const { return system_; }

 private:
  KvmVm(const KvmSystem& system, UniqueFd fd);
  Status install_routes(const GsiTable& table);

  const KvmSystem& system_;
  UniqueFd fd_;
  std::mutex mutex_;  // guards routes_ and the install that follows a change
  GsiTable routes_;
  bool has_interrupts_ = false;
  std::array<kvm_irqchip, 3> power_on_chips_{};
  kvm_pit_state2 power_on_pit_{};
};

}  // namespace bulkhead::vmm
