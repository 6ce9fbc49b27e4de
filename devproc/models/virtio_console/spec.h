// The console device (VIRTIO 1.2, section 5.3): queues, feature bits and configuration, spelled as C++ spells names.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bulkhead::devproc::virtio_console_spec {

// Queues of port 0 (5.3.2). Those of other ports and of control exist with kConsoleFMultiport only.
inline constexpr std::uint16_t kReceiveq = 0;
inline constexpr std::uint16_t kTransmitq = 1;

// Feature bits (5.3.3).
inline constexpr unsigned kConsoleFSize = 0;
inline constexpr unsigned kConsoleFMultiport = 1;
inline constexpr unsigned kConsoleFEmergWrite = 2;

// struct virtio_console_config (5.3.4), little-endian.
struct ConsoleConfig {
  std::uint16_t cols = 0;
  std::uint16_t rows = 0;
  std::uint32_t max_nr_ports = 0;
  std::uint32_t emerg_wr = 0;
};
static_assert(sizeof(ConsoleConfig) == 12);

}  // namespace bulkhead::devproc::virtio_console_spec
