// The CPUID table of one vCPU, made from what KVM_GET_SUPPORTED_CPUID reports: nothing is promised to a
// guest that the host's KVM did not offer.
//
// Pure. Units: CPUID leaves. Errors: none. Threading: pure functions. Trust: the kernel's table is trusted.
// Sources: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; Documentation/virt/kvm/x86/cpuid.rst.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vmm/x86/topology.h"

namespace bulkhead::vmm {

struct CpuidOptions {
  CpuTopology topology{};
  std::uint32_t vcpu = 0;           // index, 0 is the boot processor
  bool tsc_deadline_timer = false;  // KVM_CAP_TSC_DEADLINE_TIMER
};

[[nodiscard]] std::vector<kvm_cpuid_entry2> guest_cpuid(std::span<const kvm_cpuid_entry2> supported,
                                                        const CpuidOptions& options);

[[nodiscard]] const kvm_cpuid_entry2* find_cpuid(std::span<const kvm_cpuid_entry2> table, std::uint32_t function,
                                                 std::uint32_t index = 0);
// MAXPHYADDR (leaf 80000008h), 36 when the table does not say.
[[nodiscard]] std::uint32_t physical_address_bits(std::span<const kvm_cpuid_entry2> table);
// "AuthenticAMD" and the like.
[[nodiscard]] std::string cpu_vendor(std::span<const kvm_cpuid_entry2> table);

}  // namespace bulkhead::vmm
