#include "vmm/machine/fw_cfg_dma.h"

#include <algorithm>

namespace bulkhead::vmm {
namespace {

// All big-endian.
struct FwCfgDmaAccess {
  std::uint32_t control = 0;
  std::uint32_t length = 0;
  std::uint64_t address = 0;
};
static_assert(sizeof(FwCfgDmaAccess) == 16);

constexpr std::uint32_t kError = 1U << 0;
constexpr std::uint32_t kRead = 1U << 1;
constexpr std::uint32_t kSkip = 1U << 2;
constexpr std::uint32_t kSelect = 1U << 3;  // the selector is in the upper 16 bits
constexpr std::uint32_t kWrite = 1U << 4;

}  // namespace

bool FwCfgDma::read_item(Position& at, std::uint64_t address, std::uint32_t length) {
  if (length == 0) return true;
  if (ram_.bytes(address, length).empty()) return false;
  const std::span<const std::byte> item = fw_cfg_item(region_, at.selector);
  const std::span<const std::byte> left =
      at.offset < item.size() ? item.subspan(at.offset) : std::span<const std::byte>();
  const auto copied = static_cast<std::uint32_t>(std::min<std::size_t>(left.size(), length));
  if (!ram_.write(address, left.first(copied))) return false;
  at.offset += copied;
  return ram_.zero(address + copied, length - copied);  // what lies behind an item reads as 0
}

FwCfgTransfers::Position FwCfgDma::transfer(const FwCfgTransfer& from) {
  Position at{.selector = from.selector, .offset = from.offset};
  const std::optional<FwCfgDmaAccess> access = ram_.load<FwCfgDmaAccess>(from.address);
  if (!access) return at;  // there is nowhere to say so
  const std::uint32_t control = __builtin_bswap32(access->control);
  const std::uint32_t length = __builtin_bswap32(access->length);
  if ((control & kSelect) != 0) at = {.selector = static_cast<std::uint16_t>(control >> 16), .offset = 0};
  bool done = true;
  if ((control & kRead) != 0) {
    done = read_item(at, __builtin_bswap64(access->address), length);
  } else if ((control & kWrite) != 0) {
    done = length == 0;  // no item is the guest's to write
  } else if ((control & kSkip) != 0) {
    const std::size_t size = fw_cfg_item(region_, at.selector).size();
    if (at.offset < size) at.offset += static_cast<std::uint32_t>(std::min<std::size_t>(size - at.offset, length));
  }
  ram_.store<std::uint32_t>(from.address, done ? 0 : __builtin_bswap32(kError));
  return at;
}

}  // namespace bulkhead::vmm
