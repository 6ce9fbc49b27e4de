// read_request(): what one --device (or --disk) asks for, checked: type, slot, and the type's own configuration.
//
// Properties: slot=N and bootindex=N for every PCI device, and rom=FILE|off, which was honoured where the file was
// opened; virtio_blk: path=TEXT (for messages), serial=TEXT, queues=N, and readonly,
// direct and format, which were honoured where the file was opened, werror=report|stop; virtio_net and e1000:
// mac=XX:XX:XX:XX:XX:XX, mtu=N (virtio_net), and tap, fd and queues, which were honoured where the TAP was opened; with
// backend=user those of usernet_request.h; disks and cards: rate limits (rate_limits.h); virtio_console:
// where=stdio|pty|file|none, path=TEXT, columns=N, rows=N; virtio_balloon: target=BYTES, stats=SECONDS,
// deflate-on-oom=on|off, reporting=on|off; virtio_vsock: cid=N, path=TEXT. Errors: one sentence that names what is
// wrong. Threading: pure. Trust: the configuration is the user's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "ipc/control/vm_config.h"
#include "ipc/roles/device_types.h"

namespace bulkhead::vmm {

inline constexpr std::uint8_t kFirstFreeSlot = 3;  // 0 host bridge, 1 PIIX3, 2 is where VGA goes
inline constexpr std::uint8_t kSlots = 32;

struct FunctionRequest {
  const DeviceTypeDecl* type = nullptr;
  std::optional<std::uint8_t> slot;  // nullopt: any will do
  DeviceConfig config;
  std::optional<UsernetConfig> usernet{};  // a card with a user network behind it
  std::string tftp{};                      // the directory that it serves; empty: none
  std::string peer{};                      // the socket where another VM's card is met; empty: none is
  control::ConsoleKind console = control::ConsoleKind::kNone;  // virtio_console
  std::optional<std::uint32_t> boot_index;                     // nullopt: wherever firmware puts it
};

using MacAddress = std::array<std::uint8_t, 6>;

// Of the nth network card of a VM: the same each time that a VM of this name runs.
[[nodiscard]] MacAddress default_mac(std::string_view vm, std::size_t nic);

// `disk`: of a device type with BackingKind::kDisk, what its file is like. `mac`: of a network card, if it names none.
[[nodiscard]] Result<FunctionRequest> read_request(const control::DeviceRequest& request,
                                                   const std::optional<DiskGeometry>& disk, const MacAddress& mac = {});

}  // namespace bulkhead::vmm
