#include "vmm/firmware/bzimage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/unit/vmm/firmware/images.h"
#include "vmm/firmware/kernel_image.h"

namespace bulkhead::vmm {
namespace {

using test::bzimage;
using test::good_header;
using test::Image;
using testing::HasSubstr;

std::string error_of(const Image& image) {
  const auto parsed = parse_kernel(MemorySource(image, "kernel"));
  return parsed ? "no error" : parsed.error().message;
}

std::string error_of(const setup_header& header) { return error_of(bzimage(header)); }

TEST(BzImage, a_good_one_is_understood) {
  const Image image = bzimage();
  const auto parsed = parse_kernel(MemorySource(image, "kernel"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  const auto& kernel = std::get<BzImage>(*parsed);
  EXPECT_EQ(kernel.payload_offset, 1024U);
  EXPECT_EQ(kernel.payload_size, 0x4000U);
  EXPECT_EQ(kernel.load_address, 0x1000000U);
  EXPECT_EQ(kernel.init_size, 0x200000U);
  EXPECT_EQ(kernel.command_line_limit, 2047U);
  EXPECT_EQ(kernel.initrd_limit, 0x7FFFFFFFU);
}

TEST(BzImage, no_setup_sectors_means_four) {
  setup_header header = good_header();
  header.setup_sects = 0;
  Image image = bzimage(header);
  image.resize(5 * 512 + 0x4000);
  const auto parsed = parse_bzimage(MemorySource(image, "kernel"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->payload_offset, 5U * 512U);
}

TEST(BzImage, every_cut_is_noticed) {
  const Image image = bzimage();
  const MemorySource whole(image, "kernel");
  for (std::uint64_t size = 0; size < image.size(); ++size) {
    const auto parsed = parse_kernel(test::CutSource(whole, size));
    ASSERT_FALSE(parsed) << size;
    ASSERT_THAT(parsed.error().message, HasSubstr("kernel")) << size;
  }
  EXPECT_TRUE(parse_kernel(test::CutSource(whole, image.size())));
}

TEST(BzImage, bytes_behind_the_payload_do_not_matter) {
  Image image = bzimage();
  image.resize(image.size() + 1472);  // a signature
  EXPECT_EQ(error_of(image), "no error");
}

TEST(BzImage, an_old_protocol_is_refused) {
  setup_header header = good_header();
  header.version = 0x020B;
  EXPECT_THAT(error_of(header), HasSubstr("boot protocol 2.11"));
}

TEST(BzImage, a_32_bit_kernel_is_refused) {
  setup_header header = good_header();
  header.xloadflags = 0;
  EXPECT_THAT(error_of(header), HasSubstr("not a 64-bit kernel"));
}

TEST(BzImage, a_zimage_is_refused) {
  setup_header header = good_header();
  header.loadflags = 0;
  EXPECT_THAT(error_of(header), HasSubstr("zImage"));
}

TEST(BzImage, a_header_that_ends_early_is_refused) {
  setup_header header = good_header();
  header.jump = 0x10EB;
  EXPECT_THAT(error_of(header), HasSubstr("setup header ends"));
}

TEST(BzImage, a_longer_header_than_known_is_fine) {
  setup_header header = good_header();
  header.jump = static_cast<__u16>(0xFFEB);
  EXPECT_EQ(error_of(header), "no error");
}

TEST(BzImage, a_payload_without_an_entry_point_is_refused) {
  for (const std::uint32_t paragraphs : {0U, 1U, 0x20U}) {
    setup_header header = good_header();
    header.syssize = paragraphs;
    EXPECT_THAT(error_of(header), HasSubstr("entry point")) << paragraphs;
  }
}

TEST(BzImage, a_payload_beyond_the_file_is_refused) {
  for (const std::uint32_t paragraphs : {0x401U, 0x10000000U, UINT32_MAX}) {
    setup_header header = good_header();
    header.syssize = paragraphs;
    EXPECT_THAT(error_of(header), HasSubstr("cut short")) << paragraphs;
  }
}

TEST(BzImage, an_impossible_load_address_is_refused) {
  for (const std::uint64_t address : {std::uint64_t{0}, std::uint64_t{0xFFFFF}, UINT64_MAX, UINT64_MAX - 0x1000}) {
    setup_header header = good_header();
    header.pref_address = address;
    EXPECT_THAT(error_of(header), HasSubstr("asks to be loaded")) << address;
  }
}

TEST(BzImage, missing_sizes_are_refused) {
  setup_header header = good_header();
  header.init_size = 0;
  EXPECT_THAT(error_of(header), HasSubstr("init_size"));
  header = good_header();
  header.cmdline_size = 0;
  EXPECT_THAT(error_of(header), HasSubstr("command line"));
}

TEST(BzImage, other_files_are_named_for_what_they_are_not) {
  const std::string sentence =
      "kernel is not a kernel that can be booted: neither a bzImage nor an ELF file with a PVH entry note";
  EXPECT_EQ(error_of(Image{}), sentence);
  EXPECT_EQ(error_of(Image(100, std::byte{'a'})), sentence);
  EXPECT_EQ(error_of(Image(100000, std::byte{'a'})), sentence);
  setup_header header = good_header();
  header.boot_flag = 0;
  EXPECT_EQ(error_of(header), sentence);
}

// Whatever the header says, a kernel that is accepted lies within its file and does not wrap.
TEST(BzImage, random_headers_are_refused_or_sane) {
  std::mt19937_64 random(2);
  int accepted = 0;
  for (int n = 0; n < 20000; ++n) {
    Image image = bzimage();
    for (std::uint64_t changes = 1 + random() % 3; changes-- > 0;)
      image[test::kSetupHeader + random() % sizeof(setup_header)] = static_cast<std::byte>(random());
    const auto parsed = parse_kernel(MemorySource(image, "kernel"));
    if (!parsed || !std::holds_alternative<BzImage>(*parsed)) continue;
    const auto& kernel = std::get<BzImage>(*parsed);
    ++accepted;
    ASSERT_LE(kernel.payload_offset + kernel.payload_size, image.size());
    ASSERT_GE(kernel.init_size, kernel.payload_size);
    ASSERT_GE(kernel.load_address, kExtendedMemory);
    ASSERT_GT(kernel.load_address + (kernel.init_size - 1), kernel.load_address);
  }
  EXPECT_GT(accepted, 1000);
}

TEST(ZeroPage, carries_what_the_loader_decided) {
  const auto image = parse_bzimage(MemorySource(bzimage(), "kernel"));
  ASSERT_TRUE(image);
  const E820Entry map[] = {{0, 0x9FC00, E820Type::kRam}, {0x9FC00, 0x400, E820Type::kReserved}};
  const boot_params params = make_zero_page(
      *image, {.command_line = 0x20000, .initrd = 0x1'2345'6000, .initrd_size = 0x1000, .rsdp = 0xABC000, .e820 = map});
  EXPECT_EQ(params.hdr.cmd_line_ptr, 0x20000U);
  EXPECT_EQ(params.hdr.ramdisk_image, 0x23456000U);
  EXPECT_EQ(params.ext_ramdisk_image, 1U);
  EXPECT_EQ(params.hdr.ramdisk_size, 0x1000U);
  EXPECT_EQ(params.acpi_rsdp_addr, 0xABC000U);
  EXPECT_EQ(params.hdr.type_of_loader, 0xFF);
  EXPECT_EQ(params.e820_entries, 2);
  EXPECT_EQ(params.e820_table[1].addr, 0x9FC00U);
  EXPECT_EQ(params.e820_table[1].type, 2U);
  EXPECT_EQ(params.sentinel, 0);
}

TEST(ZeroPage, drops_setup_data_that_the_file_names) {
  setup_header header = good_header();
  header.setup_data = 0xDEAD0000;
  const auto image = parse_bzimage(MemorySource(bzimage(header), "kernel"));
  ASSERT_TRUE(image);
  EXPECT_EQ(make_zero_page(*image, {}).hdr.setup_data, 0U);
}

}  // namespace
}  // namespace bulkhead::vmm
