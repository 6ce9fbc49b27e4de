#include "vmm/firmware/pvh.h"

#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "ipc/base/checked.h"

namespace bulkhead::vmm {

namespace {

constexpr std::size_t kMostProgramHeaders = 128;
constexpr std::uint64_t kMostNoteBytes = 1 << 20;
constexpr std::uint32_t kXenPhys32Entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY
constexpr char kXenName[] = "Xen";

Error reject(const ByteSource& file, std::string_view why) {
  return make_error(fmt::format("{} cannot be booted: {}", file.name(), why));
}

struct Elf32 {
  using Header = Elf32_Ehdr;
  using Program = Elf32_Phdr;
  static constexpr std::uint16_t kMachine = EM_386;
};
struct Elf64 {
  using Header = Elf64_Ehdr;
  using Program = Elf64_Phdr;
  static constexpr std::uint16_t kMachine = EM_X86_64;
};

struct Note {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  std::uint64_t alignment = 4;
};

// What both ELF classes come down to.
struct Layout {
  std::vector<PvhSegment> segments;
  std::vector<Note> notes;
};

template <class Elf>
Result<Layout> read_layout(const ByteSource& file) {
  typename Elf::Header header;
  ASSIGN_OR_RETURN(header, file.load<typename Elf::Header>(0));
  if (header.e_machine != Elf::kMachine) return reject(file, "it is an ELF file for another kind of CPU");
  if (header.e_phentsize != sizeof(typename Elf::Program) || header.e_phnum == 0 ||
      header.e_phnum > kMostProgramHeaders)
    return reject(file, fmt::format("its ELF header names {} program headers of {} bytes each", header.e_phnum,
                                    header.e_phentsize));
  std::vector<typename Elf::Program> programs(header.e_phnum);
  RETURN_IF_ERROR(file.read(header.e_phoff, std::as_writable_bytes(std::span(programs))));

  Layout layout;
  for (const auto& program : programs) {
    if (program.p_type == PT_NOTE) {
      layout.notes.push_back({program.p_offset, program.p_filesz, program.p_align == 8 ? 8U : 4U});
    } else if (program.p_type == PT_LOAD && program.p_memsz != 0) {
      layout.segments.push_back({program.p_offset, program.p_filesz, program.p_paddr, program.p_memsz});
    }
  }
  return layout;
}

// The entry point that one note segment names, if it does. Broken notes end the search, since what comes
// after one cannot be found.
Result<std::optional<std::uint64_t>> find_entry(const ByteSource& file, const Note& segment) {
  std::vector<std::byte> notes(segment.size);
  RETURN_IF_ERROR(file.read(segment.offset, notes));
  std::uint64_t offset = 0;
  Elf64_Nhdr note;  // the same in both classes
  while (fits(offset, sizeof(note), notes.size())) {
    std::memcpy(&note, notes.data() + offset, sizeof(note));
    const std::uint64_t name = offset + sizeof(note);
    // 32-bit sizes: no sum here can wrap.
    const std::uint64_t description = align_up(name + note.n_namesz, segment.alignment);
    if (!fits(description, note.n_descsz, notes.size())) break;
    const bool is_entry = note.n_type == kXenPhys32Entry && note.n_namesz == sizeof(kXenName) &&
                          std::memcmp(notes.data() + name, kXenName, sizeof(kXenName)) == 0;
    if (is_entry && (note.n_descsz == 4 || note.n_descsz == 8)) {
      std::uint64_t entry = 0;
      std::memcpy(&entry, notes.data() + description, note.n_descsz);
      return std::optional(entry);
    }
    offset = align_up(description + note.n_descsz, segment.alignment);
  }
  return std::optional<std::uint64_t>();
}

Status check_segments(const ByteSource& file, const std::vector<PvhSegment>& segments) {
  std::optional<Range> previous;
  for (const PvhSegment& segment : segments) {
    const auto range = Range::make(segment.address, segment.memory_size);
    if (!range || segment.file_size > segment.memory_size)
      return reject(file, fmt::format("its segment at {:#x} has impossible sizes", segment.address));
    if (segment.address < kExtendedMemory)
      return reject(file,
                    fmt::format("it wants to be loaded at {:#x}, and nothing is loaded below 1 MiB", segment.address));
    if (!fits(segment.file_offset, segment.file_size, file.size()))
      return make_error(
          fmt::format("{} is cut short: it has {} bytes, but its segment at {:#x} takes {} bytes from "
                      "offset {}",
                      file.name(), file.size(), segment.address, segment.file_size, segment.file_offset));
    if (previous && range->overlaps(*previous))
      return reject(file, fmt::format("two of its segments overlap at {:#x}", segment.address));
    previous = range;
  }
  return ok();
}

struct StartInfo {
  std::uint32_t magic = 0x336EC578;  // "xEn3" with the top bit set
  std::uint32_t version = 1;
  std::uint32_t flags = 0;
  std::uint32_t module_count = 0;
  std::uint64_t modules = 0;
  std::uint64_t command_line = 0;
  std::uint64_t rsdp = 0;
  std::uint64_t memory_map = 0;
  std::uint32_t memory_map_entries = 0;
  std::uint32_t reserved = 0;
};
struct Module {
  std::uint64_t address = 0;
  std::uint64_t size = 0;
  std::uint64_t command_line = 0;
  std::uint64_t reserved = 0;
};
struct MapEntry {
  std::uint64_t address = 0;
  std::uint64_t size = 0;
  std::uint32_t type = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(StartInfo) == 56 && sizeof(Module) == 32 && sizeof(MapEntry) == 24);

template <class T>
void append(std::vector<std::byte>& out, const T& value) {
  const std::size_t at = out.size();
  out.resize(at + sizeof(T));
  std::memcpy(out.data() + at, &value, sizeof(T));
}

}  // namespace

bool looks_like_elf(const ByteSource& file) {
  const auto magic = file.load<std::array<char, SELFMAG>>(0);
  return magic && std::memcmp(magic->data(), ELFMAG, SELFMAG) == 0;
}

Result<PvhImage> parse_pvh(const ByteSource& file) {
  std::array<unsigned char, EI_NIDENT> ident{};
  ASSIGN_OR_RETURN(ident, (file.load<std::array<unsigned char, EI_NIDENT>>(0)));
  if (ident[EI_DATA] != ELFDATA2LSB || (ident[EI_CLASS] != ELFCLASS32 && ident[EI_CLASS] != ELFCLASS64))
    return reject(file, "it is an ELF file for another kind of CPU");
  Layout layout;
  ASSIGN_OR_RETURN(layout, ident[EI_CLASS] == ELFCLASS64 ? read_layout<Elf64>(file) : read_layout<Elf32>(file));

  std::optional<std::uint64_t> entry;
  for (const Note& note : layout.notes) {
    if (note.size > kMostNoteBytes) return reject(file, fmt::format("its notes take {} bytes", note.size));
    ASSIGN_OR_RETURN(entry, find_entry(file, note));
    if (entry) break;
  }
  if (!entry) {
    return make_error(
        fmt::format("{} is not a kernel that can be booted: neither a bzImage nor an ELF file with a PVH "
                    "entry note",
                    file.name()));
  }
  std::ranges::sort(layout.segments, {}, &PvhSegment::address);
  RETURN_IF_ERROR(check_segments(file, layout.segments));
  const bool in_segment = std::ranges::any_of(layout.segments, [&](const PvhSegment& segment) {
    return *entry >= segment.address && *entry - segment.address < segment.memory_size;
  });
  if (!in_segment || *entry > UINT32_MAX)
    return reject(file, fmt::format("its entry point {:#x} lies outside of what it loads", *entry));
  return PvhImage{static_cast<std::uint32_t>(*entry), std::move(layout.segments)};
}

std::vector<std::byte> make_start_info(const StartInfoInput& input) {
  const std::uint32_t modules = input.initrd_size != 0 ? 1 : 0;
  StartInfo info;
  info.module_count = modules;
  info.modules = modules != 0 ? input.address + sizeof(StartInfo) : 0;
  info.command_line = input.command_line;
  info.rsdp = input.rsdp;
  info.memory_map = input.address + sizeof(StartInfo) + modules * sizeof(Module);
  info.memory_map_entries = static_cast<std::uint32_t>(input.e820.size());
  std::vector<std::byte> out;
  append(out, info);
  if (modules != 0) append(out, Module{input.initrd, input.initrd_size, 0, 0});
  for (const E820Entry& entry : input.e820)
    append(out, MapEntry{entry.address, entry.size, static_cast<std::uint32_t>(entry.type), 0});
  return out;
}

}  // namespace bulkhead::vmm
