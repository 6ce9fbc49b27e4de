#include "tools/bulkhead/run_setup.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstdlib>
#include <ctime>

#include "ipc/control/run_directory.h"
#include "tools/bulkhead/net.h"
#include "tools/bulkhead/print.h"

namespace bulkhead::cli {
namespace {

using control::ConsoleKind;

// A readable regular file that is not empty.
Result<UniqueFd> open_input(const char* what, const std::string& path) {
  const auto fail = [&](std::string_view why) { return make_error(fmt::format("{} {}: {}", what, path, why)); };
  // O_NONBLOCK: a FIFO must not hold us up before it is refused.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return make_errno_error(fmt::format("{} {}", what, path));
  UniqueFd file(fd);
  struct stat info {};
  if (::fstat(fd, &info) != 0) return make_errno_error(fmt::format("{} {}", what, path));
  if (S_ISDIR(info.st_mode)) return fail("is a directory");
  if (!S_ISREG(info.st_mode)) return fail("is not a regular file");
  if (info.st_size == 0) return fail("is empty");
  return file;
}

// O_NONBLOCK: neither now nor later is anybody waited for who does not read a FIFO. `made` gets to know of a file that
// was not there before.
Result<UniqueFd> open_output(const std::string& what, const std::string& path, int flags, NewFiles& made) {
  const int how = O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | flags;
  int fd = ::open(path.c_str(), how | O_EXCL, 0600);
  if (fd >= 0) made.add(path);
  if (fd < 0 && errno == EEXIST) fd = ::open(path.c_str(), how, 0600);
  if (fd >= 0) return UniqueFd(fd);
  if (errno == ENXIO) return make_error(what + ": is a FIFO that nobody reads, or a device that is not there");
  return make_errno_error(what);
}

// Opens the log and proves that it takes a line.
Result<UniqueFd> open_log(const std::string& path, const std::string& name) {
  NewFiles made;
  ASSIGN_OR_RETURN(UniqueFd file, open_output(fmt::format("--log {}", path), path, O_APPEND, made));
  made.keep();  // what went wrong is told there
  const int fd = file.get();
  const std::string line =
      fmt::format("bulkhead: info: {:%Y-%m-%dT%H:%M:%SZ} VM {} starts\n", fmt::gmtime(std::time(nullptr)), name);
  const ssize_t written = ::write(fd, line.data(), line.size());
  if (written < 0) return make_errno_error(fmt::format("--log {}: cannot write", path));
  if (written != static_cast<ssize_t>(line.size()))
    return make_error(fmt::format("--log {}: cannot write: No space left on device", path));
  return file;
}

// Disks, TAPs and sockets are opened as their user may open them: the VMM and the device processes get descriptors.
Status open_device_files(RunSetup& setup) {
  control::VmConfig& config = setup.config;
  for (const control::DeviceRequest& device : config.devices) {
    if (device.files == 0 || device.type == "virtio_console") continue;
    if (is_net(device)) {
      RETURN_IF_ERROR(open_net(device, config.files.devices, setup.made));
      continue;
    }
    const auto value_of = [&](std::string_view key) -> std::string {
      for (const control::Property& property : device.properties) {
        if (property.key == key) return property.value;
      }
      return {};
    };
    if (device.type == "virtio_vsock") {
      ASSIGN_OR_RETURN(setup.vsock, SocketFile::listen("--vsock", value_of("path")));
      config.files.devices.push_back(setup.vsock.take_socket());
      continue;
    }
    const std::string path = value_of("path");
    const bool direct = value_of("direct") == "on";
    // O_NONBLOCK: a FIFO must not hold us up before the VMM refuses it.
    const bool qcow2 = value_of("format") == "qcow2";
    const bool read_only = value_of("readonly") == "on";
    const int flags = (read_only ? O_RDONLY : O_RDWR) | (direct && !qcow2 ? O_DIRECT : 0);
    const int fd = ::open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd >= 0) config.files.devices.emplace_back(fd);
    struct stat info {};
    if (fd < 0 ? errno == EISDIR : ::fstat(fd, &info) == 0 && S_ISDIR(info.st_mode))
      return make_error(fmt::format("--disk {}: is a directory", path));
    if (fd < 0 && errno == EINVAL && direct)
      return make_error(fmt::format("--disk {}: its file system does not take direct=on (O_DIRECT)", path));
    if (fd < 0) return make_errno_error(fmt::format("--disk {}", path));
    ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    if (!qcow2) {
      if (value_of("format").empty() && !direct && looks_like_qcow2(BorrowedFd(fd)))
        complain(
            fmt::format("--disk {}: looks like a qcow2 image, and is used as a raw disk; format=qcow2 or format=raw "
                        "says which it is",
                        path));
      continue;
    }
    // The guest's disk is what the server shows of the image.
    ASSIGN_OR_RETURN(ImageServer server, ImageServer::start(BorrowedFd(fd), {.what = fmt::format("--disk {}", path),
                                                                             .read_only = read_only,
                                                                             .direct = direct}));
    config.files.devices.back() = server.take_disk();
    setup.image_servers.push_back(std::move(server));
  }
  return ok();
}

// The ROM that a card of this type brings along when a firmware runs; nullptr: none.
const char* default_rom(std::string_view type) {
  if (type == "virtio_net") return "/usr/lib/ipxe/qemu/pxe-virtio.rom";
  if (type == "vga") return "/usr/share/seabios/vgabios-stdvga.bin";
  if (type == "e1000") return "/usr/lib/ipxe/qemu/pxe-e1000.rom";
  return nullptr;
}

// Expansion ROMs: rom=FILE, rom=off, or what the card brings along (where that is installed).
Status open_roms(control::VmConfig& config) {
  for (control::DeviceRequest& device : config.devices) {
    auto named = std::find_if(device.properties.begin(), device.properties.end(),
                              [](const control::Property& property) { return property.key == "rom"; });
    if (named == device.properties.end()) {
      const char* usual = config.firmware_path.empty() ? nullptr : default_rom(device.type);
      if (usual == nullptr || ::access(usual, R_OK) != 0) continue;
      device.properties.push_back({.key = "rom", .value = usual});
      named = device.properties.end() - 1;
    }
    if (named->value == "off") continue;
    if (config.firmware_path.empty())
      return make_error(
          fmt::format("rom={}: only a firmware looks at option ROMs: --firmware is needed", named->value));
    ASSIGN_OR_RETURN(UniqueFd file, open_input("rom", named->value));
    config.files.roms.push_back(std::move(file));
    device.rom = true;
  }
  return ok();
}

Result<std::array<UniqueFd, 2>> create_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) return make_errno_error("cannot create a pipe");
  return std::array<UniqueFd, 2>{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// What the VMM reads and writes.
struct VmmEnds {
  UniqueFd input;
  UniqueFd output;
};

Result<VmmEnds> open_pty(const std::string& what, ConsoleEnds& ends, std::string& path) {
  const int fd = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return make_errno_error(what + " pty: cannot open a pseudoterminal");
  UniqueFd controller(fd);
  std::array<char, 64> name{};
  if (::grantpt(fd) != 0 || ::unlockpt(fd) != 0 || ::ptsname_r(fd, name.data(), name.size()) != 0)
    return make_errno_error(what + " pty: cannot set the pseudoterminal up");
  path = name.data();
  ASSIGN_OR_RETURN(UniqueFd keeper, UniqueFd::open(path, O_RDWR | O_NOCTTY));
  termios settings{};
  if (::tcgetattr(keeper.get(), &settings) == 0) {
    ::cfmakeraw(&settings);  // no echo of the guest's output back to the guest
    ::tcsetattr(keeper.get(), TCSANOW, &settings);
  }
  ends.pty_keepers.push_back(std::move(keeper));
  VmmEnds vmm;
  ASSIGN_OR_RETURN(vmm.input, UniqueFd::duplicate(controller.borrow()));
  vmm.output = std::move(controller);
  return vmm;
}

// `what`: the option, for messages. `path`: of a file; of a pseudoterminal it becomes its name.
Result<VmmEnds> open_terminal(const std::string& what, ConsoleKind kind, std::string& path, RunSetup& setup) {
  ConsoleEnds& ends = setup.console;
  VmmEnds vmm;
  switch (kind) {
    case ConsoleKind::kNone: break;
    case ConsoleKind::kPty: return open_pty(what, ends, path);
    case ConsoleKind::kFile: {
      // The VMM empties it: a VM that does not start shall not cost what an earlier one has written.
      ASSIGN_OR_RETURN(vmm.output, open_output(fmt::format("{} file:{}", what, path), path, 0, setup.made));
      break;
    }
    case ConsoleKind::kStdio: {
      ASSIGN_OR_RETURN(auto input, create_pipe());
      ASSIGN_OR_RETURN(auto output, create_pipe());
      vmm.input = std::move(input[0]);
      ends.to_guest = std::move(input[1]);
      ends.from_guest = std::move(output[0]);
      vmm.output = std::move(output[1]);
      break;
    }
  }
  return vmm;
}

Status open_console(const RunOptions& options, RunSetup& setup) {
  setup.config.console = options.console;
  if (options.console == ConsoleKind::kFile) setup.config.console_path = options.console_path;
  ASSIGN_OR_RETURN(VmmEnds ends, open_terminal("--console", options.console, setup.config.console_path, setup));
  setup.config.files.console_input = std::move(ends.input);
  setup.config.files.console_output = std::move(ends.output);
  return ok();
}

// They are the last devices, so their descriptors come last.
Status open_virtio_consoles(RunSetup& setup) {
  for (control::DeviceRequest& device : setup.config.devices) {
    if (device.type != "virtio_console" || device.files == 0) continue;
    const auto find = [&](std::string_view key) {
      return std::find_if(device.properties.begin(), device.properties.end(),
                          [&](const control::Property& property) { return property.key == key; });
    };
    const std::string where = find("where")->value;
    const ConsoleKind kind = where == "stdio" ? ConsoleKind::kStdio
                             : where == "pty" ? ConsoleKind::kPty
                                              : ConsoleKind::kFile;
    if (find("path") == device.properties.end()) device.properties.push_back({.key = "path", .value = {}});
    ASSIGN_OR_RETURN(VmmEnds ends, open_terminal("--virtio-console", kind, find("path")->value, setup));
    if (ends.input.valid()) setup.config.files.devices.push_back(std::move(ends.input));
    setup.config.files.devices.push_back(std::move(ends.output));
    const std::optional<TerminalSize> size = kind == ConsoleKind::kStdio ? terminal_size() : std::nullopt;
    if (!size || find("columns") != device.properties.end() || find("rows") != device.properties.end()) continue;
    device.properties.push_back({.key = "columns", .value = fmt::to_string(size->columns)});
    device.properties.push_back({.key = "rows", .value = fmt::to_string(size->rows)});
    setup.console.sized = true;
  }
  return ok();
}

}  // namespace

