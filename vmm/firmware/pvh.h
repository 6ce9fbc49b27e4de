// PvhImage: an ELF kernel (32- or 64-bit, x86) with a XEN_ELFNOTE_PHYS32_ENTRY note, booted directly into
// 32-bit protected mode with the address of a start-info structure in EBX.
//
// Units, errors, threading, trust: as kernel_image.h.
// Sources: Xen docs/misc/pvh.pandoc; xen/include/public/arch-x86/hvm/start_info.h; elfnote.h; the System V
// ABI, chapters 4 and 5.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ipc/base/result.h"
#include "vmm/firmware/byte_source.h"
#include "vmm/memory/e820.h"

namespace bulkhead::vmm {

struct PvhSegment {
  std::uint64_t file_offset = 0;
  std::uint64_t file_size = 0;
  std::uint64_t address = 0;      // physical
  std::uint64_t memory_size = 0;  // >= file_size; the rest is zeroed
  bool operator==(const PvhSegment&) const = default;
};

struct PvhImage {
  std::uint32_t entry = 0;
  std::vector<PvhSegment> segments;  // sorted by address, disjoint
};

[[nodiscard]] bool looks_like_elf(const ByteSource& file);
[[nodiscard]] Result<PvhImage> parse_pvh(const ByteSource& file);

struct StartInfoInput {
  std::uint64_t address = 0;       // where the block will be written
  std::uint64_t command_line = 0;  // address
  std::uint64_t initrd = 0;
  std::uint64_t initrd_size = 0;  // 0: no module
  std::uint64_t rsdp = 0;
  std::span<const E820Entry> e820{};
};
// hvm_start_info version 1, followed by its module list and memory map.
[[nodiscard]] std::vector<std::byte> make_start_info(const StartInfoInput& input);

}  // namespace bulkhead::vmm
