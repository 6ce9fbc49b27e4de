#include "tools/bulkhead/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>

#include "ipc/base/checked.h"
#include "ipc/control/device_messages.h"
#include "tools/bulkhead/print.h"

namespace bulkhead::cli {
namespace {

using control::ConsoleKind;

constexpr const char* kRunFooter =
    "With --console stdio on a terminal: Ctrl-A x ends the VM, Ctrl-A a sends Ctrl-A, Ctrl-A h shows "
    "this.\n"
    "SIGINT, SIGTERM or SIGHUP press the power button; a second one ends the VM at once. When this "
    "program\n"
    "is gone, for whatever reason, so is its VM.\n"
    "\n"
    "Exit status: 0 the guest powered off; 1 error of the host; 2 bad usage; 10 the guest reset\n"
    "(--on-reset exit); 11 the guest crashed; 12 ended by `bulkhead kill`, Ctrl-A x or a second signal;\n"
    "64+V the guest wrote V (0 to 63) to the debug-exit port.";

// What CLI11 fills in; texts are checked afterwards, so that each mistake gets a sentence of our own.
struct Raw {
  RunOptions run;
  std::string memory = "256M";
  std::string cpus = "1";
  std::string topology;
  std::string console = "stdio";
  std::string on_reset = "reboot";
  std::vector<std::string> devices;
  std::string name;
  std::string instance;
  bool json = false;
  bool permissions = false;
};

template <class T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

void add_run(CLI::App& app, Raw& raw) {
  CLI::App* run = app.add_subcommand("run", "Boot a VM and stay with it until it ends.");
  run->footer(kRunFooter);
  run->add_option("--kernel", raw.run.kernel, "Linux bzImage, or ELF with a PVH entry")
      ->required()
      ->type_name("FILE");
  run->add_option("--initrd", raw.run.initrd, "initial RAM disk")->type_name("FILE");
  run->add_option("--cmdline", raw.run.command_line, "the kernel's command line")->type_name("TEXT");
  run->add_option("--memory", raw.memory, "guest RAM, with K, M, G or T")
      ->capture_default_str()
      ->type_name("SIZE");
  run->add_option("--cpus", raw.cpus, "virtual CPUs, 1 to 64")->capture_default_str()->type_name("N");
  run->add_option("--topology", raw.topology, "default: every CPU a core of one socket")
      ->type_name("SOCKETS:CORES:THREADS");
  run->add_option("--console", raw.console, "the first serial port: stdio, pty, file:PATH or none")
      ->capture_default_str()
      ->type_name("WHERE");
  run->add_option("--name", raw.run.name, "for `bulkhead ls` and the others; default: derived, unique")
      ->type_name("NAME");
  run->add_option("--log", raw.run.log, "append messages to FILE; default: standard error")
      ->type_name("FILE");
  run->add_option("--on-reset", raw.on_reset, "what a reset by the guest does: reboot or exit")
      ->capture_default_str()
      ->type_name("ACTION");
  run->add_option("--device", raw.devices, "add a device; may be given several times")
      ->type_name("TYPE[,KEY=VALUE...]")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  run->add_option("--vmm", raw.run.vmm, "the VMM to start; default: bulkhead-vmm beside this program")
      ->type_name("FILE")
      ->group("Development");
  run->add_option("--device-program", raw.run.device_program,
                  "default: bulkhead-device beside this program")
      ->type_name("FILE")
      ->group("Development");
}

void add_managers(CLI::App& app, Raw& raw) {
  const auto named = [&](const char* command, const char* help) {
    CLI::App* sub = app.add_subcommand(command, help);
    sub->add_option("NAME", raw.name, "the VM")->required();
    return sub;
  };
  app.add_subcommand("ls", "List this user's running VMs.")
      ->add_flag("--json", raw.json, "machine-readable");
  CLI::App* devices = named("devices", "Show a VM's device processes: pid, jail, requests.");
  devices->add_flag("--permissions", raw.permissions, "what each jail allows");
  devices->add_flag("--json", raw.json, "machine-readable");
  CLI::App* inspect = named("inspect", "Show a device's registers and counters.");
  inspect->add_option("INSTANCE", raw.instance, "as `bulkhead devices` names it; default: all");
  inspect->add_flag("--json", raw.json, "machine-readable");
  named("stop", "Press a VM's power button.");
  named("kill", "End a VM at once.");
  named("pause", "Stop a VM's CPUs and clock.");
  named("resume", "Let a paused VM go on.");
  named("reset", "Press a VM's reset button.");
}

Status read_console(const std::string& text, RunOptions& run) {
  constexpr std::string_view kFilePrefix = "file:";
  if (text == "stdio")
    run.console = ConsoleKind::kStdio;
  else if (text == "pty")
    run.console = ConsoleKind::kPty;
  else if (text == "none")
    run.console = ConsoleKind::kNone;
  else if (text.starts_with(kFilePrefix) && text.size() > kFilePrefix.size()) {
    run.console = ConsoleKind::kFile;
    run.console_path = text.substr(kFilePrefix.size());
  } else {
    return make_error(fmt::format("--console {}: must be stdio, pty, file:PATH or none", text));
  }
  return ok();
}

Status read_cpus(const Raw& raw, RunOptions& run) {
  const auto cpus = parse_number<std::uint32_t>(raw.cpus);
  if (!cpus || *cpus == 0 || *cpus > control::kMaxCpus)
    return make_error(
        fmt::format("--cpus {}: must be a whole number from 1 to {}", raw.cpus, control::kMaxCpus));
  run.cpus = *cpus;
  run.topology = {.sockets = 1, .cores = *cpus, .threads = 1};
  if (raw.topology.empty()) return ok();
  ASSIGN_OR_RETURN(run.topology, parse_topology(raw.topology));
  const control::Topology& t = run.topology;
  if (std::uint64_t{t.sockets} * t.cores * t.threads != *cpus)
    return make_error(fmt::format("--topology {}: makes {} CPUs, but --cpus says {}", raw.topology,
                                  std::uint64_t{t.sockets} * t.cores * t.threads, *cpus));
  return ok();
}

Status read_memory(const std::string& text, RunOptions& run) {
  const auto bytes = parse_size(text);
  if (!bytes) return make_error(fmt::format("--memory {}: {}", text, bytes.error().message));
  if (*bytes < control::kMinMemory || *bytes > control::kMaxMemory)
    return make_error(fmt::format("--memory {}: must be from 1M to 16T", text));
  if (*bytes % 4096 != 0) return make_error(fmt::format("--memory {}: must be a multiple of 4K", text));
  run.memory_bytes = *bytes;
  return ok();
}

Result<RunOptions> check_run(Raw& raw) {
  RunOptions run = std::move(raw.run);
  if (!run.name.empty() && !control::is_name(run.name))
    return make_error(
        fmt::format("--name {}: must be 1 to {} letters, digits, '_', '.' or '-', the first a letter "
                    "or digit",
                    run.name, control::kMaxNameLength));
  if (run.command_line.size() > control::kMaxCommandLine)
    return make_error(fmt::format("--cmdline: has {} bytes, a kernel takes at most {}",
                                  run.command_line.size(), control::kMaxCommandLine));
  RETURN_IF_ERROR(read_memory(raw.memory, run));
  RETURN_IF_ERROR(read_cpus(raw, run));
  RETURN_IF_ERROR(read_console(raw.console, run));
  if (raw.on_reset == "exit")
    run.on_reset = control::OnReset::kExit;
  else if (raw.on_reset != "reboot")
    return make_error(fmt::format("--on-reset {}: must be reboot or exit", raw.on_reset));
  if (raw.devices.size() > control::kMaxDevices)
    return make_error(fmt::format("--device: given {} times, at most {} allowed", raw.devices.size(),
                                  control::kMaxDevices));
  for (const std::string& text : raw.devices) {
    ASSIGN_OR_RETURN(control::DeviceRequest device, parse_device(text));
    run.devices.push_back(std::move(device));
  }
  return run;
}

Leave bad_usage(const std::string& sentence) {
  complain(sentence);
  return Leave{control::kExitUsage};
}

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
  unsigned shift = 0;
  std::string_view digits = text;
  if (!digits.empty()) {
    switch (digits.back()) {
      case 'K':
      case 'k': shift = 10; break;
      case 'M':
      case 'm': shift = 20; break;
      case 'G':
      case 'g': shift = 30; break;
      case 'T':
      case 't': shift = 40; break;
      default: break;
    }
    if (shift != 0) digits.remove_suffix(1);
  }
  const auto number = parse_number<std::uint64_t>(digits);
  if (!number) return make_error("must be a whole number with K, M, G or T, such as 512M");
  const auto bytes = checked_mul(*number, std::uint64_t{1} << shift);
  if (!bytes) return make_error("is larger than any machine");
  return *bytes;
}

Result<control::DeviceRequest> parse_device(std::string_view text) {
  const auto fail = [&](std::string_view why) {
    return make_error(fmt::format("--device {}: {}", text, why));
  };
  std::string_view rest = text;
  const auto take = [&rest] {
    const std::size_t comma = rest.find(',');
    const std::string_view part = rest.substr(0, comma);
    rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
    return part;
  };
  control::DeviceRequest device{.type = std::string(take()), .properties = {}};
  if (!control::is_name(device.type)) return fail("must begin with a device type");
  if (text.ends_with(',')) return fail("ends with a comma");
  while (!rest.empty()) {
    const std::string_view part = take();
    const std::size_t equals = part.find('=');
    if (equals == std::string_view::npos || !control::is_name(part.substr(0, equals)))
      return fail(fmt::format("'{}' is not KEY=VALUE", part));
    device.properties.push_back(
        {.key = std::string(part.substr(0, equals)), .value = std::string(part.substr(equals + 1))});
  }
  if (device.properties.size() > control::kMaxProperties) return fail("has too many properties");
  return device;
}

Result<control::Topology> parse_topology(std::string_view text) {
  const auto fail = [&] {
    return make_error(
        fmt::format("--topology {}: must be three whole numbers, SOCKETS:CORES:THREADS", text));
  };
  std::array<std::uint32_t, 3> numbers{};
  std::string_view rest = text;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const std::size_t colon = rest.find(':');
    if ((colon == std::string_view::npos) != (i == 2)) return fail();
    const auto number = parse_number<std::uint32_t>(rest.substr(0, colon));
    if (!number || *number == 0 || *number > control::kMaxCpus) return fail();
    numbers[i] = *number;
    if (i < 2) rest.remove_prefix(colon + 1);
  }
  return control::Topology{.sockets = numbers[0], .cores = numbers[1], .threads = numbers[2]};
}

