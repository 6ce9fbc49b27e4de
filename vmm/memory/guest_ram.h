// GuestRam: the guest's RAM, one sealed memfd mapped once into the VMM.
//
// The file is low RAM followed by high RAM; its descriptor may be handed to device processes that do DMA.
// It is sealed against growing, shrinking and further seals, kept out of core dumps and of KSM.
// Units: guest-physical bytes. Errors: Result from create(); an access that is not wholly RAM returns
// false (or an empty span) and touches nothing. Threading: any thread; concurrent with the guest, which
// may change any byte at any time: read once, check the copy. Trust: contents are the guest's.
#pragma once

#include <boost/interprocess/mapped_region.hpp>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"
#include "ipc/shm/region.h"
#include "vmm/memory/layout.h"

namespace bulkhead::vmm {

// Whether a guest of `ram` bytes may be tried on a host with `host` bytes of RAM and swap. To promise more than is free
// is the host's policy and may work out; to promise more than there is never does, and KVM's tables for 3 TiB of guest
// memory alone took it a quarter of a minute and 6 GiB.
Status check_fits_host(std::uint64_t ram, std::uint64_t host);

class GuestRam {
 public:
  static Result<GuestRam> create(const MemoryLayout& layout);
  GuestRam(GuestRam&&) noexcept = default;
  GuestRam& operator=(GuestRam&&) noexcept = default;

  [[nodiscard]] bool read(std::uint64_t address, std::span<std::byte> out) const;
  bool write(std::uint64_t address, std::span<const std::byte> in);
  bool zero(std::uint64_t address, std::uint64_t size);
  template <class T>
  [[nodiscard]] std::optional<T> load(std::uint64_t address) const {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    if (!read(address, std::as_writable_bytes(std::span(&value, 1)))) return std::nullopt;
    return value;
  }
  template <class T>
  bool store(std::uint64_t address, const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    return write(address, std::as_bytes(std::span(&value, 1)));
  }
  // The bytes behind [address, address + size), for system calls that fill them; empty when that is not
  // wholly within low or wholly within high RAM, or size is 0.
  [[nodiscard]] std::span<std::byte> bytes(std::uint64_t address, std::uint64_t size) const;

  [[nodiscard]] BorrowedFd fd() const { return region_.fd(); }
  [[nodiscard]] std::uint64_t size() const { return layout_.ram(); }
  [[nodiscard]] const MemoryLayout& layout() const { return layout_; }
  // The mapping; offset in it = offset in the file (RamRange::offset).
  [[nodiscard]] std::byte* host() const { return region_.bytes().data(); }

 private:
  GuestRam(const MemoryLayout& layout, ipc::WritableRegion region) : layout_(layout), region_(std::move(region)) {}
  MemoryLayout layout_;
  ipc::WritableRegion region_;
};

}  // namespace bulkhead::vmm
