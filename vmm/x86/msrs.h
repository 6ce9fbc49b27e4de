// The MSRs that a vCPU starts with: what firmware would have left behind. KVM's own defaults cover the
// rest. Pure. Units: MSR numbers and values. Errors: none here; KvmVcpu::initialize() skips those that the
// host's KVM does not list, because on some hosts setting an unsupported one fails (GUESTS.md).
// Threading: pure functions. Trust: no untrusted input.
// Source: Intel SDM volume 3A, section 12.11 (MTRRs) and volume 4 (MSR numbers).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace bulkhead::vmm {

struct MsrValue {
  std::uint32_t index = 0;
  std::uint64_t value = 0;
  bool operator==(const MsrValue&) const = default;
};

struct MsrOptions {
  std::uint64_t hole_base = 0;  // start of the PCI hole below 4 GiB: uncached up to 4 GiB
  std::uint32_t physical_address_bits = 36;
};

// The same list for every vCPU, so that Linux finds the MTRRs of all CPUs alike.
[[nodiscard]] std::vector<MsrValue> initial_msrs(const MsrOptions& options);

// The elements of `wanted` whose index is in `known` (sorted).
[[nodiscard]] std::vector<MsrValue> supported_msrs(std::span<const MsrValue> wanted,
                                                   std::span<const std::uint32_t> known);

// True for an MSR that must not be written back at a VM reset: time goes on.
[[nodiscard]] bool keeps_value_over_reset(std::uint32_t index);

}  // namespace bulkhead::vmm
