// MappedGuestMemory: guest RAM in a device process that was granted it, as bounds-checked copies for its model, and as
// checked ranges for its backends.
// Threading: single-threaded. Trust: the guest changes these bytes at any time; every access is one copy.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "devproc/backends/guest_ranges.h"
#include "devproc/core/guest_memory.h"
#include "ipc/shm/region.h"

namespace bulkhead::devproc {

class MappedGuestMemory final : public GuestMemory, public GuestRanges {
 public:
  static constexpr std::size_t kMostPages = 8192;  // of 4 KiB, handed out by host_range() between two trim()s that act

  // [guest_base, guest_base + length) lies at `offset` in `region`. Ranges do not overlap.
  Status add(std::uint64_t guest_base, std::uint64_t length, std::uint64_t offset, const ipc::WritableRegion& region);

  bool read(GuestPhys address, std::span<std::byte> out) override;
  bool write(GuestPhys address, std::span<const std::byte> in) override;
  std::optional<std::uint16_t> load_acquire(GuestPhys address) override;
  bool store_release(GuestPhys address, std::uint16_t value) override;
  std::span<std::byte> host_range(GuestPhys address, std::uint64_t length) override;
  void trim() override;

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  struct Range {
    std::uint64_t guest_base;
    std::span<std::byte> bytes;
    // A bit a page: handed out since the last trim. From calloc(), so that what is never used of it costs nothing.
    std::unique_ptr<std::uint64_t[], Free> used;
    std::size_t words = 0;
  };
  void note_use(Range& range, std::size_t at, std::size_t length);
  // Whether [address, address + size) is RAM without a gap.
  [[nodiscard]] bool covered(GuestPhys address, std::size_t size) const;
  [[nodiscard]] const Range* find(GuestPhys address) const;
  [[nodiscard]] Range* find(GuestPhys address);
  // nullptr: not RAM, or odd.
  [[nodiscard]] std::uint16_t* word(GuestPhys address) const;

  std::vector<Range> ranges_;
  std::size_t used_pages_ = 0;
};

}  // namespace bulkhead::devproc
