#include "devproc/models/cmos_rtc/cmos_rtc.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>

#include "tests/fakes/fake_wires.h"
#include "tests/fakes/register_access.h"

namespace bulkhead::devproc {
namespace {

using namespace cmos_rtc;
using namespace std::chrono_literals;

constexpr std::int64_t kFriday = 1'700'222'400;  // 2023-11-17 12:00:00 UTC
constexpr CmosRtcConfig kConfig{.ram_below_4g = 3ULL << 30, .ram_above_4g = 5ULL << 30, .cpus = 8};

class CmosRtcTest : public ::testing::Test {
 protected:
  CmosRtcTest() {
    fakes.clock.set_wall_seconds(kFriday);
    fakes.clock.attach(rtc);
    rtc.reset();
  }
  std::uint8_t get(std::uint8_t index) {
    regs.out(kIndexPort, index);
    return static_cast<std::uint8_t>(regs.in(kDataPort));
  }
  void set(std::uint8_t index, std::uint8_t value) {
    regs.out(kIndexPort, index);
    regs.out(kDataPort, value);
  }
  std::uint32_t get16(std::uint8_t index) { return get(index) | get(index + 1) << 8; }
  // The clock as "YYYY-MM-DD hh:mm:ss w", read as 24-hour BCD.
  std::string time() {
    return fmt::format("{:02x}{:02x}-{:02x}-{:02x} {:02x}:{:02x}:{:02x} {}", get(kCentury), get(kYear), get(kMonth),
                       get(kDayOfMonth), get(kHours), get(kMinutes), get(kSeconds), get(kDayOfWeek));
  }
  // As Linux's mc146818_set_time: SET, divider reset, bytes, then both registers back.
  void linux_set_time(std::array<std::uint8_t, 7> bytes) {
    const std::uint8_t b = get(kRegB);
    set(kRegB, b | kSet);
    const std::uint8_t a = get(kRegA);
    set(kRegA, a | kDivider);
    constexpr std::uint8_t kOrder[] = {kCentury, kYear, kMonth, kDayOfMonth, kHours, kMinutes, kSeconds};
    for (std::size_t i = 0; i < bytes.size(); ++i) set(kOrder[i], bytes[i]);
    set(kRegB, b);
    set(kRegA, a);
  }
  void enable(std::uint8_t bits) { set(kRegB, get(kRegB) | bits); }

