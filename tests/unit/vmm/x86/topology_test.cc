#include "vmm/x86/topology.h"

#include <gtest/gtest.h>

#include <set>

namespace bulkhead::vmm {
namespace {

TEST(CpuTopology, every_topology_gives_each_vcpu_an_apic_id_of_its_own) {
  for (std::uint32_t sockets = 1; sockets <= kMaxVcpus; ++sockets) {
    for (std::uint32_t cores = 1; cores <= kMaxVcpus; ++cores) {
      for (std::uint32_t threads = 1; threads <= kMaxVcpus; ++threads) {
        const CpuTopology topology{sockets, cores, threads};
        if (!topology.valid()) continue;
        std::set<std::uint32_t> ids;
        for (std::uint32_t vcpu = 0; vcpu < topology.vcpus(); ++vcpu) ids.insert(topology.apic_id(vcpu));
        ASSERT_EQ(ids.size(), topology.vcpus()) << sockets << " " << cores << " " << threads;
        // Below FFh, the broadcast ID.
        ASSERT_LT(*ids.rbegin(), 255U) << sockets << " " << cores << " " << threads;
      }
    }
  }
}

TEST(CpuTopology, leaves_gaps_where_a_count_is_no_power_of_two) {
  const CpuTopology topology{2, 3, 1};
  EXPECT_EQ(topology.apic_id(2), 2U);
  EXPECT_EQ(topology.apic_id(3), 4U);
}

TEST(CpuTopology, a_flat_one_counts_up) {
  const CpuTopology topology = flat_topology(5);
  for (std::uint32_t vcpu = 0; vcpu < 5; ++vcpu) EXPECT_EQ(topology.apic_id(vcpu), vcpu);
}

TEST(CpuTopology, too_many_or_no_vcpus_are_invalid) {
  EXPECT_FALSE((CpuTopology{0, 1, 1}.valid()));
  EXPECT_FALSE((CpuTopology{2, 33, 1}.valid()));
  EXPECT_FALSE((CpuTopology{0x10000, 0x10000, 1}.valid()));
}

}  // namespace
}  // namespace bulkhead::vmm
