// KvmVcpu: one vCPU of KVM.
//
// create (KvmVm::create_vcpu) -> initialize() once -> start() -> run_once() ...; start() again after a VM
// reset, with new boot registers. Errors: Status with one sentence naming the vCPU and the call.
// Threading: one thread at a time (KVM runs a vCPU's ioctls under its own lock and would block), except
// set_immediate_exit(). Trust: kvm_run is shared with the kernel alone and is believed.
// Source: Documentation/virt/kvm/api.rst, sections 4.10 to 4.22, 4.38, 4.40, 4.42 and 5.
#pragma once

#include <linux/kvm.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"
#include "vmm/hypervisor/coalesced_ring.h"
#include "vmm/hypervisor/hypervisor.h"
#include "vmm/x86/msrs.h"
#include "vmm/x86/registers.h"

namespace bulkhead::vmm {

class KvmVm;

// Copies guest-physical memory for the report of the bytes at RIP; false when that is not RAM.
using GuestReader = std::function<bool(std::uint64_t address, std::span<std::byte> out)>;

// The registers that a vCPU has besides the boot registers, as they were before the guest ran.
struct VcpuPowerOn;

class KvmVcpu final : public Vcpu {
 public:
  static Result<std::unique_ptr<KvmVcpu>> create(const KvmVm& vm, std::uint32_t apic_id);
  ~KvmVcpu() override;

  // Sets CPUID, the MSRs (those that this KVM does not have are skipped) and LINT0/LINT1, then captures
  // the state that start() begins from. Call once, before the guest runs.
  Status initialize(std::span<const kvm_cpuid_entry2> cpuid, std::span<const MsrValue> msrs);
  // Power-on state of everything, then the boot registers on top. Without them the vCPU waits for SIPI, or, if it is
  // the `boot_processor`, starts at the reset vector. Callable again for a VM reset, out of run_once() and after
  // complete_pending_io().
  Status start(const std::optional<BootRegisters>& boot, bool boot_processor = false);

  Exit run_once() override;
  void set_immediate_exit(bool on) override;
  Exit complete_pending_io() override;
  std::string describe_state() override;

  void set_guest_reader(GuestReader reader) { guest_reader_ = std::move(reader); }

  [[nodiscard]] std::uint32_t apic_id() const { return apic_id_; }
  [[nodiscard]] Result<kvm_regs> regs() const;
  Status set_regs(const kvm_regs& regs);
  [[nodiscard]] Result<kvm_sregs> sregs() const;
  Status set_sregs(const kvm_sregs& sregs);
  [[nodiscard]] Result<kvm_fpu> fpu() const;
  Status set_fpu(const kvm_fpu& fpu);
  [[nodiscard]] Result<kvm_xcrs> xcrs() const;
  Status set_xcrs(const kvm_xcrs& xcrs);
  [[nodiscard]] Result<kvm_lapic_state> lapic() const;
  Status set_lapic(const kvm_lapic_state& lapic);
  [[nodiscard]] Result<std::uint32_t> mp_state() const;  // KVM_MP_STATE_*
  Status set_mp_state(std::uint32_t state);
  [[nodiscard]] Result<kvm_vcpu_events> events() const;
  Status set_events(const kvm_vcpu_events& events);
  [[nodiscard]] Result<std::vector<kvm_cpuid_entry2>> cpuid() const;
  // The values of those of `indices` that can be read; the others are left out.
  [[nodiscard]] Result<std::vector<MsrValue>> msrs(std::span<const std::uint32_t> indices) const;
  // Sets what can be set; returns the indices that KVM refused (not an error).
  Result<std::vector<std::uint32_t>> set_msrs(std::span<const MsrValue> values);
  // Guest-virtual to guest-physical under the vCPU's present paging; nullopt when not mapped.
  [[nodiscard]] std::optional<std::uint64_t> translate(std::uint64_t linear) const;
  // Tells the guest's watchdogs that it was paused (KVM_KVMCLOCK_CTRL); does nothing without kvmclock.
  void note_pause();
  // The VM's coalesced ring, which is part of every vCPU's mapping; nullopt when KVM has none.
  [[nodiscard]] std::optional<CoalescedRing> coalesced_ring() const;

 private:
  KvmVcpu(const KvmVm& vm, std::uint32_t apic_id, UniqueFd fd, kvm_run* run, std::size_t run_size);
  Exit decode_exit();
  Status call(const char* what, unsigned long request, void* argument) const;

  const KvmVm& vm_;
  std::uint32_t apic_id_;
  UniqueFd fd_;
  kvm_run* run_;
  std::size_t run_size_;
  std::atomic<bool> exit_requested_{false};
  std::unique_ptr<VcpuPowerOn> power_on_;
  GuestReader guest_reader_;
};

}  // namespace bulkhead::vmm
