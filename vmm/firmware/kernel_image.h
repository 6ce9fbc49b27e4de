// KernelImage: an untrusted kernel file, read and checked, ready to be copied into guest RAM.
//
// Two kinds boot: a bzImage (64-bit boot protocol) and an ELF file with a PVH entry note. The file may be
// anything, and may change or shrink at any time: it is read with pread(2) only, never mapped; each field
// is read once, each sum is overflow-checked, each loop is bounded, and segment contents go straight into
// guest RAM.
// Units: bytes, file offsets, guest-physical addresses. Errors: Result with one clear sentence that begins
// with the file's name. Threading: one thread. Trust: the file is hostile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <variant>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"
#include "vmm/firmware/byte_source.h"
#include "vmm/firmware/bzimage.h"
#include "vmm/firmware/pvh.h"

namespace bulkhead::vmm {

using KernelImage = std::variant<BzImage, PvhImage>;

[[nodiscard]] Result<KernelImage> parse_kernel(const ByteSource& file);

// "bzImage" or "PVH ELF", for the log.
[[nodiscard]] const char* kind_name(const KernelImage& image);

}  // namespace bulkhead::vmm
