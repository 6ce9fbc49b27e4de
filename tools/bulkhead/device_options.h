// --virtio-console, --balloon and --vsock: what each asks for, as a request for a device. Errors: one sentence that
// names the option.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/control/vm_config.h"
#include "tools/bulkhead/options.h"

namespace bulkhead::cli {

// stdio|pty|file:PATH|none[,KEY=VALUE...]; a comma in PATH is written twice.
[[nodiscard]] Result<control::DeviceRequest> parse_virtio_console(std::string_view text);
// cid=N,path=PATH[,KEY=VALUE...]; PATH becomes absolute.
[[nodiscard]] Result<control::DeviceRequest> parse_vsock(std::string_view text);
// SIZE[,KEY=VALUE...]
[[nodiscard]] Result<control::DeviceRequest> parse_balloon(std::string_view text);

// All of them, behind every other device: their files are opened last. `serial`: --console, if it was given; else
// stdio is the serial port's only when no virtio console has it.
[[nodiscard]] Status add_virtio_consoles(const std::vector<std::string>& texts,
                                         const std::optional<std::string>& serial, RunOptions& run);

// Whether a request of parse_virtio_console() takes standard input and output.
[[nodiscard]] bool has_stdio(const control::DeviceRequest& request);

}  // namespace bulkhead::cli
