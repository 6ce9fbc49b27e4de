#include "vmm/x86/registers.h"

#include <gtest/gtest.h>

#include <cstring>
#include <optional>

namespace bulkhead::vmm {
namespace {

std::uint64_t at(const std::vector<std::byte>& bytes, std::uint64_t offset) {
  std::uint64_t value = 0;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

struct Walk {
  std::uint64_t physical = 0;
  bool user = true;
  bool writable = true;
};

// Intel SDM volume 3A, section 4.5, for 2 MiB pages.
std::optional<Walk> walk(const std::vector<std::byte>& tables, std::uint64_t base, std::uint64_t linear) {
  std::uint64_t table = base;
  Walk result;
  for (int shift = 39; shift >= 21; shift -= 9) {
    const std::uint64_t entry = at(tables, table - base + (linear >> shift & 511) * 8);
    if ((entry & 1) == 0) return std::nullopt;
    result.writable = result.writable && (entry & 2) != 0;
    result.user = result.user && (entry & 4) != 0;
    table = entry & 0x000FFFFFFFFFF000;
    if (shift == 21) {
      if ((entry & 0x80) == 0) return std::nullopt;
      result.physical = table | (linear & 0x1FFFFF);
    }
  }
  return result;
}

TEST(PageTables, map_every_address_to_itself) {
  for (const std::uint64_t base : {0x9000ULL, 0x7FE00000ULL}) {
    const auto tables = identity_page_tables(base, 4, false);
    ASSERT_EQ(tables.size(), identity_page_tables_size(4));
    for (std::uint64_t address = 0; address < std::uint64_t{4} << 30; address += 0x1FF123) {
      const auto result = walk(tables, base, address);
      ASSERT_TRUE(result) << address;
      ASSERT_EQ(result->physical, address);
      ASSERT_TRUE(result->writable);
      ASSERT_FALSE(result->user);
    }
    EXPECT_FALSE(walk(tables, base, std::uint64_t{4} << 30));
    EXPECT_FALSE(walk(tables, base, std::uint64_t{1} << 39));
  }
}

TEST(PageTables, let_user_code_in_only_when_asked) {
  EXPECT_TRUE(walk(identity_page_tables(0x1000, 1, true), 0x1000, 0x12345)->user);
  EXPECT_FALSE(walk(identity_page_tables(0x1000, 1, false), 0x1000, 0x12345)->user);
}

// The values that arch/x86/boot/pm.c puts there, accessed bits set.
TEST(BootGdt, has_linux_s_flat_segments) {
  const auto gdt = boot_gdt();
  EXPECT_EQ(at(gdt, 0), 0U);
  EXPECT_EQ(at(gdt, 0x10), 0x00AF9B000000FFFFU);
  EXPECT_EQ(at(gdt, 0x18), 0x00CF93000000FFFFU);
}

TEST(Linux64, starts_as_the_boot_protocol_says) {
  const BootRegisters boot = linux64_registers(
      {.entry = 0x1000200, .zero_page = 0x7000, .gdt = 0x1000, .page_tables = 0x9000, .stack = 0x9000});
  EXPECT_EQ(boot.regs.rip, 0x1000200U);
  EXPECT_EQ(boot.regs.rsi, 0x7000U);
  EXPECT_EQ(boot.regs.rflags, 2U);
  EXPECT_EQ(boot.sregs.cs.selector, 0x10);
  EXPECT_EQ(boot.sregs.cs.l, 1);
  EXPECT_EQ(boot.sregs.cs.db, 0);
  for (const kvm_segment& segment : {boot.sregs.ds, boot.sregs.es, boot.sregs.ss}) EXPECT_EQ(segment.selector, 0x18);
  EXPECT_EQ(boot.sregs.efer, 0x500U);
  EXPECT_EQ(boot.sregs.cr0 & 0x80000001, 0x80000001U);
  EXPECT_EQ(boot.sregs.cr4 & 0x20, 0x20U);
  EXPECT_EQ(boot.sregs.cr3, 0x9000U);
}

TEST(Pvh, starts_in_protected_mode_without_paging) {
  const BootRegisters boot = pvh_registers({.entry = 0x1000850, .start_info = 0x2000});
  EXPECT_EQ(boot.regs.rip, 0x1000850U);
  EXPECT_EQ(boot.regs.rbx, 0x2000U);
  EXPECT_EQ(boot.regs.rflags, 2U);
  EXPECT_EQ(boot.sregs.cr0 & 0x80000001, 1U);
  EXPECT_EQ(boot.sregs.cr4, 0U);
  EXPECT_EQ(boot.sregs.efer, 0U);
  EXPECT_EQ(boot.sregs.cs.limit, 0xFFFFFFFFU);
  EXPECT_EQ(boot.sregs.cs.db, 1);
  EXPECT_EQ(boot.sregs.cs.l, 0);
  EXPECT_EQ(boot.sregs.tr.limit, 0x67U);
  EXPECT_EQ(boot.sregs.tr.type, 0xB);
}

class User64 : public testing::Test {
 protected:
  const User64Boot boot_{.entry = 0x200000, .stack = 0x300000, .tables = 0x100000, .kernel_stack = 0x310000};
  const BootRegisters registers_ = user64_registers(boot_);
  const BootTable table_ = user64_tables(boot_);
};

TEST_F(User64, runs_at_privilege_level_3) {
  EXPECT_EQ(registers_.sregs.cs.dpl, 3);
  EXPECT_EQ(registers_.sregs.ss.dpl, 3);
  EXPECT_EQ(registers_.sregs.cs.selector & 3, 3);
  EXPECT_EQ(registers_.sregs.cs.l, 1);
  EXPECT_EQ(registers_.regs.rip, 0x200000U);
  EXPECT_EQ(registers_.regs.rsp, 0x300000U);
}

TEST_F(User64, may_touch_all_of_its_memory) {
  const auto result = walk(table_.bytes, boot_.tables, 0x200000);
  ASSERT_TRUE(result);
  EXPECT_TRUE(result->user);
  EXPECT_EQ(result->physical, 0x200000U);
}

TEST_F(User64, has_descriptors_that_match_its_segments) {
  const std::uint64_t gdt = registers_.sregs.gdt.base - boot_.tables;
  EXPECT_EQ(at(table_.bytes, gdt + kUser64KernelCode), 0x00AF9B000000FFFFU);
  EXPECT_EQ(at(table_.bytes, gdt + (kUser64UserCode & ~7U)), 0x00AFFB000000FFFFU);
  EXPECT_EQ(at(table_.bytes, gdt + (kUser64UserData & ~7U)), 0x00CFF3000000FFFFU);
}

TEST_F(User64, may_use_every_port) {
  const std::uint64_t tss = registers_.sregs.tr.base - boot_.tables;
  std::uint16_t bitmap = 0;
  std::memcpy(&bitmap, table_.bytes.data() + tss + 102, sizeof(bitmap));
  for (std::uint64_t port = 0; port < 65536; port += 8)
    ASSERT_EQ(table_.bytes[tss + bitmap + port / 8], std::byte{0}) << port;
  EXPECT_EQ(table_.bytes[tss + bitmap + 8192], std::byte{0xFF});
  EXPECT_EQ(registers_.sregs.tr.limit, bitmap + 8192U);
  EXPECT_LE(tss + bitmap + 8193, table_.bytes.size());
  EXPECT_EQ(at(table_.bytes, tss + 4), 0x310000U);
}

TEST_F(User64, takes_interrupts_only_with_an_idt) {
  EXPECT_EQ(registers_.regs.rflags, 2U);
  User64Boot with_idt = boot_;
  with_idt.idt = 0x400000;
  EXPECT_EQ(user64_registers(with_idt).regs.rflags, 0x202U);
}

}  // namespace
}  // namespace bulkhead::vmm
