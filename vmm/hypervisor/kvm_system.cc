#include "vmm/hypervisor/kvm_system.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "vmm/hypervisor/kvm_abi.h"

namespace bulkhead::vmm {

namespace {

struct Required {
  unsigned capability;
  const char* name;
};

// What every VM uses; without one of these it could not run. The names are the kernel's, to search for.
constexpr Required kRequired[] = {
    {KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"},
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
    {KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_CAP_SET_IDENTITY_MAP_ADDR"},
    {KVM_CAP_PIT2, "KVM_CAP_PIT2"},
    {KVM_CAP_PIT_STATE2, "KVM_CAP_PIT_STATE2"},
    {KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
    {KVM_CAP_IRQFD_RESAMPLE, "KVM_CAP_IRQFD_RESAMPLE"},
    {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
    {KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI"},
    {KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
    {KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},
    {KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK"},
    {KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM"},
    {KVM_CAP_COALESCED_MMIO, "KVM_CAP_COALESCED_MMIO"},
    {KVM_CAP_DESTROY_MEMORY_REGION_WORKS, "KVM_CAP_DESTROY_MEMORY_REGION_WORKS"},
};

Error explain_open_failure(const std::string& path, int error_number) {
  switch (error_number) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
      return {fmt::format("{} is missing: this host offers no KVM (no virtualization extension, switched off in its "
                          "firmware, or the module kvm_intel or kvm_amd is not loaded)",
                          path),
              error_number};
    case EACCES:
    case EPERM:
      return {fmt::format("no permission to open {}: join the group kvm (sudo usermod -aG kvm $USER, then log in "
                          "again)",
                          path),
              error_number};
    default: return make_errno_error("cannot open " + path, error_number);
  }
}

class Prober {
 public:
  Prober(const KvmCalls& calls, int fd) : calls_(calls), fd_(fd) {}
  [[nodiscard]] int call(unsigned long request, unsigned long argument = 0) const {
    return calls_.ioctl(fd_, request, argument);
  }
  // 0 when the kernel does not know the capability.
  [[nodiscard]] std::uint32_t number(unsigned capability) const {
    const int answer = call(KVM_CHECK_EXTENSION, capability);
    return answer > 0 ? static_cast<std::uint32_t>(answer) : 0;
  }
  [[nodiscard]] bool has(unsigned capability) const { return number(capability) != 0; }

 private:
  const KvmCalls& calls_;
  int fd_;
};

KvmOptional probe_optional(const Prober& kvm) {
  KvmOptional found;
  found.tsc_deadline_timer = kvm.has(KVM_CAP_TSC_DEADLINE_TIMER);
  found.x2apic_api = kvm.has(KVM_CAP_X2APIC_API);
  found.coalesced_pio = kvm.has(KVM_CAP_COALESCED_PIO);
  found.exception_payload = kvm.has(KVM_CAP_EXCEPTION_PAYLOAD);
  found.xsave = kvm.has(KVM_CAP_XSAVE);
  found.xcrs = kvm.has(KVM_CAP_XCRS);
  found.debug_registers = kvm.has(KVM_CAP_DEBUGREGS);
  found.kvmclock_ctrl = kvm.has(KVM_CAP_KVMCLOCK_CTRL);
  found.dirty_log_ring = kvm.has(KVM_CAP_DIRTY_LOG_RING);
  found.smm = kvm.has(KVM_CAP_X86_SMM);
  found.nested_state = kvm.has(KVM_CAP_NESTED_STATE);
  found.tsc_control = kvm.has(KVM_CAP_TSC_CONTROL);
  found.xsave_size = std::max<std::uint32_t>(4096, kvm.number(KVM_CAP_XSAVE2));
  found.coalesced_mmio_page = kvm.number(KVM_CAP_COALESCED_MMIO);
  // api.rst 4.2: 4 vCPUs when KVM does not say.
  const std::uint32_t recommended = std::max<std::uint32_t>(4, kvm.number(KVM_CAP_NR_VCPUS));
  found.max_vcpus = std::max(recommended, kvm.number(KVM_CAP_MAX_VCPUS));
  found.max_vcpu_id = std::max(found.max_vcpus, kvm.number(KVM_CAP_MAX_VCPU_ID));
  found.max_memory_slots = std::max<std::uint32_t>(32, kvm.number(KVM_CAP_NR_MEMSLOTS));
  found.max_gsi_routes = kvm.number(KVM_CAP_IRQ_ROUTING);
  return found;
}

Status check_required(const Prober& kvm) {
  std::string missing;
  for (const Required& required : kRequired) {
    if (kvm.has(required.capability)) continue;
    if (!missing.empty()) missing += ", ";
    missing += required.name;
  }
  if (missing.empty()) return ok();
  return make_error("this host's KVM lacks what Bulkhead needs: " + missing);
}

constexpr std::size_t kMostEntries = 4096;  // of CPUID or MSRs; bounds what a strange kernel can make us allocate

// KVM says E2BIG when there is not room enough.
template <class List>
bool fill_list(const Prober& kvm, unsigned long request, List& list) {
  for (std::size_t room = 256; room <= kMostEntries; room *= 2) {
    list = List(room);
    if (kvm.call(request, reinterpret_cast<unsigned long>(list.argument())) >= 0) return true;
    if (errno != E2BIG) break;
  }
  return false;
}

Result<std::vector<std::uint32_t>> read_msr_indices(const Prober& kvm) {
  kvm_abi::MsrIndexList list(0);
  if (!fill_list(kvm, kvm_abi::kGetMsrIndexList, list))
    return make_errno_error("KVM does not list its MSRs (KVM_GET_MSR_INDEX_LIST)");
  std::vector<std::uint32_t> indices = list.items();
  std::sort(indices.begin(), indices.end());
  return indices;
}

Result<std::vector<kvm_cpuid_entry2>> read_supported_cpuid(const Prober& kvm) {
  kvm_abi::CpuidList list(0);
  if (!fill_list(kvm, kvm_abi::kGetSupportedCpuid, list))
    return make_errno_error("KVM does not say which CPU features it supports (KVM_GET_SUPPORTED_CPUID)");
  return list.items();
}

}  // namespace

KvmCalls KvmCalls::real() {
  return {[](const char* path, int flags) { return ::open(path, flags); },
          [](int fd, unsigned long request, unsigned long argument) { return ::ioctl(fd, request, argument); }};
}

Result<KvmSystem> KvmSystem::open(const std::string& path, const KvmCalls& calls) {
  KvmSystem system;
  const int fd = calls.open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return explain_open_failure(path, errno);
  system.fd_ = UniqueFd(fd);
  const Prober kvm(calls, fd);

  const int version = kvm.call(KVM_GET_API_VERSION);
  if (version < 0) return Error{path + " is not KVM: it does not answer KVM_GET_API_VERSION", errno};
  if (version != KVM_API_VERSION)
    return make_error(fmt::format("{} speaks version {} of KVM's interface, Bulkhead needs version {}", path, version,
                                  KVM_API_VERSION));
  RETURN_IF_ERROR(check_required(kvm));
  system.optional_ = probe_optional(kvm);

  const int mapping = kvm.call(KVM_GET_VCPU_MMAP_SIZE);
  if (mapping < static_cast<int>(sizeof(kvm_run)))
    return make_error("KVM gives no usable size for a vCPU's shared page (KVM_GET_VCPU_MMAP_SIZE)");
  system.vcpu_mapping_size_ = static_cast<std::size_t>(mapping);
  ASSIGN_OR_RETURN(system.msr_indices_, read_msr_indices(kvm));
  ASSIGN_OR_RETURN(system.supported_cpuid_, read_supported_cpuid(kvm));
  return system;
}

}  // namespace bulkhead::vmm
