#include "vmm/x86/registers.h"

#include <cstring>

namespace bulkhead::vmm {

namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kPresent = 1U << 0;
constexpr std::uint64_t kWritable = 1U << 1;
constexpr std::uint64_t kUser = 1U << 2;
constexpr std::uint64_t kAccessed = 1U << 5;
constexpr std::uint64_t kDirty = 1U << 6;
constexpr std::uint64_t kLargePage = 1U << 7;

constexpr std::uint64_t kCr0Pe = 1U << 0;
constexpr std::uint64_t kCr0Et = 1U << 4;
constexpr std::uint64_t kCr0Ne = 1U << 5;
constexpr std::uint64_t kCr0Pg = 1U << 31;
constexpr std::uint64_t kCr4Pae = 1U << 5;
constexpr std::uint64_t kCr4OsFxsr = 1U << 9;
constexpr std::uint64_t kCr4OsXmmExcept = 1U << 10;
constexpr std::uint64_t kEferLme = 1U << 8;
constexpr std::uint64_t kEferLma = 1U << 10;
constexpr std::uint64_t kRflagsReserved = 1U << 1;  // always 1

// Segment types (Intel SDM volume 3A, tables 3-1 and 3-2), with the accessed bit.
constexpr std::uint8_t kTypeData = 0x3;
constexpr std::uint8_t kTypeCode = 0xB;
constexpr std::uint8_t kTypeBusyTss = 0xB;
constexpr std::uint8_t kTypeLdt = 0x2;

constexpr std::uint16_t kBootCs = 0x10;  // __BOOT_CS
constexpr std::uint16_t kBootDs = 0x18;  // __BOOT_DS
constexpr std::uint16_t kBootTr = 0x20;

// user64 layout behind the page tables.
constexpr std::uint64_t kUser64Gdt = identity_page_tables_size(kUser64Gib);
constexpr std::uint64_t kUser64Tss = kUser64Gdt + kPage;
constexpr std::uint16_t kTssBytes = 104;
constexpr std::uint32_t kIoBitmapBytes = 65536 / 8 + 1;  // the last byte must exist, all ones
constexpr std::uint16_t kUser64Tr = 0x28;

kvm_segment code_or_data(std::uint16_t selector, std::uint8_t type, std::uint8_t dpl, bool long_mode) {
  kvm_segment segment{};
  segment.selector = selector;
  segment.limit = 0xFFFFFFFF;
  segment.type = type;
  segment.s = 1;
  segment.dpl = dpl;
  segment.present = 1;
  segment.g = 1;
  const bool is_code = type == kTypeCode;
  segment.l = is_code && long_mode ? 1 : 0;
  segment.db = is_code && long_mode ? 0 : 1;
  return segment;
}

kvm_segment system_segment(std::uint16_t selector, std::uint8_t type, std::uint64_t base, std::uint32_t limit) {
  kvm_segment segment{};
  segment.selector = selector;
  segment.base = base;
  segment.limit = limit;
  segment.type = type;
  segment.present = 1;
  return segment;
}

kvm_segment no_ldt() {
  kvm_segment ldt = system_segment(0, kTypeLdt, 0, 0xFFFF);
  ldt.unusable = 1;
  return ldt;
}

// The descriptor that `segment` would have been loaded from.
std::uint64_t descriptor(const kvm_segment& segment) {
  const std::uint64_t limit = segment.g != 0 ? segment.limit >> 12 : segment.limit;
  const std::uint64_t access = segment.type | std::uint64_t{segment.s} << 4 | std::uint64_t{segment.dpl} << 5 |
                               std::uint64_t{segment.present} << 7;
  const std::uint64_t flags =
      std::uint64_t{segment.l} << 1 | std::uint64_t{segment.db} << 2 | std::uint64_t{segment.g} << 3;
  return (limit & 0xFFFF) | (segment.base & 0xFFFFFF) << 16 | access << 40 | (limit >> 16 & 0xF) << 48 | flags << 52 |
         (segment.base >> 24 & 0xFF) << 56;
}

void put64(std::vector<std::byte>& bytes, std::uint64_t offset, std::uint64_t value) {
  std::memcpy(bytes.data() + offset, &value, sizeof(value));
}

void set_data_segments(kvm_sregs& sregs, const kvm_segment& data) {
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
}

void enter_long_mode(kvm_sregs& sregs, std::uint64_t page_tables) {
  sregs.cr0 = kCr0Pe | kCr0Et | kCr0Ne | kCr0Pg;
  sregs.cr3 = page_tables;
  sregs.cr4 = kCr4Pae;
  sregs.efer = kEferLme | kEferLma;
}

}  // namespace

std::vector<std::byte> identity_page_tables(std::uint64_t base, std::uint32_t gib, bool user) {
  std::vector<std::byte> tables(identity_page_tables_size(gib));
  const std::uint64_t flags = kPresent | kWritable | kAccessed | (user ? kUser : 0);
  put64(tables, 0, (base + kPage) | flags);
  for (std::uint64_t n = 0; n < gib; ++n) {
    const std::uint64_t directory = (2 + n) * kPage;
    put64(tables, kPage + n * 8, (base + directory) | flags);
    for (std::uint64_t entry = 0; entry < 512; ++entry) {
      const std::uint64_t address = n << 30 | entry << 21;
      put64(tables, directory + entry * 8, address | flags | kDirty | kLargePage);
    }
  }
  return tables;
}

