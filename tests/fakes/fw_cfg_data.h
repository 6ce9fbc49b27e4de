// A region of fw_cfg items, as the VMM lays one out, for tests that link no VMM.
#pragma once

#include <cstddef>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "ipc/roles/fw_cfg_decl.h"

namespace bulkhead {

[[nodiscard]] inline std::vector<std::byte> fw_cfg_data(
    const std::vector<std::pair<std::uint16_t, std::string>>& items) {
  FwCfgCatalogue catalogue;
  std::vector<std::byte> region(sizeof catalogue);
  for (const auto& [selector, text] : items) {
    catalogue.items[catalogue.count++] = {.offset = static_cast<std::uint32_t>(region.size()),
                                          .size = static_cast<std::uint32_t>(text.size()),
                                          .selector = selector};
    for (const char c : text) region.push_back(static_cast<std::byte>(c));
  }
  std::memcpy(region.data(), &catalogue, sizeof catalogue);
  return region;
}

// What the tests of all devices give fw_cfg: a signature, and an item of 100 bytes.
[[nodiscard]] inline std::vector<std::byte> sample_fw_cfg_data() {
  return fw_cfg_data({{kFwCfgSignature, "QEMU"}, {kFwCfgFirstFile, std::string(100, 'f')}});
}

}  // namespace bulkhead
