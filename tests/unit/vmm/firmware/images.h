// Kernel images made for tests: the smallest that are right, to be made wrong one field at a time.
#pragma once

#include <asm/bootparam.h>
#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "vmm/firmware/byte_source.h"

namespace bulkhead::vmm::test {

using Image = std::vector<std::byte>;

template <class T>
void poke(Image& image, std::size_t offset, const T& value) {
  ASSERT_LE(offset + sizeof(T), image.size());
  std::memcpy(image.data() + offset, &value, sizeof(T));
}

inline constexpr std::size_t kSetupHeader = 0x1F1;

inline setup_header good_header() {
  setup_header header{};
  header.setup_sects = 1;
  header.syssize = 0x400;  // 16 KiB
  header.boot_flag = 0xAA55;
  header.jump = 0x6AEB;
  header.header = 0x53726448;
  header.version = 0x020F;
  header.loadflags = 1;
  header.initrd_addr_max = 0x7FFFFFFF;
  header.kernel_alignment = 0x200000;
  header.relocatable_kernel = 1;
  header.xloadflags = XLF_KERNEL_64;
  header.cmdline_size = 2047;
  header.pref_address = 0x1000000;
  header.init_size = 0x200000;
  return header;
}

inline Image bzimage(const setup_header& header = good_header()) {
  Image image(2 * 512 + 0x4000, std::byte{0x90});
  std::memcpy(image.data() + kSetupHeader, &header, sizeof(header));
  return image;
}

struct ElfParts {
  Elf64_Ehdr header{};
  std::vector<Elf64_Phdr> programs;
  Image notes;
  std::uint64_t note_offset = 0;
};

inline Image note(std::uint32_t type, const std::string& owner, std::span<const std::byte> description) {
  const Elf64_Nhdr header{static_cast<Elf64_Word>(owner.size() + 1), static_cast<Elf64_Word>(description.size()), type};
  Image out(sizeof(header));
  std::memcpy(out.data(), &header, sizeof(header));
  for (const char c : owner) out.push_back(static_cast<std::byte>(c));
  out.push_back(std::byte{0});
  out.resize((out.size() + 3) / 4 * 4);
  for (const std::byte b : description) out.push_back(b);
  out.resize((out.size() + 3) / 4 * 4);
  return out;
}

inline Image entry_note(std::uint64_t entry) { return note(18, "Xen", std::as_bytes(std::span(&entry, 1))); }

// Two segments (the second with BSS) and a note segment after an unrelated note.
inline ElfParts good_elf() {
  ElfParts parts;
  std::memcpy(parts.header.e_ident, ELFMAG, SELFMAG);
  parts.header.e_ident[EI_CLASS] = ELFCLASS64;
  parts.header.e_ident[EI_DATA] = ELFDATA2LSB;
  parts.header.e_type = ET_EXEC;
  parts.header.e_machine = EM_X86_64;
  parts.header.e_phoff = sizeof(Elf64_Ehdr);
  parts.header.e_phentsize = sizeof(Elf64_Phdr);
  parts.note_offset = 0x800;
  const std::uint32_t word = 7;
  parts.notes = note(1, "GNU", std::as_bytes(std::span(&word, 1)));
  const Image entry = entry_note(0x1000010);
  parts.notes.insert(parts.notes.end(), entry.begin(), entry.end());

  Elf64_Phdr text{};
  text.p_type = PT_LOAD;
  text.p_offset = 0x1000;
  text.p_filesz = text.p_memsz = 0x1000;
  text.p_paddr = 0x1000000;
  Elf64_Phdr data = text;
  data.p_offset = 0x2000;
  data.p_filesz = 0x800;
  data.p_memsz = 0x3000;
  data.p_paddr = 0x1002000;
  Elf64_Phdr notes{};
  notes.p_type = PT_NOTE;
  notes.p_offset = parts.note_offset;
  notes.p_filesz = parts.notes.size();
  notes.p_align = 4;
  parts.programs = {data, text, notes};
  return parts;
}

inline Image elf(const ElfParts& parts = good_elf()) {
  Image image(0x2800, std::byte{0x90});
  Elf64_Ehdr header = parts.header;
  if (header.e_phnum == 0) header.e_phnum = static_cast<Elf64_Half>(parts.programs.size());
  std::memcpy(image.data(), &header, sizeof(header));
  std::memcpy(image.data() + sizeof(header), parts.programs.data(), parts.programs.size() * sizeof(Elf64_Phdr));
  std::memcpy(image.data() + parts.note_offset, parts.notes.data(), parts.notes.size());
  return image;
}

// The first `size` bytes of another source.
class CutSource final : public ByteSource {
 public:
  CutSource(const ByteSource& whole, std::uint64_t size) : whole_(whole), size_(size) {}
  [[nodiscard]] const std::string& name() const override { return whole_.name(); }
  [[nodiscard]] std::uint64_t size() const override { return size_; }
  [[nodiscard]] Status read(std::uint64_t offset, std::span<std::byte> out) const override {
    if (out.size() > size_ || offset > size_ - out.size()) return make_error(name() + " is cut short");
    return whole_.read(offset, out);
  }

 private:
  const ByteSource& whole_;
  std::uint64_t size_;
};

}  // namespace bulkhead::vmm::test
