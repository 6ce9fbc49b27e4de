#include "ipc/roles/fw_cfg_decl.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "ipc/base/checked.h"

namespace bulkhead {

std::span<const std::byte> fw_cfg_item(std::span<const std::byte> region, std::uint16_t selector) {
  if (region.size() < sizeof(FwCfgCatalogue)) return {};
  std::uint32_t count = 0;
  std::memcpy(&count, region.data() + offsetof(FwCfgCatalogue, count), sizeof count);
  for (std::uint32_t i = 0; i < std::min(count, kFwCfgMaxItems); ++i) {
    FwCfgItem item;
    std::memcpy(&item, region.data() + offsetof(FwCfgCatalogue, items) + i * sizeof item, sizeof item);
    if (item.selector != selector) continue;
    return fits(item.offset, item.size, region.size()) ? region.subspan(item.offset, item.size)
                                                       : std::span<const std::byte>();
  }
  return {};
}

}  // namespace bulkhead
