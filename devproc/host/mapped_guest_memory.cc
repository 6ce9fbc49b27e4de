#include "devproc/host/mapped_guest_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "ipc/base/checked.h"

namespace bulkhead::devproc {
namespace {

constexpr std::size_t kPageBytes = 4096;

}  // namespace

Status MappedGuestMemory::add(std::uint64_t guest_base, std::uint64_t length, std::uint64_t offset,
                              const ipc::WritableRegion& region) {
  if ((guest_base | length | offset) % 2 != 0)
    return make_error("a range of guest memory begins or ends at an odd address");
  if (length == 0 || !fits(offset, length, region.bytes().size()) || !checked_add(guest_base, length))
    return make_error("a range of guest memory does not fit its region");
  Range range{.guest_base = guest_base, .bytes = region.bytes().subspan(offset, length), .used = {}};
  range.words = length / kPageBytes / 64 + 1;
  range.used.reset(static_cast<std::uint64_t*>(std::calloc(range.words, sizeof(std::uint64_t))));
  if (range.used == nullptr) return make_error("there is no memory to keep account of guest memory");
  ranges_.push_back(std::move(range));
  return ok();
}

const MappedGuestMemory::Range* MappedGuestMemory::find(GuestPhys address) const {
  for (const Range& range : ranges_) {
    if (address >= range.guest_base && address - range.guest_base < range.bytes.size()) return &range;
  }
  return nullptr;
}

MappedGuestMemory::Range* MappedGuestMemory::find(GuestPhys address) {
  return const_cast<Range*>(std::as_const(*this).find(address));
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

std::span<std::byte> MappedGuestMemory::host_range(GuestPhys address, std::uint64_t length) {
  Range* range = find(address);
  if (range == nullptr) return {};
  const std::size_t at = address - range->guest_base;
  const auto bytes = range->bytes.subspan(at, std::min<std::uint64_t>(length, range->bytes.size() - at));
  if (!bytes.empty()) note_use(*range, at, bytes.size());
  return bytes;
}

void MappedGuestMemory::note_use(Range& range, std::size_t at, std::size_t length) {
  for (std::size_t page = at / kPageBytes; page <= (at + length - 1) / kPageBytes; ++page) {
    std::uint64_t& word = range.used[page / 64];
    const std::uint64_t bit = std::uint64_t{1} << (page % 64);
    if ((word & bit) != 0) continue;
    word |= bit;
    ++used_pages_;
  }
}

void MappedGuestMemory::trim() {
  if (used_pages_ < kMostPages) return;
  used_pages_ = 0;
  for (Range& range : ranges_) {
    // Shared memory: the pages are let go here, not emptied. In huge pages it may be refused, and those are few.
    ::madvise(range.bytes.data(), range.bytes.size(), MADV_DONTNEED);
    for (std::size_t i = 0; i < range.words; ++i) {
      if (range.used[i] != 0) range.used[i] = 0;
    }
  }
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
