#include "vmm/firmware/fw_cfg_image.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "ipc/base/check.h"
#include "ipc/base/checked.h"

namespace bulkhead::vmm {
namespace {

using Bytes = FwCfgImage::Bytes;

// An entry of the directory; its numbers are big-endian.
struct File {
  std::uint32_t size = 0;
  std::uint16_t selector = 0;
  std::uint16_t reserved = 0;
  char name[FwCfgImage::kMaxFileName + 1] = {};
};
static_assert(sizeof(File) == 64);

Bytes little_endian(std::uint64_t value, std::size_t width) {
  Bytes bytes(width);
  for (std::size_t i = 0; i < width; ++i) bytes[i] = static_cast<std::byte>(value >> (8 * i));
  return bytes;
}

constexpr std::uint64_t kItemAlignment = 8;

}  // namespace

Bytes to_bytes(std::span<const std::byte> bytes) { return {bytes.begin(), bytes.end()}; }

Bytes to_bytes(std::string_view text) {
  Bytes bytes(text.size() + 1);
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

void FwCfgImage::add(std::uint16_t selector, Bytes bytes) {
  const bool is_new = items_.emplace(selector, std::move(bytes)).second;
  CHECK(is_new, selector);
}

void FwCfgImage::add_number(std::uint16_t selector, std::uint64_t value, std::size_t width) {
  add(selector, little_endian(value, width));
}

void FwCfgImage::add_file(const std::string& name, Bytes bytes) {
  CHECK(name.size() <= kMaxFileName, name);
  const bool is_new = files_.emplace(name, std::move(bytes)).second;
  CHECK(is_new, name);
}

void FwCfgImage::add_file_number(const std::string& name, std::uint64_t value, std::size_t width) {
  add_file(name, little_endian(value, width));
}

Result<Bytes> FwCfgImage::build() const {
  std::map<std::uint16_t, Bytes> all = items_;
  all[kFwCfgSignature] = to_bytes(std::as_bytes(std::span("QEMU", 4)));
  all[kFwCfgId] = little_endian(kFwCfgIdTraditional | kFwCfgIdDma, sizeof(std::uint32_t));
  Bytes directory(sizeof(std::uint32_t));
  const std::uint32_t count = __builtin_bswap32(static_cast<std::uint32_t>(files_.size()));
  std::memcpy(directory.data(), &count, sizeof count);
  std::uint16_t selector = kFwCfgFirstFile;
  for (const auto& [name, bytes] : files_) {
    File file{.size = __builtin_bswap32(static_cast<std::uint32_t>(bytes.size())),
              .selector = __builtin_bswap16(selector)};
    std::memcpy(file.name, name.data(), name.size());
    const auto entry = std::as_bytes(std::span(&file, 1));
    directory.insert(directory.end(), entry.begin(), entry.end());
    all[selector++] = bytes;
  }
  all[kFwCfgFileDirectory] = std::move(directory);

  if (all.size() > kFwCfgMaxItems)
    return make_error(fmt::format("firmware configuration: {} items are more than {}", all.size(), kFwCfgMaxItems));
  FwCfgCatalogue catalogue;
  std::uint64_t end = align_up(sizeof catalogue, kItemAlignment);
  for (const auto& [number, bytes] : all) {
    if (bytes.size() > kFwCfgMaxBytes - end)
      return make_error(fmt::format("firmware configuration: more than {} bytes", kFwCfgMaxBytes));
    catalogue.items[catalogue.count++] = {.offset = static_cast<std::uint32_t>(end),
                                          .size = static_cast<std::uint32_t>(bytes.size()),
                                          .selector = number};
    end = align_up(end + bytes.size(), kItemAlignment);
  }
  Bytes region(end);
  std::memcpy(region.data(), &catalogue, sizeof catalogue);
  std::uint32_t item = 0;
  for (const auto& [number, bytes] : all)
    std::copy(bytes.begin(), bytes.end(), region.begin() + catalogue.items[item++].offset);
  return region;
}

}  // namespace bulkhead::vmm
