// What each device type is and needs, as plain data: read by the VMM (routing, grants), by the sandbox
// (syscalls) and by the device process (wires). A test holds the models against it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "ipc/roles/device_config.h"
#include "ipc/roles/pci_decl.h"
#include "ipc/roles/syscall_groups.h"
#include "ipc/state/effects.h"

namespace bulkhead {

enum class LineKind : std::uint8_t {
  kEdge,   // ISA: a rising level is one edge
  kLevel,  // INTx, SCI: asserted until it falls; resampled at the guest's EOI
};

struct LineDecl {
  std::string_view name;
  LineKind kind;
};

struct RegionDecl {
  std::string_view name;
  bool memory;              // memory rather than ports
  std::uint64_t length;     // bytes
  bool posted = false;      // memory writes do not wait for the device
  std::uint64_t fixed = 0;  // of a PCI function: where it lies, whatever its BARs say; 0: a BAR decides
};

// Queues in guest memory that the guest kicks: a write at offset kDoorbellStride * queue of a region of doorbells. KVM
// signals the device process's eventfd then, and nobody else hears of it (ioeventfd); what is written does not matter.
struct QueueDecl {
  std::uint16_t count = 0;
  std::uint16_t region = 0;
};
inline constexpr std::uint32_t kDoorbellStride = 4;
inline constexpr std::uint32_t kMaxKicks = 128;  // queues of one role

// What of the host a device's process holds a descriptor of.
enum class BackingKind : std::uint8_t {
  kEntropy,  // the kernel's random number generator, read only
  kDisk,     // the file or block device of VirtioBlkConfig::disk
  kTap,      // a queue of a TAP
  // One end of a frame ring: the eventfd that rings for it; the rest comes as FdPurpose::kFrameRing. One in a role.
  kFrameRing,
  // Of a virtio_vsock and its vsock_relay (ipc/ring/packet_link.h):
  kPacketLink,      // the memory that the two share
  kPacketLinkWake,  // the eventfd that tells this side of news
  kPacketLinkPeer,  // the eventfd that tells the other side
  kVsockListener,   // the Unix socket to which the host's programs connect
  kVsockConnector,  // the channel on which the VMM is asked for connections to the host's programs
};

inline constexpr std::uint32_t kMaxBackings = 64;  // of one role

// A set of EffectKind, as bits.
constexpr std::uint32_t effect_bit(EffectKind kind) { return 1U << static_cast<std::uint32_t>(kind); }

struct DeviceTypeDecl {
  std::string_view type;
  std::span<const RegionDecl> regions{};
  std::span<const LineDecl> lines{};
  std::uint16_t streams = 0;
  std::uint16_t timers = 0;
  std::uint16_t messages = 0;  // MSI or MSI-X vectors that it can raise
  QueueDecl queues{};
  bool guest_memory = false;
  std::uint16_t data_regions = 0;           // read-only regions of the VMM's making (control::FdPurpose::kDataRegion)
  bool screen = false;                      // has a Screen (devproc/core/screen.h); one in a machine
  bool publishes = false;                   // has a GuestPublisher (devproc/core/wires.h)
  std::span<const BackingKind> backings{};  // usually, and at most: backings_of()
  SyscallGroups syscalls{};
  bool host_network = false;  // its process stays in the host's network namespace
  std::uint32_t effects = 0;  // effect_bit()s that the VMM will apply
  std::uint8_t limits = 0;    // RateLimits that it obeys (LimitId)
  const PciDecl* pci = nullptr;
  std::string_view purpose{};  // one line for --help and `devices --permissions`
};

// The backings that a device of this configuration has.
[[nodiscard]] std::span<const BackingKind> backings_of(const DeviceTypeDecl& decl, const DeviceConfig& config);
[[nodiscard]] inline std::size_t backing_count(const DeviceTypeDecl& decl, const DeviceConfig& config) {
  return backings_of(decl, config).size();
}
// decl.syscalls, as far as a device of this configuration needs them.
[[nodiscard]] SyscallGroups syscalls_of(const DeviceTypeDecl& decl, const DeviceConfig& config);

// nullptr when there is no such type.
[[nodiscard]] const DeviceTypeDecl* find_device_type(std::string_view type);
[[nodiscard]] std::span<const DeviceTypeDecl> all_device_types();

// For PciBusConfig: the declaration behind a function's type, nullptr when it is not a PCI device.
[[nodiscard]] const PciDecl* find_pci_decl(std::string_view type);

}  // namespace bulkhead
