#include "devproc/models/cmos_rtc/cmos_rtc.h"

#include <algorithm>
#include <limits>

namespace bulkhead::devproc {

using namespace cmos_rtc;

namespace {

constexpr RegionSpec kRegions[] = {{"index and data", AddressKind::kPort, kPorts, kSize1}};

constexpr std::int64_t kNsPerSecond = 1'000'000'000;
// No wall time has a tick beyond this; a state that says so is not ours.
constexpr std::int64_t kTickLimit = std::numeric_limits<std::int64_t>::max() / kNsPerSecond + 2;

constexpr std::uint64_t kKib = 1024;
constexpr std::uint64_t kMib = 1024 * kKib;

bool is_time_byte(std::uint8_t index) {
  switch (index) {
    case kSeconds:
    case kMinutes:
    case kHours:
    case kDayOfWeek:
    case kDayOfMonth:
    case kMonth:
    case kYear:
    case kCentury: return true;
    default: return false;
  }
}

bool is_alarm_byte(std::uint8_t index) {
  return index == kSecondsAlarm || index == kMinutesAlarm || index == kHoursAlarm;
}

std::uint8_t time_byte(const TimeRegisters& time, std::uint8_t index) {
  switch (index) {
    case kSeconds: return time.second;
    case kMinutes: return time.minute;
    case kHours: return time.hour;
    case kDayOfWeek: return time.day_of_week;
    case kDayOfMonth: return time.day;
    case kMonth: return time.month;
    case kYear: return time.year;
    default: return time.century;
  }
}

std::int64_t whole_seconds(std::int64_t ns) { return ns / kNsPerSecond - (ns % kNsPerSecond < 0 ? 1 : 0); }
std::int64_t part_of_second(std::int64_t ns) {
  const std::int64_t part = ns % kNsPerSecond;
  return part < 0 ? part + kNsPerSecond : part;
}

VmTime later(std::int64_t now, std::int64_t ns) {
  std::int64_t sum = 0;
  if (__builtin_add_overflow(now, ns, &sum)) return VmTime{std::numeric_limits<std::int64_t>::max()};
  return VmTime{sum};
}

void put16(std::uint8_t* at, std::uint64_t value) {
  at[0] = static_cast<std::uint8_t>(value);
  at[1] = static_cast<std::uint8_t>(value >> 8);
}

}  // namespace

std::span<const RegionSpec> CmosRtc::regions() const { return kRegions; }

std::optional<std::uint64_t> CmosRtc::read(const Access& access) {
  if (access.offset == kDataPort) return read_register(state_->index);
  return std::nullopt;  // the index port is write only
}

bool CmosRtc::write(const Access& access, std::uint64_t value) {
  const auto byte = static_cast<std::uint8_t>(value);
  if (access.offset == kIndexPort) {
    State& s = state_.mut();
    s.index = byte & kIndexMask;
    s.nmi_masked = (byte & kNmiMask) != 0;
  } else {
    write_register(state_->index, byte);
  }
  return true;
}

std::uint8_t CmosRtc::read_register(std::uint8_t index) {
  if (is_time_byte(index)) return time_byte(time(), index);
  switch (index) {
    case kRegA: return read_reg_a();
    case kRegC: return read_reg_c();
    case kRegD: return kVrt;
    default: return reg(index);
  }
}

void CmosRtc::write_register(std::uint8_t index, std::uint8_t value) {
  if (is_time_byte(index) || is_alarm_byte(index)) {
    catch_up();
    hold_time();
    state_.mut().ram[index] = value;
    update_timers();
    return;
  }
  switch (index) {
    case kRegA: write_reg_a(value); break;
    case kRegB: write_reg_b(value); break;
    case kRegC:
    case kRegD: break;
    default: state_.mut().ram[index] = value; break;
  }
}

std::uint8_t CmosRtc::read_reg_a() const {
  const bool updating = counting() && ns_to_tick(1) <= kUipNs;
  return updating ? reg(kRegA) | kUip : reg(kRegA);
}

// "All flag bits are cleared by a read of register C", and with them IRQF: the line goes low.
std::uint8_t CmosRtc::read_reg_c() {
  catch_up();
  const std::uint8_t value = state_->flags;
  const bool irqf = (value & reg(kRegB)) != 0;
  if (value != 0) state_.mut().flags = 0;
  update_irq();
  update_timers();
  return irqf ? value | kIrqf : value;
}

// "When the divider is changed from reset to an operating time base, the first update cycle begins one-half
// second later."
void CmosRtc::write_reg_a(std::uint8_t value) {
  catch_up();
  hold_time();
  const bool ran = divider_runs();
  const std::uint8_t before = reg(kRegA);
  State& s = state_.mut();
  s.ram[kRegA] = value & static_cast<std::uint8_t>(~kUip);
  if (!ran && divider_runs()) {
    const std::int64_t part = part_of_second(clock_.wall().ns);
    s.phase_ns = static_cast<std::uint32_t>(part_of_second(kNsPerSecond / 2 - part));
  }
  if (s.ram[kRegA] != before) restart_periodic();
  if (counting()) resume_time();
  update_irq();
  update_timers();
}

// "SET ... 1: any update cycle in progress is aborted and the program may initialise the time and calendar
// bytes". It also clears UIE. A change of format leaves the bytes as they are, as on the chip.
void CmosRtc::write_reg_b(std::uint8_t value) {
  catch_up();
  hold_time();
  const bool counted = counting();
  if ((value & kSet) != 0) value &= static_cast<std::uint8_t>(~kUie);
  state_.mut().ram[kRegB] = value;
  if (!counted && counting()) resume_time();
  update_irq();
  update_timers();
}

void CmosRtc::reset() {
  if (state_->powered != 1) power_on();
  catch_up();
  State& s = state_.mut();
  s.ram[kRegB] &= static_cast<std::uint8_t>(~(kPie | kAie | kUie | kSqwe));
  s.flags = 0;
  s.index = 0;
  s.nmi_masked = 0;
  describe_machine();
  update_irq();
  update_timers();
}

void CmosRtc::restore() {
  if (state_->powered != 1) power_on();
  State clean = state_.get();
  clean.base_tick = std::clamp(clean.base_tick, -kTickLimit, kTickLimit);
  clean.flags_tick = std::clamp(clean.flags_tick, -kTickLimit, kTickLimit);
  clean.phase_ns %= kNsPerSecond;
  clean.index &= kIndexMask;
  clean.nmi_masked = clean.nmi_masked != 0;
  clean.flags &= kFlags;
  clean.ram[kRegA] &= static_cast<std::uint8_t>(~kUip);
  if (clean != state_.get()) state_.mut() = clean;
  const std::int64_t period = period_ns();
  const bool plausible = period == 0 ? state_->periodic_next == 0
                                     : state_->periodic_next > 0 && state_->periodic_next <= later(vm_now(), period).ns;
  if (!plausible) restart_periodic();
  update_irq();
  update_timers();
}

void CmosRtc::on_timer(TimerId) {
  catch_up();
  update_irq();
  update_timers();
}

Format CmosRtc::format() const {
  return {.binary = (reg(kRegB) & kBinary) != 0, .hours24 = (reg(kRegB) & k24Hours) != 0};
}

bool CmosRtc::divider_runs() const { return (reg(kRegA) & kDivider) == kDividerRuns; }

bool CmosRtc::counting() const { return divider_runs() && (reg(kRegB) & kSet) == 0; }

std::int64_t CmosRtc::vm_now() const { return std::max<std::int64_t>(clock_.now().ns, 0); }

std::int64_t CmosRtc::tick() const {
  const std::int64_t wall = clock_.wall().ns;
  const bool carry = part_of_second(wall) + state_->phase_ns >= kNsPerSecond;
  return whole_seconds(wall) + (carry ? 1 : 0);
}

// Until the start of the tick that is `ticks_ahead` after the present one.
std::int64_t CmosRtc::ns_to_tick(std::int64_t ticks_ahead) const {
  const std::int64_t part = part_of_second(clock_.wall().ns) + state_->phase_ns;
  return ticks_ahead * kNsPerSecond - part % kNsPerSecond;
}

// Table 5, 32.768 kHz: rates 1 and 2 are those of 8 and 9, the others 2^(RS-1) cycles. 0 is none.
std::int64_t CmosRtc::period_ns() const {
  unsigned rate = reg(kRegA) & kRate;
  if (!divider_runs() || rate == 0) return 0;
  if (rate <= 2) rate += 7;
  return (kNsPerSecond << (rate - 1)) / 32'768;
}

TimeRegisters CmosRtc::stored_time() const {
  return {.second = reg(kSeconds),
          .minute = reg(kMinutes),
          .hour = reg(kHours),
          .day_of_week = reg(kDayOfWeek),
          .day = reg(kDayOfMonth),
          .month = reg(kMonth),
          .year = reg(kYear),
          .century = reg(kCentury)};
}

TimeRegisters CmosRtc::time() const {
  if (!counting()) return stored_time();
  return advance(stored_time(), tick() - state_->base_tick, format());
}

void CmosRtc::store_time(const TimeRegisters& time) {
  State& s = state_.mut();
  s.ram[kSeconds] = time.second;
  s.ram[kMinutes] = time.minute;
  s.ram[kHours] = time.hour;
  s.ram[kDayOfWeek] = time.day_of_week;
  s.ram[kDayOfMonth] = time.day;
  s.ram[kMonth] = time.month;
  s.ram[kYear] = time.year;
  s.ram[kCentury] = time.century;
}

// From flags_tick to the next alarm.
std::optional<std::int64_t> CmosRtc::ticks_to_alarm() const {
  const Alarm alarm{reg(kSecondsAlarm), reg(kMinutesAlarm), reg(kHoursAlarm)};
  const std::int64_t at_flags = to_seconds(stored_time(), format()) + (state_->flags_tick - state_->base_tick);
  return seconds_to_alarm(alarm, at_flags, format());
}

// Register C without IRQF, with what the time alone has set since the state was last touched.
std::uint8_t CmosRtc::flags() const {
  const State& s = state_.get();
  std::uint8_t flags = s.flags;
  if (s.periodic_next != 0 && vm_now() >= s.periodic_next) flags |= kPf;
  if (!counting()) return flags;
  const std::int64_t passed = tick() - s.flags_tick;
  if (passed <= 0) return flags;
  flags |= kUf;
  const auto alarm = ticks_to_alarm();
  if (alarm && *alarm <= passed) flags |= kAf;
  return flags;
}

// Puts into the state what the time has done to the flags. However much time that was, it is one step.
void CmosRtc::catch_up() {
  const std::uint8_t now_flags = flags();
  const std::int64_t now_tick = tick();
  const std::int64_t late = vm_now() - state_->periodic_next;
  const std::int64_t period = period_ns();
  const bool periodic_due = state_->periodic_next != 0 && late >= 0 && period != 0;
  if (now_flags == state_->flags && now_tick == state_->flags_tick && !periodic_due) return;
  State& s = state_.mut();
  s.flags = now_flags;
  s.flags_tick = now_tick;
  if (periodic_due) s.periodic_next = later(s.periodic_next, (late / period + 1) * period).ns;
}

// Brings the time bytes up to date, so that they may be changed or their format may.
void CmosRtc::hold_time() {
  if (!counting()) return;
  store_time(time());
  state_.mut().base_tick = tick();
}

// The time bytes go on from what they hold, from now.
void CmosRtc::resume_time() {
  State& s = state_.mut();
  s.base_tick = tick();
  s.flags_tick = s.base_tick;
}

void CmosRtc::restart_periodic() {
  const std::int64_t period = period_ns();
  state_.mut().periodic_next = period == 0 ? 0 : later(vm_now(), period).ns;
}

void CmosRtc::power_on() {
  State& s = state_.mut();
  s = State{};
  s.powered = 1;
  s.ram[kRegA] = kRegAPowerOn;
  s.ram[kRegB] = kRegBPowerOn;
  store_time(from_seconds(whole_seconds(clock_.wall().ns), format()));
  resume_time();
  restart_periodic();
  describe_machine();
}

// The bytes by which firmware learns what machine this is. All others that it reads are 0: no floppy drive,
// no disk geometry.
void CmosRtc::describe_machine() {
  const std::uint64_t low = config_.ram_below_4g;
  const std::uint64_t above_1m = low > kMib ? (low - kMib) / kKib : 0;
  const std::uint64_t above_16m = low > 16 * kMib ? (low - 16 * kMib) / (64 * kKib) : 0;
  const std::uint64_t above_4g = config_.ram_above_4g / (64 * kKib);
  std::uint8_t* ram = state_.mut().ram;
  ram[kEquipment] = kEquipmentFpu | kEquipmentMouse;
  put16(ram + kBaseMemory, 640);
  put16(ram + kExtendedMemory, std::min<std::uint64_t>(above_1m, 0xffff));
  put16(ram + kExtendedMemoryPost, std::min<std::uint64_t>(above_1m, 0xffff));
  put16(ram + kMemoryAbove16M, std::min<std::uint64_t>(above_16m, 0xffff));
  put16(ram + kMemoryAbove4G, above_4g);
  ram[kMemoryAbove4G + 2] = static_cast<std::uint8_t>(above_4g >> 16);
  ram[kBootFlags1] = kBootNetwork << 4 | 1;
  ram[kBootFlags2] = kBootCdrom << 4 | kBootDisk;
  ram[kCpus] = static_cast<std::uint8_t>(std::clamp<int>(config_.cpus, 1, 256) - 1);
  std::uint16_t sum = 0;
  for (std::uint8_t i = kChecksumFirst; i < kChecksum; ++i) sum = static_cast<std::uint16_t>(sum + ram[i]);
  ram[kChecksum] = static_cast<std::uint8_t>(sum >> 8);
  ram[kChecksum + 1] = static_cast<std::uint8_t>(sum);
}

void CmosRtc::update_irq() { interrupt_.set_level((state_->flags & reg(kRegB) & kFlags) != 0); }

// A timer runs only for an interrupt that is enabled and not yet pending. The alarm is looked at once a
// second rather than slept for: wall time may be set, and goes on while VM time stands.
void CmosRtc::update_timers() {
  const State& s = state_.get();
  const std::uint8_t wanted = reg(kRegB) & static_cast<std::uint8_t>(~s.flags);
  if ((wanted & kPie) != 0 && s.periodic_next != 0) {
    timers_.arm(kTimerPeriodic, VmTime{s.periodic_next});
  } else {
    timers_.cancel(kTimerPeriodic);
  }
  if (counting() && (wanted & (kUie | kAie)) != 0) {
    timers_.arm(kTimerUpdate, later(vm_now(), ns_to_tick(1)));
  } else {
    timers_.cancel(kTimerUpdate);
  }
}

void CmosRtc::inspect(Inspector& inspector) const {
  inspector.field("seconds_since_1970", static_cast<std::uint64_t>(to_seconds(time(), format())));
  inspector.field("index", state_->index);
  inspector.field("register_a", reg(kRegA));
  inspector.field("register_b", reg(kRegB));
  inspector.field("register_c", flags());
  inspector.field("nmi_masked", state_->nmi_masked);
}

}  // namespace bulkhead::devproc
