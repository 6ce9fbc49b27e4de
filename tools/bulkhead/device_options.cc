#include "tools/bulkhead/device_options.h"

#include <fmt/format.h>
#include <sys/un.h>

#include <algorithm>
#include <filesystem>

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

}  // namespace bulkhead::cli