std::vector<std::byte> boot_gdt() {
  std::vector<std::byte> gdt(6 * 8);
  put64(gdt, kBootCs, descriptor(code_or_data(kBootCs, kTypeCode, 0, true)));
  put64(gdt, kBootDs, descriptor(code_or_data(kBootDs, kTypeData, 0, true)));
  put64(gdt, kBootTr, descriptor(system_segment(kBootTr, kTypeBusyTss, 0, kTssBytes - 1)));
  return gdt;
}

BootRegisters linux64_registers(const Linux64Boot& boot) {
  BootRegisters out;
  out.regs.rip = boot.entry;
  out.regs.rsi = boot.zero_page;
  out.regs.rsp = boot.stack;
  out.regs.rflags = kRflagsReserved;
  kvm_sregs& sregs = out.sregs;
  sregs.cs = code_or_data(kBootCs, kTypeCode, 0, true);
  set_data_segments(sregs, code_or_data(kBootDs, kTypeData, 0, true));
  sregs.tr = system_segment(kBootTr, kTypeBusyTss, 0, kTssBytes - 1);
  sregs.ldt = no_ldt();
  sregs.gdt.base = boot.gdt;
  sregs.gdt.limit = 6 * 8 - 1;
  enter_long_mode(sregs, boot.page_tables);
  return out;
}

// "cr0: bit 0 (PE) must be set. All the other writeable bits are cleared. cs: must be a 32-bit read/execute
// code segment with a base of '0' and a limit of '0xFFFFFFFF'. tr: must be a 32-bit TSS (active) with a
// base of '0' and a limit of '0x67'. eflags: bit 17 (VM), 8 (TF) and 9 (IF) must be cleared."
BootRegisters pvh_registers(const PvhBoot& boot) {
  BootRegisters out;
  out.regs.rip = boot.entry;
  out.regs.rbx = boot.start_info;
  out.regs.rflags = kRflagsReserved;
  kvm_sregs& sregs = out.sregs;
  sregs.cs = code_or_data(kBootCs, kTypeCode, 0, false);
  set_data_segments(sregs, code_or_data(kBootDs, kTypeData, 0, false));
  sregs.tr = system_segment(kBootTr, kTypeBusyTss, 0, kTssBytes - 1);
  sregs.ldt = no_ldt();
  sregs.cr0 = kCr0Pe | kCr0Et;
  return out;
}

std::uint64_t user64_tables_size() { return kUser64Tss + (kTssBytes + kIoBitmapBytes + kPage - 1) / kPage * kPage; }

BootTable user64_tables(const User64Boot& boot) {
  BootTable table;
  table.address = boot.tables;
  table.bytes = identity_page_tables(boot.tables, kUser64Gib, true);
  table.bytes.resize(user64_tables_size());
  const BootRegisters registers = user64_registers(boot);

  const auto put_descriptor = [&](std::uint16_t selector, const kvm_segment& segment) {
    put64(table.bytes, kUser64Gdt + (selector & 0xFFF8), descriptor(segment));
  };
  put_descriptor(kUser64KernelCode, code_or_data(kUser64KernelCode, kTypeCode, 0, true));
  put_descriptor(kUser64KernelData, code_or_data(kUser64KernelData, kTypeData, 0, true));
  put_descriptor(kUser64UserData, registers.sregs.ss);
  put_descriptor(kUser64UserCode, registers.sregs.cs);
  put_descriptor(kUser64Tr, registers.sregs.tr);
  put64(table.bytes, kUser64Gdt + kUser64Tr + 8, registers.sregs.tr.base >> 32);

  // The TSS: RSP0 at 4, the bitmap's offset at 102. A zero bit in the bitmap opens its port.
  put64(table.bytes, kUser64Tss + 4, boot.kernel_stack);
  const std::uint16_t bitmap = kTssBytes;
  std::memcpy(table.bytes.data() + kUser64Tss + 102, &bitmap, sizeof(bitmap));
  table.bytes[kUser64Tss + kTssBytes + kIoBitmapBytes - 1] = std::byte{0xFF};
  return table;
}

BootRegisters user64_registers(const User64Boot& boot) {
  BootRegisters out;
  out.regs.rip = boot.entry;
  out.regs.rsp = boot.stack;
  out.regs.rdi = boot.arguments[0];
  out.regs.rsi = boot.arguments[1];
  out.regs.rflags = kRflagsReserved | (boot.idt != 0 ? 1U << 9 : 0U);  // IF only where interrupts have a handler
  kvm_sregs& sregs = out.sregs;
  sregs.cs = code_or_data(kUser64UserCode, kTypeCode, 3, true);
  set_data_segments(sregs, code_or_data(kUser64UserData, kTypeData, 3, true));
  sregs.tr = system_segment(kUser64Tr, kTypeBusyTss, boot.tables + kUser64Tss, kTssBytes + kIoBitmapBytes - 1);
  sregs.ldt = no_ldt();
  sregs.gdt.base = boot.tables + kUser64Gdt;
  sregs.gdt.limit = kUser64Tr + 16 - 1;
  sregs.idt.base = boot.idt;
  sregs.idt.limit = boot.idt != 0 ? kPage - 1 : 0;
  enter_long_mode(sregs, boot.tables);
  sregs.cr4 |= kCr4OsFxsr | kCr4OsXmmExcept;
  return out;
}

}  // namespace bulkhead::vmm
