// The host's side of virtio sockets, as Firecracker's documentation (docs/vsock.md) has it and tools expect it:
//   a program connects to the Unix socket PATH, says "CONNECT PORT\n" and hears "OK HOST_PORT\n" once the guest has
//   accepted; a guest that connects to port P of the host (CID 2) reaches the program that listens on PATH_P.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace bulkhead::devproc::vsock_relay_spec {

inline constexpr std::string_view kConnect = "CONNECT ";
inline constexpr std::size_t kLongestHello = 32;              // with its newline
inline constexpr std::uint32_t kFirstHostPort = 0x4000'0000;  // of connections that the host began
inline constexpr std::uint32_t kBufAlloc = 65536;             // bytes kept for a program that does not read

}  // namespace bulkhead::devproc::vsock_relay_spec