  FakeWires fakes{{.lines = 1}};
  FakeIrqLine& line = fakes.lines[0];
  Persistent<CmosRtcState> state = allocate_state<CmosRtcState>(fakes.state);
  CmosRtc rtc{state, line, fakes.clock, fakes.clock, kConfig};
  RegisterAccess regs{rtc, fakes};
};

// --- time of day ---

TEST_F(CmosRtcTest, starts_with_the_hosts_utc_time) { EXPECT_EQ(time(), "2023-11-17 12:00:00 6"); }

TEST_F(CmosRtcTest, counts_seconds) {
  fakes.clock.advance(61s);
  EXPECT_EQ(time(), "2023-11-17 12:01:01 6");
}

TEST_F(CmosRtcTest, carries_into_a_new_day_month_and_year) {
  fakes.clock.set_wall_seconds(1'704'067'199);  // 2023-12-31 23:59:59
  EXPECT_EQ(time(), "2023-12-31 23:59:59 1");
  fakes.clock.advance(1s);
  EXPECT_EQ(time(), "2024-01-01 00:00:00 2");
}

TEST_F(CmosRtcTest, knows_leap_years_and_centuries) {
  const struct {
    std::int64_t seconds;
    const char* expected;
  } dates[] = {
      {951'782'400, "2000-02-29 00:00:00 3"},   {4'102'444'800, "2100-01-01 00:00:00 6"},
      {4'107'542'400, "2100-03-01 00:00:00 2"}, {4'107'542'399, "2100-02-28 23:59:59 1"},
      {7'258'118'400, "2200-01-01 00:00:00 4"}, {0, "1970-01-01 00:00:00 5"},
      {9'214'646'400, "2262-01-01 00:00:00 4"},
  };
  for (const auto& date : dates) {
    fakes.clock.set_wall_seconds(date.seconds);
    EXPECT_EQ(time(), date.expected);
  }
}

TEST_F(CmosRtcTest, time_of_day_follows_the_host_while_the_vm_is_paused) {
  fakes.clock.advance_wall(1h);
  EXPECT_EQ(time(), "2023-11-17 13:00:00 6");
}

TEST_F(CmosRtcTest, host_clock_set_back_is_followed) {
  fakes.clock.set_wall_seconds(kFriday - 86'400);
  EXPECT_EQ(time(), "2023-11-16 12:00:00 5");
}

TEST_F(CmosRtcTest, linux_sets_the_time_and_it_goes_on) {
  linux_set_time({0x20, 0x30, 0x06, 0x15, 0x08, 0x30, 0x00});
  EXPECT_EQ(time(), "2030-06-15 08:30:00 6");
  fakes.clock.advance(3601s);
  EXPECT_EQ(time().substr(0, 19), "2030-06-15 09:30:01");
}

TEST_F(CmosRtcTest, first_update_comes_half_a_second_after_divider_reset) {
  fakes.clock.advance(700ms);
  linux_set_time({0x20, 0x30, 0x06, 0x15, 0x08, 0x30, 0x00});
  fakes.clock.advance(499ms);
  EXPECT_EQ(get(kSeconds), 0x00);
  fakes.clock.advance(2ms);
  EXPECT_EQ(get(kSeconds), 0x01);
}

TEST_F(CmosRtcTest, set_time_survives_reset_and_take_over) {
  linux_set_time({0x20, 0x30, 0x06, 0x15, 0x08, 0x30, 0x00});
  rtc.reset();
  rtc.restore();
  fakes.clock.advance(600ms);
  EXPECT_EQ(time().substr(0, 19), "2030-06-15 08:30:01");
}

TEST_F(CmosRtcTest, set_bit_stops_the_clock) {
  fakes.clock.advance(5s);
  set(kRegB, get(kRegB) | kSet);
  fakes.clock.advance(10s);
  EXPECT_EQ(get(kSeconds), 0x05);
  set(kRegB, get(kRegB) & 0x7f);
  fakes.clock.advance(2s);
  EXPECT_EQ(get(kSeconds), 0x07);
}

TEST_F(CmosRtcTest, set_bit_keeps_the_phase_of_the_second) {
  fakes.clock.advance(900ms);
  set(kRegB, get(kRegB) | kSet);
  set(kSeconds, 0x30);
  set(kRegB, get(kRegB) & 0x7f);
  EXPECT_EQ(get(kSeconds), 0x30);
  fakes.clock.advance(100ms);
  EXPECT_EQ(get(kSeconds), 0x31);
}

TEST_F(CmosRtcTest, seabios_sets_the_date_byte_by_byte_without_set) {
  fakes.clock.advance(5s);
  set(kYear, 0x24);
  set(kMonth, 0x02);
  set(kDayOfMonth, 0x29);
  set(kCentury, 0x20);
  fakes.clock.advance(1s);
  EXPECT_EQ(time().substr(0, 19), "2024-02-29 12:00:06");
}

TEST_F(CmosRtcTest, a_time_byte_written_without_set_reads_back) {
  fakes.clock.advance(5s);
  set(kSeconds, 0x30);
  EXPECT_EQ(get(kSeconds), 0x30);
}

TEST_F(CmosRtcTest, binary_mode_writes_and_reads_binary) {
  set(kRegB, kBinary | k24Hours | kSet);
  set(kSeconds, 59);
  set(kMinutes, 59);
  set(kHours, 23);
  set(kDayOfMonth, 31);
  set(kMonth, 12);
  set(kYear, 99);
  set(kCentury, 19);
  set(kRegB, kBinary | k24Hours);
  fakes.clock.advance(1s);
  EXPECT_EQ(get(kSeconds), 0);
  EXPECT_EQ(get(kHours), 0);
  EXPECT_EQ(get(kMonth), 1);
  EXPECT_EQ(get(kYear), 0);
  EXPECT_EQ(get(kCentury), 20);
}

TEST_F(CmosRtcTest, twelve_hour_mode_has_am_and_pm) {
  const struct {
    std::uint8_t before;  // at xx:59:59
    std::uint8_t after;
  } hours[] = {{0x12, 0x01}, {0x11, 0x92}, {0x92, 0x81}, {0x91, 0x12}, {0x09, 0x10}};
  for (const auto& hour : hours) {
    set(kRegB, kSet);
    set(kHours, hour.before);
    set(kMinutes, 0x59);
    set(kSeconds, 0x59);
    set(kRegB, 0);
    fakes.clock.advance(1s);
    EXPECT_EQ(get(kHours), hour.after);
  }
}

TEST_F(CmosRtcTest, changing_the_format_leaves_the_bytes_alone) {
  set(kRegB, kBinary | k24Hours);
  EXPECT_EQ(get(kHours), 0x12);
  EXPECT_EQ(get(kYear), 0x23);
}

TEST_F(CmosRtcTest, weekday_counts_on_from_what_the_guest_set) {
  set(kDayOfWeek, 3);
  fakes.clock.advance(std::chrono::hours(24 * 6));
  EXPECT_EQ(get(kDayOfWeek), 2);
}

TEST_F(CmosRtcTest, impossible_times_carry_over) {
  set(kRegB, get(kRegB) | kSet);
  for (const std::uint8_t index : {kSeconds, kMinutes, kHours, kDayOfMonth, kMonth, kYear, kCentury}) set(index, 0xff);
  EXPECT_EQ(get(kSeconds), 0xff) << "kept as written while SET";
  set(kRegB, get(kRegB) & 0x7f);
  fakes.clock.advance(1s);
  EXPECT_LE(get(kSeconds), 0x59);
  EXPECT_LE(get(kMonth), 0x12);
}

TEST_F(CmosRtcTest, uip_announces_the_update) {
  fakes.clock.advance(900ms);
  EXPECT_EQ(get(kRegA) & kUip, 0);
  fakes.clock.advance(98ms);
  EXPECT_EQ(get(kRegA) & kUip, kUip);
  fakes.clock.advance(2ms);
  EXPECT_EQ(get(kRegA) & kUip, 0);
  set(kRegB, get(kRegB) | kSet);
  fakes.clock.advance(999ms);
  EXPECT_EQ(get(kRegA) & kUip, 0) << "no update while SET";
}

// --- interrupts ---

TEST_F(CmosRtcTest, update_interrupt_each_second_until_c_is_read) {
  enable(kUie);
  get(kRegC);
  fakes.clock.advance(999ms);
  EXPECT_FALSE(line.level);
  fakes.clock.advance(1ms);
  EXPECT_TRUE(line.level);
  EXPECT_EQ(get(kRegC) & (kIrqf | kUf), kIrqf | kUf);
  EXPECT_FALSE(line.level);
  EXPECT_EQ(get(kRegC) & kUf, 0);
  fakes.clock.advance(1s);
  EXPECT_EQ(line.rises, 2);
}

TEST_F(CmosRtcTest, an_unread_interrupt_runs_no_timer) {
  enable(kUie | kPie);
  fakes.clock.advance(2s);
  EXPECT_TRUE(line.level);
  const int fired = fakes.clock.fired;
  fakes.clock.advance(1h);
  EXPECT_EQ(fakes.clock.fired, fired);
}

TEST_F(CmosRtcTest, flags_without_interrupts_need_no_timer) {
  EXPECT_EQ(fakes.clock.armed_count(), 0U);
  get(kRegC);
  fakes.clock.advance(1s);
  EXPECT_EQ(fakes.clock.fired, 0);
  EXPECT_EQ(get(kRegC), kUf | kPf) << "and no IRQF";
  EXPECT_EQ(get(kRegC), 0);
}

TEST_F(CmosRtcTest, periodic_interrupt_has_the_rate_of_rs) {
  const struct {
    std::uint8_t rs;
    int per_second;
  } rates[] = {{1, 256}, {2, 128}, {3, 8192}, {6, 1024}, {10, 64}, {13, 8}, {15, 2}};
  for (const auto& rate : rates) {
    set(kRegB, k24Hours);
    set(kRegA, kDividerRuns | rate.rs);
    enable(kPie);
    get(kRegC);
    const int before = line.rises;
    for (int i = 0; i < 100'000; ++i) {
      fakes.clock.advance(10us);
      if (line.level) get(kRegC);
    }
    EXPECT_NEAR(line.rises - before, rate.per_second, 1) << int{rate.rs};
  }
}

TEST_F(CmosRtcTest, rate_0_and_a_stopped_divider_make_no_ticks) {
  for (const std::uint8_t a : {0x20, 0x66, 0x06}) {
    set(kRegA, a);
    enable(kPie);
    get(kRegC);
    fakes.clock.advance(10s);
    EXPECT_FALSE(line.level) << int{a};
    EXPECT_FALSE(fakes.clock.armed(CmosRtc::kTimerPeriodic));
  }
}

TEST_F(CmosRtcTest, a_backlog_of_ticks_is_one_interrupt) {
  set(kRegA, kDividerRuns | 3);
  enable(kPie);
  get(kRegC);
  constexpr std::int64_t kPeriod = 122'070;  // 8192 Hz
  fakes.clock.skip(std::chrono::nanoseconds(kPeriod * 1'000'000 + kPeriod * 3 / 4));
  EXPECT_EQ(line.rises, 1);
  EXPECT_FALSE(fakes.clock.storm);
  get(kRegC);
  fakes.clock.advance(0ns);
  EXPECT_FALSE(line.level) << "the backlog is gone";
  fakes.clock.advance(std::chrono::nanoseconds(kPeriod / 4 + 1));
  EXPECT_EQ(line.rises, 2) << "and the rhythm is kept";
}

TEST_F(CmosRtcTest, alarm_interrupts_at_its_time) {
  set(kHoursAlarm, 0x12);
  set(kMinutesAlarm, 0x01);
  set(kSecondsAlarm, 0x30);
  get(kRegC);
  enable(kAie);
  fakes.clock.advance(89s);
  EXPECT_FALSE(line.level);
  fakes.clock.advance(1s);
  EXPECT_TRUE(line.level);
  EXPECT_EQ(get(kRegC) & (kIrqf | kAf), kIrqf | kAf);
  fakes.clock.advance(86'399s);
  EXPECT_FALSE(line.level);
  fakes.clock.advance(1s);
  EXPECT_TRUE(line.level) << "the next day again";
}

TEST_F(CmosRtcTest, alarm_bytes_may_say_dont_care) {
  set(kHoursAlarm, 0xff);
  set(kMinutesAlarm, 0xc0);
  set(kSecondsAlarm, 0x15);
  enable(kAie);
  for (int i = 0; i < 5; ++i) {
    get(kRegC);
    fakes.clock.advance(60s);
  }
  EXPECT_EQ(line.rises, 5);
}

TEST_F(CmosRtcTest, an_alarm_within_a_long_pause_is_not_missed) {
  set(kHoursAlarm, 0x13);
  set(kMinutesAlarm, 0x00);
  set(kSecondsAlarm, 0x00);
  get(kRegC);
  enable(kAie);
  fakes.clock.advance_wall(2h);
  fakes.clock.advance(1s);
  EXPECT_TRUE(line.level);
}

TEST_F(CmosRtcTest, an_alarm_outside_a_pause_is_not_invented) {
  set(kHoursAlarm, 0x11);
  set(kMinutesAlarm, 0x00);
  set(kSecondsAlarm, 0x00);
  get(kRegC);
  fakes.clock.advance_wall(22h);
  EXPECT_EQ(get(kRegC) & kAf, 0);
  fakes.clock.advance_wall(2h);
  EXPECT_EQ(get(kRegC) & kAf, kAf);
}

TEST_F(CmosRtcTest, an_impossible_alarm_never_matches) {
  for (const auto& bytes : {std::array<int, 3>{0x24, 0, 0}, {0, 0x60, 0}, {0, 0, 0x5a}, {0xb5, 0, 0}}) {
    set(kHoursAlarm, static_cast<std::uint8_t>(bytes[0]));
    set(kMinutesAlarm, static_cast<std::uint8_t>(bytes[1]));
    set(kSecondsAlarm, static_cast<std::uint8_t>(bytes[2]));
    get(kRegC);
    fakes.clock.advance_wall(25h);
    EXPECT_EQ(get(kRegC) & kAf, 0) << bytes[0] << ' ' << bytes[1] << ' ' << bytes[2];
  }
}

TEST_F(CmosRtcTest, twelve_hour_alarm_matches_pm) {
  set(kRegB, kSet);
  set(kHours, 0x11);
  set(kMinutes, 0x59);
  set(kSeconds, 0x58);
  set(kHoursAlarm, 0x92);
  set(kMinutesAlarm, 0x00);
  set(kSecondsAlarm, 0x00);
  set(kRegB, kAie);
  fakes.clock.advance(1s);
  EXPECT_FALSE(line.level);
  fakes.clock.advance(1s);
  EXPECT_TRUE(line.level);
}

TEST_F(CmosRtcTest, host_clock_set_back_does_not_stop_updates) {
  enable(kUie);
  fakes.clock.advance(1s);
  get(kRegC);
  fakes.clock.set_wall_seconds(kFriday - 1000);
  fakes.clock.advance(3s);
  EXPECT_TRUE(line.level);
}

TEST_F(CmosRtcTest, host_clock_set_back_is_no_update) {
  get(kRegC);
  fakes.clock.set_wall_seconds(kFriday - 1000);
  EXPECT_EQ(get(kRegC) & kUf, 0);
}

TEST_F(CmosRtcTest, set_clears_uie) {
  enable(kUie);
  set(kRegB, get(kRegB) | kSet);
  EXPECT_EQ(get(kRegB) & kUie, 0);
  EXPECT_EQ(fakes.clock.armed_count(), 0U);
}

TEST_F(CmosRtcTest, reset_clears_interrupt_enables_and_flags_only) {
  enable(kUie | kPie | kAie | kSqwe | kBinary);
  set(0x0f, 0x0a);
  fakes.clock.advance(2s);
  rtc.reset();
  EXPECT_FALSE(line.level);
  EXPECT_EQ(fakes.clock.armed_count(), 0U);
  EXPECT_EQ(get(kRegB), kBinary | k24Hours);
  EXPECT_EQ(get(kRegC), 0);
  EXPECT_EQ(get(kShutdownStatus), 0x0a) << "the battery keeps memory";
}

// --- CMOS memory ---

TEST_F(CmosRtcTest, memory_sizes_are_where_firmware_reads_them) {
  EXPECT_EQ(get16(0x15), 640U);
  EXPECT_EQ(get16(0x17), 0xffffU) << "more than 64 MiB";
  EXPECT_EQ(get16(0x30), 0xffffU);
  EXPECT_EQ(get16(0x34), (3072U - 16U) * 16);
  EXPECT_EQ(get16(0x5b) | get(0x5d) << 16, 5U * 1024 * 16);
  EXPECT_EQ(get(0x5f), 7);
}

TEST_F(CmosRtcTest, small_memory_does_not_wrap) {
  CmosRtc small{state, line, fakes.clock, fakes.clock, CmosRtcConfig{.ram_below_4g = 640 << 10, .cpus = 1}};
  small.reset();
  EXPECT_EQ(get16(0x17), 0U);
  EXPECT_EQ(get16(0x34), 0U);
  EXPECT_EQ(get(0x5f), 0);
}

TEST_F(CmosRtcTest, bytes_that_firmware_reads_are_not_ones) {
  for (const int index : {0x0f, 0x10, 0x12, 0x2d}) EXPECT_EQ(get(static_cast<std::uint8_t>(index)), 0);
  EXPECT_EQ(get(0x14), 0x06) << "FPU and mouse, no floppy drive";
  EXPECT_EQ(get(kCentury), 0x20);
  for (int index = 0x60; index < 0x80; ++index) EXPECT_EQ(get(static_cast<std::uint8_t>(index)), 0);
}

TEST_F(CmosRtcTest, checksum_covers_10h_to_2dh) {
  unsigned sum = 0;
  for (std::uint8_t i = 0x10; i <= 0x2d; ++i) sum += get(i);
  EXPECT_EQ(get(0x2e) << 8 | get(0x2f), static_cast<int>(sum));
}

TEST_F(CmosRtcTest, memory_keeps_what_is_written) {
  for (int i = 0x40; i < 0x5b; ++i) set(static_cast<std::uint8_t>(i), static_cast<std::uint8_t>(i * 3));
  for (int i = 0x40; i < 0x5b; ++i) EXPECT_EQ(get(static_cast<std::uint8_t>(i)), static_cast<std::uint8_t>(i * 3));
}

TEST_F(CmosRtcTest, index_port_reads_ones_and_keeps_the_nmi_mask) {
  regs.out(kIndexPort, 0x80 | 0x0f);
  EXPECT_EQ(regs.in(kIndexPort), 0xffU);
  EXPECT_EQ(state->nmi_masked, 1);
  EXPECT_EQ(state->index, 0x0f);
}

TEST_F(CmosRtcTest, registers_c_and_d_take_no_writes) {
  set(kRegC, 0xff);
  set(kRegD, 0);
  EXPECT_EQ(get(kRegD), kVrt);
  EXPECT_FALSE(line.level);
}

TEST_F(CmosRtcTest, reading_the_time_changes_no_state) {
  regs.out(kIndexPort, kSeconds);
  fakes.state.reset_dirty();
  for (int i = 0; i < 10; ++i) {
    regs.in(kDataPort);
    fakes.clock.advance(1s);
  }
  EXPECT_FALSE(state.segment().dirty);
}

TEST_F(CmosRtcTest, take_over_raises_the_pending_interrupt_and_arms_again) {
  enable(kUie);
  fakes.clock.advance(1s);
  FakeIrqLine successor_line;
  CmosRtc successor{state, successor_line, fakes.clock, fakes.clock, kConfig};
  fakes.clock.attach(successor);
  successor.restore();
  EXPECT_TRUE(successor_line.level);
  get(kRegC);
  fakes.clock.cancel(CmosRtc::kTimerUpdate);
  successor.restore();
  EXPECT_TRUE(fakes.clock.armed(CmosRtc::kTimerUpdate));
}

TEST_F(CmosRtcTest, restore_brings_every_field_into_range) {
  std::ranges::fill(fakes.state.bytes(0), std::byte{0x7f});
  state.mut().powered = 1;
  rtc.restore();
  EXPECT_LT(state->phase_ns, 1'000'000'000U);
  EXPECT_LT(state->base_tick, 10'000'000'000);
  EXPECT_LT(state->flags_tick, 10'000'000'000);
  EXPECT_EQ(state->periodic_next, 0) << "its divider does not run";
  EXPECT_EQ(state->flags, kFlags);
  EXPECT_EQ(state->nmi_masked, 1);
}

TEST_F(CmosRtcTest, restore_corrects_an_impossible_tick) {
  for (const std::int64_t next : {INT64_MIN, std::int64_t{-1}, std::int64_t{0}, INT64_MAX}) {
    state.mut().periodic_next = next;
    rtc.restore();
    EXPECT_EQ(state->periodic_next, fakes.clock.now().ns + 976'562) << next;
  }
}

TEST_F(CmosRtcTest, restore_of_a_state_that_was_never_powered_starts_anew) {
  std::ranges::fill(fakes.state.bytes(0), std::byte{0xff});
  rtc.restore();
  EXPECT_EQ(time(), "2023-11-17 12:00:00 6");
}

// --- calendar ---

TEST(Calendar, every_day_of_four_centuries_survives_the_round_trip) {
  constexpr Format kFormat{};
  std::int64_t day = -200 * 366;
  for (; day < 200 * 366; ++day) {
    const std::int64_t seconds = day * kSecondsPerDay + 12'345;
    ASSERT_EQ(to_seconds(from_seconds(seconds, kFormat), kFormat), seconds) << day;
  }
}

TEST(Calendar, twelve_hour_format_survives_the_round_trip) {
  for (const bool binary : {false, true}) {
    const Format format{.binary = binary, .hours24 = false};
    for (std::uint32_t hour = 0; hour < 24; ++hour) EXPECT_EQ(decode_hour(encode_hour(hour, format), format), hour);
  }
}

TEST(Calendar, seconds_to_alarm_agrees_with_trying_every_second) {
  constexpr Format kFormat{};
  const Alarm alarms[] = {{0x00, 0x00, 0x00}, {0x30, 0xff, 0xff}, {0xff, 0x15, 0xc0}, {0xff, 0xff, 0x23},
                          {0x59, 0x59, 0x23}, {0xff, 0xff, 0xff}, {0x07, 0xff, 0x05}};
  for (const Alarm& alarm : alarms) {
    for (std::int64_t from = 0; from < kSecondsPerDay; from += 997) {
      std::int64_t expected = 1;
      const auto matches = [&](std::int64_t at) {
        const TimeRegisters time = from_seconds(at, kFormat);
        return (alarm.second >= 0xc0 || alarm.second == time.second) &&
               (alarm.minute >= 0xc0 || alarm.minute == time.minute) && (alarm.hour >= 0xc0 || alarm.hour == time.hour);
      };
      while (!matches(from + expected)) ++expected;
      ASSERT_EQ(seconds_to_alarm(alarm, from, kFormat), expected) << from;
    }
  }
}

}  // namespace
}  // namespace bulkhead::devproc
