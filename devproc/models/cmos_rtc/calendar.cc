#include "devproc/models/cmos_rtc/calendar.h"

#include "devproc/models/cmos_rtc/spec.h"

namespace bulkhead::devproc::cmos_rtc {

namespace {

struct Date {
  std::int64_t year;
  std::int64_t month;  // 1-12
  std::int64_t day;    // 1-31
};

constexpr std::int64_t floor_div(std::int64_t a, std::int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }
constexpr std::int64_t floor_mod(std::int64_t a, std::int64_t b) { return a - floor_div(a, b) * b; }

// Days since 1970-01-01. Years begin in March here, so that the leap day comes last; 400 years are one era
// of 146097 days. Months and days beyond their range carry over.
constexpr std::int64_t days_from_date(const Date& date) {
  const std::int64_t months = date.year * 12 + (date.month - 1) - 2;  // since March of year 0
  const std::int64_t year = floor_div(months, 12);
  const std::int64_t month = floor_mod(months, 12);  // 0 is March
  const std::int64_t era = floor_div(year, 400);
  const std::int64_t year_of_era = floor_mod(year, 400);
  const std::int64_t day_of_year = (153 * month + 2) / 5 + date.day - 1;
  return era * 146'097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719'468;
}

constexpr Date date_from_days(std::int64_t days) {
  const std::int64_t shifted = days + 719'468;
  const std::int64_t era = floor_div(shifted, 146'097);
  const std::int64_t day_of_era = floor_mod(shifted, 146'097);
  const std::int64_t year_of_era = (day_of_era - day_of_era / 1'460 + day_of_era / 36'524 - day_of_era / 146'096) / 365;
  const std::int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  const std::int64_t month = (5 * day_of_year + 2) / 153;  // 0 is March
  const std::int64_t year = era * 400 + year_of_era + (month >= 10 ? 1 : 0);
  return {year, month < 10 ? month + 3 : month - 9, day_of_year - (153 * month + 2) / 5 + 1};
}
static_assert(days_from_date({1970, 1, 1}) == 0 && days_from_date({2000, 2, 29}) == 11'016);
static_assert(date_from_days(11'016).month == 2 && date_from_days(11'016).day == 29);

// Whether `byte` is the way to write some value of `limit` or less; else an alarm never matches it.
bool valid(std::uint8_t byte, std::uint32_t limit, Format format) {
  if (!format.binary && ((byte & 0x0f) > 9 || (byte >> 4) > 9)) return false;
  return decode(byte, format) <= limit;
}

bool valid_hour(std::uint8_t byte, Format format) {
  if (format.hours24) return valid(byte, 23, format);
  const auto hour = static_cast<std::uint8_t>(byte & ~kHoursPm);
  return valid(hour, 12, format) && decode(hour, format) >= 1;
}

bool dont_care(std::uint8_t byte) { return (byte & kDontCare) == kDontCare; }

}  // namespace

std::uint8_t encode(std::uint32_t value, Format format) {
  return static_cast<std::uint8_t>(format.binary ? value : (value / 10) % 10 * 16 + value % 10);
}

std::uint32_t decode(std::uint8_t byte, Format format) {
  return format.binary ? byte : (byte >> 4) * 10U + (byte & 0x0f);
}

// Table 3: 12 AM is midnight, and bit 7 says PM.
std::uint8_t encode_hour(std::uint32_t hour, Format format) {
  if (format.hours24) return encode(hour, format);
  const std::uint8_t pm = hour >= 12 ? kHoursPm : 0;
  const std::uint32_t of_twelve = hour % 12 == 0 ? 12 : hour % 12;
  return encode(of_twelve, format) | pm;
}

std::uint32_t decode_hour(std::uint8_t byte, Format format) {
  if (format.hours24) return decode(byte, format);
  const std::uint32_t hour = decode(static_cast<std::uint8_t>(byte & ~kHoursPm), format) % 12;
  return (byte & kHoursPm) != 0 ? hour + 12 : hour;
}

std::int64_t to_seconds(const TimeRegisters& time, Format format) {
  const Date date{std::int64_t{decode(time.century, format)} * 100 + decode(time.year, format),
                  decode(time.month, format), decode(time.day, format)};
  return days_from_date(date) * kSecondsPerDay + std::int64_t{decode_hour(time.hour, format)} * 3600 +
         std::int64_t{decode(time.minute, format)} * 60 + decode(time.second, format);
}

TimeRegisters from_seconds(std::int64_t seconds, Format format) {
  const std::int64_t days = floor_div(seconds, kSecondsPerDay);
  const auto of_day = static_cast<std::uint32_t>(floor_mod(seconds, kSecondsPerDay));
  const Date date = date_from_days(days);
  const auto year = static_cast<std::uint32_t>(floor_mod(date.year, 10'000));
  TimeRegisters time;
  time.second = encode(of_day % 60, format);
  time.minute = encode(of_day / 60 % 60, format);
  time.hour = encode_hour(of_day / 3600, format);
  time.day_of_week = encode(static_cast<std::uint32_t>(floor_mod(days + 4, 7)) + 1, format);
  time.day = encode(static_cast<std::uint32_t>(date.day), format);
  time.month = encode(static_cast<std::uint32_t>(date.month), format);
  time.year = encode(year % 100, format);
  time.century = encode(year / 100, format);
  return time;
}

TimeRegisters advance(const TimeRegisters& start, std::int64_t elapsed, Format format) {
  if (elapsed == 0) return start;
  const std::int64_t before = to_seconds(start, format);
  TimeRegisters time = from_seconds(before + elapsed, format);
  const std::int64_t days = floor_div(before + elapsed, kSecondsPerDay) - floor_div(before, kSecondsPerDay);
  const std::int64_t weekday = std::int64_t{decode(start.day_of_week, format)} - 1 + days;
  time.day_of_week = encode(static_cast<std::uint32_t>(floor_mod(weekday, 7)) + 1, format);
  return time;
}

// Skips whole hours and minutes that cannot match: at most 24 + 60 + 60 steps before and as many after.
std::optional<std::int64_t> seconds_to_alarm(const Alarm& alarm, std::int64_t from, Format format) {
  const bool any_hour = dont_care(alarm.hour);
  const bool any_minute = dont_care(alarm.minute);
  const bool any_second = dont_care(alarm.second);
  if (!any_hour && !valid_hour(alarm.hour, format)) return std::nullopt;
  if (!any_minute && !valid(alarm.minute, 59, format)) return std::nullopt;
  if (!any_second && !valid(alarm.second, 59, format)) return std::nullopt;
  const std::int64_t hour = decode_hour(alarm.hour, format);
  const std::int64_t minute = decode(alarm.minute, format);
  const std::int64_t second = decode(alarm.second, format);

  std::int64_t delta = 1;
  while (delta <= kSecondsPerDay) {
    const std::int64_t at = floor_mod(from + delta, kSecondsPerDay);
    if (!any_hour && at / 3600 != hour) {
      delta += 3600 - at % 3600;
    } else if (!any_minute && at / 60 % 60 != minute) {
      delta += 60 - at % 60;
    } else if (!any_second && at % 60 != second) {
      ++delta;
    } else {
      return delta;
    }
  }
  return std::nullopt;
}

}  // namespace bulkhead::devproc::cmos_rtc
