// VirtualMachine's address space: who answers where, and the ROMs in it.
#include <algorithm>

#include "ipc/screen/scan_out.h"
#include "vmm/machine/firmware_data.h"
#include "vmm/vm.h"

namespace bulkhead::vmm {

Result<std::vector<std::optional<OptionRom>>> VirtualMachine::read_option_roms() {
  std::vector<std::optional<OptionRom>> roms(config_.devices.size());
  std::size_t file = 0;
  for (std::size_t i = 0; i < config_.devices.size(); ++i) {
    const control::DeviceRequest& request = config_.devices[i];
    if (!request.rom) continue;
    const auto named = std::find_if(request.properties.begin(), request.properties.end(),
                                    [](const control::Property& property) { return property.key == "rom"; });
    ASSIGN_OR_RETURN(const FileSource source,
                     FileSource::from_fd(std::move(config_.files.roms[file++]),
                                         named != request.properties.end() ? named->value : request.type));
    ASSIGN_OR_RETURN(roms[i], read_option_rom(source));
  }
  return roms;
}

Status VirtualMachine::prepare_firmware(std::span<const std::optional<OptionRom>> roms) {
  ASSIGN_OR_RETURN(const FileSource file,
                   FileSource::from_fd(std::move(config_.files.firmware), config_.firmware_path));
  ASSIGN_OR_RETURN(const std::vector<std::byte> bios, read_bios(file));
  ASSIGN_OR_RETURN(bios_, Rom::create(bios, bios.size()));
  ASSIGN_OR_RETURN(const std::vector<std::byte> data, firmware_data(plan_, config_, roms));
  ASSIGN_OR_RETURN(firmware_data_, ipc::WritableRegion::create("bulkhead-fw-cfg", align_up(data.size(), kPageSize),
                                                               ipc::PeerRights::kReadOnly));
  std::copy(data.begin(), data.end(), firmware_data_.bytes().begin());
  for (const std::optional<OptionRom>& rom : roms) {
    option_roms_.emplace_back();
    if (!rom) continue;
    ASSIGN_OR_RETURN(option_roms_.back(), Rom::create(rom->bytes, rom->bar_size));
  }
  return ok();
}

void VirtualMachine::run_exclusively(const std::function<void()>& change) {
  // Before the vCPUs' threads exist, none runs.
  VcpuThreads* gate = gate_.load(std::memory_order_acquire);
  if (gate == nullptr) return change();
  gate->while_none_runs(change);
}

std::vector<Claim> VirtualMachine::fixed_claims() {
  std::vector<Claim> fixed = options_.extra_claims;
  for (const std::unique_ptr<DeviceProcess>& process : processes_) {
    for (std::uint16_t i = 0; i < process->plan().instances.size(); ++i) {
      const InstancePlan& instance = process->plan().instances[i];
      for (const RegionPlan& region : instance.regions) {
        if (!region.fixed) continue;
        const RegionDecl& decl = instance.type->regions[region.region];
        fixed.push_back({decl.memory ? Space::kMemory : Space::kPort, *region.fixed, decl.length, &process->channel(),
                         i, region.region, decl.posted, process->plan().name + "/" + instance.name});
      }
    }
  }
  // What no memory slot serves of these.
  fixed.push_back({.space = Space::kMemory,
                   .base = kShadowWindow,
                   .length = kExtendedMemory - kShadowWindow,
                   .channel = &*shadow_,
                   .owner = "shadow RAM"});
  if (bios_)
    fixed.push_back({.space = Space::kMemory,
                     .base = kFourGiB - bios_->bytes().size(),
                     .length = bios_->bytes().size(),
                     .channel = &*bios_,
                     .owner = "firmware"});
  return fixed;
}

std::vector<WindowPlan> VirtualMachine::window_plans() {
  std::vector<WindowPlan> windows;
  for (const PlannedWindow& window : plan_.windows) {
    DeviceProcess& owner = *processes_[window.role];
    const InstancePlan& instance = owner.plan().instances[window.instance];
    WindowPlan plan{.devfn = window.devfn,
                    .index = window.index,
                    .space = window.io ? Space::kPort : Space::kMemory,
                    .size = window.size,
                    .channel = &owner.channel(),
                    .instance = window.instance,
                    .region = window.region,
                    .posted = false,
                    .owner = owner.plan().name + "/" + instance.name};
    if (window.rom) {
      const auto device = std::find(plan_.functions.begin(), plan_.functions.end(), window.devfn);
      Rom& rom = *option_roms_[static_cast<std::size_t>(device - plan_.functions.begin())];
      plan.channel = &rom;
      plan.memory = rom.bytes();
    } else {
      if (window.screen) {
        plan.memory = screen_.bytes().first(screen::kVideoMemory);
        plan.writable = true;
      }
      plan.posted = window.region < instance.type->regions.size() && instance.type->regions[window.region].posted;
    }
    windows.push_back(std::move(plan));
    if (window.pci_cfg) bars_.add(windows.back());
  }
  return windows;
}

Status VirtualMachine::publish_windows() {
  for (const std::unique_ptr<DeviceProcess>& process : processes_) {
    for (const DeviceProcess::Kick& kick : process->kicks()) {
      const QueueDecl& queues = process->plan().instances[kick.instance].type->queues;
      effects_->add_doorbell({.channel = &process->channel(),
                              .instance = kick.instance,
                              .region = queues.region,
                              .offset = std::uint64_t{kDoorbellStride} * kick.queue},
                             kick.event.borrow());
    }
  }
  std::vector<Range> reserved;
  for (const RamRange& ram : ram_ranges(plan_.memory)) reserved.push_back(*Range::make(ram.guest_address, ram.size));
  // IOAPIC, local APICs, TSS and identity-map pages, and everything else that chipsets keep below 4 GiB.
  reserved.push_back(*Range::make(kPciWindowEnd, kFourGiB - kPciWindowEnd));
  return effects_->set_windows(WindowMap(window_plans(), std::move(reserved), fixed_claims()));
}

}  // namespace bulkhead::vmm
