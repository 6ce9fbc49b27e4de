#include "vmm/firmware/kernel_image.h"

#include <fmt/format.h>

namespace bulkhead::vmm {

Result<KernelImage> parse_kernel(const ByteSource& file) {
  if (looks_like_elf(file)) {
    auto image = parse_pvh(file);
    if (!image) return std::move(image).error();
    return KernelImage(std::move(*image));
  }
  if (looks_like_bzimage(file)) {
    auto image = parse_bzimage(file);
    if (!image) return std::move(image).error();
    return KernelImage(*image);
  }
  return make_error(fmt::format(
      "{} is not a kernel that can be booted: neither a bzImage nor an ELF file with a PVH entry note", file.name()));
}

const char* kind_name(const KernelImage& image) {
  return std::holds_alternative<BzImage>(image) ? "bzImage" : "PVH ELF";
}

}  // namespace bulkhead::vmm
