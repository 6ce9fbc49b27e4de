#include "vmm/memory/guest_ram.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

#include "ipc/base/checked.h"

namespace bulkhead::vmm {

namespace {

// Offset in the file of [address, address + size), when that is all low RAM or all high RAM.
std::optional<std::uint64_t> locate(const MemoryLayout& layout, std::uint64_t address, std::uint64_t size) {
  if (fits(address, size, layout.low_ram)) return address;
  if (address >= kFourGiB && fits(address - kFourGiB, size, layout.high_ram))
    return layout.low_ram + (address - kFourGiB);
  return std::nullopt;
}

std::uint64_t host_memory() {
  struct sysinfo info {};
  if (::sysinfo(&info) != 0) return UINT64_MAX;  // cannot happen
  return (std::uint64_t{info.totalram} + info.totalswap) * info.mem_unit;
}

}  // namespace

Status check_fits_host(std::uint64_t ram, std::uint64_t host) {
  if (ram <= host) return ok();
  return make_error(fmt::format("{} MiB of guest memory are more than this host has ({} MiB of RAM and swap)",
                                ram / kMiB, host / kMiB));
}

Result<GuestRam> GuestRam::create(const MemoryLayout& layout) {
  RETURN_IF_ERROR(check_fits_host(layout.ram(), host_memory()));
  auto region = ipc::WritableRegion::create("bulkhead-ram", layout.ram(), ipc::PeerRights::kReadWrite);
  if (!region) {
    return Error{fmt::format("cannot get {} MiB of guest memory: {}", layout.ram() / kMiB, region.error().message),
                 region.error().error_number};
  }
  // Guests must not appear in core dumps. KSM is off unless asked for; a process-wide PR_SET_MEMORY_MERGE
  // could ask. Both are best effort: a kernel built without either has nothing to switch off.
  const std::span<std::byte> bytes = region->bytes();
  ::madvise(bytes.data(), bytes.size(), MADV_DONTDUMP);
  ::madvise(bytes.data(), bytes.size(), MADV_UNMERGEABLE);
  return GuestRam(layout, std::move(*region));
}

bool GuestRam::read(std::uint64_t address, std::span<std::byte> out) const {
  if (out.empty()) return true;
  const std::span<std::byte> from = bytes(address, out.size());
  if (from.empty()) return false;
  std::memcpy(out.data(), from.data(), out.size());
  return true;
}

bool GuestRam::write(std::uint64_t address, std::span<const std::byte> in) {
  if (in.empty()) return true;
  const std::span<std::byte> to = bytes(address, in.size());
  if (to.empty()) return false;
  std::memcpy(to.data(), in.data(), in.size());
  return true;
}

bool GuestRam::zero(std::uint64_t address, std::uint64_t size) {
  if (size == 0) return true;
  const std::span<std::byte> to = bytes(address, size);
  if (to.empty()) return false;
  std::memset(to.data(), 0, to.size());
  return true;
}

std::span<std::byte> GuestRam::bytes(std::uint64_t address, std::uint64_t size) const {
  if (size == 0) return {};
  const auto offset = locate(layout_, address, size);
  if (!offset) return {};
  return {host() + *offset, size};
}

}  // namespace bulkhead::vmm
