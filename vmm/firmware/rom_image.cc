#include "vmm/firmware/rom_image.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "ipc/base/checked.h"
#include "ipc/roles/device_config.h"
#include "vmm/memory/layout.h"

namespace bulkhead::vmm {
namespace {

constexpr std::uint64_t kResetVector = 16;  // bytes before the end

// Expansion ROM header.
constexpr std::size_t kRomUnit = 512;
constexpr std::uint16_t kRomSignature = 0xaa55;
constexpr std::size_t kDataPointer = 0x18;
// PCI data structure.
constexpr std::size_t kDataLength = 0x18;
constexpr std::size_t kDataVendor = 0x04;
constexpr std::size_t kDataDevice = 0x06;
constexpr std::size_t kDataImageLength = 0x10;
constexpr std::size_t kDataCodeType = 0x14;
constexpr std::size_t kDataIndicator = 0x15;
constexpr std::uint8_t kCodePc = 0;
constexpr std::uint8_t kLastImage = 0x80;

Result<std::vector<std::byte>> read_all(const FileSource& file) {
  std::vector<std::byte> bytes(file.size());
  RETURN_IF_ERROR(file.read(0, bytes));
  return bytes;
}

std::uint16_t load16(std::span<const std::byte> bytes, std::size_t at) {
  std::uint16_t value = 0;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// The ids in the first image for PC firmware.
std::optional<OptionRom::Id> find_pc_image(std::span<const std::byte> rom) {
  for (std::size_t image = 0; fits(image, kDataPointer + 2, rom.size());) {
    if (load16(rom, image) != kRomSignature) return std::nullopt;
    const std::size_t data = image + load16(rom, image + kDataPointer);
    if (!fits(data, kDataLength, rom.size()) || std::memcmp(rom.data() + data, "PCIR", 4) != 0) return std::nullopt;
    if (static_cast<std::uint8_t>(rom[data + kDataCodeType]) == kCodePc)
      return OptionRom::Id{load16(rom, data + kDataVendor), load16(rom, data + kDataDevice)};
    const std::size_t length = load16(rom, data + kDataImageLength) * kRomUnit;
    if (length == 0 || (static_cast<std::uint8_t>(rom[data + kDataIndicator]) & kLastImage) != 0) return std::nullopt;
    image += length;
  }
  return std::nullopt;
}

}  // namespace

Result<std::vector<std::byte>> read_bios(const FileSource& file) {
  const auto fail = [&](std::string_view why) { return make_error(fmt::format("firmware {}: {}", file.name(), why)); };
  if (file.size() > kLargestBios)
    return fail(fmt::format("has {} bytes, and a PC BIOS at most {} (UEFI firmware is not supported)", file.size(),
                            kLargestBios));
  if (file.size() < 2 * kBiosUnit || file.size() % kBiosUnit != 0)
    return fail(fmt::format("has {} bytes, which is not a multiple of 64 KiB from 128 KiB on", file.size()));
  ASSIGN_OR_RETURN(std::vector<std::byte> bytes, read_all(file));
  // Erased or empty flash: nothing that a processor could run.
  const auto first = bytes[bytes.size() - kResetVector];
  if (first == std::byte{0} || first == std::byte{0xff}) return fail("is no PC BIOS: it has no code where CPUs start");
  return bytes;
}

Result<OptionRom> read_option_rom(const FileSource& file) {
  const auto fail = [&](std::string_view why) { return make_error(fmt::format("rom {}: {}", file.name(), why)); };
  if (file.size() > kLargestRomBar)
    return fail(fmt::format("has {} bytes; an option ROM has at most {}", file.size(), kLargestRomBar));
  OptionRom rom;
  ASSIGN_OR_RETURN(rom.bytes, read_all(file));
  if (rom.bytes.size() < kRomUnit || load16(rom.bytes, 0) != kRomSignature)
    return fail("is no option ROM: it does not begin with 55 AA");
  rom.bar_size = std::max<std::uint64_t>(std::bit_ceil(rom.bytes.size()), kPageSize);
  rom.pc = find_pc_image(rom.bytes);
  return rom;
}

}  // namespace bulkhead::vmm
