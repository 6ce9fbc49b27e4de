#include "vmm/hypervisor/kvm_vcpu.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>

#include "ipc/base/check.h"
#include "vmm/hypervisor/kvm_abi.h"
#include "vmm/hypervisor/kvm_vm.h"

namespace bulkhead::vmm {

struct VcpuPowerOn {
  kvm_regs regs{};
  kvm_sregs sregs{};
  kvm_lapic_state lapic{};
  kvm_debugregs debugregs{};
  kvm_xcrs xcrs{};
  std::vector<std::byte> xsave;  // empty where the host has none
  kvm_fpu fpu{};
  std::vector<MsrValue> msrs;
};

namespace {

constexpr std::uint64_t kPageBytes = 4096;
// Local APIC registers (Intel SDM volume 3A, table 11-1).
constexpr std::size_t kLapicLvt0 = 0x350;
constexpr std::size_t kLapicLvt1 = 0x360;
constexpr std::uint32_t kDeliveryNmi = 4U << 8;
constexpr std::uint32_t kDeliveryExtInt = 7U << 8;
constexpr std::uint32_t kMsrsPerCall = 64;

struct MsrBlock {
  kvm_abi::Count64 header{};
  std::array<kvm_msr_entry, kMsrsPerCall> entries{};
};
static_assert(offsetof(MsrBlock, entries) == sizeof(kvm_abi::Count64));

void set_lapic_register(kvm_lapic_state& lapic, std::size_t offset, std::uint32_t value) {
  std::memcpy(lapic.regs + offset, &value, sizeof(value));
}

}  // namespace

KvmVcpu::KvmVcpu(const KvmVm& vm, std::uint32_t apic_id, UniqueFd fd, kvm_run* run, std::size_t run_size)
    : vm_(vm), apic_id_(apic_id), fd_(std::move(fd)), run_(run), run_size_(run_size) {}

KvmVcpu::~KvmVcpu() { ::munmap(run_, run_size_); }

Result<std::unique_ptr<KvmVcpu>> KvmVcpu::create(const KvmVm& vm, std::uint32_t apic_id) {
  if (apic_id >= vm.system().optional().max_vcpu_id) {
    return make_error(fmt::format("this host's KVM has APIC IDs below {}, and a vCPU needs {}: choose another topology",
                                  vm.system().optional().max_vcpu_id, apic_id));
  }
  const std::size_t size = vm.system().vcpu_mapping_size();
  UniqueFd fd(::ioctl(vm.fd().get(), KVM_CREATE_VCPU, static_cast<unsigned long>(apic_id)));
  if (!fd.valid()) return make_errno_error(fmt::format("KVM cannot create vCPU {} (KVM_CREATE_VCPU)", apic_id));
  void* run = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (run == MAP_FAILED) return make_errno_error(fmt::format("cannot map vCPU {}'s shared page", apic_id));
  return std::unique_ptr<KvmVcpu>(new KvmVcpu(vm, apic_id, std::move(fd), static_cast<kvm_run*>(run), size));
}

Status KvmVcpu::call(const char* what, unsigned long request, void* argument) const {
  int answer;
  do {
    answer = ::ioctl(fd_.get(), request, argument);
  } while (answer < 0 && errno == EINTR);
  if (answer >= 0) return ok();
  return make_errno_error(fmt::format("vCPU {}: {} failed", apic_id_, what));
}

Exit KvmVcpu::run_once() {
  for (;;) {
    if (::ioctl(fd_.get(), KVM_RUN, 0UL) == 0) return decode_exit();
    if (errno == EINTR) return Interrupted{};
    // EAGAIN: a vCPU that waited for INIT or SIPI has become runnable, or was woken for nothing.
    if (errno != EAGAIN) return RunFailed{errno};
  }
}

Exit KvmVcpu::decode_exit() {
  switch (run_->exit_reason) {
    case KVM_EXIT_IO: {
      std::byte* data = reinterpret_cast<std::byte*>(run_) + run_->io.data_offset;
      const std::size_t bytes = std::size_t{run_->io.size} * run_->io.count;
      if (run_->io.direction == KVM_EXIT_IO_IN)
        return PioIn{run_->io.port, run_->io.size, run_->io.count, {data, bytes}};
      return PioOut{run_->io.port, run_->io.size, run_->io.count, {data, bytes}};
    }
    case KVM_EXIT_MMIO: {
      std::byte* data = reinterpret_cast<std::byte*>(run_->mmio.data);
      const auto size = static_cast<std::uint8_t>(run_->mmio.len);
      if (run_->mmio.is_write != 0) return MmioWrite{run_->mmio.phys_addr, size, {data, size}};
      return MmioRead{run_->mmio.phys_addr, size, {data, size}};
    }
    case KVM_EXIT_HLT: return Hlt{};
    case KVM_EXIT_SHUTDOWN: return Shutdown{};
    case KVM_EXIT_INTR: return Interrupted{};
    case KVM_EXIT_SYSTEM_EVENT: {
      using Kind = SystemEvent::Kind;
      Kind kind = Kind::kOther;
      if (run_->system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN) kind = Kind::kShutdown;
      if (run_->system_event.type == KVM_SYSTEM_EVENT_RESET) kind = Kind::kReset;
      if (run_->system_event.type == KVM_SYSTEM_EVENT_CRASH) kind = Kind::kCrash;
      return SystemEvent{kind, run_->system_event.type};
    }
    case KVM_EXIT_INTERNAL_ERROR: {
      const std::size_t count = std::min<std::size_t>(run_->internal.ndata, std::size(run_->internal.data));
      const auto* data = reinterpret_cast<const std::uint64_t*>(run_->internal.data);
      return InternalError{run_->internal.suberror, {data, count}};
    }
    case KVM_EXIT_FAIL_ENTRY: return FailEntry{run_->fail_entry.hardware_entry_failure_reason};
    case KVM_EXIT_UNKNOWN: return UnknownExit{KVM_EXIT_UNKNOWN, run_->hw.hardware_exit_reason};
    default: return UnknownExit{run_->exit_reason, 0};
  }
}

// kvm_run.immediate_exit is what the outside asked for, or 1 while complete_pending_io() needs it.
// Sequential consistency makes a request that arrives meanwhile survive: either the load below sees it, or
// its own store comes after ours.
void KvmVcpu::set_immediate_exit(bool on) {
  exit_requested_.store(on);
  std::atomic_ref(run_->immediate_exit).store(on ? 1 : 0);
}

Exit KvmVcpu::complete_pending_io() {
  std::atomic_ref immediate_exit(run_->immediate_exit);
  immediate_exit.store(1);
  const Exit exit = run_once();
  immediate_exit.store(0);
  if (exit_requested_.load()) immediate_exit.store(1);
  return exit;
}

Status KvmVcpu::initialize(std::span<const kvm_cpuid_entry2> cpuid, std::span<const MsrValue> msrs) {
  CHECK(!power_on_, apic_id_);
  kvm_abi::CpuidList list(cpuid);
  RETURN_IF_ERROR(call("KVM_SET_CPUID2", kvm_abi::kSetCpuid2, list.argument()));
  const auto refused = set_msrs(supported_msrs(msrs, vm_.system().msr_indices()));
  if (!refused) return refused.error();

  auto state = std::make_unique<VcpuPowerOn>();
  ASSIGN_OR_RETURN(state->regs, regs());
  ASSIGN_OR_RETURN(state->sregs, sregs());
  ASSIGN_OR_RETURN(state->lapic, lapic());
  // As firmware leaves them: the PICs' INTR comes in at the boot processor's LINT0, NMI at every LINT1.
  if ((state->sregs.apic_base & 0x100) != 0) set_lapic_register(state->lapic, kLapicLvt0, kDeliveryExtInt);
  set_lapic_register(state->lapic, kLapicLvt1, kDeliveryNmi);
  const KvmOptional& has = vm_.system().optional();
  if (has.debug_registers) RETURN_IF_ERROR(call("KVM_GET_DEBUGREGS", KVM_GET_DEBUGREGS, &state->debugregs));
  if (has.xcrs) {
    ASSIGN_OR_RETURN(state->xcrs, xcrs());
  }
  if (has.xsave) {
    state->xsave.resize(has.xsave_size);
    const bool large = has.xsave_size > sizeof(kvm_abi::Xsave);
    RETURN_IF_ERROR(large ? call("KVM_GET_XSAVE2", kvm_abi::kGetXsave2, state->xsave.data())
                          : call("KVM_GET_XSAVE", kvm_abi::kGetXsave, state->xsave.data()));
  } else {
    ASSIGN_OR_RETURN(state->fpu, fpu());
  }
  // KVM's list leaves out some MSRs that it has, the MTRRs among them.
  std::vector<std::uint32_t> indices = vm_.system().msr_indices();
  for (const MsrValue& msr : msrs) indices.push_back(msr.index);
  ASSIGN_OR_RETURN(state->msrs, this->msrs(indices));
  std::erase_if(state->msrs, [](const MsrValue& msr) { return keeps_value_over_reset(msr.index); });
  power_on_ = std::move(state);
  return ok();
}

Status KvmVcpu::start(const std::optional<BootRegisters>& boot, bool boot_processor) {
  CHECK(power_on_ != nullptr, apic_id_);
  VcpuPowerOn& state = *power_on_;
  const KvmOptional& has = vm_.system().optional();
  // Pending events first, so that nothing is injected into the new state; then the APIC's mode, which says
  // how its registers are read; the rest in QEMU's order.
  RETURN_IF_ERROR(set_events(kvm_vcpu_events{}));
  kvm_sregs special = state.sregs;
  kvm_regs general = state.regs;
  if (boot) {
    special = boot->sregs;
    special.apic_base = state.sregs.apic_base;
    std::ranges::fill(special.interrupt_bitmap, 0);
    general = boot->regs;
  }
  RETURN_IF_ERROR(set_sregs(special));
  RETURN_IF_ERROR(set_regs(general));
  if (has.xsave) {
    RETURN_IF_ERROR(call("KVM_SET_XSAVE", kvm_abi::kSetXsave, state.xsave.data()));
  } else {
    RETURN_IF_ERROR(set_fpu(state.fpu));
  }
  if (has.xcrs) RETURN_IF_ERROR(set_xcrs(state.xcrs));
  const auto refused = set_msrs(state.msrs);
  if (!refused) return refused.error();
  if (has.debug_registers) RETURN_IF_ERROR(call("KVM_SET_DEBUGREGS", KVM_SET_DEBUGREGS, &state.debugregs));
  RETURN_IF_ERROR(set_lapic(state.lapic));
  return set_mp_state(boot || boot_processor ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_UNINITIALIZED);
}

// The plain getters and setters: one ioctl each.
#define BULKHEAD_VCPU_STATE(name, type, get, set) \
  Result<type> KvmVcpu::name() const {            \
    type value{};                                 \
    RETURN_IF_ERROR(call(#get, get, &value));     \
    return value;                                 \
  }                                               \
  Status KvmVcpu::set_##name(const type& value) { \
    type copy = value;                            \
    return call(#set, set, &copy);                \
  }
BULKHEAD_VCPU_STATE(regs, kvm_regs, KVM_GET_REGS, KVM_SET_REGS)
BULKHEAD_VCPU_STATE(sregs, kvm_sregs, KVM_GET_SREGS, KVM_SET_SREGS)
BULKHEAD_VCPU_STATE(fpu, kvm_fpu, KVM_GET_FPU, KVM_SET_FPU)
BULKHEAD_VCPU_STATE(xcrs, kvm_xcrs, KVM_GET_XCRS, KVM_SET_XCRS)
BULKHEAD_VCPU_STATE(lapic, kvm_lapic_state, KVM_GET_LAPIC, KVM_SET_LAPIC)
BULKHEAD_VCPU_STATE(events, kvm_vcpu_events, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS)
#undef BULKHEAD_VCPU_STATE

Result<std::uint32_t> KvmVcpu::mp_state() const {
  kvm_mp_state state{};
  RETURN_IF_ERROR(call("KVM_GET_MP_STATE", KVM_GET_MP_STATE, &state));
  return state.mp_state;
}

Status KvmVcpu::set_mp_state(std::uint32_t value) {
  kvm_mp_state state{value};
  return call("KVM_SET_MP_STATE", KVM_SET_MP_STATE, &state);
}

Result<std::vector<kvm_cpuid_entry2>> KvmVcpu::cpuid() const {
  kvm_abi::CpuidList list(256);
  RETURN_IF_ERROR(call("KVM_GET_CPUID2", kvm_abi::kGetCpuid2, list.argument()));
  return list.items();
}

// KVM_GET_MSRS and KVM_SET_MSRS stop at the first MSR that they refuse and say how many went well: that one
// is skipped and the rest tried again.
Result<std::vector<MsrValue>> KvmVcpu::msrs(std::span<const std::uint32_t> indices) const {
  std::vector<MsrValue> values;
  values.reserve(indices.size());
  while (!indices.empty()) {
    MsrBlock block;
    const std::size_t count = std::min<std::size_t>(indices.size(), kMsrsPerCall);
    block.header.count = static_cast<std::uint32_t>(count);
    for (std::size_t i = 0; i < count; ++i) block.entries[i].index = indices[i];
    const int done = ::ioctl(fd_.get(), kvm_abi::kGetMsrs, &block);
    if (done < 0) return make_errno_error(fmt::format("vCPU {}: KVM_GET_MSRS failed", apic_id_));
    const auto good = static_cast<std::size_t>(done);
    for (std::size_t i = 0; i < good; ++i) values.push_back({block.entries[i].index, block.entries[i].data});
    indices = indices.subspan(std::min(count, good + (good < count ? 1 : 0)));
  }
  return values;
}

Result<std::vector<std::uint32_t>> KvmVcpu::set_msrs(std::span<const MsrValue> values) {
  std::vector<std::uint32_t> refused;
  while (!values.empty()) {
    MsrBlock block;
    const std::size_t count = std::min<std::size_t>(values.size(), kMsrsPerCall);
    block.header.count = static_cast<std::uint32_t>(count);
    for (std::size_t i = 0; i < count; ++i) {
      block.entries[i].index = values[i].index;
      block.entries[i].data = values[i].value;
    }
    const int done = ::ioctl(fd_.get(), kvm_abi::kSetMsrs, &block);
    if (done < 0) return make_errno_error(fmt::format("vCPU {}: KVM_SET_MSRS failed", apic_id_));
    const auto good = static_cast<std::size_t>(done);
    if (good < count) refused.push_back(values[good].index);
    values = values.subspan(std::min(count, good + (good < count ? 1 : 0)));
  }
  return refused;
}

std::optional<std::uint64_t> KvmVcpu::translate(std::uint64_t linear) const {
  kvm_translation translation{};
  translation.linear_address = linear;
  if (::ioctl(fd_.get(), KVM_TRANSLATE, &translation) < 0 || translation.valid == 0) return std::nullopt;
  return translation.physical_address;
}

void KvmVcpu::note_pause() {
  // Fails when the guest has not set up kvmclock: then it has no watchdog that looks there.
  if (vm_.system().optional().kvmclock_ctrl) ::ioctl(fd_.get(), KVM_KVMCLOCK_CTRL, 0UL);
}

std::optional<CoalescedRing> KvmVcpu::coalesced_ring() const {
  const std::uint64_t offset = vm_.system().optional().coalesced_mmio_page * kPageBytes;
  if (offset == 0 || offset + kPageBytes > run_size_) return std::nullopt;
  return CoalescedRing(reinterpret_cast<std::byte*>(run_) + offset, kPageBytes);
}

}  // namespace bulkhead::vmm
