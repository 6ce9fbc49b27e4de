#include "vmm/memory/guest_ram.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <sstream>

namespace bulkhead::vmm {
namespace {

GuestRam make(std::uint64_t mib) {
  auto ram = GuestRam::create(*plan_memory(mib * kMiB, 48));
  EXPECT_TRUE(ram) << ram.error().message;
  return std::move(*ram);
}

TEST(GuestRam, keeps_what_is_written) {
  GuestRam ram = make(16);
  ASSERT_TRUE(ram.store<std::uint64_t>(0x1234, 0x1122334455667788));
  EXPECT_EQ(ram.load<std::uint64_t>(0x1234), 0x1122334455667788U);
  EXPECT_EQ(ram.load<std::uint8_t>(0x1234), 0x88);
}

TEST(GuestRam, more_than_the_host_could_ever_hold_is_refused) {
  EXPECT_TRUE(check_fits_host(kGiB, kGiB));
  const Status refused = check_fits_host(kGiB + kMiB, kGiB);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, "1025 MiB of guest memory are more than this host has (1024 MiB of RAM and swap)");
  const auto ram = GuestRam::create(*plan_memory(kMaxRam / 2, 48));
  ASSERT_FALSE(ram);
  EXPECT_TRUE(ram.error().message.starts_with("8388608 MiB of guest memory are more than this host has"))
      << ram.error().message;
}

TEST(GuestRam, refuses_an_access_that_leaves_low_ram) {
  GuestRam ram = make(16);
  const std::uint64_t end = 16 * kMiB;
  EXPECT_TRUE(ram.store<std::uint32_t>(end - 4, 1));
  EXPECT_FALSE(ram.store<std::uint32_t>(end - 3, 1));
  EXPECT_FALSE(ram.load<std::uint8_t>(end));
  EXPECT_FALSE(ram.load<std::uint64_t>(UINT64_MAX - 3));
  EXPECT_TRUE(ram.bytes(0, end + 1).empty());
  EXPECT_TRUE(ram.bytes(1, UINT64_MAX).empty());
}

TEST(GuestRam, a_refused_write_changes_nothing) {
  GuestRam ram = make(16);
  const std::uint64_t end = 16 * kMiB;
  ASSERT_FALSE(ram.store<std::uint64_t>(end - 4, UINT64_MAX));
  EXPECT_EQ(ram.load<std::uint32_t>(end - 4), 0U);
}

TEST(GuestRam, high_ram_follows_low_ram_in_the_file) {
  GuestRam ram = make(4096);  // sparse: costs what is touched
  ASSERT_TRUE(ram.store<std::uint32_t>(kFourGiB, 0xABCD));
  EXPECT_EQ(ram.bytes(kFourGiB, 4).data(), ram.host() + 3 * kGiB);
  EXPECT_FALSE(ram.load<std::uint8_t>(3 * kGiB));
  EXPECT_FALSE(ram.load<std::uint8_t>(kFourGiB - 1));
  EXPECT_FALSE(ram.load<std::uint8_t>(kFourGiB + kGiB));
  EXPECT_FALSE(ram.store<std::uint32_t>(3 * kGiB - 2, 1));
}

TEST(GuestRam, zeroes_only_what_it_is_told_to) {
  GuestRam ram = make(16);
  ASSERT_TRUE(ram.store<std::uint64_t>(0x1000, UINT64_MAX));
  ASSERT_TRUE(ram.zero(0x1002, 3));
  EXPECT_EQ(ram.load<std::uint64_t>(0x1000), 0xFFFFFF000000FFFFU);
  EXPECT_FALSE(ram.zero(16 * kMiB - 1, 2));
}

TEST(GuestRam, nobody_can_change_the_files_size) {
  const GuestRam ram = make(16);
  EXPECT_NE(::ftruncate(ram.fd().get(), 4096), 0);
  EXPECT_NE(::ftruncate(ram.fd().get(), static_cast<off_t>(32 * kMiB)), 0);
  EXPECT_NE(::fcntl(ram.fd().get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
  struct stat info {};
  ASSERT_EQ(::fstat(ram.fd().get(), &info), 0);
  EXPECT_EQ(static_cast<std::uint64_t>(info.st_size), 16 * kMiB);
}

// VmFlags of the mapping: dd (not in core dumps), no mg (KSM may merge).
TEST(GuestRam, stays_out_of_core_dumps_and_ksm) {
  const GuestRam ram = make(16);
  std::ifstream maps("/proc/self/smaps");
  const std::string start = [&] {
    char text[32];
    std::snprintf(text, sizeof(text), "%" PRIxPTR "-", reinterpret_cast<std::uintptr_t>(ram.host()));
    return std::string(text);
  }();
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.starts_with(start)) inside = true;
    if (inside && line.starts_with("VmFlags:")) {
      EXPECT_NE(line.find(" dd"), std::string::npos) << line;
      EXPECT_EQ(line.find(" mg"), std::string::npos) << line;
      return;
    }
  }
  FAIL() << "no such mapping";
}

}  // namespace
}  // namespace bulkhead::vmm
