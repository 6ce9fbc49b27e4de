#include "vmm/machine/firmware_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "vmm/hypervisor/kvm_vm.h"
#include "vmm/memory/e820.h"

namespace bulkhead::vmm {
namespace {

constexpr std::uint16_t kSerialConsole = 0x3F8;

#pragma pack(push, 1)
struct E820File {
  std::uint64_t address;
  std::uint64_t size;
  std::uint32_t type;
};
#pragma pack(pop)
static_assert(sizeof(E820File) == 20);

// RAM as it is, before firmware takes its share of it, and what no firmware may use.
FwCfgImage::Bytes e820(const MemoryLayout& memory) {
  FwCfgImage::Bytes bytes;
  const auto add = [&](std::uint64_t address, std::uint64_t size, E820Type type) {
    if (size == 0) return;
    const E820File entry{address, size, static_cast<std::uint32_t>(type)};
    bytes.resize(bytes.size() + sizeof entry);
    std::memcpy(bytes.data() + bytes.size() - sizeof entry, &entry, sizeof entry);
  };
  add(kIdentityMapAddress, kTssAddress + 3 * kPageSize - kIdentityMapAddress, E820Type::kReserved);
  add(0, memory.low_ram, E820Type::kRam);
  add(kFourGiB, memory.high_ram, E820Type::kRam);
  return bytes;
}

// S0 to S5: bit 7 for one that there is, below it SLP_TYP.
FwCfgImage::Bytes sleep_states() {
  constexpr std::byte kThere{0x80};
  return {kThere, {}, {}, {}, {}, kThere};
}

void add_option_roms(FwCfgImage& image, const MachinePlan& plan, const control::VmConfig& config,
                     std::span<const std::optional<OptionRom>> roms) {
  std::map<std::string, const OptionRom*> files;  // by name: SeaBIOS looks for one a device id
  for (std::size_t i = 0; i < roms.size(); ++i) {
    if (!roms[i] || plan.functions[i] == 0) continue;
    const PciDecl& pci = *find_device_type(config.devices[i].type)->pci;
    if (roms[i]->pc == OptionRom::Id{pci.vendor_id, pci.device_id}) continue;
    files.emplace(fmt::format("pci{:04x},{:04x}.rom", pci.vendor_id, pci.device_id), &*roms[i]);
  }
  for (const auto& [name, rom] : files) image.add_file(name, rom->bytes);
}

}  // namespace

std::string boot_order_text(std::span<const BootDevice> devices) {
  std::string text;
  for (const BootDevice& device : devices) {
    const unsigned slot = device.devfn >> 3;
    const std::uint32_t base_class = device.type->pci->class_code >> 16;
    constexpr std::uint32_t kStorage = 1;
    constexpr std::uint32_t kNetwork = 2;
    const std::string path = base_class == kStorage   ? fmt::format("/pci@i0cf8/scsi@{:x}/disk@0,0", slot)
                             : base_class == kNetwork ? fmt::format("/pci@i0cf8/ethernet@{:x}/ethernet-phy@0", slot)
                                                      : fmt::format("/pci@i0cf8/device@{:x}", slot);
    text += (text.empty() ? "" : "\n") + path;
  }
  return text;
}

Result<std::vector<std::byte>> firmware_data(const MachinePlan& plan, const control::VmConfig& config,
                                             std::span<const std::optional<OptionRom>> roms) {
  FwCfgImage image;
  const std::uint32_t last_apic_id = *std::max_element(plan.acpi.apic_ids.begin(), plan.acpi.apic_ids.end());
  image.add_number(kFwCfgRamSize, plan.memory.ram(), 8);
  image.add_number(kFwCfgNoGraphic, plan.acpi.vga ? 0 : 1, 2);
  image.add_number(kFwCfgCpus, config.cpus, 2);
  image.add_number(kFwCfgMaxCpus, last_apic_id + 1, 2);
  image.add_number(kFwCfgIrq0Override, 1, 1);
  image.add_number(kFwCfgBootMenu, config.boot_menu_ms != 0 ? 1 : 0, 2);

  image.add_file("etc/e820", e820(plan.memory));
  image.add_file("etc/system-states", sleep_states());
  image.add_file_number("etc/boot-fail-wait", UINT32_MAX, 4);  // for ever
  if (config.boot_menu_ms != 0) image.add_file_number("etc/boot-menu-wait", config.boot_menu_ms, 2);
  if (!plan.boot_order.empty()) image.add_file("bootorder", to_bytes(boot_order_text(plan.boot_order)));
  if (!plan.acpi.vga) image.add_file_number("etc/sercon-port", kSerialConsole, 2);
  LinkedAcpi acpi = build_linked_acpi(plan.acpi);
  image.add_file("etc/acpi/rsdp", std::move(acpi.rsdp));
  image.add_file("etc/acpi/tables", std::move(acpi.tables));
  image.add_file("etc/table-loader", std::move(acpi.loader));
  add_option_roms(image, plan, config, roms);
  return image.build();
}

}  // namespace bulkhead::vmm
