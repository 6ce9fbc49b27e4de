#include "vmm/firmware/pvh.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/unit/vmm/firmware/images.h"
#include "vmm/firmware/kernel_image.h"

namespace bulkhead::vmm {
namespace {

using test::elf;
using test::ElfParts;
using test::good_elf;
using test::Image;
using testing::HasSubstr;

std::string error_of(const Image& image) {
  const auto parsed = parse_kernel(MemorySource(image, "kernel"));
  return parsed ? "no error" : parsed.error().message;
}

std::string error_of(const ElfParts& parts) { return error_of(elf(parts)); }

enum Program { kData = 0, kText = 1, kNotes = 2 };

TEST(Pvh, a_good_one_is_understood) {
  const Image image = elf();
  const auto parsed = parse_kernel(MemorySource(image, "kernel"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  const auto& kernel = std::get<PvhImage>(*parsed);
  EXPECT_EQ(kernel.entry, 0x1000010U);
  ASSERT_EQ(kernel.segments.size(), 2U);
  EXPECT_EQ(kernel.segments[0], (PvhSegment{0x1000, 0x1000, 0x1000000, 0x1000}));
  EXPECT_EQ(kernel.segments[1], (PvhSegment{0x2000, 0x800, 0x1002000, 0x3000}));
}

TEST(Pvh, a_four_byte_entry_is_fine) {
  ElfParts parts = good_elf();
  const std::uint32_t entry = 0x1000020;
  parts.notes = test::note(18, "Xen", std::as_bytes(std::span(&entry, 1)));
  parts.programs[kNotes].p_filesz = parts.notes.size();
  const auto parsed = parse_pvh(MemorySource(elf(parts), "kernel"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->entry, entry);
}

TEST(Pvh, a_32_bit_file_is_understood) {
  Elf32_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS32;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_machine = EM_386;
  header.e_phoff = sizeof(header);
  header.e_phentsize = sizeof(Elf32_Phdr);
  header.e_phnum = 2;
  Elf32_Phdr programs[2] = {};
  programs[0] = {.p_type = PT_LOAD,
                 .p_offset = 0x200,
                 .p_vaddr = 0,
                 .p_paddr = 0x100000,
                 .p_filesz = 0x100,
                 .p_memsz = 0x200,
                 .p_flags = 0,
                 .p_align = 0};
  const std::uint32_t entry = 0x100004;
  const Image notes = test::note(18, "Xen", std::as_bytes(std::span(&entry, 1)));
  programs[1].p_type = PT_NOTE;
  programs[1].p_offset = 0x300;
  programs[1].p_filesz = static_cast<Elf32_Word>(notes.size());
  Image image(0x400);
  std::memcpy(image.data(), &header, sizeof(header));
  std::memcpy(image.data() + sizeof(header), programs, sizeof(programs));
  std::memcpy(image.data() + 0x300, notes.data(), notes.size());
  const auto parsed = parse_pvh(MemorySource(image, "kernel"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->entry, entry);
  EXPECT_EQ(parsed->segments[0], (PvhSegment{0x200, 0x100, 0x100000, 0x200}));
}

TEST(Pvh, every_cut_is_noticed) {
  const Image image = elf();
  const MemorySource whole(image, "kernel");
  for (std::uint64_t size = 0; size < image.size(); ++size) {
    const auto parsed = parse_kernel(test::CutSource(whole, size));
    ASSERT_FALSE(parsed) << size;
    ASSERT_THAT(parsed.error().message, HasSubstr("kernel")) << size;
  }
}

TEST(Pvh, an_elf_without_the_note_is_no_kernel) {
  ElfParts parts = good_elf();
  parts.programs[kNotes].p_type = PT_NULL;
  EXPECT_THAT(error_of(parts), HasSubstr("neither a bzImage nor an ELF file with a PVH entry note"));
}

TEST(Pvh, a_note_of_another_owner_does_not_count) {
  ElfParts parts = good_elf();
  const std::uint64_t entry = 0x1000010;
  for (const char* owner : {"Xem", "XenX", "GNU", ""}) {
    parts.notes = test::note(18, owner, std::as_bytes(std::span(&entry, 1)));
    parts.programs[kNotes].p_filesz = parts.notes.size();
    EXPECT_THAT(error_of(parts), HasSubstr("PVH entry note")) << owner;
  }
}

TEST(Pvh, an_entry_outside_of_the_segments_is_refused) {
  for (const std::uint64_t entry : {std::uint64_t{0}, std::uint64_t{0xFFFFFF}, std::uint64_t{0x1001000},
                                    std::uint64_t{0x1005000}, std::uint64_t{0x1'0100'0010}, UINT64_MAX}) {
    ElfParts parts = good_elf();
    parts.notes = test::entry_note(entry);
    parts.programs[kNotes].p_filesz = parts.notes.size();
    EXPECT_THAT(error_of(parts), HasSubstr("entry point")) << entry;
  }
}

TEST(Pvh, another_cpu_is_refused) {
  ElfParts parts = good_elf();
  parts.header.e_machine = EM_AARCH64;
  EXPECT_THAT(error_of(parts), HasSubstr("another kind of CPU"));
  parts = good_elf();
  parts.header.e_ident[EI_DATA] = ELFDATA2MSB;
  EXPECT_THAT(error_of(parts), HasSubstr("another kind of CPU"));
  parts = good_elf();
  parts.header.e_ident[EI_CLASS] = 7;
  EXPECT_THAT(error_of(parts), HasSubstr("another kind of CPU"));
}

TEST(Pvh, strange_program_headers_are_refused) {
  ElfParts parts = good_elf();
  parts.header.e_phentsize = 32;
  EXPECT_THAT(error_of(parts), HasSubstr("program headers"));
  parts = good_elf();
  parts.header.e_phnum = 0xFFFF;
  EXPECT_THAT(error_of(parts), HasSubstr("program headers"));
  parts = good_elf();
  parts.header.e_phoff = UINT64_MAX - 8;
  EXPECT_THAT(error_of(parts), HasSubstr("cut short"));
}

TEST(Pvh, a_segment_below_one_mib_is_refused) {
  ElfParts parts = good_elf();
  parts.programs[kData].p_paddr = 0xFF000;
  EXPECT_THAT(error_of(parts), HasSubstr("below 1 MiB"));
}

TEST(Pvh, a_segment_beyond_the_file_is_refused) {
  ElfParts parts = good_elf();
  parts.programs[kData].p_filesz = 0x801;
  EXPECT_THAT(error_of(parts), HasSubstr("cut short"));
  parts = good_elf();
  parts.programs[kData].p_offset = UINT64_MAX - 0x100;
  EXPECT_THAT(error_of(parts), HasSubstr("cut short"));
}

TEST(Pvh, a_segment_that_wraps_or_is_larger_than_its_memory_is_refused) {
  ElfParts parts = good_elf();
  parts.programs[kData].p_paddr = UINT64_MAX - 0x100;
  EXPECT_THAT(error_of(parts), HasSubstr("impossible sizes"));
  parts = good_elf();
  parts.programs[kData].p_memsz = 0x7FF;
  EXPECT_THAT(error_of(parts), HasSubstr("impossible sizes"));
}

TEST(Pvh, overlapping_segments_are_refused) {
  ElfParts parts = good_elf();
  parts.programs[kText].p_memsz = 0x2001;
  EXPECT_THAT(error_of(parts), HasSubstr("overlap"));
}

TEST(Pvh, endless_notes_are_refused) {
  ElfParts parts = good_elf();
  parts.programs[kNotes].p_filesz = std::uint64_t{1} << 40;
  EXPECT_THAT(error_of(parts), HasSubstr("notes take"));
}

TEST(Pvh, notes_with_wild_sizes_end_the_search) {
  ElfParts parts = good_elf();
  const std::uint32_t wild = UINT32_MAX;
  std::memcpy(parts.notes.data(), &wild, sizeof(wild));
  EXPECT_THAT(error_of(parts), HasSubstr("PVH entry note"));
  parts = good_elf();
  std::memcpy(parts.notes.data() + 4, &wild, sizeof(wild));
  EXPECT_THAT(error_of(parts), HasSubstr("PVH entry note"));
}

TEST(Pvh, random_files_are_refused_or_sane) {
  std::mt19937_64 random(3);
  int accepted = 0;
  for (int n = 0; n < 20000; ++n) {
    Image image = elf();
    for (std::uint64_t changes = 1 + random() % 3; changes-- > 0;) {
      const std::size_t at = random() % 2 == 0 ? 16 + random() % 220 : 0x800 + random() % 64;
      image[at] = static_cast<std::byte>(random());
    }
    const auto parsed = parse_pvh(MemorySource(image, "kernel"));
    if (!parsed) continue;
    ++accepted;
    std::uint64_t next = kExtendedMemory;
    for (const PvhSegment& segment : parsed->segments) {
      ASSERT_GE(segment.address, next);
      ASSERT_LE(segment.file_size, segment.memory_size);
      ASSERT_LE(segment.file_offset + segment.file_size, image.size());
      next = segment.address + segment.memory_size;
      ASSERT_GT(next, segment.address);
    }
  }
  EXPECT_GT(accepted, 1000);
}

TEST(StartInfo, describes_the_machine) {
  const E820Entry map[] = {{0, 0x9FC00, E820Type::kRam}, {0x100000, 0x1000, E820Type::kReserved}};
  const auto bytes = make_start_info({.address = 0x2000,
                                      .command_line = 0x20000,
                                      .initrd = 0x3000000,
                                      .initrd_size = 0x1000,
                                      .rsdp = 0xABC000,
                                      .e820 = map});
  const auto word = [&](std::size_t offset) {
    std::uint64_t value = 0;
    std::memcpy(&value, bytes.data() + offset, sizeof(value));
    return value;
  };
  EXPECT_EQ(word(0), 0x1'336EC578U);       // magic, version 1
  EXPECT_EQ(word(8) >> 32, 1U);            // one module
  EXPECT_EQ(word(16), 0x2000U + 56);       // module list
  EXPECT_EQ(word(24), 0x20000U);           // command line
  EXPECT_EQ(word(32), 0xABC000U);          // RSDP
  EXPECT_EQ(word(40), 0x2000U + 56 + 32);  // memory map
  EXPECT_EQ(word(48), 2U);
  EXPECT_EQ(word(56), 0x3000000U);
  EXPECT_EQ(word(64), 0x1000U);
  EXPECT_EQ(word(56 + 32 + 24), 0x100000U);
  EXPECT_EQ(word(56 + 32 + 24 + 16), 2U);
  EXPECT_EQ(bytes.size(), 56U + 32U + 2U * 24U);
}

TEST(StartInfo, has_no_module_without_an_initrd) {
  const auto bytes = make_start_info({.address = 0x2000});
  std::uint64_t modules = 1;
  std::memcpy(&modules, bytes.data() + 16, sizeof(modules));
  EXPECT_EQ(modules, 0U);
  EXPECT_EQ(bytes.size(), 56U);
}

}  // namespace
}  // namespace bulkhead::vmm
