// BootPlan: where the loader will put everything, decided before anything is written.
//
// Pure. Units: guest-physical bytes. Errors: Result with one sentence naming the file that does not fit.
// Threading: pure. Trust: the image was checked by its parser; sizes are still a file's word.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ipc/base/result.h"
#include "vmm/firmware/acpi.h"
#include "vmm/firmware/kernel_image.h"
#include "vmm/memory/e820.h"
#include "vmm/memory/layout.h"

namespace bulkhead::vmm {

struct BootPlan {
  FirmwareArea firmware{};
  std::vector<E820Entry> e820;
  std::uint64_t initrd = 0;  // 0: none
  std::uint64_t initrd_size = 0;
};

struct BootPlanInput {
  const KernelImage& image;
  std::string kernel_name;
  std::string initrd_name;
  std::optional<std::uint64_t> initrd_size;  // nullopt: no initrd
  std::size_t command_line_length = 0;       // without the terminating zero
};

[[nodiscard]] Result<BootPlan> plan_boot(const BootPlanInput& input, const AcpiConfig& acpi);

// A piece of guest memory that is taken.
struct TakenRange {
  std::uint64_t first = 0;
  std::uint64_t end = 0;
};
// The highest page-aligned address for `size` bytes in [floor, end) beside `taken` (sorted, disjoint).
[[nodiscard]] std::optional<std::uint64_t> highest_gap(std::span<const TakenRange> taken, std::uint64_t floor,
                                                       std::uint64_t end, std::uint64_t size);

}  // namespace bulkhead::vmm
