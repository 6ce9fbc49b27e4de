#include "vmm/hypervisor/kvm_vm.h"

#include <fmt/format.h>
#include <sys/ioctl.h>

#include <cerrno>

#include "ipc/base/check.h"
#include "vmm/hypervisor/kvm_abi.h"
#include "vmm/hypervisor/kvm_vcpu.h"

namespace bulkhead::vmm {

namespace {

// KVM_CREATE_VM is interrupted by signals on a busy host; a few more tries are what QEMU gives it too.
constexpr int kCreateTries = 16;

int vm_ioctl(BorrowedFd fd, unsigned long request, const void* argument) {
  int answer;
  do {
    answer = ::ioctl(fd.get(), request, argument);
  } while (answer < 0 && errno == EINTR);
  return answer;
}

Status check_call(int answer, const char* what) {
  if (answer >= 0) return ok();
  return make_errno_error(what);
}

}  // namespace

KvmVm::KvmVm(const KvmSystem& system, UniqueFd fd)
    : system_(system), fd_(std::move(fd)), routes_(system.optional().max_gsi_routes) {}

KvmVm::~KvmVm() = default;

Result<std::unique_ptr<KvmVm>> KvmVm::create(const KvmSystem& system) {
  int fd = -1;
  for (int tries = 0; tries < kCreateTries; ++tries) {
    fd = ::ioctl(system.fd().get(), KVM_CREATE_VM, 0UL);
    if (fd >= 0 || errno != EINTR) break;
  }
  if (fd < 0) return make_errno_error("KVM cannot create a virtual machine (KVM_CREATE_VM)");
  std::unique_ptr<KvmVm> vm(new KvmVm(system, UniqueFd(fd)));

  // Before any vCPU, and before the irqchip: on Intel hosts the TSS becomes a memory slot.
  std::uint64_t identity_map = kIdentityMapAddress;
  RETURN_IF_ERROR(check_call(vm_ioctl(vm->fd(), KVM_SET_IDENTITY_MAP_ADDR, &identity_map),
                             "KVM refuses the identity map's address (KVM_SET_IDENTITY_MAP_ADDR)"));
  if (::ioctl(fd, KVM_SET_TSS_ADDR, kTssAddress) < 0)
    return make_errno_error("KVM refuses the TSS's address (KVM_SET_TSS_ADDR)");
  // No guest is told of a performance monitor (x86/cpuid.cc), and none gets to use one: best effort, since
  // older kernels cannot switch it off.
  kvm_enable_cap no_pmu{};
  no_pmu.cap = KVM_CAP_PMU_CAPABILITY;
  no_pmu.args[0] = KVM_PMU_CAP_DISABLE;
  vm_ioctl(vm->fd(), KVM_ENABLE_CAP, &no_pmu);
  return vm;
}

Status KvmVm::create_interrupts(std::uint16_t elcr) {
  CHECK(!has_interrupts_);
  if (::ioctl(fd_.get(), KVM_CREATE_IRQCHIP, 0UL) < 0)
    return make_errno_error("KVM cannot create the interrupt controllers (KVM_CREATE_IRQCHIP)");
  kvm_pit_config pit{};
  pit.flags = KVM_PIT_SPEAKER_DUMMY;
  RETURN_IF_ERROR(check_call(vm_ioctl(fd(), KVM_CREATE_PIT2, &pit), "KVM cannot create the PIT (KVM_CREATE_PIT2)"));

  for (std::uint32_t chip = 0; chip < power_on_chips_.size(); ++chip) {
    power_on_chips_[chip].chip_id = chip;
    RETURN_IF_ERROR(check_call(vm_ioctl(fd(), KVM_GET_IRQCHIP, &power_on_chips_[chip]),
                               "cannot read an interrupt controller (KVM_GET_IRQCHIP)"));
  }
  RETURN_IF_ERROR(check_call(vm_ioctl(fd(), KVM_GET_PIT2, &power_on_pit_), "cannot read the PIT (KVM_GET_PIT2)"));
  // The bits that the 8259s' ELCR has (PIIX3 data sheet: not IRQ 0, 1, 2, 8 and 13).
  power_on_chips_[KVM_IRQCHIP_PIC_MASTER].chip.pic.elcr = elcr & 0xF8;
  power_on_chips_[KVM_IRQCHIP_PIC_SLAVE].chip.pic.elcr = (elcr >> 8) & 0xDE;
  if (elcr != 0) {
    for (const std::uint32_t chip : {KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE}) {
      RETURN_IF_ERROR(check_call(vm_ioctl(fd(), KVM_SET_IRQCHIP, &power_on_chips_[chip]),
                                 "cannot set up an interrupt controller (KVM_SET_IRQCHIP)"));
    }
  }

  const std::lock_guard lock(mutex_);
  RETURN_IF_ERROR(install_routes(routes_));
  has_interrupts_ = true;
  return ok();
}

Status KvmVm::reset_interrupts() {
  CHECK(has_interrupts_);
  for (const kvm_irqchip& chip : power_on_chips_) {
    RETURN_IF_ERROR(
        check_call(vm_ioctl(fd(), KVM_SET_IRQCHIP, &chip), "cannot reset an interrupt controller (KVM_SET_IRQCHIP)"));
  }
  return check_call(vm_ioctl(fd(), KVM_SET_PIT2, &power_on_pit_), "cannot reset the PIT (KVM_SET_PIT2)");
}

Result<std::unique_ptr<KvmVcpu>> KvmVm::create_vcpu(std::uint32_t apic_id) { return KvmVcpu::create(*this, apic_id); }

Status KvmVm::set_memory_slot(const MemorySlot& slot) {
  kvm_userspace_memory_region region{};
  region.slot = slot.slot;
  region.flags = (slot.read_only ? KVM_MEM_READONLY : 0U) | (slot.log_dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0U);
  region.guest_phys_addr = slot.guest_address;
  region.memory_size = slot.size;
  region.userspace_addr = reinterpret_cast<std::uint64_t>(slot.host);
  if (vm_ioctl(fd(), KVM_SET_USER_MEMORY_REGION, &region) >= 0) return ok();
  return make_errno_error(
      fmt::format("KVM refuses memory slot {} of {} bytes at {:#x}", slot.slot, slot.size, slot.guest_address));
}

Result<std::uint32_t> KvmVm::allocate_msi_gsi() {
  const std::lock_guard lock(mutex_);
  const auto gsi = routes_.allocate();
  if (!gsi) return make_error("this host's KVM has no interrupt route left for another MSI vector");
  return *gsi;
}

void KvmVm::free_msi_gsi(std::uint32_t gsi) {
  const std::lock_guard lock(mutex_);
  const bool was_allocated = routes_.free(gsi);
  CHECK(was_allocated, gsi);
}

Status KvmVm::set_msi_routes(std::span<const MsiRoute> routes) {
  const std::lock_guard lock(mutex_);
  GsiTable changed = routes_;
  for (const MsiRoute& route : routes) {
    if (!changed.set(route.gsi, route.message))
      return make_error(fmt::format("GSI {} is not an MSI route of this VM", route.gsi));
  }
  RETURN_IF_ERROR(install_routes(changed));
  routes_ = std::move(changed);
  return ok();
}

Status KvmVm::install_routes(const GsiTable& table) {
  kvm_abi::RoutingList list(table.entries());
  return check_call(vm_ioctl(fd(), kvm_abi::kSetGsiRouting, list.argument()),
                    "KVM refuses the interrupt routes (KVM_SET_GSI_ROUTING)");
}

Status KvmVm::assign_irqfd(BorrowedFd event, std::uint32_t gsi, BorrowedFd resample) {
  kvm_irqfd irqfd{};
  irqfd.fd = static_cast<std::uint32_t>(event.get());
  irqfd.gsi = gsi;
  if (resample.valid()) {
    irqfd.flags = KVM_IRQFD_FLAG_RESAMPLE;
    irqfd.resamplefd = static_cast<std::uint32_t>(resample.get());
  }
  if (vm_ioctl(fd(), KVM_IRQFD, &irqfd) >= 0) return ok();
  return make_errno_error(fmt::format("cannot attach an eventfd to GSI {} (KVM_IRQFD)", gsi));
}

Status KvmVm::deassign_irqfd(BorrowedFd event, std::uint32_t gsi) {
  kvm_irqfd irqfd{};
  irqfd.fd = static_cast<std::uint32_t>(event.get());
  irqfd.gsi = gsi;
  irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
  if (vm_ioctl(fd(), KVM_IRQFD, &irqfd) >= 0) return ok();
  return make_errno_error(fmt::format("cannot detach an eventfd from GSI {} (KVM_IRQFD)", gsi));
}

namespace {

kvm_ioeventfd to_kvm(const IoEvent& io_event) {
  kvm_ioeventfd out{};
  out.addr = io_event.address;
  out.len = io_event.size;
  out.fd = io_event.event.get();
  if (io_event.port) out.flags |= 1U << kvm_ioeventfd_flag_nr_pio;
  if (io_event.match) {
    out.flags |= 1U << kvm_ioeventfd_flag_nr_datamatch;
    out.datamatch = *io_event.match;
  }
  return out;
}

kvm_coalesced_mmio_zone to_kvm(const CoalescedRange& range) {
  kvm_coalesced_mmio_zone out{};
  out.addr = range.address;
  out.size = range.size;
  out.pio = range.port ? 1 : 0;
  return out;
}

}  // namespace

Status KvmVm::add_io_event(const IoEvent& io_event) {
  const kvm_ioeventfd out = to_kvm(io_event);
  if (vm_ioctl(fd(), KVM_IOEVENTFD, &out) >= 0) return ok();
  return make_errno_error(fmt::format("cannot attach an eventfd to {} {:#x} (KVM_IOEVENTFD)",
                                      io_event.port ? "port" : "address", io_event.address));
}

Status KvmVm::remove_io_event(const IoEvent& io_event) {
  kvm_ioeventfd out = to_kvm(io_event);
  out.flags |= 1U << kvm_ioeventfd_flag_nr_deassign;
  if (vm_ioctl(fd(), KVM_IOEVENTFD, &out) >= 0) return ok();
  return make_errno_error(fmt::format("cannot detach an eventfd from {} {:#x} (KVM_IOEVENTFD)",
                                      io_event.port ? "port" : "address", io_event.address));
}

Status KvmVm::add_coalesced(const CoalescedRange& range) {
  const kvm_coalesced_mmio_zone zone = to_kvm(range);
  if (range.port && !system_.optional().coalesced_pio)
    return make_error("this host's KVM does not collect port writes (KVM_CAP_COALESCED_PIO)");
  return check_call(vm_ioctl(fd(), KVM_REGISTER_COALESCED_MMIO, &zone),
                    "KVM refuses to collect writes (KVM_REGISTER_COALESCED_MMIO)");
}

Status KvmVm::remove_coalesced(const CoalescedRange& range) {
  const kvm_coalesced_mmio_zone zone = to_kvm(range);
  return check_call(vm_ioctl(fd(), KVM_UNREGISTER_COALESCED_MMIO, &zone),
                    "KVM refuses to stop collecting writes (KVM_UNREGISTER_COALESCED_MMIO)");
}

Result<bool> KvmVm::signal_msi(const MsiRoute::Message& message) {
  kvm_msi msi{};
  msi.address_lo = static_cast<std::uint32_t>(message.address);
  msi.address_hi = static_cast<std::uint32_t>(message.address >> 32);
  msi.data = message.data;
  const int answer = vm_ioctl(fd(), KVM_SIGNAL_MSI, &msi);
  if (answer < 0) return make_errno_error("cannot raise an MSI (KVM_SIGNAL_MSI)");
  return answer > 0;
}

Status KvmVm::set_irq_line(std::uint32_t gsi, bool level) {
  kvm_irq_level line{};
  line.irq = gsi;
  line.level = level ? 1 : 0;
  return check_call(vm_ioctl(fd(), KVM_IRQ_LINE, &line), "cannot drive an interrupt line (KVM_IRQ_LINE)");
}

Result<VmClock> KvmVm::clock() const {
  kvm_clock_data data{};
  RETURN_IF_ERROR(check_call(vm_ioctl(fd(), KVM_GET_CLOCK, &data), "cannot read the guest's clock (KVM_GET_CLOCK)"));
  return VmClock{data.clock};
}

Status KvmVm::set_clock(VmClock clock) {
  kvm_clock_data data{};
  data.clock = clock.nanoseconds;
  return check_call(vm_ioctl(fd(), KVM_SET_CLOCK, &data), "cannot set the guest's clock (KVM_SET_CLOCK)");
}

}  // namespace bulkhead::vmm
