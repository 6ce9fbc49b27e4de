#include "devproc/backends/ram_punch.h"

#include <sys/mman.h>

#include <algorithm>

#include "ipc/base/checked.h"
#include "ipc/base/log.h"

namespace bulkhead::devproc {
namespace {

constexpr std::uint64_t kHostPage = 4096;

}  // namespace

bool RamPunch::release(GuestPhys address, std::uint64_t length) {
  const auto end = checked_add(address, length);
  const auto up = checked_add(address, kHostPage - 1);
  if (!end || !up) return false;
  GuestPhys at = *up & ~(kHostPage - 1);
  const GuestPhys last = *end & ~(kHostPage - 1);
  while (at < last) {
    // Where a piece of RAM ends, another may begin.
    const std::span<std::byte> bytes = ranges_.host_range(at, last - at);
    if (bytes.size() < kHostPage) return false;
    const std::size_t whole = bytes.size() & ~(kHostPage - 1);
    if (::madvise(bytes.data(), whole, MADV_REMOVE) != 0) {
      static constinit LogLimiter limiter{4};
      if (limiter.allow()) log(LogLevel::kWarning, "guest memory cannot be given back: {}", std::strerror(errno));
    }
    at += whole;
  }
  return true;
}

}  // namespace bulkhead::devproc
