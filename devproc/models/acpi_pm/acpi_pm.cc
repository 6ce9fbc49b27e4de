#include "devproc/models/acpi_pm/acpi_pm.h"

#include <limits>

#include "ipc/state/effects.h"

namespace bulkhead::devproc {

using namespace acpi_pm;

namespace {

// The PIIX4 decodes bytes, words and dwords here: Linux reads PM1 registers as words and PM_TMR as a dword,
// SeaBIOS and ACPI machine code use bytes as well.
constexpr RegionSpec kRegions[] = {
    {"pm", AddressKind::kPort, kPmPorts, kSizeUpTo4},
    {"gpe0", AddressKind::kPort, kGpe0Ports, kSizeUpTo4},
    {"apm", AddressKind::kPort, kApmPorts, kSize1},
};

constexpr std::int64_t kNsPerSecond = 1'000'000'000;

// PM timer ticks of a time, rounded down. Split, so that no product passes 64 bits.
constexpr std::uint64_t ticks_at(VmTime time) {
  if (time.ns < 0) return 0;
  const std::int64_t seconds = time.ns / kNsPerSecond;
  const std::int64_t rest = time.ns % kNsPerSecond;
  return static_cast<std::uint64_t>(seconds * kPmTimerHz + rest * kPmTimerHz / kNsPerSecond);
}

// The first moment at which ticks_at() gives `ticks`; the end of time when that is beyond it.
constexpr VmTime time_of(std::uint64_t ticks) {
  constexpr auto kHz = static_cast<std::uint64_t>(kPmTimerHz);
  constexpr auto kSecond = static_cast<std::uint64_t>(kNsPerSecond);
  const std::uint64_t seconds = ticks / kHz;
  constexpr auto kEnd = std::numeric_limits<std::int64_t>::max();
  if (seconds >= static_cast<std::uint64_t>(kEnd) / kSecond) return VmTime{kEnd};
  const std::uint64_t rest = (ticks % kHz * kSecond + kHz - 1) / kHz;
  return VmTime{static_cast<std::int64_t>(seconds * kSecond + rest)};
}
static_assert(ticks_at(time_of(1)) == 1 && ticks_at(VmTime{time_of(1).ns - 1}) == 0);

constexpr std::uint8_t byte_of(std::uint64_t value, std::uint64_t index) {
  return static_cast<std::uint8_t>(value >> (8 * index));
}

constexpr std::uint16_t with_byte(std::uint16_t value, std::uint64_t index, std::uint8_t byte) {
  const unsigned shift = index == 0 ? 0 : 8;
  return static_cast<std::uint16_t>((value & ~(0xffU << shift)) | (static_cast<unsigned>(byte) << shift));
}

}  // namespace

std::span<const RegionSpec> AcpiPm::regions() const { return kRegions; }

std::optional<std::uint64_t> AcpiPm::read(const Access& access) {
  if (access.region == kPm && access.offset == kPmTmr && access.size == 4) return ticks() & kPmTimerMask;
  if (access.region >= std::size(kRegions)) return std::nullopt;
  std::uint64_t value = 0;
  for (unsigned i = 0; i < access.size; ++i)
    value |= static_cast<std::uint64_t>(byte(access.region, access.offset + i)) << (8 * i);
  return value;
}

bool AcpiPm::write(const Access& access, std::uint64_t value) {
  if (access.region >= std::size(kRegions)) return false;
  for (unsigned i = 0; i < access.size; ++i) write_byte(access.region, access.offset + i, byte_of(value, i));
  update_irq();
  return true;
}

void AcpiPm::reset() {
  State fresh;
  fresh.pm1_cnt = config_.sci_enabled ? kSciEn : 0;
  fresh.overflows_seen = overflows();
  state_.mut() = fresh;
  update_irq();
}

void AcpiPm::restore() {
  State clean = state_.get();
  clean.pm1_sts &= kPm1StsMask;
  clean.pm1_en &= kPm1EnMask;
  clean.pm1_cnt &= kPm1CntKept;
  clean.unused = 0;
  if (clean != state_.get()) state_.mut() = clean;
  update_irq();
}

void AcpiPm::on_timer(TimerId) { update_irq(); }

void AcpiPm::on_power_button() {
  state_.mut().pm1_sts |= kPwrbtnSts;
  update_irq();
}

std::uint64_t AcpiPm::ticks() const { return ticks_at(clock_.now()); }

std::uint16_t AcpiPm::sts() const {
  const bool overflowed = overflows() != state_->overflows_seen;
  return overflowed ? state_->pm1_sts | kTmrSts : state_->pm1_sts;
}

std::uint8_t AcpiPm::byte(RegionIndex region, std::uint64_t offset) const {
  const State& s = state_.get();
  switch (region) {
    case kPm: return pm_byte(offset);
    case kGpe0: return offset < kGpe0En ? byte_of(s.gpe0_sts, offset) : byte_of(s.gpe0_en, offset - kGpe0En);
    default: return offset == kApmc ? s.apmc : s.apms;
  }
}

std::uint8_t AcpiPm::pm_byte(std::uint64_t offset) const {
  if (offset < kPm1En) return byte_of(sts(), offset - kPm1Sts);
  if (offset < kPm1Cnt) return byte_of(state_->pm1_en, offset - kPm1En);
  if (offset < kPm1Cnt + 2) return byte_of(state_->pm1_cnt, offset - kPm1Cnt);
  if (offset >= kPmTmr && offset < kPmTmr + 4) return byte_of(ticks() & kPmTimerMask, offset - kPmTmr);
  if (offset >= kGpoReg && offset < kGpoReg + 4) return byte_of(kGpoRegDefault, offset - kGpoReg);
  return 0;
}

void AcpiPm::write_byte(RegionIndex region, std::uint64_t offset, std::uint8_t value) {
  switch (region) {
    case kPm: write_pm(offset, value); break;
    case kGpe0: write_gpe0(offset, value); break;
    default: write_apm(offset, value); break;
  }
}

void AcpiPm::write_pm(std::uint64_t offset, std::uint8_t value) {
  if (offset < kPm1En) {
    const std::uint16_t cleared = with_byte(0, offset - kPm1Sts, value);
    if (cleared == 0) return;
    const std::uint16_t left = sts() & ~cleared;
    State& s = state_.mut();
    s.pm1_sts = left;
    s.overflows_seen = overflows();
  } else if (offset < kPm1Cnt) {
    State& s = state_.mut();
    s.pm1_en = with_byte(s.pm1_en, offset - kPm1En, value) & kPm1EnMask;
  } else if (offset < kPm1Cnt + 2) {
    write_control(with_byte(state_->pm1_cnt, offset - kPm1Cnt, value));
  }
}

// SLP_EN and SLP_TYP are in the same byte, so a byte-wide write sleeps as a word does.
void AcpiPm::write_control(std::uint16_t value) {
  state_.mut().pm1_cnt = value & kPm1CntKept;
  if ((value & kSlpEn) == 0 || (value & kSlpTyp) != kSlpTypSoftOff) return;
  Effect effect;
  effect.kind = static_cast<std::uint16_t>(EffectKind::kPower);
  effect.data = static_cast<std::uint32_t>(PowerAction::kPowerOff);
  effects_.emit(effect);
}

void AcpiPm::write_gpe0(std::uint64_t offset, std::uint8_t value) {
  State& s = state_.mut();
  if (offset < kGpe0En) {
    s.gpe0_sts &= static_cast<std::uint16_t>(~with_byte(0, offset, value));
  } else {
    s.gpe0_en = with_byte(s.gpe0_en, offset - kGpe0En, value);
  }
}

void AcpiPm::write_apm(std::uint64_t offset, std::uint8_t value) {
  State& s = state_.mut();
  if (offset != kApmc) {
    s.apms = value;
    return;
  }
  s.apmc = value;
  if (value == kAcpiEnable) s.pm1_cnt |= kSciEn;
  if (value == kAcpiDisable) s.pm1_cnt &= static_cast<std::uint16_t>(~kSciEn);
}

// The SCI is high while an enabled status bit is set and SCI_EN is; the timer runs while the next overflow
// could change that.
void AcpiPm::update_irq() {
  const State& s = state_.get();
  const bool acpi_mode = (s.pm1_cnt & kSciEn) != 0;
  const std::uint16_t status = sts();
  sci_.set_level(acpi_mode && ((status & s.pm1_en) != 0 || (s.gpe0_sts & s.gpe0_en) != 0));
  if (acpi_mode && (s.pm1_en & kTmrSts) != 0 && (status & kTmrSts) == 0) {
    timers_.arm(kTimerOverflow, time_of((overflows() + 1) << kPmTimerTopBit));
  } else {
    timers_.cancel(kTimerOverflow);
  }
}

void AcpiPm::inspect(Inspector& inspector) const {
  const State& s = state_.get();
  inspector.field("pm1_sts", sts());
  inspector.field("pm1_en", s.pm1_en);
  inspector.field("pm1_cnt", s.pm1_cnt);
  inspector.field("pm_tmr", ticks() & kPmTimerMask);
  inspector.field("gpe0_sts", s.gpe0_sts);
  inspector.field("gpe0_en", s.gpe0_en);
}

}  // namespace bulkhead::devproc
