#include "tools/bulkhead/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <csignal>
#include <optional>
#include <sstream>

#include "ipc/base/checked.h"
#include "ipc/control/device_messages.h"
#include "tools/bulkhead/device_options.h"
#include "tools/bulkhead/net.h"
#include "tools/bulkhead/option_values.h"
#include "tools/bulkhead/print.h"

namespace bulkhead::cli {
namespace {

using control::ConsoleKind;

constexpr const char* kFooter =
    "`bulkhead COMMAND --help` says more about a command. The exit status of every command but `run`, "
    "whose\n"
    "own help has it, is 0 when it was done, 1 when it was not and 2 for bad usage.\n"
    "\n"
    "VMs are found by their sockets in BULKHEAD_RUN_DIR; by default /run/bulkhead for root, and\n"
    "XDG_RUNTIME_DIR/bulkhead or else /tmp/bulkhead-UID for others. Everybody sees their own VMs only.";

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

constexpr const char* kSeabios = "/usr/share/seabios/bios-256k.bin";
constexpr std::int64_t kLongestEvery = 86'400'000'000'000;

// What CLI11 fills in; texts are checked afterwards, so that each mistake gets a sentence of our own.
struct Raw {
  RunOptions run;
  std::string firmware;
  std::string boot_menu;
  std::string memory = "256M";
  std::string cpus = "1";
  std::string topology;
  std::optional<std::string> console;
  std::vector<std::string> virtio_consoles;
  std::vector<std::string> balloons;
  std::vector<std::string> vsocks;
  std::optional<std::string> size;
  std::string on_reset = "reboot";
  std::string device_deadline = "1s";
  std::vector<std::string> devices;
  std::vector<std::string> disks;
  std::vector<std::string> nets;
  std::vector<std::string> on_crash;
  std::vector<std::string> limits;
  std::optional<std::string> vm_name;
  std::string name;
  std::string instance;
  std::string device;
  std::string executable;
  std::string signal = "KILL";
  std::optional<std::string> every;
  std::optional<std::string> count;
  std::optional<std::string> seed;
  std::string file;
  std::string keys;
  std::string vga;  // empty: none; "true": as it comes
  bool text = false;
  bool no_follow = false;
  bool json = false;
  bool permissions = false;
};

// An option that names a file. An empty name, such as an unset variable of a script, is no file.
CLI::Option* add_file(CLI::App* command, const char* option, std::string& path, const char* help) {
  return command->add_option(option, path, help)->type_name("FILE")->check([](const std::string& given) {
    return std::string(given.empty() ? "no file is named" : "");
  });
}

void add_machine(CLI::App* run, Raw& raw) {
  add_file(run, "--kernel", raw.run.kernel, "Linux bzImage, or ELF with a PVH entry note; without firmware");
  run->add_option("--firmware", raw.firmware,
                  "boot as a PC does, from disks and network cards: seabios (that of Debian's package) or a BIOS file")
      ->type_name("seabios|FILE");
  run->add_option("--boot-menu", raw.boot_menu, "how long the firmware offers its boot menu")->type_name("TIME");
  add_file(run, "--initrd", raw.run.initrd, "initial RAM disk");
  run->add_option("--cmdline", raw.run.command_line, "the kernel's command line")->type_name("TEXT");
  run->add_option("--memory", raw.memory, "guest RAM: bytes, or a number with K, M, G or T (powers of 1024)")
      ->capture_default_str()
      ->type_name("SIZE");
  run->add_option("--cpus", raw.cpus, "virtual CPUs, 1 to 64")->capture_default_str()->type_name("N");
  run->add_option("--topology", raw.topology, "of the CPUs; default: every CPU a core of one socket")
      ->type_name("SOCKETS:CORES:THREADS");
  run->add_option("--device", raw.devices,
                  "add a device; may be given several times; a wrong TYPE names the right ones")
      ->type_name("TYPE[,KEY=VALUE...]")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  run->add_flag(
         "--vga", raw.vga,
         "add a VGA with 32 MiB (Bochs VBE); keys: xres=N, yres=N (the mode that its monitor prefers), rom=FILE|off,\n"
         "slot=N; `bulkhead screenshot` shows it")
      ->type_name("[=KEY=VALUE,...]");
  run->add_option(
         "--disk", raw.disks,
         "add a disk (virtio-blk): an image or a block device; keys: format=raw|qcow2, readonly=on|off, direct=on|off\n"
         "(O_DIRECT), aio=io_uring|blocking (io_uring where the host allows it), serial=TEXT, queues=N, slot=N,\n"
         "werror=report|stop (what follows when the host's file system is full: the guest sees an error, or the\n"
         "VM is paused until `bulkhead resume`), and limits: bps=N bytes a second, bps-burst=N at once, iops=N, "
         "iops-burst=N, with K, M, G or T or without; a\n"
         "comma in FILE is written twice; may be given several times")
      ->type_name("FILE[,KEY=VALUE...]")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  run->add_option(
         "--net", raw.nets,
         "add a network card: on a TAP that exists, on one that is open (fd=N[:N...]), on a network of its own\n"
         "that needs no privilege (user), or on a ring to another VM's card (ring=PATH); keys: mac=XX:XX:XX:XX:XX:XX,\n"
         "model=virtio|e1000 (virtio), mtu=N, slot=N; limits: bps=N bytes a second, bps-burst=N at once, pps=N\n"
         "frames a second, pps-burst=N, for each direction, or for one with rx- or tx- in front; tap: queues=N,\n"
         "create=on (the interface is made, is up, and goes with the VM);\n"
         "user: hostfwd=tcp|udp:[ADDRESS]:PORT-[ADDRESS]:PORT (may be repeated), net=10.0.2.0/24, host=, dns=,\n"
         "dhcpstart=ADDRESS, hostname=TEXT, restrict=on|off, tftp=DIR, bootfile=TEXT, host-loopback=on|off (the\n"
         "host's 127.0.0.1 as host=); may be given several times")
      ->type_name("tap=NAME|user|ring=PATH[,KEY=VALUE...]")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

void add_run(CLI::App& app, Raw& raw) {
  CLI::App* run = app.add_subcommand("run", "Boot a VM and stay with it until it ends.");
  run->footer(kRunFooter);
  add_machine(run, raw);
  run->add_option("--console", raw.console,
                  "the first serial port: stdio (default, unless --virtio-console has it), pty (its path is printed),\n"
                  "file:PATH or none")
      ->type_name("WHERE");
  run->add_option(
         "--virtio-console", raw.virtio_consoles,
         "add a virtio console (hvc0 in Linux): stdio, pty, file:PATH or none; keys: columns=N, rows=N (of the\n"
         "terminal; known of stdio), slot=N; may be given several times")
      ->type_name("WHERE[,KEY=VALUE...]")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  run->add_option(
         "--vsock", raw.vsocks,
         "add sockets between host and guest (virtio-vsock): whoever connects to the Unix socket PATH and says\n"
         "CONNECT PORT reaches that port of the guest, whose context id is N (3 or more); what the guest\n"
         "connects to, of the host (context id 2), is PATH_PORT; key: slot=N")
      ->type_name("cid=N,path=PATH[,KEY=VALUE...]")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  run->add_option(
         "--balloon", raw.balloons,
         "add a memory balloon (virtio-balloon), into which the guest gives SIZE of its memory, 0 for now;\n"
         "`bulkhead balloon` changes that; keys: stats=SECONDS (between the guest's statistics, 10; 0: none),\n"
         "deflate-on-oom=on|off, reporting=on|off (of free pages), slot=N")
      ->type_name("SIZE[,KEY=VALUE...]")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  run->add_option("--name", raw.vm_name, "for `bulkhead ls` and the other commands; default: one made up")
      ->type_name("NAME");
  add_file(run, "--log", raw.run.log, "append the VMM's messages to FILE; default: standard error");
  run->add_option("--on-reset", raw.on_reset, "what a reset by the guest does: reboot or exit")
      ->capture_default_str()
      ->type_name("ACTION");
  run->add_option("--on-crash", raw.on_crash,
                  "what the death of a device process does: restart (default; a device that keeps dying is "
                  "isolated),\nisolate (it reads all ones from then on) or stop (the VM ends); for all, or for the "
                  "one that\nplays ROLE; may be given several times. The VM cannot go on without pci and platform: "
                  "it\nends instead of isolating them")
      ->type_name("[ROLE=]ACTION")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  run->add_option("--device-deadline", raw.device_deadline,
                  "most time for a device process over one request: 10ms to 3600s")
      ->capture_default_str()
      ->type_name("TIME");
  add_file(run, "--vmm", raw.run.vmm, "the VMM to start; default: bulkhead-vmm beside this program")
      ->group("Development");
  add_file(run, "--device-program", raw.run.device_program,
           "the device processes' program; default: bulkhead-device beside this program")
      ->group("Development");
}

void add_managers(CLI::App& app, Raw& raw) {
  const auto named = [&](const char* command, const char* help) {
    CLI::App* sub = app.add_subcommand(command, help);
    sub->add_option("NAME", raw.name, "the VM, as `bulkhead ls` shows it")->required()->type_name(" ");
    return sub;
  };
  app.add_subcommand("ls", "List this user's running VMs.")->add_flag("--json", raw.json, "machine-readable");
  named("status", "Show a VM's state, and what its balloon holds.")->add_flag("--json", raw.json, "machine-readable");
  CLI::App* balloon = named("balloon", "Show a VM's memory balloon, or set how much memory the guest is to give up.");
  balloon->add_option("SIZE", raw.size, "bytes, or a number with K, M, G or T (powers of 1024)")->type_name(" ");
  balloon->add_flag("--json", raw.json, "machine-readable");
  balloon->footer("Does not wait for the guest, which gives up what it can spare, in its own time.");
  CLI::App* devices = named("devices", "Show a VM's device processes: pid, jail, requests, restarts.");
  devices->footer("STALL-MS: for how long nobody served, the last time and at most.");
  devices->add_flag("--permissions", raw.permissions, "what each jail allows");
  devices->add_flag("--json", raw.json, "machine-readable");
  CLI::App* inspect = named("inspect", "Show a device's registers and counters.");
  inspect->add_option("INSTANCE", raw.instance, "as `bulkhead devices` names it; default: all")->type_name(" ");
  inspect->add_flag("--json", raw.json, "machine-readable");
  CLI::App* console = named("console", "Look at a VM's first serial port and type there; several may at once.");
  console->add_flag("--no-follow", raw.no_follow, "only print what is kept of its output: the last 64 KiB");
  console->footer("Ctrl-A x leaves, Ctrl-A Ctrl-A is one Ctrl-A. The VM goes on.");
  CLI::App* screenshot = named("screenshot", "Write what a VM's screen shows to a PNG file.");
  add_file(screenshot, "FILE", raw.file, "the PNG")->type_name(" ");
  screenshot->add_flag("--text", raw.text, "print the characters of a text mode instead");
  CLI::App* sendkeys = named("sendkeys", "Press keys of a VM's keyboard.");
  sendkeys->add_option("KEYS", raw.keys, "characters, and names in <>: \"root<enter>\", \"<ctrl-alt-del>\", \"<f12>\"")
      ->required()
      ->type_name(" ");
  sendkeys->footer("A US keyboard. << is the character <.");
  named("stop", "Press a VM's power button: a guest that listens to it shuts down.")
      ->footer("Does not wait for the guest. `bulkhead kill` ends a VM whose guest takes no notice.");
  named("kill", "End a VM at once, as if its power were cut.");
  named("pause", "Stop a VM's CPUs and clock.");
  named("resume", "Let a paused VM go on.");
  named("reset", "Press a VM's reset button.");
  CLI::App* limit = named("limit", "Set rate limits of a disk or network card while its VM runs.");
  limit->add_option("DEVICE", raw.device, "as `bulkhead devices` names it, such as virtio_blk0")
      ->required()
      ->type_name(" ");
  limit
      ->add_option(
          "LIMIT", raw.limits,
          "bps=N, bps-burst=N and, of a disk, iops=N, iops-burst=N, of a network card pps=N, pps-burst=N, also\n"
          "with rx- or tx- in front; 0: no limit. What is not named stays")
      ->required()
      ->type_name("KEY=VALUE...");
  limit->footer("`bulkhead inspect` shows the limits. They last as long as the VM.");
}

void add_recovery(CLI::App& app, Raw& raw) {
  const auto named = [&](const char* command, const char* help) {
    CLI::App* sub = app.add_subcommand(command, help);
    sub->add_option("NAME", raw.name, "the VM, as `bulkhead ls` shows it")->required()->type_name(" ");
    return sub;
  };
  CLI::App* events = named("events", "Show what happens to a VM's device processes, as it happens.");
  events->add_flag("--json", raw.json, "machine-readable: one object a line");
  events->add_flag("--no-follow", raw.no_follow, "only what has happened until now");
  events->footer("Ends with status 0 when the VM ends. Times are UTC.");

  CLI::App* fault = named("fault", "Kill or stop a device process, to see the VM go on.");
  fault
      ->add_option("DEVICE", raw.device,
                   "a role or a device as `bulkhead devices` names it, standby (the process that waits for a role), or "
                   "any: a random role each time")
      ->required()
      ->type_name(" ");
  fault->add_option("--signal", raw.signal, "KILL, SEGV, STOP or ABRT")->capture_default_str()->type_name("SIGNAL");
  fault->add_option("--every", raw.every, "again after a random time from T/2 to 3T/2, such as 500ms or 2s")
      ->type_name("T");
  fault->add_option("--count", raw.count, "how many times; default: 1, with --every until the VM ends")->type_name("N");
  fault->add_option("--random-seed", raw.seed, "repeats a random choice; printed when it was made up")->type_name("S");
  fault->footer("These faults do not use up the restarts that a device process has a minute.");

  CLI::App* upgrade = named("upgrade", "Put another executable under a running device.");
  upgrade->add_option("DEVICE", raw.device, "a role or a device as `bulkhead devices` names it")
      ->required()
      ->type_name(" ");
  add_file(upgrade, "--executable", raw.executable, "default: bulkhead-device beside this program");
  upgrade->footer(
      "An executable that keeps the device's state in another way is refused, and the old process goes on.");
  named("restore", "Bring an isolated device back, from reset.")
      ->add_option("DEVICE", raw.device, "a role or a device as `bulkhead devices` names it")
      ->required()
      ->type_name(" ");
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
    return make_error(fmt::format("--cpus {}: must be a whole number from 1 to {}", raw.cpus, control::kMaxCpus));
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

// What runs first.
Status read_boot(const Raw& raw, RunOptions& run) {
  if (run.kernel.empty() && raw.firmware.empty())
    return make_error("nothing is named that the VM is to run: --kernel FILE or --firmware seabios is needed");
  if (raw.firmware.empty()) {
    if (!raw.boot_menu.empty()) return make_error("--boot-menu: it is a firmware that has one: --firmware is needed");
    return ok();
  }
  for (const auto& [given, option] :
       {std::pair(!run.kernel.empty(), "--kernel"), std::pair(!run.initrd.empty(), "--initrd"),
        std::pair(!run.command_line.empty(), "--cmdline")}) {
    if (given)
      return make_error(
          fmt::format("{}: a firmware starts what it finds on disks and in the network; it cannot be "
                      "given together with --firmware",
                      option));
  }
  run.firmware = raw.firmware == "seabios" ? kSeabios : raw.firmware;
  if (raw.boot_menu.empty()) return ok();
  const auto time = parse_duration(raw.boot_menu);
  constexpr std::int64_t kMillisecond = 1'000'000;
  if (!time || *time < kMillisecond || *time / kMillisecond > control::kMaxBootMenuMs)
    return make_error(
        fmt::format("--boot-menu {}: must be a whole number with ms or s, such as 3s, from 1ms to 65s", raw.boot_menu));
  run.boot_menu_ms = static_cast<std::uint32_t>(*time / kMillisecond);
  return ok();
}

Status read_memory(const std::string& text, RunOptions& run) {
  const auto bytes = parse_size(text);
  if (!bytes) return make_error(fmt::format("--memory {}: {}", text, bytes.error().message));
  if (*bytes < control::kMinMemory || *bytes > control::kMaxMemory)
    return make_error(fmt::format("--memory {}: must be from 16M to 16T", text));
  if (*bytes % control::kMemoryUnit != 0) return make_error(fmt::format("--memory {}: must be a multiple of 1M", text));
  run.memory_bytes = *bytes;
  return ok();
}

Result<std::int64_t> read_device_deadline(const std::string& text) {
  const auto deadline = parse_duration(text);
  if (!deadline || *deadline < control::kMinDeviceDeadlineNs || *deadline > control::kMaxDeviceDeadlineNs)
    return make_error(fmt::format(
        "--device-deadline {}: must be a whole number with ms or s, such as 500ms, from 10ms to 3600s", text));
  return *deadline;
}

Result<std::vector<control::OnCrashRule>> read_on_crash(const std::vector<std::string>& texts) {
  std::vector<control::OnCrashRule> rules;
  if (texts.size() > control::kMaxOnCrashRules)
    return make_error(
        fmt::format("--on-crash: given {} times, at most {} allowed", texts.size(), control::kMaxOnCrashRules));
  for (const std::string& text : texts) {
    ASSIGN_OR_RETURN(control::OnCrashRule rule, parse_on_crash(text));
    for (const control::OnCrashRule& earlier : rules) {
      if (earlier.role == rule.role)
        return make_error(
            fmt::format("--on-crash {}: another rule speaks of {}", text, rule.role.empty() ? "all" : rule.role));
    }
    rules.push_back(std::move(rule));
  }
  return rules;
}

Result<FaultOptions> check_fault(const Raw& raw) {
  FaultOptions fault{.name = raw.name, .device = raw.device, .every_ns = {}, .seed = {}};
  ASSIGN_OR_RETURN(fault.signal, parse_signal(raw.signal));
  if (raw.every) {
    const auto every = parse_duration(*raw.every);
    if (!every || *every == 0 || *every > kLongestEvery)
      return make_error(fmt::format(
          "--every {}: must be a whole number with ms or s, such as 500ms, from 1ms to 86400s", *raw.every));
    fault.every_ns = *every;
    fault.count = 0;
  }
  if (raw.count) {
    const auto count = parse_number<std::uint64_t>(*raw.count);
    if (!count || *count == 0) return make_error(fmt::format("--count {}: must be a whole number above 0", *raw.count));
    fault.count = *count;
  }
  if (raw.seed) {
    fault.seed = parse_number<std::uint64_t>(*raw.seed);
    if (!fault.seed) return make_error(fmt::format("--random-seed {}: must be a whole number", *raw.seed));
  }
  return fault;
}

Result<LimitOptions> check_limit(const Raw& raw) {
  if (!control::is_name(raw.device)) return make_error(fmt::format("'{}' is not the name of a device", raw.device));
  control::DeviceRequest request;
  for (const std::string& text : raw.limits)
    RETURN_IF_ERROR(read_properties(fmt::format("limit {}", raw.device), "," + text, request));
  return LimitOptions{.name = raw.name, .device = raw.device, .properties = std::move(request.properties)};
}

Result<RunOptions> check_run(Raw& raw) {
  RunOptions run = std::move(raw.run);
  if (raw.vm_name && !control::is_name(*raw.vm_name))
    return make_error(
        fmt::format("--name {}: must be 1 to {} letters, digits, '_', '.' or '-', the first a letter "
                    "or digit",
                    *raw.vm_name, control::kMaxNameLength));
  run.name = raw.vm_name.value_or("");
  if (run.command_line.size() > control::kMaxCommandLine)
    return make_error(fmt::format("--cmdline: has {} bytes, a kernel takes at most {}", run.command_line.size(),
                                  control::kMaxCommandLine));
  RETURN_IF_ERROR(read_boot(raw, run));
  RETURN_IF_ERROR(read_memory(raw.memory, run));
  RETURN_IF_ERROR(read_cpus(raw, run));
  RETURN_IF_ERROR(read_console(raw.console.value_or("stdio"), run));
  if (raw.on_reset == "exit")
    run.on_reset = control::OnReset::kExit;
  else if (raw.on_reset != "reboot")
    return make_error(fmt::format("--on-reset {}: must be reboot or exit", raw.on_reset));
  ASSIGN_OR_RETURN(run.device_deadline_ns, read_device_deadline(raw.device_deadline));
  ASSIGN_OR_RETURN(run.on_crash, read_on_crash(raw.on_crash));
  const std::size_t devices = (raw.vga.empty() ? 0U : 1U) + raw.devices.size() + raw.disks.size() + raw.nets.size() +
                              raw.balloons.size() + raw.virtio_consoles.size() + raw.vsocks.size();
  if (devices > control::kMaxDevices)
    return make_error(fmt::format("--device: given {} times, at most {} allowed", devices, control::kMaxDevices));
  if (raw.disks.size() > control::kMaxDeviceFiles)
    return make_error(
        fmt::format("--disk: given {} times, at most {} allowed", raw.disks.size(), control::kMaxDeviceFiles));
  if (!raw.vga.empty()) {
    ASSIGN_OR_RETURN(control::DeviceRequest vga, parse_device(raw.vga == "true" ? "vga" : "vga," + raw.vga));
    run.devices.push_back(std::move(vga));
  }
  for (const std::string& text : raw.devices) {
    ASSIGN_OR_RETURN(control::DeviceRequest device, parse_device(text));
    run.devices.push_back(std::move(device));
  }
  for (const std::string& text : raw.disks) {
    ASSIGN_OR_RETURN(control::DeviceRequest disk, parse_disk(text));
    run.devices.push_back(std::move(disk));
  }
  for (const std::string& text : raw.nets) {
    ASSIGN_OR_RETURN(control::DeviceRequest net, parse_net(text));
    run.devices.push_back(std::move(net));
  }
  for (const std::string& text : raw.balloons) {
    ASSIGN_OR_RETURN(control::DeviceRequest balloon, parse_balloon(text));
    run.devices.push_back(std::move(balloon));
  }
  for (const std::string& text : raw.vsocks) {
    ASSIGN_OR_RETURN(control::DeviceRequest vsock, parse_vsock(text));
    run.devices.push_back(std::move(vsock));
  }
  RETURN_IF_ERROR(add_virtio_consoles(raw.virtio_consoles, raw.console, run));
  std::size_t files = 0;
  for (const control::DeviceRequest& device : run.devices) files += device.files;
  if (files > control::kMaxDeviceFiles)
    return make_error(fmt::format("--net: disks and queues of network cards are {}, at most {} together allowed", files,
                                  control::kMaxDeviceFiles));
  return run;
}

// A word where the command belongs that is none, named: CLI11 only says that one is missing.
std::optional<std::string> wrong_command(const CLI::App& app, int argc, const char* const* argv) {
  const std::string_view word = argc < 2 ? "" : argv[1];
  if (word.starts_with('-')) {
    if (app.get_option_no_throw(std::string(word)) != nullptr) return std::nullopt;
    return fmt::format("there is no option '{}' before a command; `bulkhead --help` says more", word);
  }
  std::string known;
  for (const CLI::App* command : app.get_subcommands({})) {
    if (command->get_name() == word) return std::nullopt;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", command->get_name());
  }
  if (argc < 2) return fmt::format("a command is missing: {}; `bulkhead --help` says more", known);
  return fmt::format("there is no command '{}'; the commands are {}", word, known);
}

Leave bad_usage(const std::string& sentence) {
  complain(sentence);
  return Leave{control::kExitUsage};
}

}  // namespace

Result<control::OnCrashRule> parse_on_crash(std::string_view text) {
  const std::size_t equals = text.find('=');
  const bool all = equals == std::string_view::npos;
  control::OnCrashRule rule{.role = std::string(all ? "" : text.substr(0, equals))};
  if (!all && !control::is_name(rule.role))
    return make_error(fmt::format("--on-crash {}: '{}' is not the name of a device process", text, rule.role));
  const std::string_view action = all ? text : text.substr(equals + 1);
  if (action == "isolate")
    rule.action = control::OnCrash::kIsolate;
  else if (action == "stop")
    rule.action = control::OnCrash::kStop;
  else if (action != "restart")
    return make_error(
        fmt::format("--on-crash {}: must be restart, isolate or stop, with ROLE= before it or not", text));
  return rule;
}

Command parse_command_line(int argc, const char* const* argv) {
  CLI::App app("Runs virtual machines whose every device is a sandboxed process of its own.", "bulkhead");
  app.set_version_flag("--version", "bulkhead " BULKHEAD_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->label("SUBCOMMAND", "COMMAND");
  app.get_formatter()->label("Subcommands", "Commands");
  Raw raw;
  add_run(app, raw);
  add_managers(app, raw);
  add_recovery(app, raw);
  app.footer(kFooter);  // last: a command takes over the footer that is there when it is added
  if (const auto sentence = wrong_command(app, argc, argv)) return bad_usage(*sentence);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    std::ostringstream text;
    app.exit(success, text, text);
    return Leave{print_out(text.str())};
  } catch (const CLI::Error& error) {
    return bad_usage(fmt::format("{}; `bulkhead --help` and `bulkhead COMMAND --help` say more", error.what()));
  }

  const std::string command = app.get_subcommands().front()->get_name();
  if (command == "run") {
    auto run = check_run(raw);
    if (!run) return bad_usage(run.error().message);
    return std::move(*run);
  }
  if (command == "ls") return ListOptions{.json = raw.json};
  if (!control::is_name(raw.name)) return bad_usage(fmt::format("'{}' is not the name of a VM", raw.name));
  if (command == "devices") return DevicesOptions{.name = raw.name, .permissions = raw.permissions, .json = raw.json};
  if (command == "inspect") return InspectOptions{.name = raw.name, .instance = raw.instance, .json = raw.json};
  if (command == "status") return StatusOptions{.name = raw.name, .json = raw.json};
  if (command == "balloon") {
    BalloonOptions balloon{.name = raw.name, .bytes = {}, .json = raw.json};
    if (raw.size) {
      const Result<std::uint64_t> bytes = parse_size(*raw.size);
      if (!bytes) return bad_usage(fmt::format("the size {} {}", *raw.size, bytes.error().message));
      balloon.bytes = *bytes;
    }
    return balloon;
  }
  if (command == "console") return ConsoleOptions{.name = raw.name, .follow = !raw.no_follow};
  if (command == "screenshot") {
    if (raw.file.empty() != raw.text) return bad_usage("screenshot: either a FILE or --text is needed");
    return ScreenshotOptions{.name = raw.name, .file = raw.file, .text = raw.text};
  }
  if (command == "sendkeys") {
    auto keys = parse_keys(raw.keys);
    if (!keys) return bad_usage(keys.error().message);
    return SendKeysOptions{.name = raw.name, .keys = std::move(*keys)};
  }
  if (command == "events") return EventsOptions{.name = raw.name, .follow = !raw.no_follow, .json = raw.json};
  if (command == "fault" || command == "upgrade" || command == "restore") {
    if (!control::is_name(raw.device)) return bad_usage(fmt::format("'{}' is not the name of a device", raw.device));
    if (command != "fault")
      return ReplaceOptions{.name = raw.name, .device = raw.device, .action = command, .executable = raw.executable};
    const auto fault = check_fault(raw);
    if (!fault) return bad_usage(fault.error().message);
    return *fault;
  }
  if (command == "limit") {
    auto limit = check_limit(raw);
    if (!limit) return bad_usage(limit.error().message);
    return std::move(*limit);
  }
  return ActionOptions{.name = raw.name, .action = command};
}

}  // namespace bulkhead::cli