Command parse_command_line(int argc, const char* const* argv) {
  CLI::App app("Runs virtual machines whose every device is a sandboxed process of its own.", "bulkhead");
  app.set_version_flag("--version", "bulkhead " BULKHEAD_VERSION);
  app.require_subcommand(1);
  Raw raw;
  add_run(app, raw);
  add_managers(app, raw);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return Leave{app.exit(success)};
  } catch (const CLI::Error& error) {
    return bad_usage(
        fmt::format("{}; `bulkhead --help` and `bulkhead COMMAND --help` say more", error.what()));
  }

  const std::string command = app.get_subcommands().front()->get_name();
  if (command == "run") {
    auto run = check_run(raw);
    if (!run) return bad_usage(run.error().message);
    return std::move(*run);
  }
  if (command == "ls") return ListOptions{.json = raw.json};
  if (!control::is_name(raw.name)) return bad_usage(fmt::format("'{}' is not the name of a VM", raw.name));
  if (command == "devices")
    return DevicesOptions{.name = raw.name, .permissions = raw.permissions, .json = raw.json};
  if (command == "inspect")
    return InspectOptions{.name = raw.name, .instance = raw.instance, .json = raw.json};
  return ActionOptions{.name = raw.name, .action = command};
}

}  // namespace bulkhead::cli
