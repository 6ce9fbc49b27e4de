// GuestMemory: guest RAM as a DMA device sees it. Copies only: a model never holds a pointer into memory
// that the guest can change under it, so every value is read once and checked as a copy.
//
// Addresses are guest-physical. An access that leaves RAM fails as a whole, writes nothing and returns
// false: the device answers as its data sheet says for a master abort. Threading: single-threaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>

namespace bulkhead::devproc {

using GuestPhys = std::uint64_t;

// A piece of guest memory that a guest named; nothing about it is known to be true.
struct Segment {
  GuestPhys address = 0;
  std::uint32_t length = 0;  // bytes, never 0, never across 2^64; whether it is RAM, reading or writing it tells
};

class GuestMemory {
 public:
  virtual ~GuestMemory() = default;
  virtual bool read(GuestPhys address, std::span<std::byte> out) = 0;
  virtual bool write(GuestPhys address, std::span<const std::byte> in) = 0;

  // A 16-bit word through which a driver and its device tell each other of other memory: one access, at an even
  // address. What the driver wrote before the word is seen after load_acquire(); what was written before
  // store_release() is seen by whoever sees the word. For "store, then look at the other's word", put a full fence in
  // between.
  virtual std::optional<std::uint16_t> load_acquire(GuestPhys address) = 0;
  virtual bool store_release(GuestPhys address, std::uint16_t value) = 0;

  template <class T>
  std::optional<T> load(GuestPhys address) {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    if (!read(address, std::as_writable_bytes(std::span(&value, 1)))) return std::nullopt;
    return value;
  }
  template <class T>
  bool store(GuestPhys address, const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    return write(address, std::as_bytes(std::span(&value, 1)));
  }
};

}  // namespace bulkhead::devproc
