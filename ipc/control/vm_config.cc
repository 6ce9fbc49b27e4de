#include "ipc/control/vm_config.h"

#include <array>

#include "ipc/control/capnp_codec.h"
#include "ipc/control/vm_config.capnp.h"

namespace bulkhead::control {
namespace {

using namespace codec;

constexpr std::size_t kMaxReport = std::size_t{32} << 10;  // a crash report
constexpr std::size_t kMaxPropertyLength = kMaxPathLength;

// The members of VmFiles, by their number on the wire.
constexpr std::array kFileMembers = {&VmFiles::kernel,
                                     &VmFiles::initrd,
                                     &VmFiles::console_input,
                                     &VmFiles::console_output,
                                     &VmFiles::log,
                                     &VmFiles::device_executable,
                                     &VmFiles::usernet_executable,
                                     &VmFiles::firmware};

void write_config(schema::VmConfig::Builder out, const VmConfig& config) {
  out.setName(text(config.name));
  out.setNameIsDerived(config.name_is_derived);
  out.setRunDirectory(text(config.run_directory));
  out.setKernelPath(text(config.kernel_path));
  out.setInitrdPath(text(config.initrd_path));
  out.setFirmwarePath(text(config.firmware_path));
  out.setBootMenuMs(config.boot_menu_ms);
  out.setCommandLine(text(config.command_line));
  out.setMemoryBytes(config.memory_bytes);
  out.setCpus(config.cpus);
  out.setSockets(config.topology.sockets);
  out.setCores(config.topology.cores);
  out.setThreads(config.topology.threads);
  out.setConsole(static_cast<std::uint8_t>(config.console));
  out.setConsolePath(text(config.console_path));
  out.setLogPath(text(config.log_path));
  out.setOnReset(static_cast<std::uint8_t>(config.on_reset));
  out.setDeviceDeadlineNs(static_cast<std::uint64_t>(config.device_deadline_ns));
  auto rules = out.initOnCrash(static_cast<unsigned>(config.on_crash.size()));
  for (unsigned i = 0; i < rules.size(); ++i) {
    rules[i].setRole(text(config.on_crash[i].role));
    rules[i].setAction(static_cast<std::uint8_t>(config.on_crash[i].action));
  }
  auto devices = out.initDevices(static_cast<unsigned>(config.devices.size()));
  for (unsigned i = 0; i < devices.size(); ++i) {
    devices[i].setType(text(config.devices[i].type));
    devices[i].setFiles(config.devices[i].files);
    devices[i].setRom(config.devices[i].rom);
    const auto& properties = config.devices[i].properties;
    auto list = devices[i].initProperties(static_cast<unsigned>(properties.size()));
    for (unsigned k = 0; k < list.size(); ++k) {
      list[k].setKey(text(properties[k].key));
      list[k].setValue(text(properties[k].value));
    }
  }
}

std::vector<BorrowedFd> write_files(schema::VmConfig::Builder out, const VmFiles& files) {
  std::vector<BorrowedFd> fds;
  std::vector<std::uint8_t> kinds;
  for (std::size_t i = 0; i < kFileMembers.size(); ++i) {
    const UniqueFd& fd = files.*kFileMembers[i];
    if (!fd.valid()) continue;
    fds.push_back(fd.borrow());
    kinds.push_back(static_cast<std::uint8_t>(i));
  }
  out.setFiles(kj::arrayPtr(kinds.data(), kinds.size()));
  for (const UniqueFd& fd : files.devices) fds.push_back(fd.borrow());
  for (const UniqueFd& fd : files.roms) fds.push_back(fd.borrow());
  return fds;
}

VmFiles read_files(capnp::List<std::uint8_t>::Reader in, std::vector<UniqueFd> fds, std::size_t of_devices,
                   std::size_t roms) {
  VmFiles files;
  check_size(in, "files", kFileMembers.size());
  if (in.size() + of_devices + roms != fds.size())
    refuse("{} descriptors came with a message that names {}", fds.size(), in.size() + of_devices + roms);
  for (unsigned i = 0; i < in.size(); ++i) {
    if (in[i] >= kFileMembers.size()) refuse("the purpose of a descriptor is {}", in[i]);
    UniqueFd& member = files.*kFileMembers[in[i]];
    if (member.valid()) refuse("two descriptors with purpose {}", in[i]);
    member = std::move(fds[i]);
  }
  for (std::size_t i = in.size(); i < fds.size(); ++i)
    (i < in.size() + of_devices ? files.devices : files.roms).push_back(std::move(fds[i]));
  return files;
}

std::vector<DeviceRequest> read_devices(capnp::List<schema::DeviceRequest>::Reader in) {
  std::vector<DeviceRequest> devices;
  check_size(in, "devices", kMaxDevices);
  for (const auto item : in) {
    DeviceRequest device{.type = read_name(item.getType(), "a device type"),
                         .properties = {},
                         .files = item.getFiles(),
                         .rom = item.getRom()};
    const auto properties = item.getProperties();
    check_size(properties, "properties", kMaxProperties);
    for (const auto property : properties) {
      device.properties.push_back({.key = read_name(property.getKey(), "the name of a property"),
                                   .value = read_text(property.getValue(), "a property", kMaxPropertyLength)});
    }
    devices.push_back(std::move(device));
  }
  return devices;
}

std::vector<OnCrashRule> read_on_crash(capnp::List<schema::OnCrashRule>::Reader in) {
  std::vector<OnCrashRule> rules;
  check_size(in, "rules for crashes", kMaxOnCrashRules);
  for (const auto item : in) {
    OnCrashRule rule{.role = read_optional_name(item.getRole(), "the role of a rule for crashes"),
                     .action = read_enum(item.getAction(), OnCrash::kStop, "what follows a crash")};
    for (const OnCrashRule& earlier : rules) {
      if (earlier.role == rule.role) refuse("two rules for crashes of one role");
    }
    rules.push_back(std::move(rule));
  }
  return rules;
}

// What holds between fields.
void check_config(const VmConfig& config) {
  if (config.memory_bytes < kMinMemory || config.memory_bytes > kMaxMemory || config.memory_bytes % kMemoryUnit != 0)
    refuse("a memory of {} bytes", config.memory_bytes);
  if (config.cpus == 0 || config.cpus > kMaxCpus) refuse("{} CPUs", config.cpus);
  const Topology& topology = config.topology;
  if (topology.sockets > kMaxCpus || topology.cores > kMaxCpus || topology.threads > kMaxCpus ||
      topology.sockets * topology.cores * topology.threads != config.cpus)
    refuse("a topology of {} x {} x {} for {} CPUs", topology.sockets, topology.cores, topology.threads, config.cpus);
  if (config.device_deadline_ns < kMinDeviceDeadlineNs || config.device_deadline_ns > kMaxDeviceDeadlineNs)
    refuse("a device deadline of {} ns", config.device_deadline_ns);
  if (config.files.kernel.valid() == config.files.firmware.valid())
    refuse("{}", config.files.kernel.valid() ? "both a kernel and firmware" : "neither a kernel nor firmware");
  if (config.files.firmware.valid() == config.firmware_path.empty()) refuse("a firmware without its name");
  if (config.boot_menu_ms > kMaxBootMenuMs) refuse("a boot menu of {} ms", config.boot_menu_ms);
  const bool input = config.files.console_input.valid();
  const bool output = config.files.console_output.valid();
  const bool both_ways = config.console == ConsoleKind::kStdio || config.console == ConsoleKind::kPty;
  if (input != both_ways || output != (config.console != ConsoleKind::kNone))
    refuse("a console whose descriptors do not fit its kind");
}

VmConfig read_config(schema::VmConfig::Reader in, std::vector<UniqueFd> fds) {
  VmConfig config;
  config.devices = read_devices(in.getDevices());
  std::size_t of_devices = 0;
  std::size_t roms = 0;
  for (const DeviceRequest& device : config.devices) {
    of_devices += device.files;
    roms += device.rom ? 1 : 0;
  }
  if (of_devices > kMaxDeviceFiles)
    refuse("{} descriptors of devices, at most {} allowed", of_devices, kMaxDeviceFiles);
  config.files = read_files(in.getFiles(), std::move(fds), of_devices, roms);
  config.name = read_name(in.getName(), "the VM's name");
  config.name_is_derived = in.getNameIsDerived();
  config.run_directory = read_text(in.getRunDirectory(), "the run directory", kMaxPathLength);
  config.kernel_path = read_text(in.getKernelPath(), "the kernel's path", kMaxPathLength);
  config.firmware_path = read_text(in.getFirmwarePath(), "the firmware's path", kMaxPathLength);
  config.boot_menu_ms = in.getBootMenuMs();
  config.initrd_path = read_text(in.getInitrdPath(), "the initrd's path", kMaxPathLength);
  config.command_line = read_text(in.getCommandLine(), "the command line", kMaxCommandLine);
  config.memory_bytes = in.getMemoryBytes();
  config.cpus = in.getCpus();
  config.topology = {.sockets = in.getSockets(), .cores = in.getCores(), .threads = in.getThreads()};
  config.console = read_enum(in.getConsole(), ConsoleKind::kFile, "the kind of console");
  config.console_path = read_text(in.getConsolePath(), "the console's path", kMaxPathLength);
  config.log_path = read_text(in.getLogPath(), "the log's path", kMaxPathLength);
  config.on_reset = read_enum(in.getOnReset(), OnReset::kExit, "what a reset does");
  config.device_deadline_ns = static_cast<std::int64_t>(in.getDeviceDeadlineNs());
  config.on_crash = read_on_crash(in.getOnCrash());
  check_config(config);
  return config;
}

void write_ended(schema::Ended::Builder out, const std::string& sentence, std::uint8_t status) {
  out.setSentence(text(sentence.substr(0, kMaxReport)));
  out.setStatus(status);
}

template <class T>
T read_ended(schema::Ended::Reader in) {
  return {.sentence = read_sentence(in.getSentence(), "the report", kMaxReport, true), .status = in.getStatus()};
}

Result<ToVmm> read_to_vmm(schema::ToVmm::Reader in, std::vector<UniqueFd> fds) {
  if (!in.isConfig() && !fds.empty()) refuse("{} descriptors came with a message that takes none", fds.size());
  switch (in.which()) {
    case schema::ToVmm::CONFIG: return ToVmm(read_config(in.getConfig(), std::move(fds)));
    case schema::ToVmm::POWER_BUTTON: return ToVmm(PowerButton{});
    case schema::ToVmm::KILL: return ToVmm(KillVm{});
    case schema::ToVmm::RESIZE_TERMINAL: {
      const auto size = in.getResizeTerminal();
      return ToVmm(ResizeTerminal{.columns = size.getColumns(), .rows = size.getRows()});
    }
  }
  refuse("kind {} is unknown", static_cast<unsigned>(in.which()));
}

Result<FromVmm> read_from_vmm(schema::FromVmm::Reader in) {
  switch (in.which()) {
    case schema::FromVmm::STARTED: {
      const auto started = in.getStarted();
      return FromVmm(Started{.name = read_name(started.getName(), "the VM's name"),
                             .device_processes = started.getDeviceProcesses()});
    }
    case schema::FromVmm::FAILED: return FromVmm(read_ended<VmFailed>(in.getFailed()));
    case schema::FromVmm::EXITED: return FromVmm(read_ended<Exited>(in.getExited()));
  }
  refuse("kind {} is unknown", static_cast<unsigned>(in.which()));
}

void write_body(schema::FromVmm::Builder out, const Started& started) {
  auto body = out.initStarted();
  body.setName(text(started.name));
  body.setDeviceProcesses(started.device_processes);
}
void write_body(schema::FromVmm::Builder out, const VmFailed& failed) {
  write_ended(out.initFailed(), failed.sentence, failed.status);
}
void write_body(schema::FromVmm::Builder out, const Exited& exited) {
  write_ended(out.initExited(), exited.sentence, exited.status);
}

}  // namespace

Result<Encoded> encode(const VmConfig& config) {
  std::vector<BorrowedFd> fds;
  ASSIGN_OR_RETURN(auto bytes, write_message<schema::ToVmm>([&](schema::ToVmm::Builder root) {
                     auto body = root.initConfig();
                     write_config(body, config);
                     fds = write_files(body, config.files);
                   }));
  return Encoded{.bytes = std::move(bytes), .fds = std::move(fds)};
}

Result<Encoded> encode(const ToVmm& message) {
  if (const auto* config = std::get_if<VmConfig>(&message)) return encode(*config);
  ASSIGN_OR_RETURN(auto bytes, write_message<schema::ToVmm>([&](schema::ToVmm::Builder root) {
                     if (const auto* size = std::get_if<ResizeTerminal>(&message)) {
                       auto body = root.initResizeTerminal();
                       body.setColumns(size->columns);
                       body.setRows(size->rows);
                     } else if (std::holds_alternative<PowerButton>(message)) {
                       root.setPowerButton();
                     } else {
                       root.setKill();
                     }
                   }));
  return Encoded{.bytes = std::move(bytes), .fds = {}};
}

Result<Encoded> encode(const FromVmm& message) {
  ASSIGN_OR_RETURN(auto bytes, write_message<schema::FromVmm>([&](schema::FromVmm::Builder root) {
                     std::visit([&](const auto& body) { write_body(root, body); }, message);
                   }));
  return Encoded{.bytes = std::move(bytes), .fds = {}};
}

Result<ToVmm> decode_to_vmm(Message message) {
  return read_message<schema::ToVmm, ToVmm>(
      message.bytes, [&](schema::ToVmm::Reader root) { return read_to_vmm(root, std::move(message.fds)); });
}

Result<FromVmm> decode_from_vmm(const Message& message) {
  if (!message.fds.empty()) return bad_message("descriptors came with a message that takes none");
  return read_message<schema::FromVmm, FromVmm>(message.bytes,
                                                [](schema::FromVmm::Reader root) { return read_from_vmm(root); });
}

}  // namespace bulkhead::control