std::optional<TerminalSize> terminal_size() {
  winsize size{};
  if (::isatty(STDIN_FILENO) == 0 || ::ioctl(STDIN_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 ||
      size.ws_row == 0)
    return std::nullopt;
  return TerminalSize{.columns = size.ws_col, .rows = size.ws_row};
}

Result<std::string> beside_us(const char* name) {
  std::array<char, PATH_MAX> path{};
  const ssize_t length = ::readlink("/proc/self/exe", path.data(), path.size());
  if (length <= 0 || length == static_cast<ssize_t>(path.size()))
    return make_errno_error("cannot tell where this program is");
  std::string own(path.data(), static_cast<std::size_t>(length));
  return Result<std::string>(boost::system::in_place_value, own.substr(0, own.rfind('/') + 1) + name);
}

Result<RunSetup> prepare_run(const RunOptions& options) {
  RunSetup setup;
  control::VmConfig& config = setup.config;
  config.name_is_derived = options.name.empty();
  config.name = config.name_is_derived ? fmt::format("vm-{}", ::getpid()) : options.name;
  config.run_directory = control::default_run_directory();
  config.kernel_path = options.kernel;
  config.initrd_path = options.initrd;
  config.command_line = options.command_line;
  config.memory_bytes = options.memory_bytes;
  config.cpus = options.cpus;
  config.topology = options.topology;
  config.on_reset = options.on_reset;
  config.on_crash = options.on_crash;
  config.device_deadline_ns = options.device_deadline_ns;
  config.devices = options.devices;
  config.log_path = options.log;

  config.firmware_path = options.firmware;
  config.boot_menu_ms = options.boot_menu_ms;
  if (options.firmware.empty()) {
    ASSIGN_OR_RETURN(config.files.kernel, open_input("--kernel", options.kernel));
  } else {
    ASSIGN_OR_RETURN(config.files.firmware, open_input("--firmware", options.firmware));
  }
  if (!options.initrd.empty()) {
    ASSIGN_OR_RETURN(config.files.initrd, open_input("--initrd", options.initrd));
  }
  RETURN_IF_ERROR(open_device_files(setup));
  RETURN_IF_ERROR(open_roms(config));
  setup.vmm_program = options.vmm;
  if (setup.vmm_program.empty()) {
    ASSIGN_OR_RETURN(setup.vmm_program, beside_us("bulkhead-vmm"));
  }
  std::string device_program = options.device_program;
  if (device_program.empty()) {
    ASSIGN_OR_RETURN(device_program, beside_us("bulkhead-device"));
  }
  ASSIGN_OR_RETURN(config.files.device_executable, UniqueFd::open(device_program, O_RDONLY));
  if (std::any_of(config.devices.begin(), config.devices.end(), has_user_network)) {
    ASSIGN_OR_RETURN(const std::string program, beside_us("bulkhead-usernet"));
    ASSIGN_OR_RETURN(config.files.usernet_executable, UniqueFd::open(program, O_RDONLY));
  }
  // The VMM is who claims the name; a name that is taken is refused here too, so that a second VM does not
  // empty the first one's console file before it hears of it.
  ASSIGN_OR_RETURN(const auto directory, control::RunDirectory::open(config.run_directory));
  if (!config.name_is_derived && directory.is_live(config.name))
    return make_error(fmt::format("a VM named {} is already running", config.name));
  // Files that are created come last: nothing is left behind when something else is wrong.
  if (!options.log.empty()) {
    ASSIGN_OR_RETURN(config.files.log, open_log(options.log, config.name));
  }
  RETURN_IF_ERROR(open_console(options, setup));
  RETURN_IF_ERROR(open_virtio_consoles(setup));
  return setup;
}

}  // namespace bulkhead::cli
