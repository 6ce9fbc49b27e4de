#include "devproc/registry.h"

#include <array>

#include "devproc/models/acpi_pm/acpi_pm.h"
#include "devproc/models/cmos_rtc/cmos_rtc.h"
#include "devproc/models/debug_exit/debug_exit.h"
#include "devproc/models/e1000/e1000.h"
#include "devproc/models/fw_cfg/fw_cfg.h"
#include "devproc/models/i8042/i8042.h"
#include "devproc/models/pci/pci_bus.h"
#include "devproc/models/pci_test/pci_test.h"
#include "devproc/models/system_ports/system_ports.h"
#include "devproc/models/uart16550/uart16550.h"
#include "devproc/models/usernet/usernet.h"
#include "devproc/models/vga/vga.h"
#include "devproc/models/virtio/transport.h"
#include "devproc/models/virtio_balloon/virtio_balloon.h"
#include "devproc/models/virtio_blk/virtio_blk.h"
#include "devproc/models/virtio_console/virtio_console.h"
#include "devproc/models/virtio_net/virtio_net.h"
#include "devproc/models/virtio_rng/virtio_rng.h"
#include "devproc/models/virtio_vsock/virtio_vsock.h"
#include "devproc/models/vsock_relay/vsock_relay.h"

namespace bulkhead::devproc {
namespace {

// The configuration as the type that a device takes; an error when it came for another type.
template <class Config>
Result<Config> expect(const DeviceConfig& config) {
  const auto* mine = std::get_if<Config>(&config);
  if (mine == nullptr) return make_error("a device was given the configuration of another type");
  return *mine;
}

template <class Model>
Persistent<typename Model::State> state_of(const Wires& wires) {
  return allocate_state<typename Model::State>(wires.state);
}

Result<std::unique_ptr<Device>> create_uart(const DeviceConfig& config, const Wires& wires) {
  RETURN_IF_ERROR(expect<Uart16550Config>(config));
  return std::make_unique<Uart16550>(state_of<Uart16550>(wires), *wires.lines[0], *wires.streams[0], wires.clock,
                                     wires.timers);
}

Result<std::unique_ptr<Device>> create_rtc(const DeviceConfig& config, const Wires& wires) {
  ASSIGN_OR_RETURN(const auto rtc, expect<CmosRtcConfig>(config));
  return std::make_unique<CmosRtc>(state_of<CmosRtc>(wires), *wires.lines[0], wires.clock, wires.timers, rtc);
}

Result<std::unique_ptr<Device>> create_i8042(const DeviceConfig& config, const Wires& wires) {
  RETURN_IF_ERROR(expect<I8042Config>(config));
  return std::make_unique<I8042>(state_of<I8042>(wires), *wires.lines[0], *wires.lines[1], *wires.streams[0],
                                 wires.clock, wires.timers, wires.effects);
}

Result<std::unique_ptr<Device>> create_pm(const DeviceConfig& config, const Wires& wires) {
  ASSIGN_OR_RETURN(const auto pm, expect<AcpiPmConfig>(config));
  return std::make_unique<AcpiPm>(state_of<AcpiPm>(wires), *wires.lines[0], wires.clock, wires.timers, wires.effects,
                                  pm);
}

Result<std::unique_ptr<Device>> create_system_ports(const DeviceConfig& config, const Wires& wires) {
  RETURN_IF_ERROR(expect<SystemPortsConfig>(config));
  return std::make_unique<SystemPorts>(state_of<SystemPorts>(wires), *wires.streams[0], wires.effects);
}

Result<std::unique_ptr<Device>> create_debug_exit(const DeviceConfig& config, const Wires& wires) {
  RETURN_IF_ERROR(expect<DebugExitConfig>(config));
  return std::make_unique<DebugExit>(wires.effects);
}

Result<std::unique_ptr<Device>> create_fw_cfg(const DeviceConfig& config, const Wires& wires) {
  RETURN_IF_ERROR(expect<FwCfgConfig>(config));
  return std::make_unique<FwCfg>(state_of<FwCfg>(wires), wires.data, *wires.redirect);
}

Result<std::unique_ptr<Device>> create_pci_test(const DeviceConfig& config, const Wires& wires) {
  RETURN_IF_ERROR(expect<PciTestConfig>(config));
  return std::make_unique<PciTest>(PciTestStorage::allocate(wires.state), *wires.lines[0], *wires.msi, *wires.memory,
                                   wires.clock, wires.timers);
}

Result<std::unique_ptr<Device>> create_vga(const DeviceConfig& config, const Wires& wires) {
  ASSIGN_OR_RETURN(const auto vga, expect<VgaConfig>(config));
  if (wires.screen == nullptr) return make_error("a VGA without a screen");
  return std::make_unique<Vga>(state_of<Vga>(wires), vga, *wires.screen, wires.clock, wires.effects);
}

Result<std::unique_ptr<Device>> create_pci_bus(const DeviceConfig& config, const Wires& wires) {
  ASSIGN_OR_RETURN(const auto bus, expect<PciBusConfig>(config));
  return std::make_unique<PciBus>(bus, find_pci_decl, wires.state, wires.effects, *wires.redirect);
}

std::unique_ptr<Device> create_virtio(std::unique_ptr<virtio::VirtioModel> model, const Wires& wires) {
  const auto storage = virtio::TransportStorage::allocate(wires.state, model->queues());
  return std::make_unique<virtio::VirtioPci>(storage, std::move(model), *wires.lines[0], *wires.msi, *wires.memory);
}

Result<std::unique_ptr<Device>> create_virtio_rng(const DeviceConfig& config, const Wires& wires) {
  RETURN_IF_ERROR(expect<VirtioRngConfig>(config));
  auto model = std::make_unique<VirtioRng>(*wires.memory, *wires.entropy);
  return create_virtio(std::move(model), wires);
}

Result<std::unique_ptr<Device>> create_virtio_blk(const DeviceConfig& config, const Wires& wires) {
  ASSIGN_OR_RETURN(const auto disk, expect<VirtioBlkConfig>(config));
  if (disk.queues == 0 || disk.queues > kVirtioBlkMaxQueues)
    return make_error("a disk with an impossible number of queues");
  auto model = std::make_unique<VirtioBlk>(VirtioBlkStorage::allocate(wires.state), disk, *wires.memory, *wires.block,
                                           wires.clock, wires.timers, wires.effects);
  return create_virtio(std::move(model), wires);
}

Result<std::unique_ptr<Device>> create_virtio_net(const DeviceConfig& config, const Wires& wires) {
  ASSIGN_OR_RETURN(const auto net, expect<VirtioNetConfig>(config));
  if (net.queue_pairs == 0 || net.queue_pairs > kVirtioNetMaxPairs || wires.frames.size() != net.queue_pairs)
    return make_error("a network card with an impossible number of queues");
  auto model = std::make_unique<VirtioNet>(VirtioNetStorage::allocate(wires.state), net, *wires.memory, wires.frames,
                                           wires.clock, wires.timers);
  return create_virtio(std::move(model), wires);
}

Result<std::unique_ptr<Device>> create_e1000(const DeviceConfig& config, const Wires& wires) {
  ASSIGN_OR_RETURN(const auto card, expect<E1000Config>(config));
  if (wires.frames.size() != 1 || wires.publisher == nullptr)
    return make_error("a network card without the wires that its type declares");
  return std::make_unique<E1000>(E1000Storage::allocate(wires.state), card, *wires.lines[0], *wires.memory,
                                 *wires.publisher, *wires.frames[0], wires.clock, wires.timers);
}

Result<std::unique_ptr<Device>> create_usernet(const DeviceConfig& config, const Wires& wires) {
  ASSIGN_OR_RETURN(const auto usernet, expect<UsernetConfig>(config));
  if (wires.frames.size() != 1 || wires.network == nullptr) return make_error("a user network without its wires");
  return std::make_unique<Usernet>(state_of<Usernet>(wires), usernet, *wires.frames[0], *wires.network, wires.clock,
                                   wires.timers);
}

Result<std::unique_ptr<Device>> create_virtio_console(const DeviceConfig& config, const Wires& wires) {
  ASSIGN_OR_RETURN(const auto console, expect<VirtioConsoleConfig>(config));
  auto model = std::make_unique<VirtioConsole>(allocate_state<VirtioConsoleState>(wires.state), console, *wires.memory,
                                               *wires.streams[0], wires.clock, wires.timers);
  return create_virtio(std::move(model), wires);
}

Result<std::unique_ptr<Device>> create_virtio_balloon(const DeviceConfig& config, const Wires& wires) {
  ASSIGN_OR_RETURN(const auto balloon, expect<VirtioBalloonConfig>(config));
  auto model = std::make_unique<VirtioBalloon>(allocate_state<VirtioBalloonState>(wires.state), balloon, *wires.memory,
                                               *wires.ram, wires.clock, wires.timers);
  return create_virtio(std::move(model), wires);
}

Result<std::unique_ptr<Device>> create_virtio_vsock(const DeviceConfig& config, const Wires& wires) {
  ASSIGN_OR_RETURN(const auto vsock, expect<VirtioVsockConfig>(config));
  auto model =
      std::make_unique<VirtioVsock>(allocate_state<VirtioVsockState>(wires.state), vsock, *wires.memory, *wires.link);
  return create_virtio(std::move(model), wires);
}

Result<std::unique_ptr<Device>> create_vsock_relay(const DeviceConfig& config, const Wires& wires) {
  ASSIGN_OR_RETURN(const auto relay, expect<VsockRelayConfig>(config));
  return std::make_unique<VsockRelay>(allocate_state<VsockRelayState>(wires.state), relay, *wires.link, *wires.sockets);
}

constexpr std::array kTypes = {
    DeviceType{"pci_bus", PciBus::kStateVersion, create_pci_bus},
    DeviceType{"uart16550", Uart16550::kStateVersion, create_uart},
    DeviceType{"cmos_rtc", CmosRtc::kStateVersion, create_rtc},
    DeviceType{"i8042", I8042::kStateVersion, create_i8042},
    DeviceType{"acpi_pm", AcpiPm::kStateVersion, create_pm},
    DeviceType{"system_ports", SystemPorts::kStateVersion, create_system_ports},
    DeviceType{"debug_exit", DebugExit::kStateVersion, create_debug_exit},
    DeviceType{"fw_cfg", FwCfg::kStateVersion, create_fw_cfg},
    DeviceType{"pci_test", PciTest::kStateVersion, create_pci_test},
    DeviceType{"vga", Vga::kStateVersion, create_vga},
    DeviceType{"virtio_rng", virtio::VirtioPci::kStateVersion, create_virtio_rng},
    DeviceType{"virtio_blk", virtio::VirtioPci::kStateVersion + 256 * VirtioBlk::kStateVersion, create_virtio_blk},
    DeviceType{"virtio_net", virtio::VirtioPci::kStateVersion + 256 * VirtioNet::kStateVersion, create_virtio_net},
    DeviceType{"e1000", E1000::kStateVersion, create_e1000},
    DeviceType{"usernet", Usernet::kStateVersion, create_usernet},
    DeviceType{"virtio_console", virtio::VirtioPci::kStateVersion + 256 * VirtioConsole::kStateVersion,
               create_virtio_console},
    DeviceType{"virtio_balloon", virtio::VirtioPci::kStateVersion + 256 * VirtioBalloon::kStateVersion,
               create_virtio_balloon},
    DeviceType{"virtio_vsock", virtio::VirtioPci::kStateVersion + 256 * VirtioVsock::kStateVersion,
               create_virtio_vsock},
    DeviceType{"vsock_relay", VsockRelay::kStateVersion, create_vsock_relay},
};

}  // namespace

std::span<const DeviceType> builtin_device_types() { return kTypes; }

const DeviceType* find_builtin(std::string_view name) {
  for (const DeviceType& type : kTypes) {
    if (type.name == name) return &type;
  }
  return nullptr;
}

}  // namespace bulkhead::devproc
