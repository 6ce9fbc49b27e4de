// MappedGuestMemory: guest RAM in a device process that was granted it, as bounds-checked copies.
// Threading: single-threaded. Trust: the guest changes these bytes at any time; every access is one copy.
#pragma once

#include <vector>

#include "devproc/core/guest_memory.h"
#include "ipc/shm/region.h"

namespace bulkhead::devproc {

class MappedGuestMemory final : public GuestMemory {
 public:
  // [guest_base, guest_base + length) lies at `offset` in `region`. Ranges do not overlap.
  Status add(std::uint64_t guest_base, std::uint64_t length, std::uint64_t offset, const ipc::WritableRegion& region);

  bool read(GuestPhys address, std::span<std::byte> out) override;
  bool write(GuestPhys address, std::span<const std::byte> in) override;
  std::optional<std::uint16_t> load_acquire(GuestPhys address) override;
  bool store_release(GuestPhys address, std::uint16_t value) override;
  // For a backend that hands guest memory to the kernel: the bytes from `address` on, `length` of them or as many as
  // lie in one piece; empty when it is not RAM. They change at any time, and nothing read there is read again.
  [[nodiscard]] std::span<std::byte> host_range(GuestPhys address, std::uint32_t length) const;

 private:
  struct Range {
    std::uint64_t guest_base;
    std::span<std::byte> bytes;
  };
  // Whether [address, address + size) is RAM without a gap.
  [[nodiscard]] bool covered(GuestPhys address, std::size_t size) const;
  [[nodiscard]] const Range* find(GuestPhys address) const;
  // nullptr: not RAM, or odd.
  [[nodiscard]] std::uint16_t* word(GuestPhys address) const;

  std::vector<Range> ranges_;
};

}  // namespace bulkhead::devproc
