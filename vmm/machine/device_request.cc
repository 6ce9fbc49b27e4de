#include "vmm/machine/device_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "ipc/roles/virtio_decl.h"
#include "ipc/screen/vga_registers.h"
#include "vmm/machine/properties.h"
#include "vmm/machine/rate_limits.h"
#include "vmm/machine/usernet_request.h"

namespace bulkhead::vmm {
namespace {

constexpr unsigned kLeastMtu = 68;  // of IPv4
constexpr unsigned kMostMtu = 65'535;
constexpr unsigned kLeastCid = 3;  // lower ones, and the highest, mean something else
constexpr unsigned kMostCid = 0xffff'fffe;
constexpr unsigned kMostStatsSeconds = 3600;
constexpr unsigned kMostTerminal = 65'535;  // columns, or rows
constexpr unsigned kLastBootIndex = 9999;

Result<VirtioBlkConfig> read_virtio_blk(Properties& properties, const std::optional<DiskGeometry>& disk) {
  VirtioBlkConfig config;
  for (const char* seen_to : {"path", "readonly", "direct", "format", "aio"}) properties.take(seen_to);
  config.serial = properties.take("serial").value_or("");
  if (config.serial.size() > kMaxDiskSerial)
    return make_error(fmt::format("serial={} has {} bytes; at most {} are shown to a guest", config.serial,
                                  config.serial.size(), kMaxDiskSerial));
  ASSIGN_OR_RETURN(const std::optional<unsigned> queues,
                   properties.take_number("queues", 1, kVirtioBlkMaxQueues, "a number of queues"));
  config.queues = static_cast<std::uint16_t>(queues.value_or(1));
  const std::string werror = properties.take("werror").value_or("report");
  if (werror != "report" && werror != "stop")
    return make_error(fmt::format("werror={} must be report or stop", werror));
  config.stop_on_no_space = werror == "stop";
  ASSIGN_OR_RETURN(const Limits limits, read_limits(LimitKeys::kDisk, kNoLimit,
                                                    [&](const std::string& key) { return properties.take(key); }));
  config.limit = limits[kDiskLimit];
  if (!disk) return make_error("device virtio_blk needs a file: --disk FILE gives it one");
  config.disk = *disk;
  return config;
}

// "02:00:00:00:00:01" in either case.
Result<MacAddress> parse_mac(const std::string& text) {
  const auto fail = [&](std::string_view why) { return make_error(fmt::format("mac={} {}", text, why)); };
  constexpr std::size_t kStep = 3;  // two digits and a colon
  MacAddress mac{};
  if (text.size() != mac.size() * kStep - 1) return fail("is no MAC address, such as 02:12:34:56:78:9a");
  for (std::size_t i = 0; i < mac.size(); ++i) {
    const char* at = text.data() + i * kStep;
    const auto parsed = std::from_chars(at, at + 2, mac[i], 16);
    if (parsed.ec != std::errc{} || parsed.ptr != at + 2 || (i + 1 < mac.size() && at[2] != ':'))
      return fail("is no MAC address, such as 02:12:34:56:78:9a");
  }
  if ((mac[0] & 1) != 0) return fail("is a multicast address: its first byte must be even");
  if (mac == MacAddress{}) return fail("is nobody's address");
  return mac;
}

// What stands behind the card, if it is no TAP.
Status read_net_backend(Properties& properties, std::uint8_t files, FunctionRequest& function) {
  const std::optional<std::string> backend = properties.take("backend");
  if (!backend) return ok();
  if (*backend == "ring") {
    function.peer = properties.take("ring").value_or("");
    if (files != 1 || function.peer.empty())
      return make_error("a ring to another VM needs its socket: --net ring=PATH");
    return ok();
  }
  if (*backend != "user")
    return make_error(fmt::format("backend={} is none; --net user and --net ring=PATH have one", *backend));
  if (files != 0) return make_error("a user network takes no descriptors");
  ASSIGN_OR_RETURN(function.usernet, read_usernet(properties));
  function.tftp = properties.take("tftp").value_or("");
  function.usernet->tftp = !function.tftp.empty();
  return ok();
}

Result<MacAddress> take_mac(Properties& properties, const MacAddress& default_mac) {
  for (const char* seen_to : {"tap", "fd", "create"}) properties.take(seen_to);
  const std::optional<std::string> mac = properties.take("mac");
  if (!mac) return default_mac;
  return parse_mac(*mac);
}

// What every network card has. Whoever is behind a user network's ring is told nothing of offloads.
Result<NicConfig> read_nic(Properties& properties, std::uint8_t files, const MacAddress& default_mac,
                           FunctionRequest& function) {
  RETURN_IF_ERROR(read_net_backend(properties, files, function));
  NicConfig config;
  ASSIGN_OR_RETURN(config.mac, take_mac(properties, default_mac));
  ASSIGN_OR_RETURN(config.limits, read_limits(LimitKeys::kNetwork, kNoLimit,
                                              [&](const std::string& key) { return properties.take(key); }));
  if (function.usernet || !function.peer.empty()) config.backend = NicBackend::kFrameRing;
  config.offloads = !function.usernet;
  return config;
}

Result<VgaConfig> read_vga(Properties& properties) {
  VgaConfig config;
  ASSIGN_OR_RETURN(const auto width,
                   properties.take_number("xres", 640, screen::kMostColumns - 1, "a width in pixels"));
  ASSIGN_OR_RETURN(const auto height, properties.take_number("yres", 480, 2160, "a height in pixels"));
  if (width) config.width = static_cast<std::uint16_t>(*width);
  if (height) config.height = static_cast<std::uint16_t>(*height);
  return config;
}

Result<E1000Config> read_e1000(Properties& properties, std::uint8_t files, const MacAddress& default_mac,
                               FunctionRequest& function) {
  E1000Config config;
  ASSIGN_OR_RETURN(config.nic, read_nic(properties, files, default_mac, function));
  if (config.nic.backend == NicBackend::kFrameRing) {
    config.nic.offloads = false;  // the card makes its checksums and segments itself
    return config;
  }
  if (files == 0) return make_error("device e1000 needs a TAP: --net tap=NAME,model=e1000 gives it one");
  if (files != 1) return make_error(fmt::format("device e1000 was given {} queues of a TAP; it has one", files));
  return config;
}

Result<VirtioNetConfig> read_virtio_net(Properties& properties, std::uint8_t files, const MacAddress& default_mac,
                                        FunctionRequest& function) {
  VirtioNetConfig config;
  ASSIGN_OR_RETURN(config.nic, read_nic(properties, files, default_mac, function));
  ASSIGN_OR_RETURN(const std::optional<unsigned> mtu, properties.take_number("mtu", kLeastMtu, kMostMtu, "an MTU"));
  config.mtu = static_cast<std::uint16_t>(mtu.value_or(config.mtu));
  ASSIGN_OR_RETURN(const std::optional<unsigned> queues,
                   properties.take_number("queues", 1, kVirtioNetMaxPairs, "a number of queues"));
  if (function.usernet) {
    if (queues.value_or(1) != 1) return make_error("a card with a user network has one queue");
    function.usernet->mtu = config.mtu;
    return config;
  }
  if (!function.peer.empty()) {
    if (queues.value_or(1) != 1) return make_error("a card with a ring to another VM has one queue");
    ASSIGN_OR_RETURN(config.nic.offloads, properties.take_flag("offloads", true));
    return config;
  }
  if (files == 0)
    return make_error("device virtio_net needs something behind it: --net tap=NAME or --net user gives it that");
  if (files > kVirtioNetMaxPairs || (queues && *queues != files))
    return make_error(fmt::format("device virtio_net was given {} queues of a TAP", files));
  config.queue_pairs = files;
  return config;
}

Result<VirtioConsoleConfig> read_virtio_console(Properties& properties, std::uint8_t files,
                                                control::ConsoleKind& kind) {
  using control::ConsoleKind;
  properties.take("path");
  const std::string where = properties.take("where").value_or("none");
  std::uint8_t wanted = 0;
  if (where == "stdio" || where == "pty") {
    kind = where == "stdio" ? ConsoleKind::kStdio : ConsoleKind::kPty;
    wanted = 2;
  } else if (where == "file") {
    kind = ConsoleKind::kFile;
    wanted = 1;
  } else if (where != "none") {
    return make_error(fmt::format("where={} must be stdio, pty, file or none", where));
  }
  if (files != wanted)
    return make_error("device virtio_console has no terminal of its own: --virtio-console WHERE gives it one");
  VirtioConsoleConfig config;
  ASSIGN_OR_RETURN(const auto columns, properties.take_number("columns", 1, kMostTerminal, "a number of columns"));
  ASSIGN_OR_RETURN(const auto rows, properties.take_number("rows", 1, kMostTerminal, "a number of rows"));
  config.columns = static_cast<std::uint16_t>(columns.value_or(0));
  config.rows = static_cast<std::uint16_t>(rows.value_or(0));
  return config;
}

Result<VirtioBalloonConfig> read_virtio_balloon(Properties& properties) {
  VirtioBalloonConfig config;
  if (const std::optional<std::string> target = properties.take("target"); target) {
    const char* end = target->data() + target->size();
    const auto parsed = std::from_chars(target->data(), end, config.target);
    if (parsed.ec != std::errc{} || parsed.ptr != end)
      return make_error(fmt::format("target={} is not a number of bytes", *target));
  }
  ASSIGN_OR_RETURN(const auto stats, properties.take_number("stats", 0, kMostStatsSeconds, "a number of seconds"));
  config.stats_seconds = static_cast<std::uint16_t>(stats.value_or(10));
  ASSIGN_OR_RETURN(config.deflate_on_oom, properties.take_flag("deflate-on-oom", true));
  ASSIGN_OR_RETURN(config.reporting, properties.take_flag("reporting", true));
  return config;
}

Result<VirtioVsockConfig> read_virtio_vsock(Properties& properties, std::uint8_t files) {
  properties.take("path");
  ASSIGN_OR_RETURN(const auto cid, properties.take_number("cid", kLeastCid, kMostCid, "a context id of a guest"));
  if (!cid || files != 1)
    return make_error("device virtio_vsock needs a context id and a socket: --vsock cid=N,path=PATH gives it both");
  return VirtioVsockConfig{.guest_cid = *cid};
}

}  // namespace

MacAddress default_mac(std::string_view vm, std::size_t nic) {
  // FNV-1a.
  std::uint64_t hash = 0xcbf2'9ce4'8422'2325;
  for (const char c : fmt::format("{}/{}", vm, nic)) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100'0000'01b3;
  MacAddress mac{0x02};  // locally administered
  for (std::size_t i = 1; i < mac.size(); ++i) mac[i] = static_cast<std::uint8_t>(hash >> (8 * i));
  return mac;
}

Result<FunctionRequest> read_request(const control::DeviceRequest& request, const std::optional<DiskGeometry>& disk,
                                     const MacAddress& mac) {
  FunctionRequest function;
  function.type = find_device_type(request.type);
  ASSIGN_OR_RETURN(Properties properties, Properties::of(request));
  ASSIGN_OR_RETURN(const std::optional<unsigned> slot,
                   properties.take_number("slot", kFirstFreeSlot, kSlots - 1, "a PCI slot"));
  ASSIGN_OR_RETURN(const std::optional<unsigned> boot_index,
                   properties.take_number("bootindex", 0, kLastBootIndex, "a place in the boot order"));
  function.boot_index = boot_index;
  properties.take("rom");
  if (slot) function.slot = static_cast<std::uint8_t>(*slot);
  if (request.type == "virtio_blk") {
    ASSIGN_OR_RETURN(function.config, read_virtio_blk(properties, disk));
  } else if (request.type == "virtio_net") {
    ASSIGN_OR_RETURN(function.config, read_virtio_net(properties, request.files, mac, function));
  } else if (request.type == "e1000") {
    ASSIGN_OR_RETURN(function.config, read_e1000(properties, request.files, mac, function));
  } else if (request.type == "virtio_console") {
    ASSIGN_OR_RETURN(function.config, read_virtio_console(properties, request.files, function.console));
  } else if (request.type == "virtio_balloon") {
    ASSIGN_OR_RETURN(function.config, read_virtio_balloon(properties));
  } else if (request.type == "virtio_vsock") {
    ASSIGN_OR_RETURN(function.config, read_virtio_vsock(properties, request.files));
  } else if (request.type == "vga") {
    ASSIGN_OR_RETURN(function.config, read_vga(properties));
  } else if (request.type == "virtio_rng") {
    function.config = VirtioRngConfig{};
  } else {
    function.config = PciTestConfig{};
  }
  RETURN_IF_ERROR(properties.expect_none_left());
  return function;
}

}  // namespace bulkhead::vmm
