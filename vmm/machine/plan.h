// MachinePlan: what a machine consists of, as a pure function of its configuration.
//
// plan_machine() decides which device process hosts which devices, where each region lies, which interrupt
// each line has and what the `pci` process's config space shows. It opens nothing and starts nothing;
// building (build.h) is a loop over the plan. Errors: every problem of a configuration, in one sentence.
// Threading: pure. Trust: the configuration is the user's.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ipc/control/vm_config.h"
#include "ipc/roles/device_types.h"
#include "ipc/roles/syscall_groups.h"
#include "vmm/firmware/acpi.h"
#include "vmm/memory/layout.h"
#include "vmm/x86/topology.h"

namespace bulkhead::vmm {

inline constexpr std::uint16_t kPmBase = 0x600;  // as SeaBIOS leaves it; direct boot does the same
inline constexpr std::uint8_t kSciGsi = 9;
inline constexpr std::uint8_t kPiix4PmDevfn = 0x0B;  // 00:01.3
inline constexpr std::uint16_t kDebugExitPort = 0xF4;

struct RegionPlan {
  std::uint16_t region = 0;
  std::optional<std::uint64_t> fixed;  // base of a fixed region; otherwise a window decides
};

struct LinePlan {
  LineKind kind = LineKind::kEdge;
  std::optional<std::uint32_t> gsi;  // nullopt: INTx, routed by PIRQ
};

// Of VmFiles::devices.
struct FileRange {
  std::size_t first = 0;
  std::size_t count = 0;
};

struct InstancePlan {
  std::string name;
  const DeviceTypeDecl* type = nullptr;
  DeviceConfig config;
  std::vector<RegionPlan> regions;
  std::vector<LinePlan> lines;
  std::optional<std::uint8_t> devfn;  // PCI functions
  FileRange files;
};

// What a process must be born with, before it knows its role.
struct JailPlan {
  bool host_network = false;
  std::string tftp;  // a directory that it serves; empty: none
  bool operator==(const JailPlan&) const = default;
};

// One end of a frame ring of MachinePlan::frame_links.
struct RingPlan {
  std::size_t link = 0;
  std::size_t side = 0;
};

// Where another VM's card is met.
struct PeerPlan {
  std::string path;
  std::size_t file = 0;  // of VmFiles::devices: the socket there, which listens or is connected
};

// One device process.
struct RolePlan {
  std::string name;
  SyscallGroups syscalls;
  std::vector<InstancePlan> instances;
  JailPlan jail{};
  std::optional<RingPlan> ring{};
  std::optional<PeerPlan> peer{};
  [[nodiscard]] bool guest_memory() const;
  // How long its process may take over one request, where `usual` is for those that never block.
  [[nodiscard]] std::int64_t deadline_ns(std::int64_t usual) const;
  [[nodiscard]] std::uint32_t effects() const;  // effect_bit()s granted to the process
};

// A window of config space (a BAR, or the PIIX4's PM base) and the region that it decodes to.
struct PlannedWindow {
  std::uint8_t devfn = 0;
  std::uint32_t index = 0;
  std::uint64_t size = 0;
  bool io = false;
  std::size_t role = 0;  // index into MachinePlan::roles
  std::uint16_t instance = 0;
  std::uint16_t region = 0;
  bool screen = false;   // the video memory
  bool pci_cfg = false;  // reached through configuration space as well (VIRTIO_PCI_CAP_PCI_CFG)
  bool rom = false;      // the function's expansion ROM, which the VMM has the bytes of
};

// A function that firmware is to try to boot from, in its turn.
struct BootDevice {
  std::uint32_t boot_index = 0;
  std::uint8_t devfn = 0;
  const DeviceTypeDecl* type = nullptr;
};

struct StreamRef {
  std::size_t role = 0;
  std::uint32_t stream = 0;
};

// A virtio console and whose terminal it is.
struct ConsolePlan {
  StreamRef stream;
  std::uint16_t instance = 0;  // in stream.role
  control::ConsoleKind kind = control::ConsoleKind::kNone;
  FileRange files;  // input, unless it is a file, and output
};

// A virtio_vsock and the vsock_relay that holds its host's sockets. What they share lies in VmFiles::devices behind
// what the launcher put there: three descriptors of the device, five of the relay (ipc/roles/device_types.cc).
struct VsockPlan {
  std::string path;          // PATH: PATH_PORT is where a guest's connection goes
  std::size_t listener = 0;  // in VmFiles::devices
};
inline constexpr std::size_t kVsockDeviceFiles = 3;
inline constexpr std::size_t kVsockRelayFiles = 5;

struct MachinePlan {
  CpuTopology topology;
  MemoryLayout memory;
  AcpiConfig acpi;
  std::vector<RolePlan> roles;
  std::vector<PlannedWindow> windows;
  std::size_t frame_links = 0;
  bool firmware = false;                // a firmware runs; otherwise the machine is as one would have left it
  std::vector<BootDevice> boot_order;   // by boot index
  std::vector<std::uint8_t> functions;  // devfn of each of config.devices; 0: it is no function
  std::size_t pci_role = 0;
  std::uint16_t pci_instance = 0;
  std::size_t platform_role = 0;
  std::uint16_t pm_instance = 0;      // in platform_role: takes the power button
  StreamRef console;                  // the first serial port
  StreamRef keyboard;                 // InputEvents for the i8042
  StreamRef debug;                    // ports E9h and 402h
  std::vector<ConsolePlan> consoles;  // virtio consoles
  std::optional<VsockPlan> vsock;
  std::optional<std::size_t> balloon;  // the role of the virtio balloon
  std::optional<std::size_t> screen;   // the role of the VGA
};

// `physical_address_bits`: of the guest's CPUs.
// `disks`: of each of config.devices that has a disk, what it is like (disk_image.h). `roms`: of each, how large the
// BAR of its expansion ROM is; 0: it has none.
[[nodiscard]] Result<MachinePlan> plan_machine(const control::VmConfig& config, std::uint32_t physical_address_bits,
                                               std::span<const std::optional<DiskGeometry>> disks = {},
                                               std::span<const std::uint32_t> roms = {});

}  // namespace bulkhead::vmm
