#include "vmm/machine/plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "ipc/roles/vga_decl.h"
#include "vmm/machine/device_request.h"

namespace bulkhead::vmm {
namespace {

constexpr std::uint16_t kFwCfgPort = 0x510;
constexpr std::uint16_t kFwCfgDmaPort = 0x514;

InstancePlan make_instance(std::string name, std::string_view type, DeviceConfig config,
                           std::vector<std::uint64_t> bases, std::vector<std::uint32_t> gsis = {}) {
  InstancePlan plan;
  plan.name = std::move(name);
  plan.type = find_device_type(type);
  plan.config = std::move(config);
  for (std::size_t i = 0; i < bases.size(); ++i) plan.regions.push_back({static_cast<std::uint16_t>(i), bases[i]});
  for (std::size_t i = 0; i < gsis.size(); ++i) plan.lines.push_back({plan.type->lines[i].kind, gsis[i]});
  return plan;
}

RolePlan make_platform(const control::VmConfig& config, const MemoryLayout& memory, bool debug_exit) {
  const bool firmware = !config.firmware_path.empty();
  RolePlan role{.name = "platform", .syscalls = {}, .instances = {}};
  role.instances.push_back(make_instance("com1", "uart16550", Uart16550Config{}, {0x3F8}, {4}));
  role.instances.push_back(make_instance("com2", "uart16550", Uart16550Config{}, {0x2F8}, {3}));
  role.instances.push_back(make_instance("rtc", "cmos_rtc",
                                         CmosRtcConfig{.ram_below_4g = memory.low_ram,
                                                       .ram_above_4g = memory.high_ram,
                                                       .cpus = static_cast<std::uint16_t>(config.cpus)},
                                         {0x70}, {8}));
  role.instances.push_back(make_instance("i8042", "i8042", I8042Config{}, {0x60, 0x64}, {1, 12}));
  InstancePlan pm =
      make_instance("pm", "acpi_pm", AcpiPmConfig{.sci_enabled = !firmware}, {0, 0xAFE0, 0xB2}, {kSciGsi});
  pm.regions[0].fixed.reset();  // PMBASE decides
  role.instances.push_back(std::move(pm));
  role.instances.push_back(make_instance("ports", "system_ports", SystemPortsConfig{}, {0x92, 0x80, 0xE9, 0x402}));
  if (firmware) role.instances.push_back(make_instance("fw-cfg", "fw_cfg", FwCfgConfig{}, {kFwCfgPort, kFwCfgDmaPort}));
  if (debug_exit)
    role.instances.push_back(make_instance("debug-exit", "debug_exit", DebugExitConfig{}, {kDebugExitPort}));
  return role;
}

// One slot for each request, in order: those that were asked for by number first, then the lowest free ones.
Result<std::vector<std::uint8_t>> choose_slots(const std::vector<FunctionRequest>& requests) {
  std::vector<bool> used(kSlots, false);
  std::vector<std::uint8_t> slots(requests.size(), 0);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    if (!requests[i].slot) continue;
    const std::uint8_t slot = *requests[i].slot;
    if (used[slot]) return make_error(fmt::format("two devices want PCI slot {}", slot));
    used[slot] = true;
    slots[i] = slot;
  }
  for (std::uint8_t& slot : slots) {
    if (slot != 0) continue;
    const auto free = std::find(used.begin() + kFirstFreeSlot, used.end(), false);
    if (free == used.end()) return make_error("there are more PCI devices than slots");
    *free = true;
    slot = static_cast<std::uint8_t>(free - used.begin());
  }
  return slots;
}

std::string known_types() {
  std::string names = "debug_exit";
  for (const DeviceTypeDecl& type : all_device_types()) {
    if (type.pci != nullptr) names += fmt::format(", {}", type.type);
  }
  return names;
}

// The far end of a card's frame ring.
RolePlan make_usernet(const UsernetConfig& config, const std::string& tftp, std::size_t link) {
  const std::string name = fmt::format("usernet{}", link);
  RolePlan role{.name = name, .syscalls = {}, .instances = {}};
  role.instances.push_back(make_instance(name, "usernet", config, {}));
  const DeviceTypeDecl& type = *role.instances.back().type;
  role.syscalls = type.syscalls;
  role.jail = {.host_network = type.host_network, .tftp = tftp};
  role.ring = {.link = link, .side = 1};
  return role;
}

InstancePlan make_pci_device(std::string name, FunctionRequest&& request, std::uint8_t devfn) {
  InstancePlan plan;
  plan.name = std::move(name);
  plan.type = request.type;
  plan.config = std::move(request.config);
  plan.devfn = devfn;
  for (std::uint16_t i = 0; i < plan.type->regions.size(); ++i) {
    const std::uint64_t fixed = plan.type->regions[i].fixed;
    plan.regions.push_back({i, fixed != 0 ? std::optional(fixed) : std::nullopt});
  }
  for (const LineDecl& line : plan.type->lines) plan.lines.push_back({line.kind, std::nullopt});
  return plan;
}

bool is_nic(std::string_view type) { return type == "virtio_net" || type == "e1000"; }

// "virtio_net0", but "e1000_0".
std::string role_name(std::string_view type, std::size_t index) {
  return fmt::format("{}{}{}", type, type.back() >= '0' && type.back() <= '9' ? "_" : "", index);
}

// The PCI functions that were asked for, in order, and where the descriptors of each are.
Result<std::vector<FunctionRequest>> read_requests(const control::VmConfig& config,
                                                   std::span<const std::optional<DiskGeometry>> disks, bool& debug_exit,
                                                   std::vector<FileRange>& files, std::vector<std::size_t>& origins) {
  std::vector<FunctionRequest> functions;
  std::size_t first_file = 0;
  std::size_t nics = 0;
  for (std::size_t i = 0; i < config.devices.size(); ++i) {
    const control::DeviceRequest& request = config.devices[i];
    const FileRange own{first_file, request.files};
    first_file += request.files;
    if (request.type == "debug_exit") {
      if (!request.properties.empty()) return make_error("device debug_exit has no properties");
      debug_exit = true;
      continue;
    }
    const DeviceTypeDecl* type = find_device_type(request.type);
    if (type == nullptr || type->pci == nullptr)
      return make_error(fmt::format("there is no device type \"{}\"; known are {}", request.type, known_types()));
    const std::size_t nic = is_nic(request.type) ? nics++ : 0;
    ASSIGN_OR_RETURN(FunctionRequest function,
                     read_request(request, i < disks.size() ? disks[i] : std::nullopt, default_mac(config.name, nic)));
    functions.push_back(std::move(function));
    files.push_back(own);
    origins.push_back(i);
  }
  return functions;
}

std::string path_of(const control::DeviceRequest& request) {
  for (const control::Property& property : request.properties) {
    if (property.key == "path") return property.value;
  }
  return {};
}

// The relay of the virtio_vsock in `device`, and where the descriptors of both are.
Result<RolePlan> plan_vsock(const control::VmConfig& config, InstancePlan& device, MachinePlan& plan) {
  if (plan.vsock) return make_error("there can be one virtio_vsock only");
  std::size_t of_launcher = 0;
  plan.vsock.emplace();
  for (const control::DeviceRequest& request : config.devices) {
    if (request.type == "virtio_vsock") {
      plan.vsock->path = path_of(request);
      plan.vsock->listener = of_launcher;
    }
    of_launcher += request.files;
  }
  device.files = {of_launcher, kVsockDeviceFiles};
  RolePlan role{.name = "vsock_relay0", .syscalls = {}, .instances = {}};
  const std::uint32_t cid = std::get<VirtioVsockConfig>(device.config).guest_cid;
  role.instances.push_back(make_instance("vsock_relay0", "vsock_relay", VsockRelayConfig{.guest_cid = cid}, {}));
  role.instances.back().files = {of_launcher + kVsockDeviceFiles, kVsockRelayFiles};
  role.syscalls = role.instances.back().type->syscalls;
  return role;
}

void plan_windows(MachinePlan& plan, const PciBusConfig& bus) {
  plan.windows.push_back({.devfn = kPmDevfn,
                          .index = kPmWindow,
                          .size = kPmWindowSize,
                          .io = true,
                          .role = plan.platform_role,
                          .instance = plan.pm_instance,
                          .region = 0});
  for (std::size_t role = 0; role < plan.roles.size(); ++role) {
    for (std::uint16_t i = 0; i < plan.roles[role].instances.size(); ++i) {
      const InstancePlan& instance = plan.roles[role].instances[i];
      if (!instance.devfn) continue;
      for (const BarDecl& bar : instance.type->pci->bars) {
        PlannedWindow window{.devfn = *instance.devfn,
                             .index = bar.bar,
                             .size = bar.size,
                             .io = bar.kind == BarKind::kIo,
                             .role = role,
                             .instance = i,
                             .region = bar.region,
                             .screen = instance.type->screen && bar.region == kVgaVideoMemory,
                             .pci_cfg = bar.bar != kRomBar && has_pci_cfg(*instance.type->pci)};
        if (bar.msix) {
          window.role = plan.pci_role;
          window.instance = plan.pci_instance;
          window.region = msix_region_of(bus, find_pci_decl, *instance.devfn).value_or(0);
        }
        plan.windows.push_back(window);
      }
      const auto function = std::find_if(bus.functions.begin(), bus.functions.end(),
                                         [&](const PciFunctionConfig& one) { return one.devfn == *instance.devfn; });
      if (function->rom_size == 0) continue;
      plan.windows.push_back({.devfn = *instance.devfn,
                              .index = kRomBar,
                              .size = function->rom_size,
                              .role = role,
                              .instance = i,
                              .rom = true});
    }
  }
}

}  // namespace

