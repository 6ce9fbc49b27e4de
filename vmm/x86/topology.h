// How vCPUs are arranged into sockets, cores and threads, and the APIC IDs that follow: each level gets a
// power-of-two field, as CPUID leaf 0Bh describes it, so IDs may have gaps.
// Units: counts. Errors: valid() says whether a topology can be built. Threading: pure. Trust: checked
// configuration. Source: Intel SDM volume 3A, section 9.9; AMD APM volume 3, appendix E.5.
#pragma once

#include <bit>
#include <cstdint>

namespace bulkhead::vmm {

inline constexpr std::uint32_t kMaxVcpus = 64;

struct CpuTopology {
  std::uint32_t sockets = 1;
  std::uint32_t cores = 1;    // per socket
  std::uint32_t threads = 1;  // per core

  [[nodiscard]] constexpr std::uint32_t vcpus() const { return sockets * cores * threads; }
  [[nodiscard]] constexpr bool valid() const {
    return sockets >= 1 && cores >= 1 && threads >= 1 && sockets <= kMaxVcpus && cores <= kMaxVcpus &&
           threads <= kMaxVcpus && vcpus() <= kMaxVcpus;
  }
  [[nodiscard]] constexpr std::uint32_t thread_bits() const {
    return static_cast<std::uint32_t>(std::bit_width(threads - 1));
  }
  [[nodiscard]] constexpr std::uint32_t core_bits() const {
    return static_cast<std::uint32_t>(std::bit_width(cores - 1));
  }
  [[nodiscard]] constexpr std::uint32_t apic_id(std::uint32_t vcpu) const {
    const std::uint32_t thread = vcpu % threads;
    const std::uint32_t core = vcpu / threads % cores;
    const std::uint32_t socket = vcpu / threads / cores;
    return (socket << (core_bits() + thread_bits())) | (core << thread_bits()) | thread;
  }
  bool operator==(const CpuTopology&) const = default;
};

// `vcpus` cores in one socket.
[[nodiscard]] constexpr CpuTopology flat_topology(std::uint32_t vcpus) { return {1, vcpus, 1}; }

}  // namespace bulkhead::vmm
