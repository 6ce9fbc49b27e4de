// Setting: what a device's user may change while it runs. The VMM posts it to the device as a request
// (RequestKind::kSetting); the device commits it like any other input, so that it outlives its process.
// Plain data. A device type that does not know a setting ignores it.
#pragma once

#include <cstdint>

namespace bulkhead {

enum class Setting : std::uint32_t {
  kTerminalSize = 1,   // virtio_console: columns in bits 0 to 15, rows in bits 16 to 31
  kBalloonTarget = 2,  // virtio_balloon: bytes
};

}  // namespace bulkhead
