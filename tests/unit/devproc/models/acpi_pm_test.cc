#include "devproc/models/acpi_pm/acpi_pm.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/fakes/fake_wires.h"
#include "tests/fakes/register_access.h"

namespace bulkhead::devproc {
namespace {

using namespace acpi_pm;
using namespace std::chrono_literals;

constexpr auto kHalfPeriod = 2'343'484'000ns;  // 2^23 ticks are 2.3434844 s

class AcpiPmTest : public ::testing::Test {
 protected:
  AcpiPmTest() {
    fakes.clock.attach(pm);
    pm.reset();
  }
  std::uint16_t in16(std::uint64_t offset) { return static_cast<std::uint16_t>(regs.in(offset, 2)); }
  void out16(std::uint64_t offset, std::uint16_t value) { EXPECT_TRUE(regs.out(offset, value, 2)); }
  std::uint32_t timer() { return static_cast<std::uint32_t>(regs.in(kPmTmr, 4)); }
  std::uint64_t in_gpe(std::uint64_t offset, std::uint8_t size) { return regs.in(offset, size, AcpiPm::kGpe0); }
  void out_apm(std::uint64_t offset, std::uint8_t value) { regs.out(offset, value, 1, AcpiPm::kApm); }

  FakeWires fakes{{.lines = 1}};
  FakeIrqLine& sci = fakes.lines[0];
  Persistent<AcpiPmState> state = allocate_state<AcpiPmState>(fakes.state);
  AcpiPm pm{state, sci, fakes.clock, fakes.clock, fakes.effects, AcpiPmConfig{.sci_enabled = true}};
  RegisterAccess regs{pm, fakes};
};

TEST_F(AcpiPmTest, timer_counts_at_its_frequency) {
  EXPECT_EQ(timer(), 0U);
  fakes.clock.advance(1s);
  EXPECT_EQ(timer(), 3'579'545U);
  fakes.clock.advance(1s);
  EXPECT_EQ(timer(), 7'159'090U);
}

TEST_F(AcpiPmTest, timer_wraps_at_24_bits) {
  fakes.clock.advance(100s);
  EXPECT_EQ(timer(), 357'954'500U & 0xffffff);
  fakes.clock.advance(std::chrono::hours(24 * 365 * 100));
  EXPECT_LE(timer(), 0xffffffU);
}

TEST_F(AcpiPmTest, timer_reads_in_any_width) {
  fakes.clock.advance(1s);
  const std::uint32_t whole = timer();
  EXPECT_EQ(in16(kPmTmr), whole & 0xffff);
  EXPECT_EQ(in16(kPmTmr + 2), whole >> 16);
  EXPECT_EQ(regs.in(kPmTmr + 1, 1), whole >> 8 & 0xff);
}

TEST_F(AcpiPmTest, timer_read_changes_no_state) {
  fakes.state.reset_dirty();
  for (int i = 0; i < 1000; ++i) {
    timer();
    in16(kPm1Sts);
    fakes.clock.advance(10ms);
  }
  EXPECT_FALSE(state.segment().dirty);
}

TEST_F(AcpiPmTest, timer_takes_no_writes) {
  fakes.clock.advance(1s);
  regs.out(kPmTmr, 0, 4);
  EXPECT_EQ(timer(), 3'579'545U);
}

TEST_F(AcpiPmTest, top_bit_sets_tmr_sts_each_time_it_changes) {
  fakes.clock.advance(kHalfPeriod);
  EXPECT_EQ(in16(kPm1Sts) & kTmrSts, 0);
  fakes.clock.advance(1us);
  EXPECT_EQ(timer() >> 23, 1U);
  EXPECT_EQ(in16(kPm1Sts) & kTmrSts, kTmrSts);
  out16(kPm1Sts, kTmrSts);
  EXPECT_EQ(in16(kPm1Sts) & kTmrSts, 0);
  fakes.clock.advance(kHalfPeriod + 1us);
  EXPECT_EQ(timer() >> 23, 0U);
  EXPECT_EQ(in16(kPm1Sts) & kTmrSts, kTmrSts);
}

TEST_F(AcpiPmTest, tmr_sts_stays_until_it_is_cleared) {
  fakes.clock.advance(kHalfPeriod + 1us);
  fakes.clock.advance(kHalfPeriod + 1us);
  EXPECT_EQ(in16(kPm1Sts) & kTmrSts, kTmrSts);
  out16(kPm1Sts, kPwrbtnSts);
  EXPECT_EQ(in16(kPm1Sts) & kTmrSts, kTmrSts) << "another bit's 1 does not clear it";
}

TEST_F(AcpiPmTest, enabled_overflow_raises_the_sci_at_its_time) {
  out16(kPm1En, kTmrSts);
  fakes.clock.advance(kHalfPeriod);
  EXPECT_FALSE(sci.level);
  fakes.clock.advance(1us);
  EXPECT_TRUE(sci.level);
  EXPECT_FALSE(fakes.clock.armed(0)) << "nothing more to wait for until it is cleared";
  out16(kPm1Sts, kTmrSts);
  EXPECT_FALSE(sci.level);
  fakes.clock.advance(kHalfPeriod + 1us);
  EXPECT_EQ(sci.rises, 2);
}

TEST_F(AcpiPmTest, no_timer_runs_while_the_overflow_is_not_enabled) {
  out16(kPm1En, kPwrbtnSts);
  EXPECT_FALSE(fakes.clock.armed(0));
  out16(kPm1En, kTmrSts);
  EXPECT_TRUE(fakes.clock.armed(0));
  out16(kPm1En, 0);
  EXPECT_FALSE(fakes.clock.armed(0));
}

TEST_F(AcpiPmTest, power_button_raises_the_sci_when_enabled) {
  pm.on_power_button();
  EXPECT_FALSE(sci.level);
  EXPECT_EQ(in16(kPm1Sts), kPwrbtnSts);
  out16(kPm1En, kPwrbtnSts);
  EXPECT_TRUE(sci.level);
  out16(kPm1Sts, kPwrbtnSts);
  EXPECT_FALSE(sci.level);
}

TEST_F(AcpiPmTest, sci_needs_sci_en) {
  out16(kPm1Cnt, 0);
  out16(kPm1En, kPwrbtnSts);
  pm.on_power_button();
  EXPECT_FALSE(sci.level);
  out16(kPm1Cnt, kSciEn);
  EXPECT_TRUE(sci.level);
}

TEST_F(AcpiPmTest, reset_sets_sci_en_as_configured) {
  EXPECT_EQ(in16(kPm1Cnt), kSciEn);
  AcpiPm legacy{state, sci, fakes.clock, fakes.clock, fakes.effects, AcpiPmConfig{.sci_enabled = false}};
  legacy.reset();
  EXPECT_EQ(in16(kPm1Cnt), 0);
}

TEST_F(AcpiPmTest, apmc_switches_acpi_mode) {
  out_apm(kApmc, kAcpiDisable);
  EXPECT_EQ(in16(kPm1Cnt) & kSciEn, 0);
  out_apm(kApmc, 0x42);
  EXPECT_EQ(in16(kPm1Cnt) & kSciEn, 0);
  EXPECT_EQ(regs.in(kApmc, 1, AcpiPm::kApm), 0x42U);
  out_apm(kApmc, kAcpiEnable);
  EXPECT_EQ(in16(kPm1Cnt) & kSciEn, kSciEn);
}

TEST_F(AcpiPmTest, apms_is_a_scratch_register) {
  out_apm(kApms, 0x99);
  EXPECT_EQ(regs.in(kApms, 1, AcpiPm::kApm), 0x99U);
  EXPECT_EQ(regs.in(kApmc, 1, AcpiPm::kApm), 0U);
}

TEST_F(AcpiPmTest, slp_en_with_type_0_powers_off) {
  out16(kPm1Cnt, kSciEn);
  out16(kPm1Cnt, kSciEn | kSlpEn);
  ASSERT_EQ(fakes.effects.emitted.size(), 1U);
  EXPECT_EQ(fakes.effects.count(PowerAction::kPowerOff), 1U);
  EXPECT_EQ(in16(kPm1Cnt), kSciEn) << "SLP_EN reads 0";
}

TEST_F(AcpiPmTest, slp_en_in_a_byte_write_powers_off) {
  regs.out(kPm1Cnt + 1, kSlpEn >> 8, 1);
  EXPECT_EQ(fakes.effects.count(PowerAction::kPowerOff), 1U);
}

TEST_F(AcpiPmTest, slp_en_in_a_dword_write_powers_off_once) {
  regs.out(kPm1Cnt, kSciEn | kSlpEn, 4);
  EXPECT_EQ(fakes.effects.emitted.size(), 1U);
}

TEST_F(AcpiPmTest, other_sleep_types_do_nothing) {
  for (std::uint16_t type = 1; type < 8; ++type)
    out16(kPm1Cnt, static_cast<std::uint16_t>(kSciEn | kSlpEn | type << 10));
  EXPECT_TRUE(fakes.effects.emitted.empty());
  EXPECT_EQ(in16(kPm1Cnt), kSciEn | kSlpTyp);
}

TEST_F(AcpiPmTest, reserved_bits_read_as_zero) {
  out16(kPm1En, 0xffff);
  EXPECT_EQ(in16(kPm1En), kPm1EnMask);
  out16(kPm1Cnt, 0xffff & ~kSlpEn);
  EXPECT_EQ(in16(kPm1Cnt), kPm1CntKept);
}

TEST_F(AcpiPmTest, status_and_enable_read_as_one_dword) {
  out16(kPm1En, kPwrbtnSts);
  pm.on_power_button();
  EXPECT_EQ(regs.in(kPm1Sts, 4), static_cast<std::uint32_t>(kPwrbtnSts) << 16 | kPwrbtnSts);
}

TEST_F(AcpiPmTest, gpe0_enables_are_kept_byte_by_byte) {
  regs.out(kGpe0En, 0x5a, 1, AcpiPm::kGpe0);
  regs.out(kGpe0En + 1, 0xa5, 1, AcpiPm::kGpe0);
  EXPECT_EQ(in_gpe(kGpe0En, 2), 0xa55aU);
  EXPECT_EQ(in_gpe(kGpe0Sts, 4), 0xa55a0000U);
}

TEST_F(AcpiPmTest, gpe0_status_raises_the_sci_and_a_one_clears_it) {
  state.mut().gpe0_sts = 0x0102;
  regs.out(kGpe0En, 0x0002, 2, AcpiPm::kGpe0);
  EXPECT_TRUE(sci.level);
  regs.out(kGpe0Sts, 0x0002, 2, AcpiPm::kGpe0);
  EXPECT_FALSE(sci.level);
  EXPECT_EQ(in_gpe(kGpe0Sts, 2), 0x0100U);
}

TEST_F(AcpiPmTest, the_rest_of_the_pm_block_reads_as_after_reset) {
  for (std::uint64_t offset = 0x0c; offset < kPmPorts; offset += 4) {
    regs.out(offset, 0x12345678, 4);
    EXPECT_EQ(regs.in(offset, 4), offset == kGpoReg ? kGpoRegDefault : 0U) << offset;
  }
}

TEST_F(AcpiPmTest, restore_raises_a_pending_sci_and_rearms_the_timer) {
  out16(kPm1En, kTmrSts | kPwrbtnSts);
  pm.on_power_button();
  fakes.clock.cancel(0);
  FakeIrqLine line;
  AcpiPm successor{state, line, fakes.clock, fakes.clock, fakes.effects, AcpiPmConfig{}};
  successor.restore();
  EXPECT_TRUE(line.level);
  EXPECT_TRUE(fakes.clock.armed(0));
}

TEST_F(AcpiPmTest, the_end_of_time_does_not_overflow) {
  fakes.clock.set_now(VmTime{std::numeric_limits<std::int64_t>::max()});
  out16(kPm1En, kTmrSts);
  out16(kPm1Sts, kTmrSts);
  EXPECT_EQ(fakes.clock.deadline(0)->ns, std::numeric_limits<std::int64_t>::max());
  EXPECT_LE(timer(), 0xffffffU);
}

TEST_F(AcpiPmTest, reset_forgets_overflows_so_far) {
  fakes.clock.advance(10s);
  pm.reset();
  EXPECT_EQ(in16(kPm1Sts), 0);
}

TEST_F(AcpiPmTest, restore_brings_every_field_into_range) {
  std::ranges::fill(fakes.state.bytes(0), std::byte{0xff});
  pm.restore();
  EXPECT_EQ(state->pm1_sts, kPm1StsMask);
  EXPECT_EQ(state->pm1_en, kPm1EnMask);
  EXPECT_EQ(state->pm1_cnt, kPm1CntKept);
  EXPECT_TRUE(fakes.effects.emitted.empty());
}

}  // namespace
}  // namespace bulkhead::devproc
