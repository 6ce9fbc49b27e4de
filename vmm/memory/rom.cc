#include "vmm/memory/rom.h"

#include <algorithm>
#include <cstring>

#include "ipc/base/check.h"
#include "ipc/base/log.h"
#include "vmm/memory/layout.h"

namespace bulkhead::vmm {
namespace {

bool same(const PlacedMemory& a, const PlacedMemory& b) {
  return a.address == b.address && a.bytes.data() == b.bytes.data() && a.bytes.size() == b.bytes.size() &&
         a.writable == b.writable;
}

bool among(const PlacedMemory& rom, std::span<const PlacedMemory> roms) {
  return std::any_of(roms.begin(), roms.end(), [&](const PlacedMemory& other) { return same(rom, other); });
}

}  // namespace

Result<Rom> Rom::create(std::span<const std::byte> contents, std::uint64_t size) {
  CHECK(size % kPageSize == 0 && contents.size() <= size, size, contents.size());
  ASSIGN_OR_RETURN(ipc::WritableRegion region,
                   ipc::WritableRegion::create("bulkhead-rom", size, ipc::PeerRights::kReadOnly));
  const std::span<std::byte> to = region.bytes();
  std::copy(contents.begin(), contents.end(), to.begin());
  std::fill(to.begin() + static_cast<std::ptrdiff_t>(contents.size()), to.end(), std::byte{0xff});
  return Rom(std::move(region));
}

void Rom::read(std::uint32_t, const BusAccess& access, std::span<std::byte> out) {
  const std::span<const std::byte> from = bytes().subspan(access.offset, access.size);
  for (std::uint32_t i = 0; i < access.count; ++i)
    std::memcpy(out.data() + std::size_t{i} * access.size, from.data(), from.size());
}

bool WindowSlots::is(std::span<const PlacedMemory> roms) const {
  const auto used =
      std::count_if(slots_.begin(), slots_.end(), [](const PlacedMemory& rom) { return !rom.bytes.empty(); });
  return static_cast<std::size_t>(used) == roms.size() &&
         std::all_of(roms.begin(), roms.end(), [this](const PlacedMemory& rom) { return among(rom, slots_); });
}

Status WindowSlots::set(std::size_t slot, bool there) {
  const PlacedMemory& rom = slots_[slot];
  return vm_.set_memory_slot({.slot = first_slot_ + static_cast<std::uint32_t>(slot),
                              .guest_address = rom.address,
                              .size = there ? rom.bytes.size() : 0,
                              .host = rom.bytes.data(),
                              .read_only = !rom.writable});
}

void WindowSlots::apply(std::span<const PlacedMemory> roms) {
  static constinit LogLimiter limiter{4};
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    if (slots_[slot].bytes.empty() || among(slots_[slot], roms)) continue;
    const Status status = set(slot, false);
    if (!status && limiter.allow()) log(LogLevel::kError, "{}", status.error().message);
    if (status) slots_[slot] = {};
  }
  for (const PlacedMemory& rom : roms) {
    if (among(rom, slots_)) continue;
    const auto free =
        std::find_if(slots_.begin(), slots_.end(), [](const PlacedMemory& slot) { return slot.bytes.empty(); });
    const auto slot = static_cast<std::size_t>(free - slots_.begin());
    if (free == slots_.end()) slots_.emplace_back();
    slots_[slot] = rom;
    const Status status = set(slot, true);
    if (status) continue;
    slots_[slot] = {};  // the channel serves it, slowly
    if (limiter.allow()) log(LogLevel::kError, "{}", status.error().message);
  }
}

}  // namespace bulkhead::vmm
