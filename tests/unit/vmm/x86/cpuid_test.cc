#include "vmm/x86/cpuid.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

namespace bulkhead::vmm {
namespace {

kvm_cpuid_entry2 entry(std::uint32_t function, std::uint32_t index, std::uint32_t eax, std::uint32_t ebx,
                       std::uint32_t ecx, std::uint32_t edx) {
  kvm_cpuid_entry2 out{};
  out.function = function;
  out.index = index;
  out.eax = eax;
  out.ebx = ebx;
  out.ecx = ecx;
  out.edx = edx;
  return out;
}

kvm_cpuid_entry2 vendor(const char* text) {
  kvm_cpuid_entry2 out = entry(0, 0, 0x1F, 0, 0, 0);
  std::memcpy(&out.ebx, text, 4);
  std::memcpy(&out.edx, text + 4, 4);
  std::memcpy(&out.ecx, text + 8, 4);
  return out;
}

constexpr std::uint32_t kAll = UINT32_MAX;

// A host whose KVM lists every bit of every feature leaf, and whose caches are shared by 16 threads.
std::vector<kvm_cpuid_entry2> host(const char* name) {
  return {vendor(name),
          entry(1, 0, 0x00B00F21, 0x01020800, kAll, kAll),
          entry(4, 0, 0x21 | 7 << 14 | 3 << 26, 1, 2, 3),
          entry(4, 1, 0x63 | 15 << 14 | 3 << 26, 1, 2, 3),
          entry(4, 2, 0, 0, 0, 0),
          entry(7, 0, 1, kAll, kAll, kAll),
          entry(0xA, 0, kAll, kAll, kAll, kAll),
          entry(0xB, 0, 1, 2, 0x100, 7),
          entry(0xB, 1, 4, 16, 0x201, 7),
          entry(0x1F, 0, 1, 2, 0x100, 7),
          entry(0x12, 1, kAll, kAll, kAll, kAll),
          entry(0x80000001, 0, 0, 0, kAll, kAll),
          entry(0x80000008, 0, 0x3030, 0, 0x700F, 0),
          entry(0x8000000A, 0, 1, 2, 3, 4),
          entry(0x8000001D, 0, 0x21 | 7 << 14, 1, 2, 3),
          entry(0x8000001D, 3, 0x63 | 15 << 14, 1, 2, 3),
          entry(0x8000001E, 0, 0, 0, 0, 0),
          entry(0x40000000, 0, 0x40000001, 0x4B4D564B, 0x564B4D56, 0x4D)};
}

std::vector<kvm_cpuid_entry2> guest(const char* name, CpuTopology topology, std::uint32_t vcpu) {
  return guest_cpuid(host(name), {.topology = topology, .vcpu = vcpu, .tsc_deadline_timer = true});
}

constexpr char kAmd[] = "AuthenticAMD";
constexpr char kIntel[] = "GenuineIntel";

TEST(GuestCpuid, tells_each_vcpu_its_apic_id) {
  const CpuTopology topology{2, 3, 2};
  for (std::uint32_t vcpu = 0; vcpu < topology.vcpus(); ++vcpu) {
    const auto table = guest(kAmd, topology, vcpu);
    const std::uint32_t id = topology.apic_id(vcpu);
    EXPECT_EQ(find_cpuid(table, 1)->ebx >> 24, id);
    EXPECT_EQ(find_cpuid(table, 0xB, 0)->edx, id);
    EXPECT_EQ(find_cpuid(table, 0xB, 1)->edx, id);
    EXPECT_EQ(find_cpuid(table, 0x8000001E)->eax, id);
  }
}

TEST(GuestCpuid, describes_the_guests_topology_and_not_the_hosts) {
  const auto table = guest(kIntel, {2, 3, 2}, 0);
  EXPECT_EQ(find_cpuid(table, 0xB, 0)->eax, 1U);
  EXPECT_EQ(find_cpuid(table, 0xB, 0)->ebx, 2U);
  EXPECT_EQ(find_cpuid(table, 0xB, 0)->ecx, 0x100U);
  EXPECT_EQ(find_cpuid(table, 0xB, 1)->eax, 3U);
  EXPECT_EQ(find_cpuid(table, 0xB, 1)->ebx, 6U);
  EXPECT_EQ(find_cpuid(table, 0xB, 1)->ecx, 0x201U);
  EXPECT_EQ(find_cpuid(table, 0xB, 2)->ecx, 2U);
  EXPECT_EQ(find_cpuid(table, 0x1F, 1)->eax, 3U);
  EXPECT_EQ((find_cpuid(table, 1)->ebx >> 16) & 0xFF, 8U);
  EXPECT_EQ(find_cpuid(table, 1)->ebx & 0xFFFF, 0x0800U);
}

TEST(GuestCpuid, leaves_out_topology_leaves_that_the_host_lacks) {
  auto supported = host(kIntel);
  std::erase_if(supported, [](const auto& e) { return e.function == 0x1F; });
  const auto table = guest_cpuid(supported, {});
  EXPECT_EQ(find_cpuid(table, 0x1F), nullptr);
  EXPECT_NE(find_cpuid(table, 0xB), nullptr);
}

TEST(GuestCpuid, caches_are_shared_as_the_guest_topology_says) {
  const auto intel = guest(kIntel, {1, 4, 2}, 0);
  EXPECT_EQ(find_cpuid(intel, 4, 0)->eax, 0x21U | 1U << 14 | 3U << 26);
  EXPECT_EQ(find_cpuid(intel, 4, 1)->eax, 0x63U | 7U << 14 | 3U << 26);
  EXPECT_EQ(find_cpuid(intel, 4, 2)->eax, 0U);
  const auto amd = guest(kAmd, {1, 4, 1}, 0);
  EXPECT_EQ(find_cpuid(amd, 0x8000001D, 0)->eax, 0x21U);
  EXPECT_EQ(find_cpuid(amd, 0x8000001D, 3)->eax, 0x63U | 3U << 14);
}

TEST(GuestCpuid, amd_leaves_count_threads_of_a_package) {
  const auto table = guest(kAmd, {2, 4, 2}, 13);  // socket 1, core 2, thread 1
  EXPECT_EQ(find_cpuid(table, 0x80000008)->ecx, 7U | 3U << 12);
  EXPECT_EQ(find_cpuid(table, 0x8000001E)->ebx, 2U | 1U << 8);
  EXPECT_EQ(find_cpuid(table, 0x8000001E)->ecx, 1U);
}

TEST(GuestCpuid, amd_leaves_of_an_intel_host_stay_as_they_are) {
  const auto table = guest(kIntel, {1, 4, 2}, 3);
  EXPECT_EQ(find_cpuid(table, 0x80000008)->ecx, 0x700FU);
  EXPECT_EQ(find_cpuid(table, 0x8000001E)->eax, 0U);
}

TEST(GuestCpuid, a_single_thread_has_neither_htt_nor_cmp_legacy) {
  const auto one = guest(kAmd, {4, 1, 1}, 0);
  EXPECT_EQ(find_cpuid(one, 1)->edx >> 28 & 1, 0U);
  EXPECT_EQ(find_cpuid(one, 0x80000001)->ecx >> 1 & 1, 0U);
  const auto two = guest(kAmd, {1, 2, 1}, 0);
  EXPECT_EQ(find_cpuid(two, 1)->edx >> 28 & 1, 1U);
  EXPECT_EQ(find_cpuid(two, 0x80000001)->ecx >> 1 & 1, 1U);
}

TEST(GuestCpuid, says_that_there_is_a_hypervisor) {
  auto supported = host(kAmd);
  supported[1].ecx = 0;
  const auto table = guest_cpuid(supported, {});
  EXPECT_EQ(find_cpuid(table, 1)->ecx, 1U << 31);
}

TEST(GuestCpuid, offers_the_tsc_deadline_timer_where_kvm_has_it) {
  auto supported = host(kAmd);
  supported[1].ecx = 0;
  const auto table = guest_cpuid(supported, {.tsc_deadline_timer = true});
  EXPECT_EQ(find_cpuid(table, 1)->ecx, 1U << 31 | 1U << 24);
}

TEST(GuestCpuid, hides_nested_virtualization_enclaves_and_counters) {
  const auto table = guest(kAmd, {}, 0);
  EXPECT_EQ(find_cpuid(table, 1)->ecx & (1U << 5), 0U);             // VMX
  EXPECT_EQ(find_cpuid(table, 0x80000001)->ecx & (1U << 2), 0U);    // SVM
  EXPECT_EQ(find_cpuid(table, 0x80000001)->ecx & (1U << 23), 0U);   // PERFCTR_CORE
  EXPECT_EQ(find_cpuid(table, 7)->ebx & (1U << 2 | 1U << 25), 0U);  // SGX, PT
  EXPECT_EQ(find_cpuid(table, 0xA)->eax, 0U);
  EXPECT_EQ(find_cpuid(table, 0x8000000A)->eax, 0U);
  EXPECT_EQ(find_cpuid(table, 0x12, 1), nullptr);
}

TEST(GuestCpuid, promises_nothing_that_kvm_does_not_offer) {
  auto supported = host(kAmd);
  for (kvm_cpuid_entry2& e : supported) {
    if (e.function == 7 || e.function == 0x80000001) e.ebx = e.ecx = e.edx = 0x0F0F0F0C;
  }
  const auto table = guest_cpuid(supported, {.topology = flat_topology(1)});
  for (const std::uint32_t function : {7U, 0x80000001U}) {
    const kvm_cpuid_entry2* got = find_cpuid(table, function);
    EXPECT_EQ(got->ebx & ~0x0F0F0F0CU, 0U);
    EXPECT_EQ(got->ecx & ~0x0F0F0F0CU, 0U);
    EXPECT_EQ(got->edx & ~0x0F0F0F0CU, 0U);
  }
}

TEST(GuestCpuid, survives_an_empty_table) {
  EXPECT_TRUE(guest_cpuid({}, {}).empty());
  EXPECT_EQ(cpu_vendor({}), "");
  EXPECT_EQ(physical_address_bits({}), 36U);
}

TEST(GuestCpuid, reads_vendor_and_address_bits) {
  EXPECT_EQ(cpu_vendor(host(kAmd)), kAmd);
  EXPECT_EQ(physical_address_bits(host(kAmd)), 48U);
}

}  // namespace
}  // namespace bulkhead::vmm
