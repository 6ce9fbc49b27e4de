#include "vmm/firmware/bzimage.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "ipc/base/check.h"
#include "ipc/base/checked.h"

namespace bulkhead::vmm {

namespace {

constexpr std::uint64_t kHeaderOffset = 0x1F1;  // of setup_header in the file and in the zero page
constexpr std::uint64_t kJumpOffset = 0x200;    // "jump": EB, then how far the header reaches past 0x202
constexpr std::uint64_t kMagicOffset = 0x202;
constexpr std::uint32_t kMagic = 0x53726448;  // "HdrS"
constexpr std::uint16_t kBootFlag = 0xAA55;
constexpr std::uint16_t kOldestVersion = 0x020C;
constexpr std::uint64_t kSectorSize = 512;
constexpr std::uint64_t kParagraph = 16;          // the unit of syssize
constexpr std::uint8_t kDefaultSetupSectors = 4;  // "if setup_sects is 0, the real value is 4"
constexpr std::uint8_t kLoadedHigh = 1;           // loadflags
constexpr std::uint8_t kLoaderUnknown = 0xFF;     // type_of_loader: none that was assigned
constexpr std::uint64_t k64BitEntry = 0x200;
// Where the fixed part of a 2.12 header ends: handover_offset, the last field, lies at 0x264.
constexpr std::uint64_t kHeaderEnd = 0x268;
static_assert(kHeaderOffset + offsetof(setup_header, handover_offset) + 4 == kHeaderEnd);
static_assert(sizeof(boot_params) == 4096 && offsetof(boot_params, hdr) == kHeaderOffset);

Error reject(const ByteSource& file, std::string_view why) {
  return make_error(fmt::format("{} cannot be booted: {}", file.name(), why));
}

// The header as far as the file says it reaches; what lies behind that is not part of it.
Result<setup_header> read_header(const ByteSource& file) {
  std::uint8_t reach = 0;
  ASSIGN_OR_RETURN(reach, file.load<std::uint8_t>(kJumpOffset + 1));
  const std::uint64_t end = kMagicOffset + reach;
  if (end < kHeaderEnd)
    return reject(file, fmt::format("its setup header ends at {:#x}, before the fields that are needed", end));
  setup_header header{};
  const std::size_t length = std::min<std::uint64_t>(sizeof(header), end - kHeaderOffset);
  RETURN_IF_ERROR(file.read(kHeaderOffset, std::as_writable_bytes(std::span(&header, 1)).first(length)));
  return header;
}

Status check_header(const ByteSource& file, const setup_header& header) {
  if (header.boot_flag != kBootFlag || header.header != kMagic)
    return reject(file, "its setup header changed while it was read");
  if (header.version < kOldestVersion)
    return reject(file, fmt::format("it speaks boot protocol {}.{:02}, and 2.12 is the oldest that can be booted",
                                    header.version >> 8, header.version & 0xFF));
  if ((header.xloadflags & XLF_KERNEL_64) == 0) return reject(file, "it is not a 64-bit kernel");
  if ((header.loadflags & kLoadedHigh) == 0) return reject(file, "it is a zImage, which loads below 1 MiB");
  if (header.init_size == 0) return reject(file, "it does not say how much memory it needs (init_size is 0)");
  if (header.cmdline_size == 0) return reject(file, "it does not say how long its command line may be");
  return ok();
}

}  // namespace

bool looks_like_bzimage(const ByteSource& file) {
  const auto magic = file.load<std::uint32_t>(kMagicOffset);
  const auto flag = file.load<std::uint16_t>(0x1FE);
  return magic && flag && *magic == kMagic && *flag == kBootFlag;
}

Result<BzImage> parse_bzimage(const ByteSource& file) {
  BzImage image;
  ASSIGN_OR_RETURN(image.header, read_header(file));
  const setup_header& header = image.header;
  RETURN_IF_ERROR(check_header(file, header));

  const std::uint64_t setup_sectors = header.setup_sects == 0 ? kDefaultSetupSectors : header.setup_sects;
  image.payload_offset = (setup_sectors + 1) * kSectorSize;
  image.payload_size = header.syssize * kParagraph;
  if (image.payload_size <= k64BitEntry) return reject(file, "it has no room for its 64-bit entry point");
  if (!fits(image.payload_offset, image.payload_size, file.size()))
    return make_error(fmt::format("{} is cut short: its kernel ends at byte {}, but it has {} bytes", file.name(),
                                  image.payload_offset + image.payload_size, file.size()));

  image.load_address = header.pref_address;
  // The kernel unpacks itself within init_size; what is copied there must fit too.
  image.init_size = std::max<std::uint64_t>(header.init_size, image.payload_size);
  if (image.load_address < kExtendedMemory || !Range::make(image.load_address, image.init_size))
    return reject(file, fmt::format("it asks to be loaded at {:#x}, where nothing can be loaded", image.load_address));
  image.command_line_limit = header.cmdline_size;
  image.initrd_limit = header.initrd_addr_max;
  return image;
}

boot_params make_zero_page(const BzImage& image, const ZeroPageInput& input) {
  CHECK(input.e820.size() <= std::size(boot_params{}.e820_table), input.e820.size());
  boot_params params{};
  params.hdr = image.header;
  params.hdr.type_of_loader = kLoaderUnknown;
  // What these say is the loader's to say, whatever the file had there.
  params.hdr.setup_data = 0;
  params.hdr.code32_start = static_cast<std::uint32_t>(image.load_address);
  params.hdr.cmd_line_ptr = static_cast<std::uint32_t>(input.command_line);
  params.ext_cmd_line_ptr = static_cast<std::uint32_t>(input.command_line >> 32);
  params.hdr.ramdisk_image = static_cast<std::uint32_t>(input.initrd);
  params.ext_ramdisk_image = static_cast<std::uint32_t>(input.initrd >> 32);
  params.hdr.ramdisk_size = static_cast<std::uint32_t>(input.initrd_size);
  params.ext_ramdisk_size = static_cast<std::uint32_t>(input.initrd_size >> 32);
  params.hdr.vid_mode = 0xFFFF;  // "normal"
  params.acpi_rsdp_addr = input.rsdp;
  params.e820_entries = static_cast<std::uint8_t>(input.e820.size());
  for (std::size_t n = 0; n < input.e820.size(); ++n) {
    params.e820_table[n].addr = input.e820[n].address;
    params.e820_table[n].size = input.e820[n].size;
    params.e820_table[n].type = static_cast<std::uint32_t>(input.e820[n].type);
  }
  return params;
}

}  // namespace bulkhead::vmm
