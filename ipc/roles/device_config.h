// Typed configuration of each device type, as plain data. The VMM's machine plan fills it, the control
// channel (ipc/control) carries it, the registry (devproc/registry.cc) hands it to the model.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace bulkhead {

struct Uart16550Config {};

struct CmosRtcConfig {
  std::uint64_t ram_below_4g = 0;  // bytes
  std::uint64_t ram_above_4g = 0;  // bytes
  std::uint16_t cpus = 1;
  bool operator==(const CmosRtcConfig&) const = default;
};

struct I8042Config {};

// ACPI PM block and the ports that belong with it (SMI command ports, GPE0).
struct AcpiPmConfig {
  bool sci_enabled = true;  // direct boot: no firmware will set SCI_EN (MACHINE.md)
};

// Ports 92h, 80h, E9h and 402h, and the debug-exit port.
struct SystemPortsConfig {};
struct DebugExitConfig {};

struct PciTestConfig {};
struct VirtioRngConfig {};

// What the VMM found out about a disk's file or block device.
struct DiskGeometry {
  std::uint64_t bytes = 0;            // a multiple of logical_block
  std::uint32_t logical_block = 512;  // what offsets and lengths are multiples of; a power of two, at least 512
  std::uint32_t physical_block = 512;
  std::uint32_t optimal_io = 0;    // bytes; 0: unknown
  std::uint32_t memory_align = 1;  // O_DIRECT: what addresses in memory are multiples of; 1: anything will do
  bool read_only = false;
  bool volatile_cache = true;  // writes need a flush to be stable
  bool discard = false;
  bool write_zeroes = false;
  bool ring = false;  // its requests go through an io_uring that the VMM made (control::RingGrant); false: system calls
  bool operator==(const DiskGeometry&) const = default;
};

inline constexpr std::size_t kMaxDiskSerial = 20;  // bytes

struct VirtioBlkConfig {
  std::uint16_t queues = 1;  // 1 to kVirtioBlkMaxQueues
  std::string serial;        // at most kMaxDiskSerial bytes
  DiskGeometry disk{};
  bool operator==(const VirtioBlkConfig&) const = default;
};

struct VirtioNetConfig {
  std::array<std::uint8_t, 6> mac{};
  std::uint16_t mtu = 1500;
  std::uint16_t queue_pairs = 1;  // 1 to kVirtioNetMaxPairs; one frame backend each
  bool operator==(const VirtioNetConfig&) const = default;
};

// One function of bus 0, and the device type whose PciDecl (ipc/roles/pci_decl.h) describes it.
struct PciFunctionConfig {
  std::uint8_t devfn = 0;  // device << 3 | function
  std::string type;
  bool operator==(const PciFunctionConfig&) const = default;
};

// The whole of bus 0: what the `pci` process builds config space from.
struct PciBusConfig {
  std::uint16_t pm_base = 0x600;   // PIIX4 PMBASE as firmware would have left it; 0: as after reset
  std::uint64_t ram_below_4g = 0;  // bytes; where the PCI hole begins
  std::vector<PciFunctionConfig> functions;
  bool operator==(const PciBusConfig&) const = default;
};

using DeviceConfig =
    std::variant<Uart16550Config, CmosRtcConfig, I8042Config, AcpiPmConfig, SystemPortsConfig, DebugExitConfig,
                 PciTestConfig, PciBusConfig, VirtioRngConfig, VirtioBlkConfig, VirtioNetConfig>;

}  // namespace bulkhead
