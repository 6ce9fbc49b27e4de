// PacketLink: whole packets to another device process and from it, over memory that both share.
//
// What an input sends and takes is committed with it, and seen by the other side after that: a kill loses no packet and
// doubles none. Each side also counts its epochs: when it has forgotten everything it begins a new one, of which the
// other side hears.
// Units: bytes. Threading: single-threaded. Trust: the other side is hostile: a packet is any bytes of a length that is
// as promised, copied once; counters that cannot be drop what they tell of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace bulkhead::devproc {

inline constexpr std::size_t kMostPacket = 44 + 65536;  // a vsock header, and what Linux sends at most

class PacketLink {
 public:
  virtual ~PacketLink() = default;
  // Whether a packet of `size` bytes fits now. False: Device::on_backend() tells of room.
  [[nodiscard]] virtual bool has_room(std::size_t size) const = 0;
  // In two parts; it must fit.
  virtual void send(std::span<const std::byte> head, std::span<const std::byte> body) = 0;
  // The next packet, a copy that is good until the next call; empty when there is none. It stays the next one until
  // consume().
  virtual std::span<const std::byte> receive() = 0;
  virtual void consume() = 0;
  // This side has forgotten everything.
  virtual void begin_epoch() = 0;
  // Unlike those of its predecessors.
  [[nodiscard]] virtual std::uint32_t own_epoch() const = 0;
  [[nodiscard]] virtual std::uint32_t peer_epoch() const = 0;
  // Brings its own state, which may be anything, into range (Device::restore()), or begins with what the other side
  // holds (Device::reset() of a machine that was just made).
  virtual void restore() = 0;
};

}  // namespace bulkhead::devproc
