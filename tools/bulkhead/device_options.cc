#include "tools/bulkhead/device_options.h"

#include <fmt/format.h>
#include <sys/un.h>

#include <algorithm>
#include <filesystem>

#include "ipc/control/device_messages.h"
#include "tools/bulkhead/options.h"

namespace bulkhead::cli {

Result<control::DeviceRequest> parse_virtio_console(std::string_view text) {
  const std::string what = fmt::format("--virtio-console {}", text);
  constexpr std::string_view kFile = "file:";
  control::DeviceRequest request{.type = "virtio_console", .properties = {}};
  std::string_view rest = text.substr(std::min(text.find(','), text.size()));
  const std::string_view word = text.substr(0, text.size() - rest.size());
  if (text.starts_with(kFile)) {
    std::string path;
    ASSIGN_OR_RETURN(rest, split_path(what, text.substr(kFile.size()), path));
    request.properties = {{.key = "where", .value = "file"}, {.key = "path", .value = path}};
    request.files = 1;
  } else if (word == "stdio" || word == "pty" || word == "none") {
    request.properties = {{.key = "where", .value = std::string(word)}};
    request.files = word == "none" ? 0 : 2;
  } else {
    return make_error(what + ": must begin with stdio, pty, file:PATH or none");
  }
  const std::size_t ours = request.properties.size();
  RETURN_IF_ERROR(read_properties(what, rest, request));
  for (std::size_t i = ours; i < request.properties.size(); ++i) {
    const std::string& key = request.properties[i].key;
    if (key == "where" || key == "path") return make_error(fmt::format("{}: there is no property \"{}\"", what, key));
  }
  return request;
}

bool has_stdio(const control::DeviceRequest& request) {
  return request.type == "virtio_console" && !request.properties.empty() && request.properties[0].key == "where" &&
         request.properties[0].value == "stdio";
}

Status add_virtio_consoles(const std::vector<std::string>& texts, const std::optional<std::string>& serial,
                           RunOptions& run) {
  bool stdio_taken = serial == "stdio";
  for (const std::string& text : texts) {
    ASSIGN_OR_RETURN(control::DeviceRequest console, parse_virtio_console(text));
    if (has_stdio(console)) {
      if (stdio_taken) return make_error(fmt::format("--virtio-console {}: stdio is another console's already", text));
      stdio_taken = true;
      if (!serial) run.console = control::ConsoleKind::kNone;
    }
    run.devices.push_back(std::move(console));
  }
  return ok();
}

Result<control::DeviceRequest> parse_vsock(std::string_view text) {
  const std::string what = fmt::format("--vsock {}", text);
  control::DeviceRequest request{.type = "virtio_vsock", .properties = {}, .files = 1};
  if (text.empty()) return make_error(what + ": must have cid=N and path=PATH");
  RETURN_IF_ERROR(read_properties(what, fmt::format(",{}", text), request));
  const auto find = [&](std::string_view key) {
    return std::find_if(request.properties.begin(), request.properties.end(),
                        [&](const control::Property& property) { return property.key == key; });
  };
  const auto path = find("path");
  if (find("cid") == request.properties.end() || path == request.properties.end() || path->value.empty())
    return make_error(what + ": must have cid=N and path=PATH");
  // Where the guest's connections go is decided by the VMM, in whatever directory that is.
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path->value, error);
  if (error) return make_error(fmt::format("{}: {}", what, error.message()));
  path->value = absolute.string();
  constexpr std::size_t kLongestSuffix = 11;  // "_4294967295"
  if (path->value.size() + kLongestSuffix >= sizeof(sockaddr_un::sun_path))
    return make_error(what + ": the path is too long for a socket");
  return request;
}

Result<control::DeviceRequest> parse_balloon(std::string_view text) {
  const std::string what = fmt::format("--balloon {}", text);
  const std::string_view size = text.substr(0, text.find(','));
  const Result<std::uint64_t> bytes = parse_size(size);
  if (!bytes) return make_error(fmt::format("{}: its size {}", what, bytes.error().message));
  control::DeviceRequest request{.type = "virtio_balloon",
                                 .properties = {{.key = "target", .value = fmt::to_string(*bytes)}}};
  RETURN_IF_ERROR(read_properties(what, text.substr(size.size()), request));
  return request;
}

Status read_properties(const std::string& what, std::string_view text, control::DeviceRequest& device) {
  const auto fail = [&](std::string_view why) { return make_error(fmt::format("{}: {}", what, why)); };
  if (text.ends_with(',')) return fail("ends with a comma");
  while (!text.empty()) {
    text.remove_prefix(1);
    const std::string_view part = text.substr(0, text.find(','));
    text.remove_prefix(part.size());
    const std::size_t equals = part.find('=');
    if (equals == std::string_view::npos || !control::is_name(std::string(part.substr(0, equals))))
      return fail(fmt::format("'{}' is not KEY=VALUE", part));
    device.properties.push_back(
        {.key = std::string(part.substr(0, equals)), .value = std::string(part.substr(equals + 1))});
  }
  if (device.properties.size() > control::kMaxProperties) return fail("has too many properties");
  return ok();
}

Result<control::DeviceRequest> parse_device(std::string_view text) {
  const std::string_view type = text.substr(0, text.find(','));
  if (!control::is_name(std::string(type)))
    return make_error(fmt::format("--device {}: must begin with a device type", text));
  control::DeviceRequest device{.type = std::string(type), .properties = {}};
  RETURN_IF_ERROR(read_properties(fmt::format("--device {}", text), text.substr(type.size()), device));
  return device;
}

Result<control::DeviceRequest> parse_disk(std::string_view text) {
  const std::string what = fmt::format("--disk {}", text);
  std::string path;
  ASSIGN_OR_RETURN(const std::string_view rest, split_path(what, text, path));
  control::DeviceRequest disk{.type = "virtio_blk", .properties = {{.key = "path", .value = path}}, .files = 1};
  RETURN_IF_ERROR(read_properties(what, rest, disk));
  for (std::size_t i = 1; i < disk.properties.size(); ++i) {
    const control::Property& property = disk.properties[i];
    if (property.key == "path") return make_error(what + ": the path is given twice");
    const bool flag = property.key == "readonly" || property.key == "direct";
    if (flag && property.value != "on" && property.value != "off")
      return make_error(fmt::format("{}: {}={} must be on or off", what, property.key, property.value));
    if (property.key == "format" && property.value != "raw" && property.value != "qcow2")
      return make_error(fmt::format("{}: format={} must be raw or qcow2", what, property.value));
    if (property.key == "aio" && property.value != "io_uring" && property.value != "blocking")
      return make_error(fmt::format("{}: aio={} must be io_uring or blocking", what, property.value));
  }
  return disk;
}

}  // namespace bulkhead::cli
