// KvmSystem: /dev/kvm opened and checked. Everything that Bulkhead needs of KVM is looked for once, up
// front, so that a host that cannot run a VM says why in one sentence instead of failing half-way.
//
// Errors: KvmSystem::open() explains a missing device, a missing permission, a foreign API version, and
// names all missing capabilities together. Threading: immutable after open(). Trust: the kernel is
// trusted. Source: Documentation/virt/kvm/api.rst, sections 4.1 to 4.4, 4.46, 6 and 8.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"

namespace bulkhead::vmm {

// The calls that open() makes. Tests replace them to play a host that lacks something.
struct KvmCalls {
  std::function<int(const char* path, int flags)> open;
  std::function<int(int fd, unsigned long request, unsigned long argument)> ioctl;
  static KvmCalls real();
};

// What a host may lack without losing its guests; numbers are what KVM_CHECK_EXTENSION answered.
struct KvmOptional {
  bool tsc_deadline_timer = false;
  bool x2apic_api = false;
  bool coalesced_pio = false;
  bool exception_payload = false;
  bool xsave = false;
  bool xcrs = false;
  bool debug_registers = false;
  bool kvmclock_ctrl = false;
  bool dirty_log_ring = false;
  bool smm = false;  // none on PVM hosts (MACHINE.md)
  bool nested_state = false;
  bool tsc_control = false;
  std::uint32_t xsave_size = 4096;        // bytes that KVM_GET_XSAVE2 gives
  std::uint32_t coalesced_mmio_page = 0;  // page offset of the ring in a vCPU's mapping; 0: none
  std::uint32_t max_vcpus = 1;
  std::uint32_t max_vcpu_id = 1;
  std::uint32_t max_memory_slots = 32;
  std::uint32_t max_gsi_routes = 0;
};

class KvmSystem {
 public:
  static Result<KvmSystem> open(const std::string& path = "/dev/kvm", const KvmCalls& calls = KvmCalls::real());

  [[nodiscard]] BorrowedFd fd() const { return fd_.borrow(); }
  [[nodiscard]] const KvmOptional& optional() const { return optional_; }
  [[nodiscard]] std::size_t vcpu_mapping_size() const { return vcpu_mapping_size_; }
  // MSRs that KVM_GET_MSR_INDEX_LIST names, sorted: the only ones that may be touched at all.
  [[nodiscard]] const std::vector<std::uint32_t>& msr_indices() const { return msr_indices_; }
  // KVM_GET_SUPPORTED_CPUID, unpatched (x86/cpuid.h makes a guest's table from it).
  [[nodiscard]] const std::vector<kvm_cpuid_entry2>& supported_cpuid() const { return supported_cpuid_; }

 private:
  KvmSystem() = default;
  UniqueFd fd_;
  KvmOptional optional_;
  std::size_t vcpu_mapping_size_ = 0;
  std::vector<std::uint32_t> msr_indices_;
  std::vector<kvm_cpuid_entry2> supported_cpuid_;
};

}  // namespace bulkhead::vmm
