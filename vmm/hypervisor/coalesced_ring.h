// CoalescedRing: KVM's ring of posted writes (one per VM), drained by whoever holds the caller's lock.
// Units: bytes. Errors: none. Threading: one drainer at a time; KVM produces concurrently. Trust: written
// by the kernel alone. Source: Documentation/virt/kvm/api.rst, 4.116 KVM_(UN)REGISTER_COALESCED_MMIO.
#pragma once

#include <linux/kvm.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "vmm/hypervisor/kvm_abi.h"

namespace bulkhead::vmm {

class CoalescedRing {
 public:
  // `page`: the ring's page in a vCPU's mapping; it must outlive this.
  CoalescedRing(std::byte* page, std::size_t page_size)
      : header_(reinterpret_cast<kvm_abi::CoalescedRingHeader*>(page)),
        entries_(reinterpret_cast<const kvm_coalesced_mmio*>(page + sizeof(kvm_abi::CoalescedRingHeader))),
        capacity_(static_cast<std::uint32_t>((page_size - sizeof(kvm_abi::CoalescedRingHeader)) /
                                             sizeof(kvm_coalesced_mmio))) {}

  [[nodiscard]] bool empty() const {
    return header_->first == std::atomic_ref(header_->last).load(std::memory_order_acquire);
  }
  // Calls take(entry) for each write in order; entry: phys_addr, len (1-8), data[8], pio. At most one ring
  // full, so that a busy guest cannot hold the drainer for ever.
  template <class Take>
  void drain(Take&& take) {
    for (std::uint32_t n = 0; n < capacity_ && !empty(); ++n) {
      const kvm_coalesced_mmio entry = entries_[header_->first];
      take(entry);
      std::atomic_ref(header_->first).store((header_->first + 1) % capacity_, std::memory_order_release);
    }
  }

 private:
  kvm_abi::CoalescedRingHeader* header_;
  const kvm_coalesced_mmio* entries_;
  std::uint32_t capacity_;
};

}  // namespace bulkhead::vmm
