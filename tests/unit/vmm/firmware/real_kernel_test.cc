// The stock kernels of tools/guest-files, cut at every 64 KiB and around every field: skipped without them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <set>

#include "tests/unit/vmm/firmware/images.h"
#include "vmm/firmware/boot_plan.h"
#include "vmm/firmware/kernel_image.h"

namespace bulkhead::vmm {
namespace {

constexpr std::uint64_t kStep = 64 * kKiB;

std::optional<FileSource> open_guest(const char* name) {
  const auto root = std::filesystem::path(__FILE__).parent_path() / "../../../..";
  auto file = FileSource::open((root / "build/guests" / name).lexically_normal().string());
  if (!file) return std::nullopt;
  return std::move(*file);
}

// Bytes of the file that are needed to boot it.
std::uint64_t needed(const KernelImage& image) {
  if (const auto* bz = std::get_if<BzImage>(&image)) return bz->payload_offset + bz->payload_size;
  std::uint64_t end = 0;
  for (const PvhSegment& segment : std::get<PvhImage>(image).segments)
    end = std::max(end, segment.file_offset + segment.file_size);
  return end;
}

void add_both_sides(std::set<std::uint64_t>& cuts, std::uint64_t at) {
  cuts.insert(at);
  cuts.insert(at + 1);
  if (at > 0) cuts.insert(at - 1);
}

void check_cuts(const FileSource& file, const KernelImage& image, const std::set<std::uint64_t>& cuts) {
  for (const std::uint64_t size : cuts) {
    if (size >= file.size()) continue;
    const auto parsed = parse_kernel(test::CutSource(file, size));
    ASSERT_EQ(parsed.has_value(), size >= needed(image)) << size;
    if (parsed) continue;
    ASSERT_THAT(parsed.error().message, testing::HasSubstr(file.name())) << size;
  }
}

TEST(RealBzImage, every_cut_within_what_is_loaded_is_noticed) {
  const auto file = open_guest("vmlinuz");
  if (!file) GTEST_SKIP() << "no build/guests/vmlinuz: run tools/guest-files";
  const auto image = parse_kernel(*file);
  ASSERT_TRUE(image) << image.error().message;
  ASSERT_TRUE(std::holds_alternative<BzImage>(*image));

  std::set<std::uint64_t> cuts;
  for (std::uint64_t size = 0; size < file->size(); size += kStep) cuts.insert(size);
  for (std::uint64_t field = 0x1F1; field <= 0x270; ++field) cuts.insert(field);
  add_both_sides(cuts, std::get<BzImage>(*image).payload_offset);
  add_both_sides(cuts, needed(*image));
  check_cuts(*file, *image, cuts);
}

TEST(RealElf, every_cut_within_what_is_loaded_is_noticed) {
  const auto file = open_guest("vmlinux");
  if (!file) GTEST_SKIP() << "no build/guests/vmlinux: run tools/guest-files";
  const auto image = parse_kernel(*file);
  ASSERT_TRUE(image) << image.error().message;
  ASSERT_TRUE(std::holds_alternative<PvhImage>(*image));

  std::set<std::uint64_t> cuts;
  for (std::uint64_t size = 0; size < file->size(); size += kStep) cuts.insert(size);
  for (std::uint64_t field = 0; field <= 64 + 5 * 56; ++field) cuts.insert(field);
  for (const PvhSegment& segment : std::get<PvhImage>(*image).segments) {
    add_both_sides(cuts, segment.file_offset);
    add_both_sides(cuts, segment.file_offset + segment.file_size);
  }
  check_cuts(*file, *image, cuts);
}

TEST(RealKernels, fit_a_machine_of_128_mib_and_not_one_of_32) {
  for (const char* name : {"vmlinuz", "vmlinux"}) {
    const auto file = open_guest(name);
    if (!file) GTEST_SKIP() << "no build/guests: run tools/guest-files";
    const auto image = parse_kernel(*file);
    ASSERT_TRUE(image);
    AcpiConfig acpi{.memory = *plan_memory(128 * kMiB), .apic_ids = {0}, .uarts = {}};
    EXPECT_TRUE(plan_boot({.image = *image, .kernel_name = name, .initrd_name = {}, .initrd_size = {}}, acpi));
    acpi.memory = *plan_memory(32 * kMiB);
    EXPECT_FALSE(plan_boot({.image = *image, .kernel_name = name, .initrd_name = {}, .initrd_size = {}}, acpi));
  }
}

}  // namespace
}  // namespace bulkhead::vmm