bool RolePlan::guest_memory() const {
  return std::any_of(instances.begin(), instances.end(),
                     [](const InstancePlan& instance) { return instance.type->guest_memory; });
}

std::int64_t RolePlan::deadline_ns(std::int64_t usual) const {
  // Without a ring a disk's system calls block, and a register access waits behind one; a busy disk may take seconds
  // over a flush. Killing the process would not make it faster.
  constexpr std::int64_t kDiskDeadlineNs = 60'000'000'000;
  return syscalls.contains(SyscallGroup::kFileIo) ? std::max(usual, kDiskDeadlineNs) : usual;
}

std::uint32_t RolePlan::effects() const {
  std::uint32_t all = 0;
  for (const InstancePlan& instance : instances) {
    std::uint32_t granted = instance.type->effects;
    // Only a disk whose user wants that may pause the VM.
    const auto* disk = std::get_if<VirtioBlkConfig>(&instance.config);
    if (disk != nullptr && !disk->stop_on_no_space) granted &= ~effect_bit(EffectKind::kPause);
    all |= granted;
  }
  return all;
}

Result<MachinePlan> plan_machine(const control::VmConfig& config, std::uint32_t physical_address_bits,
                                 std::span<const std::optional<DiskGeometry>> disks,
                                 std::span<const std::uint32_t> roms) {
  MachinePlan plan;
  plan.topology = {config.topology.sockets, config.topology.cores, config.topology.threads};
  if (!plan.topology.valid() || plan.topology.vcpus() != config.cpus)
    return make_error(fmt::format("{} CPUs cannot be arranged as {} sockets of {} cores of {} threads", config.cpus,
                                  config.topology.sockets, config.topology.cores, config.topology.threads));
  ASSIGN_OR_RETURN(plan.memory, plan_memory(config.memory_bytes, physical_address_bits));

  bool debug_exit = false;
  std::vector<FileRange> files;
  std::vector<std::size_t> origins;  // of each function, its index in config.devices
  ASSIGN_OR_RETURN(std::vector<FunctionRequest> functions, read_requests(config, disks, debug_exit, files, origins));
  ASSIGN_OR_RETURN(const std::vector<std::uint8_t> slots, choose_slots(functions));
  std::vector<RolePlan> extra;
  std::vector<RolePlan> networks;
  std::optional<RolePlan> relay;
  plan.firmware = !config.firmware_path.empty();
  plan.functions.assign(config.devices.size(), 0);
  PciBusConfig bus{
      .pm_base = plan.firmware ? std::uint16_t{0} : kPmBase, .ram_below_4g = plan.memory.low_ram, .functions = {}};
  for (std::size_t i = 0; i < functions.size(); ++i) {
    const auto devfn = static_cast<std::uint8_t>(slots[i] << 3);
    const DeviceTypeDecl& type = *functions[i].type;
    std::string name = type.screen ? std::string(type.type) : role_name(type.type, i);
    const std::uint32_t rom = origins[i] < roms.size() ? roms[origins[i]] : 0;
    bus.functions.push_back({devfn, std::string(type.type), rom});
    plan.functions[origins[i]] = devfn;
    if (functions[i].boot_index) plan.boot_order.push_back({*functions[i].boot_index, devfn, &type});
    RolePlan role{.name = name, .syscalls = syscalls_of(type, functions[i].config), .instances = {}};
    if (functions[i].usernet) {
      role.ring = {.link = plan.frame_links, .side = 0};
      networks.push_back(make_usernet(*functions[i].usernet, functions[i].tftp, plan.frame_links++));
    }
    if (!functions[i].peer.empty()) role.peer = {.path = functions[i].peer, .file = files[i].first};
    role.instances.push_back(make_pci_device(std::move(name), std::move(functions[i]), devfn));
    role.instances.back().files = files[i];
    const std::size_t index = 2 + extra.size();  // pci and platform come first
    if (type.type == "virtio_console")
      plan.consoles.push_back({.stream = {index, 0}, .kind = functions[i].console, .files = files[i]});
    if (type.screen) {
      if (plan.screen) return make_error("there can be one VGA only");
      plan.screen = index;
    }
    if (type.type == "virtio_vsock") {
      ASSIGN_OR_RETURN(relay, plan_vsock(config, role.instances.back(), plan));
    }
    if (type.type == "virtio_balloon") {
      if (plan.balloon) return make_error("there can be one virtio_balloon only");
      const std::uint64_t target = std::get<VirtioBalloonConfig>(role.instances.back().config).target;
      if (target > config.memory_bytes)
        return make_error(fmt::format("a balloon of {} bytes is larger than the guest's memory", target));
      plan.balloon = index;
    }
    extra.push_back(std::move(role));
  }
  std::sort(bus.functions.begin(), bus.functions.end(),
            [](const PciFunctionConfig& a, const PciFunctionConfig& b) { return a.devfn < b.devfn; });

  std::stable_sort(plan.boot_order.begin(), plan.boot_order.end(),
                   [](const BootDevice& a, const BootDevice& b) { return a.boot_index < b.boot_index; });
  for (std::size_t i = 1; i < plan.boot_order.size(); ++i) {
    if (plan.boot_order[i].boot_index == plan.boot_order[i - 1].boot_index)
      return make_error(
          fmt::format("two devices want to be number {} of the boot order", plan.boot_order[i].boot_index));
  }

  RolePlan pci{.name = "pci", .syscalls = {}, .instances = {}};
  pci.instances.push_back(make_instance("pci", "pci_bus", bus, {0xCF8}));
  plan.roles.push_back(std::move(pci));
  plan.roles.push_back(make_platform(config, plan.memory, debug_exit));
  plan.pci_role = 0;
  plan.platform_role = 1;
  plan.pm_instance = 4;
  for (RolePlan& role : extra) plan.roles.push_back(std::move(role));
  for (RolePlan& role : networks) plan.roles.push_back(std::move(role));
  if (relay) plan.roles.push_back(std::move(*relay));
  plan_windows(plan, bus);

  std::uint32_t stream = 0;
  for (const InstancePlan& instance : plan.roles[plan.platform_role].instances) {
    if (instance.name == "com1") plan.console = {plan.platform_role, stream};
    if (instance.name == "i8042") plan.keyboard = {plan.platform_role, stream};
    if (instance.name == "ports") plan.debug = {plan.platform_role, stream};
    stream += instance.type->streams;
  }

  plan.acpi.memory = plan.memory;
  for (std::uint32_t i = 0; i < config.cpus; ++i) plan.acpi.apic_ids.push_back(plan.topology.apic_id(i));
  plan.acpi.uarts = {{0x3F8, 4}, {0x2F8, 3}};
  plan.acpi.pm_base = kPmBase;
  plan.acpi.sci = kSciGsi;
  plan.acpi.firmware = plan.firmware;
  return plan;
}

}  // namespace bulkhead::vmm
