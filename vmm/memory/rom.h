// Rom: the bytes of a ROM as the guest reads them, and WindowSlots: the memory slots of ROMs and of video memory, where
// they decode now.
//
// A ROM is read from a read-only memory slot; what it does not serve (a write; a read while KVM had no slot for it)
// comes to it as to a device, which answers the same. Units: guest-physical bytes. Errors: Result from create().
// Threading: read and write from any thread; WindowSlots::apply() with no vCPU inside of KVM_RUN, one call at a time.
// Trust: contents are the user's file; where a ROM decodes is the guest's wish, checked by the window map.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ipc/shm/region.h"
#include "vmm/bus/device_channel.h"
#include "vmm/hypervisor/hypervisor.h"

namespace bulkhead::vmm {

class Rom final : public DeviceChannel {
 public:
  // `size` bytes, a multiple of the page size: `contents`, then ones.
  static Result<Rom> create(std::span<const std::byte> contents, std::uint64_t size);

  [[nodiscard]] std::span<std::byte> bytes() const { return region_.bytes(); }

  void read(std::uint32_t vcpu, const BusAccess& access, std::span<std::byte> out) override;
  void write(std::uint32_t, const BusAccess&, std::span<const std::byte>) override {}

  Rom(Rom&& other) noexcept : region_(std::move(other.region_)) {}
  Rom& operator=(Rom&& other) noexcept {
    region_ = std::move(other.region_);
    return *this;
  }

 private:
  explicit Rom(ipc::WritableRegion region) : region_(std::move(region)) {}
  ipc::WritableRegion region_;
};

struct PlacedMemory {
  std::uint64_t address = 0;
  std::span<std::byte> bytes;
  bool writable = false;
};

class WindowSlots {
 public:
  WindowSlots(Vm& vm, std::uint32_t first_slot) : vm_(vm), first_slot_(first_slot) {}

  // Whether apply() would change anything.
  [[nodiscard]] bool is(std::span<const PlacedMemory> roms) const;
  void apply(std::span<const PlacedMemory> roms);

 private:
  Status set(std::size_t slot, bool there);

  Vm& vm_;
  std::uint32_t first_slot_;
  std::vector<PlacedMemory> slots_;  // empty bytes: free
};

}  // namespace bulkhead::vmm
