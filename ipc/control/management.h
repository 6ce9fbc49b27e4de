// What the management interface tells about a running VM, as plain structs: the VMM fills them (vmm/api),
// the CLI shows them. Wire format: management.capnp. Threading: values.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "ipc/control/device_messages.h"

namespace bulkhead::control {

enum class VmState : std::uint8_t { kStarting = 0, kRunning = 1, kPaused = 2, kEnding = 3 };
enum class DeviceState : std::uint8_t { kStarting = 0, kRunning = 1, kReplacing = 2, kIsolated = 3, kDead = 4 };

struct VmStatus {
  std::string name;
  std::uint32_t pid = 0;
  VmState state = VmState::kStarting;
  std::uint32_t cpus = 0;
  std::uint64_t memory_bytes = 0;
  std::uint64_t uptime_ns = 0;
  std::uint32_t generation = 0;  // grows at every reset
  std::uint64_t exits = 0;       // register exits of all vCPUs
  std::uint64_t unclaimed_accesses = 0;
  std::string kernel;
  std::string console;
  std::string pause_reason{};  // VmState::kPaused: why, when it was not a manager's wish
  bool operator==(const VmStatus&) const = default;
};

// As the kernel reports it (/proc/PID), not as it was asked for.
struct JailSummary {
  std::uint8_t seccomp_mode = 0;  // 2: filter
  bool no_new_privs = false;
  std::uint64_t cap_eff = 0;
  std::vector<std::string> own_namespaces;  // those that differ from the VMM's: "user", "mnt", "pid" ...
  std::uint32_t uid = 0;
  bool operator==(const JailSummary&) const = default;
};

enum class DeviceEventKind : std::uint8_t {
  kDied = 0,        // the process ended by itself, or somebody killed it
  kHung = 1,        // it did not answer within the deadline, and was killed
  kRestarting = 2,  // a successor was given the role
  kRestored = 3,    // the successor serves; stall_ns says how long nobody did
  kIsolated = 4,    // the device was given up: it reads all ones
  kReturned = 5,    // an isolated device was brought back, from reset
  kUpgraded = 6,    // another executable plays the role
  kPaused = 7,      // the device had the VM paused
  kUnplugged = 8,   // nothing is at the other end of a network card's cable any more
  kPlugged = 9,     // something is there again
  kWaiting = 10,    // what the host does not finish keeps a device from being reset
};
inline constexpr std::uint8_t kDeviceEventKinds = 11;
inline constexpr std::uint32_t kMaxVideoPart = 1 << 20;  // bytes
inline constexpr std::size_t kMaxInputEvents = 64;
inline constexpr std::size_t kMaxConsoleInput = 4096;  // bytes

// What came out of a console, and the position behind it.
struct ConsoleOutput {
  std::vector<std::byte> bytes;
  std::uint64_t next = 0;
};
inline constexpr std::uint32_t kMaxEventsAtOnce = 256;
inline constexpr std::chrono::seconds kEventsPatience{10};  // for which the VMM lets a caller wait for an event

// What happened to a device process.
struct DeviceEvent {
  std::uint64_t number = 0;  // 1, 2, 3 ... within the VM's life
  std::int64_t time_ns = 0;  // CLOCK_REALTIME
  DeviceEventKind kind{};
  std::string role;
  std::uint32_t pid = 0;
  std::uint32_t incarnation = 0;
  std::string cause;          // one sentence
  std::int32_t signal = 0;    // that ended it; 0: none
  std::string system_call;    // seccomp: the call that was refused
  std::uint64_t ticket = 0;   // the oldest request that was not answered; 0: none was waiting
  std::int64_t stall_ns = 0;  // kRestored, kUpgraded: from the death to the successor's first answer
  bool operator==(const DeviceEvent&) const = default;
};

struct DeviceInfo {
  std::string role;
  std::vector<std::string> instances;  // "com1 (uart16550)"
  std::uint32_t pid = 0;
  DeviceState state = DeviceState::kStarting;
  std::uint32_t incarnation = 0;
  std::uint32_t restarts = 0;
  JailSummary jail;
  std::uint64_t requests = 0;  // counted by the VMM
  std::uint64_t posted = 0;
  std::uint64_t commits = 0;  // read from the checkpoint, once
  Statistics statistics;      // as the process itself reports; hostile
  std::string permissions;    // what the jail allows, several lines
  std::int64_t last_stall_ns = 0;
  std::int64_t longest_stall_ns = 0;
  std::uint64_t replayed = 0;  // requests that waited through a take-over
  std::uint64_t poisoned = 0;  // inputs that were skipped because they kill the device; as the process reports
  bool operator==(const DeviceInfo&) const = default;
};

}  // namespace bulkhead::control
