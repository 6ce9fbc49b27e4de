#include "vmm/vm.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <future>

#include "ipc/base/log.h"
#include "ipc/screen/scan_out.h"
#include "sandbox/policies.h"
#include "vmm/hypervisor/kvm_abi.h"
#include "vmm/machine/disk_image.h"
#include "vmm/x86/cpuid.h"
#include "vmm/x86/msrs.h"

namespace bulkhead::vmm {
namespace {

constexpr std::int64_t kSecondNs = 1'000'000'000;

// What a vCPU thread may ask of KVM once the guest runs: run it, and carry out the effects of its own accesses. The
// rest is read for the report of a guest that crashed. Requests that take a list are named by kvm_abi: C++ gives the
// header's own macros another size, hence another number, than the kernel and KvmVm use.
constexpr std::array<std::uint32_t, 15> kVcpuIoctls = {KVM_RUN,
                                                       KVM_IRQFD,
                                                       KVM_IOEVENTFD,
                                                       kvm_abi::kSetGsiRouting,
                                                       KVM_GET_REGS,
                                                       KVM_GET_SREGS,
                                                       KVM_GET_FPU,
                                                       KVM_GET_XCRS,
                                                       KVM_GET_LAPIC,
                                                       KVM_GET_MP_STATE,
                                                       KVM_GET_VCPU_EVENTS,
                                                       KVM_GET_DEBUGREGS,
                                                       KVM_TRANSLATE,
                                                       kvm_abi::kGetMsrs,
                                                       KVM_SET_USER_MEMORY_REGION};

}  // namespace

VirtualMachine::VirtualMachine(control::VmConfig config, VmOptions options)
    : config_(std::move(config)), options_(std::move(options)) {
  if (options_.device_deadline_ns == 0) options_.device_deadline_ns = config_.device_deadline_ns;
}

Result<std::unique_ptr<VirtualMachine>> VirtualMachine::create(control::VmConfig config, UniqueFd child_signals,
                                                               VmOptions options) {
  std::unique_ptr<VirtualMachine> vm(new VirtualMachine(std::move(config), std::move(options)));
  ASSIGN_OR_RETURN(vm->event_, UniqueFd::create_eventfd());
  RETURN_IF_ERROR(vm->open_hypervisor());
  RETURN_IF_ERROR(vm->plan_and_open_files());
  RETURN_IF_ERROR(vm->create_memory());
  RETURN_IF_ERROR(vm->connect_vsock());
  RETURN_IF_ERROR(vm->create_devices(std::move(child_signals)));
  RETURN_IF_ERROR(vm->connect_interrupts());
  RETURN_IF_ERROR(vm->publish_windows());
  RETURN_IF_ERROR(vm->create_vcpus());
  RETURN_IF_ERROR(vm->start_guest_state());
  RETURN_IF_ERROR(vm->supervisor_->wait_until_serving());
  RETURN_IF_ERROR(vm->ask_for_desired_state());
  RETURN_IF_ERROR(vm->start_threads());
  RETURN_IF_ERROR(vm->start_peer_links());
  return vm;
}

VirtualMachine::~VirtualMachine() { shut_down(); }

Status VirtualMachine::open_hypervisor() {
  ASSIGN_OR_RETURN(system_, KvmSystem::open());
  if (config_.cpus > system_->optional().max_vcpus)
    return make_error(
        fmt::format("this host's KVM gives a VM at most {} CPUs, not {}", system_->optional().max_vcpus, config_.cpus));
  return ok();
}

// Whether a disk's requests go through an io_uring: as its user says, or where the host lets us have one.
Result<bool> VirtualMachine::takes_ring(BorrowedFd disk, const std::string& path, std::string_view aio) {
  if (aio == "blocking") return false;
  const Result<DiskRing> ring = DiskRing::create(disk);
  if (ring) return true;
  if (aio == "io_uring") return make_error(fmt::format("disk {}: {}", path, ring.error().message));
  log(LogLevel::kInfo, "disk {} goes without: {}", path, ring.error().message);
  return false;
}

// What the disks are like; each is locked from here on.
Result<std::vector<std::optional<DiskGeometry>>> VirtualMachine::inspect_disks() const {
  std::vector<std::optional<DiskGeometry>> disks(config_.devices.size());
  std::vector<BorrowedFd> seen;
  std::size_t file = 0;
  for (std::size_t i = 0; i < config_.devices.size(); ++i) {
    const control::DeviceRequest& request = config_.devices[i];
    const DeviceTypeDecl* type = find_device_type(request.type);
    if (type != nullptr && request.files != 0 &&
        std::find(type->backings.begin(), type->backings.end(), BackingKind::kDisk) != type->backings.end()) {
      const auto value_of = [&](std::string_view key, const std::string& otherwise) {
        const auto at = std::find_if(request.properties.begin(), request.properties.end(),
                                     [&](const control::Property& property) { return property.key == key; });
        return at != request.properties.end() ? at->value : otherwise;
      };
      const std::string name = value_of("path", request.type);
      const BorrowedFd disk = config_.files.devices[file].borrow();
      Result<DiskGeometry> found = inspect_disk(disk, name);
      // Its own lock is in its way: that is no other process's.
      const auto same = [&](BorrowedFd other) { return same_disk(disk, other); };
      if (!found && std::any_of(seen.begin(), seen.end(), same))
        return make_error(
            fmt::format("disk {} is given twice to this VM; only disks that are readonly=on may be", name));
      if (!found) return found.error();
      disks[i] = *found;
      seen.push_back(disk);
      ASSIGN_OR_RETURN(disks[i]->ring, takes_ring(disk, name, value_of("aio", "")));
    }
    file += request.files;
  }
  return disks;
}

Status VirtualMachine::plan_and_open_files() {
  ASSIGN_OR_RETURN(const std::vector<std::optional<DiskGeometry>> disks, inspect_disks());
  ASSIGN_OR_RETURN(const std::vector<std::optional<OptionRom>> roms, read_option_roms());
  std::vector<std::uint32_t> rom_sizes;
  for (const std::optional<OptionRom>& rom : roms)
    rom_sizes.push_back(rom ? static_cast<std::uint32_t>(rom->bar_size) : 0);
  ASSIGN_OR_RETURN(plan_, plan_machine(config_, physical_address_bits(system_->supported_cpuid()), disks, rom_sizes));
  for (const control::OnCrashRule& rule : config_.on_crash) {
    const auto named = [&](const RolePlan& role) { return rule.role.empty() || role.name == rule.role; };
    if (std::none_of(plan_.roles.begin(), plan_.roles.end(), named))
      return make_error("--on-crash: this VM has no device process named " + rule.role);
  }
  if (options_.boot) return ok();
  if (plan_.firmware) return prepare_firmware(roms);
  ASSIGN_OR_RETURN(FileSource kernel, FileSource::from_fd(std::move(config_.files.kernel), config_.kernel_path));
  std::optional<FileSource> initrd;
  if (config_.files.initrd.valid()) {
    ASSIGN_OR_RETURN(initrd, FileSource::from_fd(std::move(config_.files.initrd), config_.initrd_path));
  }
  ASSIGN_OR_RETURN(loader_, BootLoader::from_sources(std::move(kernel), std::move(initrd), config_.command_line));
  return loader_->check(plan_.acpi);
}

Status VirtualMachine::create_memory() {
  ASSIGN_OR_RETURN(vm_, KvmVm::create(*system_));
  ASSIGN_OR_RETURN(ram_, GuestRam::create(plan_.memory));
  // Slots before the interrupt controllers: afterwards each costs milliseconds (KVM waits for grace periods).
  std::uint32_t slot = 0;
  for (const RamRange& range : ram_ranges(plan_.memory)) {
    if (range.guest_address == kShadowWindow) continue;
    RETURN_IF_ERROR(vm_->set_memory_slot({.slot = slot++,
                                          .guest_address = range.guest_address,
                                          .size = range.size,
                                          .host = ram_->host() + range.offset}));
  }
  std::span<std::byte> rom;
  if (bios_) {
    const std::span<std::byte> bytes = bios_->bytes();
    rom = bytes.last(kMirroredRom);
    RETURN_IF_ERROR(vm_->set_memory_slot({.slot = kBiosSlot,
                                          .guest_address = kFourGiB - bytes.size(),
                                          .size = bytes.size(),
                                          .host = bytes.data(),
                                          .read_only = true}));
    fw_cfg_dma_.emplace(firmware_data_.bytes(), *ram_);
  }
  shadow_.emplace(*vm_, *ram_, rom, kFirstShadowSlot);
  shadow_->apply(plan_.firmware ? 0 : kShadowAllRam);  // as the registers are after reset
  return ok();
}

std::optional<FrameRingEnd> VirtualMachine::frame_ring_of(const RolePlan& role) const {
  const auto nth = static_cast<std::size_t>(&role - plan_.roles.data());
  if (cables_[nth] != nullptr) return cables_[nth]->end();
  if (!role.ring) return std::nullopt;
  return frame_links_[role.ring->link].end(role.ring->side);
}

// What a virtio_vsock and its relay share, and who connects to the host's programs for the relay.
Status VirtualMachine::connect_vsock() {
  if (!plan_.vsock) return ok();
  std::vector<UniqueFd>& files = config_.files.devices;
  ASSIGN_OR_RETURN(VsockLink link, VsockLink::create());
  ASSIGN_OR_RETURN(vsock_connector_, VsockConnector::start(std::move(link.connector), plan_.vsock->path));
  UniqueFd listener = std::move(files[plan_.vsock->listener]);
  for (UniqueFd* fd : {&link.device_area, &link.device_wake, &link.device_peer, &link.relay_area, &link.relay_wake,
                       &link.relay_peer, &listener, &link.relay_connector})
    files.push_back(std::move(*fd));
  return ok();
}

Status VirtualMachine::create_devices(UniqueFd child_signals) {
  router_ = std::make_unique<InterruptRouter>(*vm_);
  effects_ = std::make_unique<MachineEffects>(
      space_, *router_, *vm_, [this](PowerAction action, std::uint64_t value) { on_power(action, value); },
      [this](std::size_t role, PauseReason reason) { on_pause_wanted(role, reason); },
      [this](const std::function<void()>& change) { run_exclusively(change); });
  effects_->set_shadow_ram(*shadow_);
  if (plan_.screen) {
    ASSIGN_OR_RETURN(screen_, ipc::WritableRegion::create("bulkhead-screen", screen::kScreenRegionSize,
                                                          ipc::PeerRights::kReadWrite));
    effects_->set_video_memory(screen_.bytes().first(screen::kVideoMemory));
  }
  const std::int64_t born = ipc::monotonic_ns();
  processes_.resize(plan_.roles.size());
  cables_.resize(plan_.roles.size());
  for (std::size_t role = 0; role < plan_.roles.size(); ++role) {
    if (!plan_.roles[role].peer) continue;
    ASSIGN_OR_RETURN(cables_[role], FrameCable::create());
  }
  for (std::size_t i = 0; i < plan_.frame_links; ++i) {
    ASSIGN_OR_RETURN(FrameLink link, FrameLink::create());
    frame_links_.push_back(std::move(link));
  }
  for (std::size_t role = 0; role < plan_.roles.size(); ++role) {
    receivers_.push_back(&effects_->add_role(plan_.roles[role].effects()));
    ipc::RequestProducer::Options ring;
    ring.deadline_ns = plan_.roles[role].deadline_ns(options_.device_deadline_ns);
    ring.on_overdue = [this, role](ipc::Ticket ticket, std::uint32_t incarnation) {
      supervisor_->condemn(*processes_[role], incarnation, fmt::format("request {} was not answered in time", ticket),
                           true);
    };
    ring.on_violation = [this, role](const char* what, std::uint32_t incarnation) {
      on_violation(*processes_[role], what, incarnation);
    };
    const bool of_fw_cfg = role == plan_.platform_role && fw_cfg_dma_.has_value();
    ASSIGN_OR_RETURN(processes_[role],
                     DeviceProcess::create(plan_.roles[role], config_.files.devices, *ram_, *receivers_[role], *router_,
                                           std::move(ring), role == plan_.pci_role ? &bars_ : nullptr,
                                           frame_ring_of(plan_.roles[role]), of_fw_cfg ? &*fw_cfg_dma_ : nullptr,
                                           of_fw_cfg ? firmware_data_.fd() : BorrowedFd(),
                                           plan_.screen == role ? screen_.fd() : BorrowedFd()));
    processes_[role]->requests().time.base_ns.store(born, std::memory_order_release);
  }
  ASSIGN_OR_RETURN(sandbox::Executable executable,
                   sandbox::Executable::from_fd(std::move(config_.files.device_executable), "bulkhead-device"));
  std::optional<sandbox::Executable> usernet;
  if (config_.files.usernet_executable.valid()) {
    ASSIGN_OR_RETURN(usernet,
                     sandbox::Executable::from_fd(std::move(config_.files.usernet_executable), "bulkhead-usernet"));
  }
  Supervisor::Options options{.vm = config_.name,
                              .deadline_ns = options_.device_deadline_ns,
                              .standby = options_.standby,
                              .usernet = std::move(usernet)};
  ASSIGN_OR_RETURN(supervisor_,
                   Supervisor::start(std::move(executable), std::move(child_signals), std::move(options), events_,
                                     [this](DeviceProcess& process, bool stop, const control::DeviceEvent& isolated) {
                                       on_loss(process, stop, isolated);
                                     }));
  std::vector<Supervisor::Role> all;
  for (const std::unique_ptr<DeviceProcess>& process : processes_)
    all.push_back({process.get(), policy_of(process->plan())});
  supervisor_->launch(std::move(all));
  // The processes get ready while the rest of the machine is made.
  return vm_->create_interrupts(plan_.firmware ? 0 : kFirmwareElcr);
}

Status VirtualMachine::connect_interrupts() {
  for (const std::unique_ptr<DeviceProcess>& process : processes_) {
    const std::vector<InstancePlan>& instances = process->plan().instances;
    for (const DeviceProcess::Line& line : process->lines()) {
      if (line.plan.gsi) {
        RETURN_IF_ERROR(router_->add_fixed_line(*line.plan.gsi, line.event.borrow(), line.resample.borrow()));
        continue;
      }
      const InstancePlan& instance = instances[line.instance];
      router_->add_intx_line(*instance.devfn, instance.type->pci->interrupt_pin, line.event.borrow(),
                             line.resample.borrow());
    }
    for (std::uint16_t i = 0; i < instances.size(); ++i) {
      if (!instances[i].devfn) continue;
      router_->add_messages(*instances[i].devfn, process->messages(i));
      effects_->add_function_owner(*instances[i].devfn, process->channel(), i);
    }
  }
  return ok();
}

Status VirtualMachine::create_vcpus() {
  const std::uint32_t bits = physical_address_bits(system_->supported_cpuid());
  const std::vector<MsrValue> msrs =
      initial_msrs({.hole_base = plan_.memory.pci_window, .physical_address_bits = bits});
  for (std::uint32_t i = 0; i < config_.cpus; ++i) {
    ASSIGN_OR_RETURN(std::unique_ptr<KvmVcpu> vcpu, vm_->create_vcpu(plan_.topology.apic_id(i)));
    const std::vector<kvm_cpuid_entry2> cpuid = guest_cpuid(
        system_->supported_cpuid(),
        {.topology = plan_.topology, .vcpu = i, .tsc_deadline_timer = system_->optional().tsc_deadline_timer});
    RETURN_IF_ERROR(vcpu->initialize(cpuid, msrs));
    vcpu->set_guest_reader(
        [this](std::uint64_t address, std::span<std::byte> out) { return ram_->read(address, out); });
    vcpus_.push_back(std::move(vcpu));
  }
  return ok();
}

Result<BootRegisters> VirtualMachine::load_boot() {
  if (options_.boot) return (*options_.boot)(*ram_);
  return loader_->load(*ram_, plan_.acpi);
}

Status VirtualMachine::start_guest_state() {
  std::optional<BootRegisters> boot;
  if (!plan_.firmware) {
    ASSIGN_OR_RETURN(boot, load_boot());
  }
  for (std::size_t i = 0; i < vcpus_.size(); ++i)
    RETURN_IF_ERROR(vcpus_[i]->start(i == 0 ? boot : std::nullopt, i == 0));
  return ok();
}

Status VirtualMachine::ask_for_desired_state() {
  // What the `pci` process's state (as firmware would have left it) asks for, in pieces of one reply each.
  RemoteChannel& pci = processes_[plan_.pci_role]->channel();
  std::uint32_t total = 1;
  // For all pieces together: a hostile process could say that there is always another, and take its time over each.
  const std::int64_t until = ipc::monotonic_ns() + patience_ns();
  for (std::uint32_t from = 0; from < total && from < 2 * kMaxVectors * 32; from += kMaxEffects) {
    const std::optional<ipc::Reply> reply = pci.request(ipc::RequestKind::kDesiredState, plan_.pci_instance, 0, from);
    if (!reply || reply->status != ipc::ReplyStatus::kDone)
      return make_error("the pci device process did not say where its functions are");
    std::memcpy(&total, reply->payload, sizeof total);
    if (from + kMaxEffects < total && ipc::monotonic_ns() > until)
      return make_error("the pci device process did not say in time where its functions are");
  }
  return ok();
}

Status VirtualMachine::start_peer_links() {
  for (std::size_t role = 0; role < plan_.roles.size(); ++role) {
    const std::optional<PeerPlan>& peer = plan_.roles[role].peer;
    if (!peer) continue;
    ASSIGN_OR_RETURN(UniqueFd socket, UniqueFd::duplicate(config_.files.devices.at(peer->file).borrow()));
    const auto plug = [this, role](std::shared_ptr<FrameCable> cable) {
      DeviceProcess& process = *processes_[role];
      const FrameRingEnd end = cable->end();
      const auto event = cable->plugged() ? control::DeviceEventKind::kPlugged : control::DeviceEventKind::kUnplugged;
      const std::string why =
          cable->plugged() ? "the VM at its cable's other end is there" : "the VM at its cable's other end is gone";
      const Status done = supervisor_->rewire(process, event, why, [&] { return process.set_frame_ring(end, cable); });
      if (!done) log(LogLevel::kWarning, "{}: {}", process.plan().name, done.error().message);
    };
    ASSIGN_OR_RETURN(std::unique_ptr<PeerLink> link,
                     PeerLink::start(std::move(socket), peer->path, plan_.roles[role].name, plug));
    peer_links_.push_back(std::move(link));
  }
  return ok();
}

namespace {

// For small records that are all taken, or none: { read, write }.
Result<std::array<UniqueFd, 2>> create_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) return make_errno_error("cannot create a pipe");
  return std::array<UniqueFd, 2>{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

}  // namespace

Status VirtualMachine::start_threads() {
  std::vector<StreamPump::Role> roles;
  for (std::size_t role = 0; role < processes_.size(); ++role)
    roles.push_back({processes_[role].get(), receivers_[role]});
  std::vector<StreamPump::Console> consoles;
  ASSIGN_OR_RETURN(auto keyboard, create_pipe());
  ASSIGN_OR_RETURN(auto typed, create_pipe());
  keyboard_ = std::move(keyboard[1]);
  typed_ = std::move(typed[1]);
  consoles.push_back({plan_.keyboard, {.input = std::move(keyboard[0])}});
  consoles.push_back({plan_.console,
                      {.kind = config_.console,
                       .input = std::move(config_.files.console_input),
                       .output = std::move(config_.files.console_output),
                       .typed = std::move(typed[0]),
                       .log = &console_log_}});
  for (const ConsolePlan& console : plan_.consoles) {
    std::vector<UniqueFd>& files = config_.files.devices;
    const FileRange& own = console.files;
    ConsoleFiles ends{.kind = console.kind};
    if (own.count == 2) ends.input = std::move(files[own.first]);
    if (own.count != 0) ends.output = std::move(files[own.first + own.count - 1]);
    consoles.push_back({console.stream, std::move(ends)});
  }
  std::vector<Vcpu*> vcpus;
  for (const std::unique_ptr<KvmVcpu>& vcpu : vcpus_) vcpus.push_back(vcpu.get());
  threads_ =
      std::make_unique<VcpuThreads>(vcpus, space_, [this](std::uint32_t vcpu, ExitAction action, std::string report) {
        on_vcpu_end(vcpu, action, std::move(report));
      });
  gate_.store(threads_.get(), std::memory_order_release);
  // After the vCPUs' gate exists: a device may ask for the end of the machine from the first moment on.
  ASSIGN_OR_RETURN(pump_,
                   StreamPump::start(std::move(roles), std::move(consoles), plan_.debug,
                                     [this](DeviceProcess& process, const char* what, std::uint32_t incarnation) {
                                       on_violation(process, what, incarnation);
                                     }));
  std::optional<sandbox::CompiledFilter> filter;
  if (options_.filter_vcpus) {
    ASSIGN_OR_RETURN(filter, sandbox::compile_vcpu_filter(kVcpuIoctls, ::getpid()));
  }
  return threads_->start(filter);
}

void VirtualMachine::shut_down() {
  if (shut_down_) return;
  shut_down_ = true;
  peer_links_.clear();
  // Requests that are on their way still get their answers; a device that does not answer is cut off.
  if (threads_) {
    if (!threads_->close(2 * kSecondNs)) {
      for (const std::unique_ptr<DeviceProcess>& process : processes_) process->ring().close();
    }
    threads_->stop();
  }
  if (pump_) pump_->finish();
  for (const std::unique_ptr<DeviceProcess>& process : processes_) {
    if (process) process->ring().close();
  }
  if (supervisor_) supervisor_->end_all();
}

}  // namespace bulkhead::vmm
