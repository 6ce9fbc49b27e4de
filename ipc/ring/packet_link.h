// The memory through which two device processes pass packets: a virtio_vsock and the vsock_relay that holds its
// sockets.
//
// One ring each way. A ring's `produced` is its sender's, `consumed` its receiver's; both are published from what each
// has committed. A packet is a length (u32) and as many bytes, and takes a multiple of eight. Both sides may write all
// of it: what is read is believed by neither.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "ipc/wire/io_message.h"

namespace bulkhead::ipc {

inline constexpr std::uint32_t kPacketRingBytes = 256 * 1024;
inline constexpr std::uint32_t kPacketLinkSides = 2;

struct PacketRing {
  alignas(kCacheLine) std::atomic<std::uint64_t> produced;
  alignas(kCacheLine) std::atomic<std::uint64_t> consumed;
  alignas(kCacheLine) std::uint8_t bytes[kPacketRingBytes];
};

struct PacketLinkArea {
  PacketRing from[kPacketLinkSides];
  alignas(kCacheLine) std::atomic<std::uint32_t> epoch[kPacketLinkSides];
};

inline constexpr std::size_t kPacketLinkSize = (sizeof(PacketLinkArea) + 4095) & ~std::size_t{4095};

constexpr std::uint64_t packet_footprint(std::uint64_t length) {
  return (sizeof(std::uint32_t) + length + 7) & ~std::uint64_t{7};
}

}  // namespace bulkhead::ipc
