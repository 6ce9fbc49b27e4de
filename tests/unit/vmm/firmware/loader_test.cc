#include "vmm/firmware/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/vmm/firmware/images.h"
#include "vmm/firmware/boot_layout.h"

namespace bulkhead::vmm {
namespace {

using testing::HasSubstr;

class Loader : public testing::Test {
 protected:
  Loader() : ram_(*GuestRam::create(acpi_.memory)) {
    char pattern[] = "/tmp/bulkhead-loader-XXXXXX";
    folder_ = ::mkdtemp(pattern);
  }
  ~Loader() override { std::filesystem::remove_all(folder_); }

  std::string write(const char* name, const test::Image& bytes) const {
    const std::string path = (folder_ / name).string();
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return path;
  }
  [[nodiscard]] std::string text(std::uint64_t address) const {
    std::string out;
    for (char c; (c = ram_.load<char>(address++).value_or('\0')) != '\0';) out.push_back(c);
    return out;
  }
  std::string open_error(const BootFiles& files) {
    const auto loader = BootLoader::open(files);
    return loader ? "no error" : loader.error().message;
  }

  const AcpiConfig acpi_{.memory = *plan_memory(64 * kMiB), .apic_ids = {0, 1}, .uarts = {{0x3F8, 4}, {0x2F8, 3}}};
  GuestRam ram_;
  std::filesystem::path folder_;
};

TEST_F(Loader, a_bzimage_starts_behind_its_first_sector) {
  test::Image image = test::bzimage();
  test::poke<std::uint32_t>(image, 1024 + 0x200, 0xC0FFEE);
  auto loader = BootLoader::open({write("kernel", image), write("initrd", test::Image(5000, std::byte{7})), "root=x"});
  ASSERT_TRUE(loader) << loader.error().message;
  ASSERT_TRUE(loader->check(acpi_));
  const auto boot = loader->load(ram_, acpi_);
  ASSERT_TRUE(boot) << boot.error().message;
  EXPECT_EQ(boot->regs.rip, 0x1000200U);
  EXPECT_EQ(ram_.load<std::uint32_t>(boot->regs.rip), 0xC0FFEEU);

  const auto params = ram_.load<boot_params>(boot->regs.rsi);
  EXPECT_EQ(text(params->hdr.cmd_line_ptr), "root=x");
  EXPECT_EQ(params->hdr.ramdisk_size, 5000U);
  EXPECT_EQ(ram_.load<std::uint8_t>(params->hdr.ramdisk_image + 4999), 7);
  EXPECT_EQ(text(params->acpi_rsdp_addr).substr(0, 8), "RSD PTR ");
}

TEST_F(Loader, a_pvh_kernel_starts_at_its_note) {
  auto loader = BootLoader::open({write("kernel", test::elf()), std::nullopt, "quiet"});
  ASSERT_TRUE(loader) << loader.error().message;
  ASSERT_TRUE(ram_.store<std::uint8_t>(0x1002000 + 0x2FFF, 0x55));  // in its BSS
  const auto boot = loader->load(ram_, acpi_);
  ASSERT_TRUE(boot) << boot.error().message;
  EXPECT_EQ(boot->regs.rip, 0x1000010U);
  EXPECT_EQ(ram_.load<std::uint8_t>(0x1000000), 0x90);
  EXPECT_EQ(ram_.load<std::uint8_t>(0x10027FF), 0x90);
  EXPECT_EQ(ram_.load<std::uint8_t>(0x1002000 + 0x2FFF), 0);
  const std::uint64_t info = boot->regs.rbx;
  EXPECT_EQ(ram_.load<std::uint32_t>(info), 0x336EC578U);
  EXPECT_EQ(text(*ram_.load<std::uint64_t>(info + 24)), "quiet");
}

TEST_F(Loader, leaves_the_bios_data_that_firmware_would) {
  auto loader = BootLoader::open({write("kernel", test::elf()), std::nullopt, ""});
  ASSERT_TRUE(loader->load(ram_, acpi_));
  EXPECT_EQ(ram_.load<std::uint16_t>(0x400), 0x3F8);
  EXPECT_EQ(ram_.load<std::uint16_t>(0x402), 0x2F8);
  EXPECT_EQ(ram_.load<std::uint16_t>(0x40E), 0x9FC0);
  EXPECT_EQ(ram_.load<std::uint16_t>(0x413), 639);
}

TEST_F(Loader, loads_the_same_again_after_a_reset) {
  auto loader =
      BootLoader::open({write("kernel", test::bzimage()), write("initrd", test::Image(5000, std::byte{7})), "root=x"});
  const auto first = loader->load(ram_, acpi_);
  ASSERT_TRUE(first);
  const auto all = ram_.bytes(0, 64 * kMiB);
  const std::vector<std::byte> before(all.begin(), all.end());
  // A guest that wrote over all of it.
  for (const std::uint64_t address : {0x1000ULL, 0x7000ULL, 0x9000ULL, 0x20000ULL, 0x1000000ULL})
    std::memset(ram_.bytes(address, 4096).data(), 0xEE, 4096);
  std::memset(ram_.bytes(63 * kMiB, kMiB).data(), 0, kMiB);
  const auto second = loader->load(ram_, acpi_);
  ASSERT_TRUE(second);
  EXPECT_EQ(std::memcmp(&first->regs, &second->regs, sizeof(kvm_regs)), 0);
  EXPECT_EQ(std::memcmp(&first->sregs, &second->sregs, sizeof(kvm_sregs)), 0);
  const auto params = ram_.load<boot_params>(kBootZeroPage);
  EXPECT_EQ(std::memcmp(&*params, before.data() + kBootZeroPage, sizeof(boot_params)), 0);
  EXPECT_EQ(std::memcmp(all.data() + 0x1000000, before.data() + 0x1000000, 0x4000), 0);
  EXPECT_EQ(std::memcmp(all.data() + params->acpi_rsdp_addr, before.data() + params->acpi_rsdp_addr,
                        64 * kMiB - params->acpi_rsdp_addr),
            0);
}

TEST_F(Loader, a_file_that_shrank_since_is_an_error) {
  const std::string path = write("kernel", test::bzimage());
  auto loader = BootLoader::open({path, std::nullopt, ""});
  ASSERT_TRUE(loader);
  ASSERT_EQ(::truncate(path.c_str(), 4096), 0);
  const auto boot = loader->load(ram_, acpi_);
  ASSERT_FALSE(boot);
  EXPECT_THAT(boot.error().message, HasSubstr("cut short"));
}

TEST_F(Loader, an_initrd_that_grew_since_must_still_fit) {
  const std::string initrd = write("initrd", test::Image(100));
  auto loader = BootLoader::open({write("kernel", test::bzimage()), initrd, ""});
  ASSERT_TRUE(loader);
  ASSERT_EQ(::truncate(initrd.c_str(), 100 * 1024 * 1024), 0);
  const auto boot = loader->load(ram_, acpi_);
  ASSERT_FALSE(boot);
  EXPECT_THAT(boot.error().message, HasSubstr("does not fit"));
}

TEST_F(Loader, names_the_file_that_it_cannot_open) {
  EXPECT_THAT(open_error({"/nonexistent/kernel", std::nullopt, ""}), HasSubstr("/nonexistent/kernel"));
  EXPECT_THAT(open_error({write("kernel", test::elf()), "/nonexistent/initrd", ""}), HasSubstr("/nonexistent/initrd"));
}

TEST_F(Loader, refuses_what_is_not_a_file) {
  EXPECT_THAT(open_error({folder_.string(), std::nullopt, ""}), HasSubstr("is a directory"));
  const std::string fifo = (folder_ / "fifo").string();
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THAT(open_error({fifo, std::nullopt, ""}), HasSubstr("is not a regular file"));
}

TEST_F(Loader, checks_the_machine_before_there_is_one) {
  setup_header header = test::good_header();
  header.init_size = 100 * kMiB;
  auto loader = BootLoader::open({write("kernel", test::bzimage(header)), std::nullopt, ""});
  ASSERT_TRUE(loader);
  EXPECT_FALSE(loader->check(acpi_));
}

}  // namespace
}  // namespace bulkhead::vmm
