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
struct FwCfgConfig {};
struct DebugExitConfig {};

struct PciTestConfig {};

// The mode that the monitor prefers, as its EDID says.
struct VgaConfig {
  std::uint16_t width = 1024;
  std::uint16_t height = 768;
  bool operator==(const VgaConfig&) const = default;
};
struct VirtioRngConfig {};

// How much of something a device may do in the long run, and at once. Bytes and operations (requests of a disk, frames
// of a network card) are limited independently; what is asked for must pass both.
struct RateLimit {
  static constexpr std::uint64_t kUnchanged = UINT64_MAX;         // kSetLimit: as it was
  static constexpr std::uint64_t kMost = std::uint64_t{1} << 60;  // of each number

  std::uint64_t bytes_per_second = 0;  // 0: no limit
  std::uint64_t bytes_burst = 0;       // after a time of rest; 0: a tenth of a second's worth
  std::uint64_t operations_per_second = 0;
  std::uint64_t operations_burst = 0;
  bool operator==(const RateLimit&) const = default;
};
static_assert(sizeof(RateLimit) == 32);

// Index of a limit among a device's own: what a request of RequestKind::kSetLimit names.
enum LimitId : std::uint8_t {
  kDiskLimit = 0,     // of a disk: reads and writes together
  kReceiveLimit = 0,  // of a network card
  kSendLimit = 1,
};

inline constexpr std::uint16_t kNetTimers = 2;  // of each network card: its limits', in front of its own

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
  bool stop_on_no_space = false;  // a full host file system pauses the VM; false: the guest sees an error
  RateLimit limit{};
  bool operator==(const VirtioBlkConfig&) const = default;
};

// What a network card sends its frames to.
enum class NicBackend : std::uint8_t {
  kTap,        // a queue of a TAP for each queue pair
  kFrameRing,  // another process (ipc/ring/frame_ring.h), for one queue pair
};

// What every network card has.
struct NicConfig {
  std::array<std::uint8_t, 6> mac{};
  std::array<RateLimit, 2> limits{};  // kReceiveLimit, kSendLimit
  NicBackend backend = NicBackend::kTap;
  bool offloads = true;  // whoever is behind takes partial checksums and large segments
  bool operator==(const NicConfig&) const = default;
};

struct VirtioNetConfig {
  NicConfig nic{};
  std::uint16_t mtu = 1500;
  std::uint16_t queue_pairs = 1;  // 1 to kVirtioNetMaxPairs; one frame backend each
  bool operator==(const VirtioNetConfig&) const = default;
};

// Intel 82540EM; one frame backend.
struct E1000Config {
  NicConfig nic{};
  bool operator==(const E1000Config&) const = default;
};

// A port of the host that leads to one of the guest. Addresses in host byte order.
struct PortForward {
  bool udp = false;
  std::uint32_t host_address = 0;  // 0: every address of the host
  std::uint16_t host_port = 0;
  std::uint32_t guest_address = 0;
  std::uint16_t guest_port = 0;
  bool operator==(const PortForward&) const = default;
};

inline constexpr std::size_t kMaxPortForwards = 32;
inline constexpr std::size_t kMaxHostname = 63;
inline constexpr std::size_t kMaxBootfile = 127;  // what the field of a BOOTP message takes, without the NUL

// A network of one guest, with the host as its way out. Addresses are IPv4, in host byte order.
struct UsernetConfig {
  std::uint32_t network = 0x0a000200;  // 10.0.2.0
  std::uint32_t mask = 0xffffff00;
  std::uint32_t host = 0x0a000202;   // gateway, DHCP and TFTP server
  std::uint32_t dns = 0x0a000203;    // stands for the host's own name server
  std::uint32_t guest = 0x0a00020f;  // the first address that DHCP gives away
  std::uint16_t mtu = 1500;
  bool restricted = false;     // nothing gets out but by port forwards
  bool host_loopback = false;  // `host` stands for the host's 127.0.0.1
  std::string hostname{};      // that DHCP tells the guest; empty: none
  bool tftp = false;           // the jail holds a directory to serve
  std::string bootfile{};      // that DHCP names; empty: none
  std::vector<PortForward> forwards{};
  bool operator==(const UsernetConfig&) const = default;
};

// The size of the terminal behind it, when that is known; 0: it is not, and the guest is told of none.
struct VirtioConsoleConfig {
  std::uint16_t columns = 0;
  std::uint16_t rows = 0;
  bool operator==(const VirtioConsoleConfig&) const = default;
};

struct VirtioBalloonConfig {
  std::uint64_t target = 0;         // bytes that the guest is to give up from the beginning on
  std::uint16_t stats_seconds = 0;  // how often the guest is asked for its statistics; 0: never
  bool deflate_on_oom = true;       // the guest may take memory back before it runs out of it
  bool reporting = true;            // the guest tells of pages that it does not use
  bool operator==(const VirtioBalloonConfig&) const = default;
};

struct VirtioVsockConfig {
  std::uint32_t guest_cid = 3;  // 3 or more: lower ones are the hypervisor's, the guest's own and the host's
  bool operator==(const VirtioVsockConfig&) const = default;
};

// What holds the host's sockets of a virtio_vsock.
struct VsockRelayConfig {
  std::uint32_t guest_cid = 3;
  bool operator==(const VsockRelayConfig&) const = default;
};

inline constexpr std::uint32_t kLeastRomBar = 2048;  // PCI 3.0, section 6.2.5.2
inline constexpr std::uint32_t kLargestRomBar = 16 * 1024 * 1024;

// One function of bus 0, and the device type whose PciDecl (ipc/roles/pci_decl.h) describes it.
struct PciFunctionConfig {
  std::uint8_t devfn = 0;  // device << 3 | function
  std::string type;
  std::uint32_t rom_size = 0;  // of its expansion ROM BAR: a power of two, at least 2 KiB; 0: it has none
  bool operator==(const PciFunctionConfig&) const = default;
};

// The whole of bus 0: what the `pci` process builds config space from.
struct PciBusConfig {
  // PIIX4 PMBASE as firmware would have left it; 0: everything is as after reset, and a firmware runs that knows the
  // machine by the host bridge's subsystem
  std::uint16_t pm_base = 0x600;
  std::uint64_t ram_below_4g = 0;  // bytes; where the PCI hole begins
  std::vector<PciFunctionConfig> functions;
  bool operator==(const PciBusConfig&) const = default;
};

using DeviceConfig = std::variant<Uart16550Config, CmosRtcConfig, I8042Config, AcpiPmConfig, SystemPortsConfig,
                                  DebugExitConfig, PciTestConfig, PciBusConfig, VirtioRngConfig, VirtioBlkConfig,
                                  VirtioNetConfig, E1000Config, UsernetConfig, VirtioConsoleConfig, VirtioBalloonConfig,
                                  VirtioVsockConfig, VsockRelayConfig, FwCfgConfig, VgaConfig>;

// nullptr: it is no network card's.
[[nodiscard]] inline const NicConfig* nic_config(const DeviceConfig& config) {
  if (const auto* card = std::get_if<VirtioNetConfig>(&config); card != nullptr) return &card->nic;
  const auto* card = std::get_if<E1000Config>(&config);
  return card != nullptr ? &card->nic : nullptr;
}

}  // namespace bulkhead
