#include "ipc/roles/device_types.h"

#include <algorithm>
#include <array>

#include "ipc/roles/e1000_decl.h"
#include "ipc/roles/pci_test_decl.h"
#include "ipc/roles/vga_decl.h"
#include "ipc/roles/virtio_decl.h"

namespace bulkhead {
namespace {

constexpr std::uint32_t kPowerEffect = effect_bit(EffectKind::kPower);

constexpr std::array kUartRegions = {RegionDecl{"registers", false, 8}};
constexpr std::array kUartLines = {LineDecl{"interrupt", LineKind::kEdge}};

constexpr std::array kRtcRegions = {RegionDecl{"index and data", false, 2}};
constexpr std::array kRtcLines = {LineDecl{"irq8", LineKind::kEdge}};

constexpr std::array kI8042Regions = {RegionDecl{"data", false, 1}, RegionDecl{"status and command", false, 1}};
constexpr std::array kI8042Lines = {LineDecl{"irq1", LineKind::kEdge}, LineDecl{"irq12", LineKind::kEdge}};

constexpr std::array kPmRegions = {RegionDecl{"pm", false, 64}, RegionDecl{"gpe0", false, 4},
                                   RegionDecl{"apm", false, 2}};
constexpr std::array kPmLines = {LineDecl{"sci", LineKind::kLevel}};

constexpr std::array kSystemPortRegions = {RegionDecl{"port 92", false, 1}, RegionDecl{"post code", false, 1},
                                           RegionDecl{"debug console", false, 1},
                                           RegionDecl{"firmware debug", false, 1}};

constexpr std::array kFwCfgRegions = {RegionDecl{"selector and data", false, 2}, RegionDecl{"dma address", false, 8}};

constexpr std::array kDebugExitRegions = {RegionDecl{"debug-exit", false, 4}};

constexpr std::array kPciTestLines = {LineDecl{"intx", LineKind::kLevel}};
constexpr std::array kPciTestRegions = {RegionDecl{"registers", true, 4096}, RegionDecl{"doorbells", true, 4096, true},
                                        RegionDecl{"ports", false, 64}};

constexpr std::array kRngBackings = {BackingKind::kEntropy};
constexpr std::array kBlkBackings = {BackingKind::kDisk};
constexpr std::array kNetBackings = {BackingKind::kTap, BackingKind::kTap, BackingKind::kTap, BackingKind::kTap};
constexpr std::array kVsockBackings = {BackingKind::kPacketLink, BackingKind::kPacketLinkWake,
                                       BackingKind::kPacketLinkPeer};
constexpr std::array kRelayBackings = {BackingKind::kPacketLink, BackingKind::kPacketLinkWake,
                                       BackingKind::kPacketLinkPeer, BackingKind::kVsockListener,
                                       BackingKind::kVsockConnector};
static_assert(kNetBackings.size() == kVirtioNetMaxPairs);
constexpr std::array kRingBackings = {BackingKind::kFrameRing};

constexpr std::array kE1000Regions = {RegionDecl{"registers", true, kE1000RegistersSize, true},
                                      RegionDecl{"ports", false, kE1000PortsSize}};
constexpr std::array kE1000Lines = {LineDecl{"intx", LineKind::kLevel}};
constexpr std::array kE1000Backings = {BackingKind::kTap};

constexpr std::array kVgaRegions = {RegionDecl{"ports", false, kVgaPortsSize, false, kVgaPortsBase},
                                    RegionDecl{"vbe ports", false, kVgaVbePortsSize, false, kVgaVbePortsBase},
                                    RegionDecl{"legacy memory", true, kVgaLegacySize, true, kVgaLegacyBase},
                                    RegionDecl{"video memory", true, screen::kVideoMemory},
                                    RegionDecl{"registers", true, kVgaRegisterBarSize}};

constexpr std::array kPciBusRegions = {RegionDecl{"config ports", false, 8}};

constexpr std::array kTypes = {
    DeviceTypeDecl{.type = "pci_bus",
                   .regions = kPciBusRegions,
                   .effects = effect_bit(EffectKind::kWindow) | effect_bit(EffectKind::kIntxRoute) |
                              effect_bit(EffectKind::kFunctionControl) | effect_bit(EffectKind::kMsiRoute) |
                              effect_bit(EffectKind::kShadow) | kPowerEffect,
                   .purpose = "PCI host bridge, PIIX3, PIIX4 PM and the config space of every function"},
    DeviceTypeDecl{.type = "uart16550",
                   .regions = kUartRegions,
                   .lines = kUartLines,
                   .streams = 1,
                   .timers = 1,
                   .purpose = "16550A serial port"},
    DeviceTypeDecl{.type = "cmos_rtc",
                   .regions = kRtcRegions,
                   .lines = kRtcLines,
                   .timers = 2,
                   .purpose = "MC146818A real-time clock and CMOS memory"},
    DeviceTypeDecl{.type = "i8042",
                   .regions = kI8042Regions,
                   .lines = kI8042Lines,
                   .streams = 1,
                   .timers = 1,
                   .effects = kPowerEffect,
                   .purpose = "keyboard controller with keyboard and mouse"},
    DeviceTypeDecl{.type = "acpi_pm",
                   .regions = kPmRegions,
                   .lines = kPmLines,
                   .timers = 1,
                   .effects = kPowerEffect,
                   .purpose = "ACPI power management block"},
    DeviceTypeDecl{.type = "system_ports",
                   .regions = kSystemPortRegions,
                   .streams = 1,
                   .effects = kPowerEffect,
                   .purpose = "ports 92h, 80h, E9h and 402h"},
    DeviceTypeDecl{
        .type = "fw_cfg", .regions = kFwCfgRegions, .data_regions = 1, .purpose = "QEMU firmware configuration device"},
    DeviceTypeDecl{.type = "debug_exit",
                   .regions = kDebugExitRegions,
                   .effects = kPowerEffect,
                   .purpose = "debug-exit port F4h: the guest ends the VM with a status"},
    DeviceTypeDecl{.type = "pci_test",
                   .regions = kPciTestRegions,
                   .lines = kPciTestLines,
                   .timers = 1,
                   .messages = 8,
                   .guest_memory = true,
                   .pci = &kPciTestDecl,
                   .purpose = "PCI test function"},
    DeviceTypeDecl{.type = "vga",
                   .regions = kVgaRegions,
                   .screen = true,
                   .effects = effect_bit(EffectKind::kVgaWindow),
                   .pci = &kVgaDecl,
                   .purpose = "VGA with Bochs VBE, 32 MiB"},
    DeviceTypeDecl{.type = "virtio_rng",
                   .regions = kVirtioRegions,
                   .lines = kVirtioLines,
                   .messages = kVirtioRngQueues + 1,
                   .queues = {kVirtioRngQueues, kVirtioDoorbells},
                   .guest_memory = true,
                   .backings = kRngBackings,
                   .pci = &kVirtioRngDecl,
                   .purpose = "virtio entropy device"},
    DeviceTypeDecl{.type = "virtio_blk",
                   .regions = kVirtioRegions,
                   .lines = kVirtioLines,
                   .timers = kVirtioBlkTimers,
                   .messages = kVirtioBlkMaxQueues + 1,
                   .queues = {kVirtioBlkMaxQueues, kVirtioDoorbells},
                   .guest_memory = true,
                   .backings = kBlkBackings,
                   .syscalls = {SyscallGroup::kFileIo, SyscallGroup::kIoUring},  // one of them: syscalls_of()
                   .effects = effect_bit(EffectKind::kPause),
                   .limits = 1,
                   .pci = &kVirtioBlkDecl,
                   .purpose = "virtio disk"},
    DeviceTypeDecl{.type = "virtio_net",
                   .regions = kVirtioRegions,
                   .lines = kVirtioLines,
                   .timers = kNetTimers,
                   .messages = kVirtioNetMaxQueues + 1,
                   .queues = {kVirtioNetMaxQueues, kVirtioDoorbells},
                   .guest_memory = true,
                   .backings = kNetBackings,
                   .syscalls = {SyscallGroup::kPacketIo},
                   .limits = 2,
                   .pci = &kVirtioNetDecl,
                   .purpose = "virtio network card"},
    DeviceTypeDecl{.type = "e1000",
                   .regions = kE1000Regions,
                   .lines = kE1000Lines,
                   .timers = kE1000Timers,
                   .guest_memory = true,
                   .publishes = true,
                   .backings = kE1000Backings,
                   .syscalls = {SyscallGroup::kPacketIo},
                   .limits = 2,
                   .pci = &kE1000Decl,
                   .purpose = "Intel 82540EM network card"},
    DeviceTypeDecl{.type = "usernet",
                   .timers = 1,
                   .backings = kRingBackings,
                   .syscalls = {SyscallGroup::kUserNetwork},
                   .host_network = true,
                   .purpose = "user-mode network: the far end of a card's frame ring"},
    DeviceTypeDecl{.type = "virtio_console",
                   .regions = kVirtioRegions,
                   .lines = kVirtioLines,
                   .streams = 1,
                   .timers = 1,
                   .messages = kVirtioConsoleQueues + 1,
                   .queues = {kVirtioConsoleQueues, kVirtioDoorbells},
                   .guest_memory = true,
                   .pci = &kVirtioConsoleDecl,
                   .purpose = "virtio console with one port"},
    DeviceTypeDecl{.type = "virtio_balloon",
                   .regions = kVirtioRegions,
                   .lines = kVirtioLines,
                   .timers = 1,
                   .messages = kVirtioBalloonQueues + 1,
                   .queues = {kVirtioBalloonQueues, kVirtioDoorbells},
                   .guest_memory = true,
                   .syscalls = {SyscallGroup::kReleaseRam},
                   .pci = &kVirtioBalloonDecl,
                   .purpose = "virtio memory balloon with free page reporting"},
    DeviceTypeDecl{.type = "virtio_vsock",
                   .regions = kVirtioRegions,
                   .lines = kVirtioLines,
                   .messages = kVirtioVsockQueues + 1,
                   .queues = {kVirtioVsockQueues, kVirtioDoorbells},
                   .guest_memory = true,
                   .backings = kVsockBackings,
                   .pci = &kVirtioVsockDecl,
                   .purpose = "virtio sockets"},
    DeviceTypeDecl{.type = "vsock_relay",
                   .backings = kRelayBackings,
                   .syscalls = {SyscallGroup::kSocketRelay},
                   .purpose = "the host's end of virtio sockets"},
};

}  // namespace

std::span<const DeviceTypeDecl> all_device_types() { return kTypes; }

std::span<const BackingKind> backings_of(const DeviceTypeDecl& decl, const DeviceConfig& config) {
  const NicConfig* nic = nic_config(config);
  if (nic != nullptr && nic->backend == NicBackend::kFrameRing) return kRingBackings;
  const auto* net = std::get_if<VirtioNetConfig>(&config);
  if (net == nullptr) return decl.backings;
  return decl.backings.first(std::min<std::size_t>(net->queue_pairs, decl.backings.size()));
}

SyscallGroups syscalls_of(const DeviceTypeDecl& decl, const DeviceConfig& config) {
  if (const auto* disk = std::get_if<VirtioBlkConfig>(&config); disk != nullptr)
    return disk->disk.ring ? SyscallGroups{SyscallGroup::kIoUring} : SyscallGroups{SyscallGroup::kFileIo};
  const NicConfig* nic = nic_config(config);
  return nic != nullptr && nic->backend == NicBackend::kFrameRing ? SyscallGroups{} : decl.syscalls;
}

const DeviceTypeDecl* find_device_type(std::string_view type) {
  for (const DeviceTypeDecl& decl : kTypes) {
    if (decl.type == type) return &decl;
  }
  return nullptr;
}

const PciDecl* find_pci_decl(std::string_view type) {
  const DeviceTypeDecl* decl = find_device_type(type);
  return decl == nullptr ? nullptr : decl->pci;
}

}  // namespace bulkhead
