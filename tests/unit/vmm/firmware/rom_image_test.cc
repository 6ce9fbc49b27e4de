#include "vmm/firmware/rom_image.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <random>

#include "vmm/firmware/fw_cfg_image.h"

namespace bulkhead::vmm {
namespace {

FileSource file_of(const std::vector<std::byte>& bytes) {
  UniqueFd fd(::memfd_create("rom", MFD_CLOEXEC));
  EXPECT_EQ(::write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  return std::move(FileSource::from_fd(std::move(fd), "x.rom")).value();
}

std::vector<std::byte> bios(std::size_t size) {
  std::vector<std::byte> bytes(size, std::byte{0x90});
  if (size >= 16) bytes[size - 16] = std::byte{0xea};
  return bytes;
}

TEST(ReadBios, takes_what_a_pc_has) {
  for (const std::size_t size : {std::size_t{128} << 10, std::size_t{256} << 10, std::size_t{1} << 20})
    EXPECT_TRUE(read_bios(file_of(bios(size)))) << size;
}

TEST(ReadBios, refuses_other_sizes_by_name) {
  for (const std::size_t size :
       {std::size_t{1}, std::size_t{64} << 10, (std::size_t{128} << 10) + 1, std::size_t{2} << 20}) {
    const auto refused = read_bios(file_of(bios(size)));
    ASSERT_FALSE(refused) << size;
    EXPECT_NE(refused.error().message.find("x.rom"), std::string::npos);
  }
}

TEST(ReadBios, refuses_what_has_no_code_at_the_reset_vector) {
  for (const std::byte nothing : {std::byte{0}, std::byte{0xff}})
    EXPECT_FALSE(read_bios(file_of(std::vector<std::byte>(256 << 10, nothing))));
}

// An image of `units` 512-byte units at the end of `rom`, for one function and one kind of firmware.
void add_image(std::vector<std::byte>& rom, std::uint8_t units, std::uint16_t device, std::uint8_t code, bool last) {
  const std::size_t at = rom.size();
  rom.resize(at + units * 512U);
  const auto put = [&](std::size_t offset, std::initializer_list<int> values) {
    for (const int value : values) rom[at + offset++] = static_cast<std::byte>(value);
  };
  put(0, {0x55, 0xaa, units});
  put(0x18, {0x20, 0});
  put(0x20, {'P', 'C', 'I', 'R', 0xf4, 0x1a, device & 0xff, device >> 8});
  put(0x30, {units, 0, 0, 0, code, last ? 0x80 : 0});
}

TEST(ReadOptionRom, finds_the_image_for_pc_firmware_and_its_ids) {
  std::vector<std::byte> rom;
  add_image(rom, 2, 0x1111, 3, false);  // UEFI
  add_image(rom, 3, 0x1041, 0, true);
  const auto read = read_option_rom(file_of(rom));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->pc, (OptionRom::Id{0x1af4, 0x1041}));
  EXPECT_EQ(read->bar_size, 4096U);
}

TEST(ReadOptionRom, sizes_its_bar_as_a_power_of_two) {
  std::vector<std::byte> rom;
  add_image(rom, 147, 0x1000, 0, true);  // 75,264 bytes, as iPXE's
  EXPECT_EQ(read_option_rom(file_of(rom))->bar_size, 128U * 1024);
}

TEST(ReadOptionRom, refuses_what_is_none) {
  EXPECT_FALSE(read_option_rom(file_of({std::byte{0x55}, std::byte{0xaa}})));
  EXPECT_FALSE(read_option_rom(file_of(std::vector<std::byte>(4096))));
}

// Lengths and pointers in a ROM are a file's word.
TEST(ReadOptionRom, survives_any_bytes) {
  std::mt19937 random(3);
  for (int round = 0; round < 2'000; ++round) {
    std::vector<std::byte> rom;
    add_image(rom, 2, 0x1000, static_cast<std::uint8_t>(random() % 2), random() % 2 != 0);
    add_image(rom, 1, 0x1000, 1, false);
    for (int i = 0; i < 4; ++i) rom[2 + random() % (rom.size() - 2)] = static_cast<std::byte>(random());
    for (const std::size_t at : {0x18U, 0x19U, 0x30U, 0x31U}) {
      if (random() % 2 != 0) rom[at] = static_cast<std::byte>(random());
    }
    (void)read_option_rom(file_of(rom));
  }
}

TEST(FwCfgImage, the_directory_names_each_file_with_its_selector_and_size) {
  FwCfgImage image;
  image.add_number(kFwCfgCpus, 3, 2);
  image.add_file("etc/b", to_bytes(std::string_view("bb")));
  image.add_file("etc/a", to_bytes(std::string_view("a")));
  const auto region = image.build();
  ASSERT_TRUE(region);
  const auto text = [&](std::uint16_t selector) {
    const auto item = fw_cfg_item(*region, selector);
    return std::string(reinterpret_cast<const char*>(item.data()), item.size());
  };
  EXPECT_EQ(text(kFwCfgSignature), "QEMU");
  EXPECT_EQ(text(kFwCfgId), std::string("\x03\0\0\0", 4));
  EXPECT_EQ(text(kFwCfgCpus), std::string("\x03\0", 2));
  const std::string directory = text(kFwCfgFileDirectory);
  ASSERT_EQ(directory.size(), 4U + 2 * 64);
  EXPECT_EQ(directory.substr(0, 4), std::string("\0\0\0\x02", 4));
  EXPECT_EQ(directory.substr(4, 8), std::string("\0\0\0\x02\0\x20\0\0", 8));
  EXPECT_STREQ(directory.c_str() + 12, "etc/a");
  EXPECT_STREQ(directory.c_str() + 4 + 64 + 8, "etc/b");
  EXPECT_EQ(text(kFwCfgFirstFile), std::string("a\0", 2));
  EXPECT_EQ(text(kFwCfgFirstFile + 1), std::string("bb\0", 3));
}

TEST(FwCfgImage, more_than_a_region_holds_is_refused) {
  FwCfgImage image;
  image.add_file("large", FwCfgImage::Bytes(kFwCfgMaxBytes));
  EXPECT_FALSE(image.build());
}

}  // namespace
}  // namespace bulkhead::vmm
