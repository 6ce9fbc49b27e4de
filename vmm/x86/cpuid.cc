#include "vmm/x86/cpuid.h"

#include <algorithm>
#include <cstring>

namespace bulkhead::vmm {

namespace {

enum class Register : std::uint8_t { kEax, kEbx, kEcx, kEdx };

constexpr std::uint32_t bit(unsigned n) { return std::uint32_t{1} << n; }

struct Mask {
  std::uint32_t function;
  std::uint32_t index;
  Register reg;
  std::uint32_t bits;
};

// What some hosts' KVM lists and no guest of ours gets: nested virtualization and enclaves (attack
// surface), tracing and performance counters (they see more than the guest), and what needs the host's
// help.
constexpr Mask kHidden[] = {
    // DTES64, MONITOR, DS_CPL, VMX, SMX, EST, TM2, PDCM, DCA
    {0x1, 0, Register::kEcx, bit(2) | bit(3) | bit(4) | bit(5) | bit(6) | bit(7) | bit(8) | bit(15) | bit(18)},
    {0x1, 0, Register::kEdx, bit(21) | bit(22) | bit(29) | bit(31)},  // DS, ACPI, TM, PBE
    {0x7, 0, Register::kEbx, bit(2) | bit(12) | bit(15) | bit(25)},   // SGX, RDT-M, RDT-A, PT
    {0x7, 0, Register::kEcx, bit(5) | bit(30)},                       // WAITPKG, SGX_LC
    {0x7, 0, Register::kEdx, bit(1) | bit(19)},                       // SGX-KEYS, architectural LBR
    // SVM, IBS, SKINIT, WDT, LWP, PERFCTR_CORE, PERFCTR_NB, PERFCTR_LLC, MWAITX
    {0x80000001, 0, Register::kEcx,
     bit(2) | bit(10) | bit(12) | bit(13) | bit(15) | bit(23) | bit(24) | bit(28) | bit(29)},
};

// Leaves that describe those, the host's own packages or its power management.
constexpr std::uint32_t kEmptied[] = {0x3,        0x5,        0xA,        0xF,        0x10,       0x12,
                                      0x14,       0x1B,       0x1C,       0x8000000A, 0x8000001B, 0x8000001C,
                                      0x8000001F, 0x80000020, 0x80000022, 0x80000026};

constexpr std::uint32_t kHypervisorPresent = bit(31);   // 1.ECX
constexpr std::uint32_t kTscDeadline = bit(24);         // 1.ECX
constexpr std::uint32_t kHtt = bit(28);                 // 1.EDX
constexpr std::uint32_t kCmpLegacy = bit(1);            // 80000001.ECX
constexpr std::uint32_t kTopologyExtensions = bit(22);  // 80000001.ECX

// Leaf 0Bh, ECX[15:8]
constexpr std::uint32_t kLevelThread = 1;
constexpr std::uint32_t kLevelCore = 2;

std::uint32_t& select(kvm_cpuid_entry2& entry, Register reg) {
  switch (reg) {
    case Register::kEax: return entry.eax;
    case Register::kEbx: return entry.ebx;
    case Register::kEcx: return entry.ecx;
    case Register::kEdx: break;
  }
  return entry.edx;
}

bool is_amd_like(std::span<const kvm_cpuid_entry2> table) {
  const std::string vendor = cpu_vendor(table);
  return vendor == "AuthenticAMD" || vendor == "HygonGenuine";
}

struct Context {
  CpuidOptions options;
  std::uint32_t apic_id;
  std::uint32_t package_bits;   // width of core and thread fields
  std::uint32_t package_vcpus;  // logical processors of one package
  bool amd;
};

void patch_features(kvm_cpuid_entry2& entry, const Context& context) {
  // EBX: initial APIC ID, addressable logical processors of the package, CLFLUSH size (kept), brand.
  const std::uint32_t addressable = std::min<std::uint32_t>(255, std::uint32_t{1} << context.package_bits);
  entry.ebx = (entry.ebx & 0x0000FFFF) | (addressable << 16) | (context.apic_id << 24);
  entry.ecx |= kHypervisorPresent;
  if (context.options.tsc_deadline_timer) entry.ecx |= kTscDeadline;
  entry.edx = context.package_vcpus > 1 ? entry.edx | kHtt : entry.edx & ~kHtt;
}

// Leaves 4 (Intel) and 8000001Dh (AMD): EAX[4:0] type, [7:5] level, [25:14] threads that share the cache
// less one, and for Intel [31:26] core IDs of the package less one.
void patch_cache(kvm_cpuid_entry2& entry, const Context& context, bool intel) {
  if ((entry.eax & 0x1F) == 0) return;
  const std::uint32_t level = (entry.eax >> 5) & 7;
  const std::uint32_t sharing_bits = level >= 3 ? context.package_bits : context.options.topology.thread_bits();
  entry.eax = (entry.eax & 0x3FFF) | (((std::uint32_t{1} << sharing_bits) - 1) << 14);
  if (intel) entry.eax |= std::min<std::uint32_t>(63, (1U << context.options.topology.core_bits()) - 1) << 26;
}

void patch_amd_size(kvm_cpuid_entry2& entry, const Context& context) {
  // ECX[7:0] threads of the package less one, [15:12] width of the APIC ID below the package.
  entry.ecx = (entry.ecx & ~std::uint32_t{0xF0FF}) | (context.package_vcpus - 1) | (context.package_bits << 12);
}

void patch_amd_topology(kvm_cpuid_entry2& entry, const Context& context) {
  const CpuTopology& topology = context.options.topology;
  const std::uint32_t core = context.options.vcpu / topology.threads % topology.cores;
  const std::uint32_t socket = context.options.vcpu / topology.threads / topology.cores;
  entry.eax = context.apic_id;
  entry.ebx = core | ((topology.threads - 1) << 8);
  entry.ecx = socket;  // node ID; one node per package
  entry.edx = 0;
}

void add_topology_leaf(std::vector<kvm_cpuid_entry2>& table, std::uint32_t function, const Context& context) {
  const CpuTopology& topology = context.options.topology;
  const auto add = [&](std::uint32_t index, std::uint32_t shift, std::uint32_t count, std::uint32_t type) {
    kvm_cpuid_entry2 entry{};
    entry.function = function;
    entry.index = index;
    entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    entry.eax = shift;
    entry.ebx = count;
    entry.ecx = (type << 8) | index;
    entry.edx = context.apic_id;
    table.push_back(entry);
  };
  add(0, topology.thread_bits(), topology.threads, kLevelThread);
  add(1, context.package_bits, context.package_vcpus, kLevelCore);
  add(2, 0, 0, 0);
}

void patch_entry(kvm_cpuid_entry2& entry, const Context& context, bool topology_extensions) {
  for (const Mask& mask : kHidden) {
    if (entry.function == mask.function && entry.index == mask.index) select(entry, mask.reg) &= ~mask.bits;
  }
  switch (entry.function) {
    case 0x1: patch_features(entry, context); break;
    case 0x4: patch_cache(entry, context, true); break;
    case 0x80000001:
      if (context.amd) entry.ecx = context.package_vcpus > 1 ? entry.ecx | kCmpLegacy : entry.ecx & ~kCmpLegacy;
      break;
    case 0x80000008:
      if (context.amd) patch_amd_size(entry, context);
      break;
    case 0x8000001D: patch_cache(entry, context, false); break;
    case 0x8000001E:
      if (topology_extensions) patch_amd_topology(entry, context);
      break;
    default: break;
  }
}

}  // namespace

const kvm_cpuid_entry2* find_cpuid(std::span<const kvm_cpuid_entry2> table, std::uint32_t function,
                                   std::uint32_t index) {
  for (const kvm_cpuid_entry2& entry : table) {
    if (entry.function == function && entry.index == index) return &entry;
  }
  return nullptr;
}

std::uint32_t physical_address_bits(std::span<const kvm_cpuid_entry2> table) {
  const kvm_cpuid_entry2* entry = find_cpuid(table, 0x80000008);
  const std::uint32_t bits = entry == nullptr ? 0 : entry->eax & 0xFF;
  return bits < 32 || bits > 52 ? 36 : bits;
}

std::string cpu_vendor(std::span<const kvm_cpuid_entry2> table) {
  const kvm_cpuid_entry2* entry = find_cpuid(table, 0);
  if (entry == nullptr) return {};
  char text[12];
  std::memcpy(text, &entry->ebx, 4);
  std::memcpy(text + 4, &entry->edx, 4);
  std::memcpy(text + 8, &entry->ecx, 4);
  return std::string(text, sizeof(text));
}

std::vector<kvm_cpuid_entry2> guest_cpuid(std::span<const kvm_cpuid_entry2> supported, const CpuidOptions& options) {
  const CpuTopology& topology = options.topology;
  Context context{};
  context.options = options;
  context.apic_id = topology.apic_id(options.vcpu);
  context.package_bits = topology.core_bits() + topology.thread_bits();
  context.package_vcpus = topology.cores * topology.threads;
  context.amd = is_amd_like(supported);
  const kvm_cpuid_entry2* extended = find_cpuid(supported, 0x80000001);
  const bool topology_extensions = context.amd && extended != nullptr && (extended->ecx & kTopologyExtensions) != 0;

  std::vector<kvm_cpuid_entry2> table;
  table.reserve(supported.size() + 6);
  bool has_leaf_b = false;
  bool has_leaf_1f = false;
  for (kvm_cpuid_entry2 entry : supported) {
    if (entry.function == 0xB || entry.function == 0x1F) {
      (entry.function == 0xB ? has_leaf_b : has_leaf_1f) = true;
      continue;
    }
    if (std::ranges::find(kEmptied, entry.function) != std::end(kEmptied)) {
      if (entry.index != 0) continue;
      entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
    }
    patch_entry(entry, context, topology_extensions);
    table.push_back(entry);
  }
  if (has_leaf_b) add_topology_leaf(table, 0xB, context);
  if (has_leaf_1f) add_topology_leaf(table, 0x1F, context);
  return table;
}

}  // namespace bulkhead::vmm
