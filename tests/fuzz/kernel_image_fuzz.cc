// Any bytes as a kernel file: parsed, and planned for a machine when they parse. What is accepted must lie
// within the file and within RAM, and must not overlap the initrd or the firmware tables.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "ipc/base/check.h"
#include "vmm/firmware/boot_plan.h"
#include "vmm/firmware/kernel_image.h"

namespace {

using namespace bulkhead;
using namespace bulkhead::vmm;

void check_range(std::uint64_t first, std::uint64_t end, const BootPlan& plan) {
  CHECK(first >= kExtendedMemory && first < end, first, end);
  CHECK(end <= plan.firmware.acpi, end);
  CHECK(plan.initrd + plan.initrd_size <= first || plan.initrd >= end, plan.initrd, first, end);
}

void check_plan(const KernelImage& image, const BootPlan& plan, std::uint64_t file_size) {
  CHECK(plan.initrd >= kExtendedMemory && plan.initrd + plan.initrd_size <= plan.firmware.acpi);
  if (const auto* bz = std::get_if<BzImage>(&image)) {
    CHECK(bz->payload_offset + bz->payload_size <= file_size);
    check_range(bz->load_address, bz->load_address + bz->init_size, plan);
    const boot_params params = make_zero_page(*bz, {.initrd = plan.initrd, .e820 = plan.e820});
    CHECK(params.e820_entries == plan.e820.size());
    return;
  }
  for (const PvhSegment& segment : std::get<PvhImage>(image).segments) {
    CHECK(segment.file_offset + segment.file_size <= file_size && segment.file_size <= segment.memory_size);
    check_range(segment.address, segment.address + segment.memory_size, plan);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const MemorySource file(std::as_bytes(std::span(data, size)), "kernel");
  const auto image = parse_kernel(file);
  if (!image) {
    CHECK(image.error().message.starts_with("kernel"));
    return 0;
  }
  const AcpiConfig acpi{.memory = *plan_memory(256 * kMiB), .apic_ids = {0}, .uarts = {}};
  const auto plan = plan_boot({.image = *image,
                               .kernel_name = "kernel",
                               .initrd_name = "initrd",
                               .initrd_size = 123456,
                               .command_line_length = 0},
                              acpi);
  if (plan) check_plan(*image, *plan, size);
  return 0;
}
