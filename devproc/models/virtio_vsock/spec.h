// The socket device (VIRTIO 1.2, section 5.10): queues, feature bits, configuration, packet header and operations,
// spelled as C++ spells names. All fields are little-endian, as is this host.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace bulkhead::devproc::virtio_vsock_spec {

// Queues (5.10.2).
inline constexpr std::uint16_t kRxVq = 0;
inline constexpr std::uint16_t kTxVq = 1;
inline constexpr std::uint16_t kEventVq = 2;

// Feature bits (5.10.3).
inline constexpr unsigned kVsockFStream = 0;
inline constexpr unsigned kVsockFSeqpacket = 1;

inline constexpr std::uint64_t kHostCid = 2;

// A 64-bit number in two halves, so that the header is as long as it is.
using Cid = std::array<std::uint32_t, 2>;
constexpr Cid to_cid(std::uint64_t value) {
  return {static_cast<std::uint32_t>(value), static_cast<std::uint32_t>(value >> 32)};
}

// struct virtio_vsock_hdr (5.10.6).
struct VsockHeader {
  Cid src_cid{};
  Cid dst_cid{};
  std::uint32_t src_port = 0;
  std::uint32_t dst_port = 0;
  std::uint32_t len = 0;  // bytes of payload
  std::uint16_t type = 0;
  std::uint16_t op = 0;
  std::uint32_t flags = 0;
  std::uint32_t buf_alloc = 0;  // bytes that the sender can keep for the stream
  std::uint32_t fwd_cnt = 0;    // bytes of the stream that it has passed on, modulo 2^32
  bool operator==(const VsockHeader&) const = default;
};
static_assert(sizeof(VsockHeader) == 44 && std::has_unique_object_representations_v<VsockHeader>);

inline constexpr std::uint16_t kTypeStream = 1;
inline constexpr std::uint32_t kMostPayload = 65536;  // of one packet: what Linux sends at most

// Operations (5.10.6).
inline constexpr std::uint16_t kOpRequest = 1;
inline constexpr std::uint16_t kOpResponse = 2;
inline constexpr std::uint16_t kOpRst = 3;
inline constexpr std::uint16_t kOpShutdown = 4;
inline constexpr std::uint16_t kOpRw = 5;
inline constexpr std::uint16_t kOpCreditUpdate = 6;
inline constexpr std::uint16_t kOpCreditRequest = 7;

// Flags of kOpShutdown (5.10.6.5): its sender will not ...
inline constexpr std::uint32_t kShutdownReceive = 1;
inline constexpr std::uint32_t kShutdownSend = 2;

// struct virtio_vsock_event (5.10.6.7).
inline constexpr std::uint32_t kEventTransportReset = 0;

}  // namespace bulkhead::devproc::virtio_vsock_spec
