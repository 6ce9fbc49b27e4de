// What the CLI and the VMM say to each other over the socket that bulkhead-vmm inherits as descriptor 3.
//
//   CLI -> VMM: VmConfig (once, first), PowerButton, KillVm, ResizeTerminal
//   VMM -> CLI: Started or VmFailed (once), then Exited (once)
//
// The CLI opens every file with the rights of its user and hands the descriptors over; paths are for
// messages only. End of file on the socket tells the VMM that the CLI is gone: it ends the VM. End of file
// without Exited tells the CLI that the VMM died. Trust: both run as the same user; decoding checks all the
// same. No exception leaves. Wire format: vm_config.capnp. Threading: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"
#include "ipc/control/channel.h"

namespace bulkhead::control {

inline constexpr int kVmmSocketFd = 3;

inline constexpr std::size_t kMaxCommandLine = 2047;  // what a Linux x86 kernel takes, without the NUL
inline constexpr std::size_t kMaxPathLength = 4095;
inline constexpr std::size_t kMaxDevices = 64;
inline constexpr std::size_t kMaxProperties = 32;   // of one device
inline constexpr std::size_t kMaxDeviceFiles = 48;  // of all devices together
inline constexpr std::uint32_t kMaxBootMenuMs = 65'535;
inline constexpr std::size_t kMaxOnCrashRules = 128;  // one for each role, more than there can be
inline constexpr std::uint32_t kMaxCpus = 64;
inline constexpr std::uint64_t kMinMemory = std::uint64_t{16} << 20;
inline constexpr std::uint64_t kMaxMemory = std::uint64_t{1} << 44;
inline constexpr std::uint64_t kMemoryUnit = std::uint64_t{1} << 20;
// How long a device process may take over one request. Less than the least would end VMs on a busy host.
inline constexpr std::int64_t kMinDeviceDeadlineNs = 10'000'000;
inline constexpr std::int64_t kDefaultDeviceDeadlineNs = 1'000'000'000;
inline constexpr std::int64_t kMaxDeviceDeadlineNs = 3600 * std::int64_t{1'000'000'000};

// Exit status of `bulkhead run`. A debug-exit of the guest is kExitDebugBase + (value & 63).
enum ExitStatus : std::uint8_t {
  kExitPowerOff = 0,
  kExitHostError = 1,
  kExitUsage = 2,
  kExitGuestReset = 10,  // with --on-reset exit
  kExitGuestCrash = 11,  // triple fault, KVM internal error
  kExitKilled = 12,      // `bulkhead kill`, Ctrl-A x, a second SIGTERM
  kExitDebugBase = 64,
};
[[nodiscard]] constexpr std::uint8_t debug_exit_status(std::uint64_t value) {
  return static_cast<std::uint8_t>(kExitDebugBase + (value & 63));
}

enum class ConsoleKind : std::uint8_t { kNone = 0, kStdio = 1, kPty = 2, kFile = 3 };
enum class OnReset : std::uint8_t { kReboot = 0, kExit = 1 };
// What follows when a device process dies by itself.
enum class OnCrash : std::uint8_t {
  kRestart = 0,  // a successor goes on; a device that keeps dying is isolated (`pci` and `platform`: the VM stops)
  kIsolate = 1,  // the device reads all ones from then on
  kStop = 2,     // the VM stops
};

struct OnCrashRule {
  std::string role;  // empty: every role that no other rule names
  OnCrash action = OnCrash::kRestart;
  bool operator==(const OnCrashRule&) const = default;
};

struct Property {
  std::string key;
  std::string value;
  bool operator==(const Property&) const = default;
};

struct DeviceRequest {  // --device TYPE[,key=value...]
  std::string type;
  std::vector<Property> properties;
  std::uint8_t files = 0;  // descriptors of its own, in VmFiles::devices behind those of the requests before it
  bool rom = false;        // an expansion ROM, in VmFiles::roms
  bool operator==(const DeviceRequest&) const = default;
};

struct Topology {  // sockets * cores * threads == cpus
  std::uint32_t sockets = 1;
  std::uint32_t cores = 1;
  std::uint32_t threads = 1;
  bool operator==(const Topology&) const = default;
};

// Descriptors of the VMM's configuration; one that is not valid() was not given.
struct VmFiles {
  UniqueFd kernel;                // read-only regular file, not empty; absent: a firmware runs
  UniqueFd initrd;                // the same, or absent
  UniqueFd console_input;         // pipe or pty, non-blocking; absent: no input ever comes
  UniqueFd console_output;        // pipe, pty or file, pipe and pty non-blocking; absent: output is dropped
  UniqueFd log;                   // --log; absent: standard error
  UniqueFd device_executable;     // bulkhead-device, for execveat
  UniqueFd usernet_executable;    // bulkhead-usernet; absent: no card has a user network
  UniqueFd firmware;              // read-only regular file, not empty
  std::vector<UniqueFd> devices;  // what devices stand for: disks
  std::vector<UniqueFd> roms;     // of the requests that have one, in their order
};

struct VmConfig {
  std::string name;              // is_name()
  bool name_is_derived = false;  // not chosen by the user: the VMM may append a suffix if it is taken
  std::string run_directory;     // where NAME.lock and NAME.sock live (run_directory.h)
  std::string kernel_path;       // for messages
  std::string initrd_path;       // for messages; empty when there is none
  std::string firmware_path;     // for messages; empty: a kernel is started directly
  std::string command_line;
  std::uint64_t memory_bytes = 0;  // a multiple of kMemoryUnit
  std::uint32_t cpus = 1;
  Topology topology;
  ConsoleKind console = ConsoleKind::kNone;
  std::string console_path;  // kFile: the file, kPty: the terminal; for messages
  std::string log_path;
  OnReset on_reset = OnReset::kReboot;
  std::vector<OnCrashRule> on_crash;
  std::int64_t device_deadline_ns = kDefaultDeviceDeadlineNs;
  std::vector<DeviceRequest> devices;
  std::uint32_t boot_menu_ms = 0;  // how long a firmware shows its boot menu's key; 0: not at all
  VmFiles files;
};

struct PowerButton {};
struct KillVm {};
// The terminal of --virtio-console stdio has another size.
struct ResizeTerminal {
  std::uint16_t columns = 0;
  std::uint16_t rows = 0;
};

struct Started {
  std::string name;  // as claimed
  std::uint32_t device_processes = 0;
};

struct VmFailed {  // the VM did not start
  std::string sentence;
  std::uint8_t status = kExitHostError;
};

struct Exited {
  std::string sentence;  // may be several lines (a crash report); empty after a power-off
  std::uint8_t status = kExitPowerOff;
};

using ToVmm = std::variant<VmConfig, PowerButton, KillVm, ResizeTerminal>;
using FromVmm = std::variant<Started, VmFailed, Exited>;

// A message ready for ControlChannel::send. `fds` borrows from the VmConfig that was encoded.
struct Encoded {
  std::vector<std::byte> bytes;
  std::vector<BorrowedFd> fds;
};

Result<Encoded> encode(const ToVmm& message);
Result<Encoded> encode(const VmConfig& config);
Result<Encoded> encode(const FromVmm& message);
// Takes the descriptors out of `message`.
Result<ToVmm> decode_to_vmm(Message message);
Result<FromVmm> decode_from_vmm(const Message& message);

}  // namespace bulkhead::control
