#include "vmm/firmware/boot_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "ipc/base/checked.h"
#include "vmm/firmware/boot_layout.h"

namespace bulkhead::vmm {

namespace {

constexpr std::uint64_t kNoLimit = UINT64_MAX;

std::vector<TakenRange> taken_by(const KernelImage& image) {
  std::vector<TakenRange> taken;
  if (const auto* bz = std::get_if<BzImage>(&image)) {
    taken.push_back({bz->load_address, bz->load_address + bz->init_size});
  } else {
    for (const PvhSegment& segment : std::get<PvhImage>(image).segments)
      taken.push_back({segment.address, segment.address + segment.memory_size});
  }
  return taken;
}

// Text for a size: MiB, rounded up, unless that would say nothing.
std::string mib(std::uint64_t bytes) { return fmt::format("{} MiB", (bytes / kMiB) + (bytes % kMiB != 0 ? 1 : 0)); }

Status check_command_line(const BootPlanInput& input) {
  std::uint64_t limit = kBootCommandLineLimit - 1;
  if (const auto* bz = std::get_if<BzImage>(&input.image)) limit = std::min(limit, bz->command_line_limit);
  if (input.command_line_length <= limit) return ok();
  return make_error(fmt::format("the command line has {} characters, and {} takes at most {}",
                                input.command_line_length, input.kernel_name, limit));
}

}  // namespace

std::optional<std::uint64_t> highest_gap(std::span<const TakenRange> taken, std::uint64_t floor, std::uint64_t end,
                                         std::uint64_t size) {
  for (std::size_t n = taken.size() + 1; n-- > 0;) {
    // The gap above taken[n - 1] and below what was looked at before.
    const std::uint64_t low = std::max(floor, n == 0 ? 0 : taken[n - 1].end);
    if (low < end && size <= end - low) {
      const std::uint64_t address = (end - size) & ~(kPageSize - 1);
      if (address >= low) return address;
    }
    if (n != 0) end = std::min(end, taken[n - 1].first);
  }
  return std::nullopt;
}

Result<BootPlan> plan_boot(const BootPlanInput& input, const AcpiConfig& acpi) {
  BootPlan plan;
  const std::uint64_t tables = acpi_size(acpi);
  const MemoryLayout& memory = acpi.memory;
  plan.firmware = acpi_area(acpi, memory.low_ram - tables);
  plan.e820 = build_e820(memory, plan.firmware);
  const std::uint64_t end = plan.firmware.acpi;
  RETURN_IF_ERROR(check_command_line(input));

  const std::vector<TakenRange> taken = taken_by(input.image);
  for (const TakenRange& range : taken) {
    if (range.first >= kBootImageFloor && range.first < range.end && range.end <= end) continue;
    return make_error(
        fmt::format("{} needs memory from {:#x} to {:#x}, and this machine has {} ({} of it below the "
                    "PCI hole): give it more",
                    input.kernel_name, range.first, range.end, mib(memory.ram()), mib(end)));
  }
  if (!input.initrd_size) return plan;

  if (*input.initrd_size == 0) return make_error(input.initrd_name + " is empty, so it is no initrd");
  std::uint64_t initrd_end = end;
  const std::uint64_t highest =
      std::holds_alternative<BzImage>(input.image) ? std::get<BzImage>(input.image).initrd_limit : kNoLimit;
  if (highest != kNoLimit) initrd_end = std::min(end, highest + 1);
  const auto address = highest_gap(taken, kBootImageFloor, initrd_end, *input.initrd_size);
  if (!address)
    return make_error(fmt::format("{} ({}) does not fit beside the kernel into this machine's {}: give it more memory",
                                  input.initrd_name, mib(*input.initrd_size), mib(memory.ram())));
  plan.initrd = *address;
  plan.initrd_size = *input.initrd_size;
  return plan;
}

}  // namespace bulkhead::vmm
