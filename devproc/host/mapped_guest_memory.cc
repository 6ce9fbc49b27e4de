#include "devproc/host/mapped_guest_memory.h"

#include <algorithm>
#include <atomic>

#include "ipc/base/checked.h"

namespace bulkhead::devproc {

Status MappedGuestMemory::add(std::uint64_t guest_base, std::uint64_t length, std::uint64_t offset,
                              const ipc::WritableRegion& region) {
  if ((guest_base | length | offset) % 2 != 0)
    return make_error("a range of guest memory begins or ends at an odd address");
  if (length == 0 || !fits(offset, length, region.bytes().size()) || !checked_add(guest_base, length))
    return make_error("a range of guest memory does not fit its region");
  ranges_.push_back({guest_base, region.bytes().subspan(offset, length)});
  return ok();
}

const MappedGuestMemory::Range* MappedGuestMemory::find(GuestPhys address) const {
  for (const Range& range : ranges_) {
    if (address >= range.guest_base && address - range.guest_base < range.bytes.size()) return &range;
  }
  return nullptr;
}

bool MappedGuestMemory::covered(GuestPhys address, std::size_t size) const {
  while (size != 0) {
    const Range* range = find(address);
    if (range == nullptr) return false;
    const std::size_t here = std::min<std::size_t>(size, range->bytes.size() - (address - range->guest_base));
    size -= here;
    if (size != 0 && !checked_add<std::uint64_t>(address, here)) return false;
    address += here;
  }
  return true;
}

bool MappedGuestMemory::read(GuestPhys address, std::span<std::byte> out) {
  if (!covered(address, out.size())) return false;
  while (!out.empty()) {
    const Range* range = find(address);
    const std::size_t at = address - range->guest_base;
    const std::size_t here = std::min(out.size(), range->bytes.size() - at);
    std::memcpy(out.data(), range->bytes.data() + at, here);
    out = out.subspan(here);
    address += here;
  }
  return true;
}

bool MappedGuestMemory::write(GuestPhys address, std::span<const std::byte> in) {
  if (!covered(address, in.size())) return false;
  while (!in.empty()) {
    const Range* range = find(address);
    const std::size_t at = address - range->guest_base;
    const std::size_t here = std::min(in.size(), range->bytes.size() - at);
    std::memcpy(range->bytes.data() + at, in.data(), here);
    in = in.subspan(here);
    address += here;
  }
  return true;
}

std::span<std::byte> MappedGuestMemory::host_range(GuestPhys address, std::uint32_t length) const {
  const Range* range = find(address);
  if (range == nullptr) return {};
  const auto rest = range->bytes.subspan(address - range->guest_base);
  return rest.first(std::min<std::size_t>(rest.size(), length));
}

std::uint16_t* MappedGuestMemory::word(GuestPhys address) const {
  // Ranges begin and end at pages: an even address that is inside has its whole word inside.
  const Range* range = (address & 1) == 0 ? find(address) : nullptr;
  if (range == nullptr) return nullptr;
  return reinterpret_cast<std::uint16_t*>(range->bytes.data() + (address - range->guest_base));
}

std::optional<std::uint16_t> MappedGuestMemory::load_acquire(GuestPhys address) {
  std::uint16_t* at = word(address);
  if (at == nullptr) return std::nullopt;
  return std::atomic_ref(*at).load(std::memory_order_acquire);
}

bool MappedGuestMemory::store_release(GuestPhys address, std::uint16_t value) {
  std::uint16_t* at = word(address);
  if (at == nullptr) return false;
  std::atomic_ref(*at).store(value, std::memory_order_release);
  return true;
}

}  // namespace bulkhead::devproc
