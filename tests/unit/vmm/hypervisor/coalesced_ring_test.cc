#include "vmm/hypervisor/coalesced_ring.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace bulkhead::vmm {
namespace {

constexpr std::size_t kPage = 4096;
// KVM_COALESCED_MMIO_MAX of a C program.
constexpr std::uint32_t kCapacity = (kPage - 8) / sizeof(kvm_coalesced_mmio);

// The kernel's side of the ring (virt/kvm/coalesced_mmio.c): one slot always stays free.
class FakeKernel {
 public:
  bool push(std::uint64_t address) {
    const std::uint32_t next = (header()->last + 1) % kCapacity;
    if (next == header()->first) return false;
    kvm_coalesced_mmio entry{};
    entry.phys_addr = address;
    entry.len = 4;
    std::memcpy(page_ + 8 + header()->last * sizeof(entry), &entry, sizeof(entry));
    header()->last = next;
    return true;
  }
  std::vector<std::uint64_t> drain() {
    CoalescedRing ring(page_, kPage);
    std::vector<std::uint64_t> seen;
    ring.drain([&](const kvm_coalesced_mmio& entry) { seen.push_back(entry.phys_addr); });
    return seen;
  }
  kvm_abi::CoalescedRingHeader* header() { return reinterpret_cast<kvm_abi::CoalescedRingHeader*>(page_); }

 private:
  alignas(8) std::byte page_[kPage] = {};
};

TEST(CoalescedRing, is_empty_at_first) {
  FakeKernel kernel;
  EXPECT_TRUE(kernel.drain().empty());
}

TEST(CoalescedRing, gives_writes_in_order_across_the_wrap) {
  FakeKernel kernel;
  std::uint64_t next = 0;
  std::uint64_t expected = 0;
  for (int round = 0; round < 50; ++round) {
    for (int n = 0; n < 37; ++n) ASSERT_TRUE(kernel.push(next++));
    for (const std::uint64_t seen : kernel.drain()) EXPECT_EQ(seen, expected++);
  }
  EXPECT_EQ(expected, next);
}

TEST(CoalescedRing, takes_a_full_ring) {
  FakeKernel kernel;
  std::uint64_t count = 0;
  while (kernel.push(count)) ++count;
  EXPECT_EQ(count, kCapacity - 1);
  EXPECT_EQ(kernel.drain().size(), count);
}

}  // namespace
}  // namespace bulkhead::vmm
