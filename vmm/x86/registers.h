// The registers that a boot processor starts with under each boot protocol, and the tables in guest memory
// that they point to. Application processors start from KVM's reset state and wait for SIPI.
//
// Units: guest-physical addresses. Errors: none; writing the tables into RAM is the caller's (BootTables
// are bytes with an address). Threading: pure functions. Trust: entry points come from a kernel file that
// was checked to lie in RAM; a wild one harms the guest alone.
// Sources: Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"; Xen docs/misc/pvh.pandoc ("x86/HVM
// direct boot ABI"); Intel SDM volume 3A, chapters 3, 4, 8 and 10.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace bulkhead::vmm {

// What start() puts into a vCPU on top of its power-on state. Of sregs, everything but apic_base and the
// interrupt bitmap counts.
struct BootRegisters {
  kvm_regs regs{};
  kvm_sregs sregs{};
};

// Bytes that a boot state needs at a guest-physical address.
struct BootTable {
  std::uint64_t address = 0;
  std::vector<std::byte> bytes;
};

// Identity-maps the first `gib` GiB with 2 MiB pages: PML4 at `base`, PDPT behind it, then one page
// directory per GiB. `user`: with the U/S bit, for code at CPL 3. gib: 1 to 512.
[[nodiscard]] std::vector<std::byte> identity_page_tables(std::uint64_t base, std::uint32_t gib, bool user);
[[nodiscard]] constexpr std::uint64_t identity_page_tables_size(std::uint32_t gib) {
  return (2 + std::uint64_t{gib}) * 4096;
}

struct Linux64Boot {
  std::uint64_t entry = 0;      // load address + 0x200
  std::uint64_t zero_page = 0;  // boot_params, passed in RSI
  std::uint64_t gdt = 0;        // where linux64_gdt() was written
  std::uint64_t page_tables = 0;
  std::uint64_t stack = 0;
};
// __BOOT_CS 0x10 and __BOOT_DS 0x18, both flat.
[[nodiscard]] std::vector<std::byte> boot_gdt();
[[nodiscard]] BootRegisters linux64_registers(const Linux64Boot& boot);

struct PvhBoot {
  std::uint32_t entry = 0;       // XEN_ELFNOTE_PHYS32_ENTRY
  std::uint32_t start_info = 0;  // passed in EBX
};
[[nodiscard]] BootRegisters pvh_registers(const PvhBoot& boot);

// Code that starts in 64-bit mode at CPL 3 with all I/O ports open: it runs natively even where CPL 0 is
// interpreted (GUESTS.md, tier 2), so tests and benchmarks use it. Everything lies in guest pages that the
// payload leaves alone.
struct User64Boot {
  std::uint64_t entry = 0;
  std::uint64_t stack = 0;              // initial RSP
  std::uint64_t tables = 0;             // page-aligned; user64_tables_size() bytes for page tables, GDT and TSS
  std::uint64_t kernel_stack = 0;       // RSP0 of the TSS, used when an interrupt arrives; 0 when none can
  std::uint64_t idt = 0;                // IDT that the payload brings, 4096 bytes; 0: none
  std::uint64_t arguments[2] = {0, 0};  // RDI and RSI
};
inline constexpr std::uint16_t kUser64KernelCode = 0x08;  // CPL 0, for gates in the payload's IDT
inline constexpr std::uint16_t kUser64KernelData = 0x10;
inline constexpr std::uint16_t kUser64UserData = 0x1b;
inline constexpr std::uint16_t kUser64UserCode = 0x23;
inline constexpr std::uint32_t kUser64Gib = 4;  // identity-mapped, user-accessible
[[nodiscard]] std::uint64_t user64_tables_size();
[[nodiscard]] BootTable user64_tables(const User64Boot& boot);
[[nodiscard]] BootRegisters user64_registers(const User64Boot& boot);

}  // namespace bulkhead::vmm
