// Calendar: the time and calendar bytes of the MC146818A, and the seconds that they stand for.
//
// Proleptic Gregorian, years 0 to 9999 (the century byte wraps). Bytes that are no valid time are read as
// the arithmetic says (61 seconds are a minute and a second): never an error, never a loop.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace bulkhead::devproc::cmos_rtc {

inline constexpr std::int64_t kSecondsPerDay = 86'400;

// The bytes 00h, 02h, 04h, 06h-09h and 32h, as the registers hold them.
struct TimeRegisters {
  std::uint8_t second = 0;
  std::uint8_t minute = 0;
  std::uint8_t hour = 0;
  std::uint8_t day_of_week = 0;
  std::uint8_t day = 0;
  std::uint8_t month = 0;
  std::uint8_t year = 0;
  std::uint8_t century = 0;
  bool operator==(const TimeRegisters&) const = default;
};

// How register B says that the bytes are written.
struct Format {
  bool binary = false;  // DM
  bool hours24 = true;
};

[[nodiscard]] std::uint8_t encode(std::uint32_t value, Format format);
[[nodiscard]] std::uint32_t decode(std::uint8_t byte, Format format);
[[nodiscard]] std::uint8_t encode_hour(std::uint32_t hour, Format format);
[[nodiscard]] std::uint32_t decode_hour(std::uint8_t byte, Format format);

// Seconds since 1970-01-01 00:00:00 of what the registers show.
[[nodiscard]] std::int64_t to_seconds(const TimeRegisters& time, Format format);
// The registers at `seconds`, with the weekday of the calendar.
[[nodiscard]] TimeRegisters from_seconds(std::int64_t seconds, Format format);
// What the registers show `elapsed` seconds after `start`. The weekday counts on from the one in `start`,
// right or wrong, as the chip's does.
[[nodiscard]] TimeRegisters advance(const TimeRegisters& start, std::int64_t elapsed, Format format);

// The alarm's three bytes; each may be "don't care".
struct Alarm {
  std::uint8_t second = 0;
  std::uint8_t minute = 0;
  std::uint8_t hour = 0;
};

// Seconds from the second of the day `from` to the next one that matches, 1 to 86400; nullopt for an alarm
// that no time of day matches.
[[nodiscard]] std::optional<std::int64_t> seconds_to_alarm(const Alarm& alarm, std::int64_t from, Format format);

}  // namespace bulkhead::devproc::cmos_rtc
