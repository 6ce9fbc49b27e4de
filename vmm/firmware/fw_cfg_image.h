// FwCfgImage: the items of a fw_cfg device, laid out as the region that the device and the VMM read
// (ipc/roles/fw_cfg_decl.h).
//
// Units: bytes. Errors: Result from build(). Threading: pure. Trust: the user's configuration.
// Source: QEMU, docs/specs/fw_cfg.rst, "Firmware Configuration Items".
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/roles/fw_cfg_decl.h"

namespace bulkhead::vmm {

class FwCfgImage {
 public:
  using Bytes = std::vector<std::byte>;

  static constexpr std::size_t kMaxFileName = 55;

  // Of well-known selectors; each once.
  void add(std::uint16_t selector, Bytes bytes);
  // `width` bytes, little-endian.
  void add_number(std::uint16_t selector, std::uint64_t value, std::size_t width);
  // Files get their selectors in the order of their names. Each name once, at most kMaxFileName characters.
  void add_file(const std::string& name, Bytes bytes);
  void add_file_number(const std::string& name, std::uint64_t value, std::size_t width);

  // With the signature, the interface's id and the directory.
  [[nodiscard]] Result<Bytes> build() const;

 private:
  std::map<std::uint16_t, Bytes> items_;
  std::map<std::string, Bytes> files_;
};

[[nodiscard]] FwCfgImage::Bytes to_bytes(std::span<const std::byte> bytes);
[[nodiscard]] FwCfgImage::Bytes to_bytes(std::string_view text);  // with the terminating zero

}  // namespace bulkhead::vmm
