// The command line of `bulkhead`, parsed and checked as far as that needs no file and no VM.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/control/vm_config.h"
#include "tools/bulkhead/keys.h"

namespace bulkhead::cli {

struct RunOptions {
  std::string kernel;
  std::string initrd;
  std::string firmware;  // a file; empty: a kernel is started directly
  std::uint32_t boot_menu_ms = 0;
  std::string command_line;
  std::uint64_t memory_bytes = 0;
  std::uint32_t cpus = 1;
  control::Topology topology;
  control::ConsoleKind console = control::ConsoleKind::kStdio;
  std::string console_path;
  std::string name;  // empty: derived
  std::string log;
  control::OnReset on_reset = control::OnReset::kReboot;
  std::int64_t device_deadline_ns = control::kDefaultDeviceDeadlineNs;
  std::vector<control::OnCrashRule> on_crash;
  std::vector<control::DeviceRequest> devices;  // those of --disk and --net too, each with its file as a property
  std::string vmm;                              // empty: bulkhead-vmm beside this program
  std::string device_program;                   // empty: bulkhead-device beside this program
};

struct ListOptions {
  bool json = false;
};

struct DevicesOptions {
  std::string name;
  bool permissions = false;
  bool json = false;
};

struct InspectOptions {
  std::string name;
  std::string instance;
  bool json = false;
};

struct StatusOptions {
  std::string name;
  bool json = false;
};

struct BalloonOptions {
  std::string name;
  std::optional<std::uint64_t> bytes;  // nothing: only shows it
  bool json = false;
};

struct ScreenshotOptions {
  std::string name;
  std::string file;  // PNG
  bool text = false;
};

struct SendKeysOptions {
  std::string name;
  std::vector<KeyStroke> keys;
};

struct ConsoleOptions {
  std::string name;
  bool follow = true;
};

// stop, kill, pause, resume, reset.
struct ActionOptions {
  std::string name;
  std::string action;
};

struct EventsOptions {
  std::string name;
  bool follow = true;
  bool json = false;
};

struct FaultOptions {
  std::string name;
  std::string device;  // a role, an instance, "standby" or "any"
  int signal = 0;
  std::optional<std::int64_t> every_ns;
  std::uint64_t count = 1;  // 0: until the VM ends
  std::optional<std::uint64_t> seed;
};

struct LimitOptions {
  std::string name;
  std::string device;  // an instance
  std::vector<control::Property> properties;
};

// upgrade, restore.
struct ReplaceOptions {
  std::string name;
  std::string device;
  std::string action;
  std::string executable;  // upgrade; empty: bulkhead-device beside this program
};

// Nothing is left to do but to leave with this status: --help, --version, bad usage (already printed).
struct Leave {
  int status = 0;
};

using Command = std::variant<Leave, RunOptions, ListOptions, DevicesOptions, InspectOptions, ActionOptions,
                             EventsOptions, FaultOptions, ReplaceOptions, LimitOptions, StatusOptions, BalloonOptions,
                             ScreenshotOptions, SendKeysOptions, ConsoleOptions>;

[[nodiscard]] Command parse_command_line(int argc, const char* const* argv);

// "256M": a whole number with an optional K, M, G or T (powers of 1024).
[[nodiscard]] Result<std::uint64_t> parse_size(std::string_view text);
// "500ms" or "2s", in nanoseconds.
[[nodiscard]] Result<std::int64_t> parse_duration(std::string_view text);
// "TYPE[,key=value...]"
[[nodiscard]] Result<control::DeviceRequest> parse_device(std::string_view text);
// `text`: empty, or a comma and KEY=VALUE as often as one likes. `what`: the option, for messages.
[[nodiscard]] Status read_properties(const std::string& what, std::string_view text, control::DeviceRequest& device);
// The path that `text` begins with, up to a comma that is not written twice; what follows it, comma included.
[[nodiscard]] Result<std::string_view> split_path(const std::string& what, std::string_view text, std::string& path);
// --disk FILE[,KEY=VALUE...] as a request for a virtio_blk; a comma in FILE is written twice.
[[nodiscard]] Result<control::DeviceRequest> parse_disk(std::string_view text);
// "[ROLE=]restart|isolate|stop"
[[nodiscard]] Result<control::OnCrashRule> parse_on_crash(std::string_view text);
// "KILL", "SEGV", "STOP" or "ABRT", also with "SIG" before it.
[[nodiscard]] Result<int> parse_signal(std::string_view text);
// "SOCKETS:CORES:THREADS"
[[nodiscard]] Result<control::Topology> parse_topology(std::string_view text);

}  // namespace bulkhead::cli
