// BzImage: a Linux kernel as distributions ship it, booted by the 64-bit boot protocol.
//
// Implemented: protocol 2.12 and later with XLF_KERNEL_64. Missing: the 16- and 32-bit entry points (every
// kernel of the last decade has the 64-bit one).
// Units, errors, threading, trust: as kernel_image.h.
// Source: Documentation/arch/x86/boot.rst and zero-page.rst (Linux).
#pragma once

#include <asm/bootparam.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ipc/base/result.h"
#include "vmm/firmware/byte_source.h"
#include "vmm/memory/e820.h"
#include "vmm/memory/guest_ram.h"

namespace bulkhead::vmm {

struct BzImage {
  setup_header header{};                 // as in the file, clipped to its stated length
  std::uint64_t payload_offset = 0;      // of the protected-mode code in the file
  std::uint64_t payload_size = 0;        // bytes to copy
  std::uint64_t load_address = 0;        // pref_address
  std::uint64_t init_size = 0;           // bytes from load_address that the kernel needs at start
  std::uint64_t command_line_limit = 0;  // characters, without the terminating zero
  std::uint64_t initrd_limit = 0;        // highest address that a byte of the initrd may have
};

[[nodiscard]] bool looks_like_bzimage(const ByteSource& file);
[[nodiscard]] Result<BzImage> parse_bzimage(const ByteSource& file);

struct ZeroPageInput {
  std::uint64_t command_line = 0;  // address
  std::uint64_t initrd = 0;
  std::uint64_t initrd_size = 0;
  std::uint64_t rsdp = 0;
  std::span<const E820Entry> e820{};  // at most 128
};
[[nodiscard]] boot_params make_zero_page(const BzImage& image, const ZeroPageInput& input);

}  // namespace bulkhead::vmm
