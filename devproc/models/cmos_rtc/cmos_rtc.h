// CmosRtc: real-time clock, periodic, alarm and update interrupts, and 128 bytes of battery-backed memory.
//
// Chip:        Motorola MC146818A, as wired in the IBM PC AT
// Document:    MC146818A data sheet; IBM PC AT Technical Reference for the CMOS memory map (see spec.h)
// Implemented: time and calendar with century, binary and BCD, 12 and 24 hours; SET; divider reset;
//              UIP; alarm with "don't care"; the three interrupts; registers A to D; the CMOS bytes
//              that firmware reads
// Missing:     the divider's other time bases (a PC has the 32.768 kHz crystal: DV other than 010b
//              stops the clock); the square-wave output (no pin); daylight saving (DSE is kept: guests
//              do it themselves); PIIX4's second bank at ports 72h and 73h
// Time:        of day follows the host's UTC clock; what the guest sets is kept as a difference to it,
//              so it goes on while the VM is off or paused. Periodic interrupts follow VM time. Seconds
//              that passed unseen are one update, ticks that passed unseen are one tick: a guest that
//              was paused gets one interrupt, not a storm. A flag whose interrupt is off is worked out
//              when register C is read, so an idle VM runs no timer.
// Reset:       a first reset() sets power-on values; later ones do what RESET# does and keep time and
//              memory, as the battery would. Bytes that describe the machine are written again each
//              time.
// Ignored:     writes to registers C and D and to UIP; bit 7 of port 70h is kept, no NMI source exists
// Wires:       line 0: IRQ; no stream; timers 0: periodic, 1: update and alarm
// Threading:   single-threaded
// Trust:       guest: any access
// Config:      {"cmos_rtc", CmosRtcConfig{.ram_below_4g = 512 << 20, .cpus = 2}} at port 70h with IRQ 8
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

#include "devproc/core/clock.h"
#include "devproc/core/device.h"
#include "devproc/core/persistent.h"
#include "devproc/core/wires.h"
#include "devproc/models/cmos_rtc/calendar.h"
#include "devproc/models/cmos_rtc/spec.h"
#include "ipc/roles/device_config.h"

namespace bulkhead::devproc {

// A "tick" is one second of the RTC's divider: wall time plus `phase_ns`, whole seconds.
struct CmosRtcState {
  std::int64_t base_tick = 0;      // the tick at which the time bytes in `ram` were right
  std::int64_t flags_tick = 0;     // UF and AF have answered for every tick up to this one
  std::int64_t periodic_next = 0;  // VM time of the first tick that PF has not answered for; 0: none
  std::uint32_t phase_ns = 0;      // below 1 s
  std::uint8_t index = 0;
  std::uint8_t nmi_masked = 0;
  std::uint8_t flags = 0;    // register C without IRQF
  std::uint8_t powered = 0;  // the battery has not run out: `ram` is valid
  std::uint8_t ram[cmos_rtc::kCmosBytes] = {};

  bool operator==(const CmosRtcState&) const = default;
};
static_assert(std::has_unique_object_representations_v<CmosRtcState>, "no hidden padding");

class CmosRtc final : public Device {
 public:
  using State = CmosRtcState;
  static constexpr std::uint32_t kStateVersion = 1;
  static constexpr std::uint16_t kLines = 1;  // IRQ
  static constexpr std::uint16_t kStreams = 0;
  static constexpr std::uint16_t kTimers = 2;  // kTimerPeriodic, kTimerUpdate
  static constexpr TimerId kTimerPeriodic = 0;
  static constexpr TimerId kTimerUpdate = 1;

  CmosRtc(Persistent<State> state, IrqLine& interrupt, Clock& clock, TimerQueue& timers, const CmosRtcConfig& config)
      : state_(state), interrupt_(interrupt), clock_(clock), timers_(timers), config_(config) {}

  [[nodiscard]] std::string_view name() const override { return "cmos_rtc"; }
  [[nodiscard]] std::span<const RegionSpec> regions() const override;
  std::optional<std::uint64_t> read(const Access& access) override;
  bool write(const Access& access, std::uint64_t value) override;
  void reset() override;
  void restore() override;
  void on_timer(TimerId timer) override;
  void inspect(Inspector& inspector) const override;

 private:
  [[nodiscard]] std::uint8_t reg(std::uint8_t index) const { return state_->ram[index]; }
  [[nodiscard]] cmos_rtc::Format format() const;
  [[nodiscard]] bool divider_runs() const;
  [[nodiscard]] bool counting() const;  // the time bytes go on by themselves
  [[nodiscard]] std::int64_t tick() const;
  [[nodiscard]] std::int64_t ns_to_tick(std::int64_t ticks_ahead) const;
  [[nodiscard]] std::int64_t period_ns() const;
  [[nodiscard]] std::int64_t vm_now() const;
  [[nodiscard]] cmos_rtc::TimeRegisters stored_time() const;
  [[nodiscard]] cmos_rtc::TimeRegisters time() const;
  void store_time(const cmos_rtc::TimeRegisters& time);
  [[nodiscard]] std::optional<std::int64_t> ticks_to_alarm() const;
  [[nodiscard]] std::uint8_t flags() const;

  std::uint8_t read_register(std::uint8_t index);
  std::uint8_t read_reg_a() const;
  std::uint8_t read_reg_c();
  void write_register(std::uint8_t index, std::uint8_t value);
  void write_reg_a(std::uint8_t value);
  void write_reg_b(std::uint8_t value);

  void catch_up();
  void hold_time();
  void resume_time();
  void restart_periodic();
  void power_on();
  void describe_machine();
  void update_irq();
  void update_timers();

  Persistent<State> state_;
  IrqLine& interrupt_;
  Clock& clock_;
  TimerQueue& timers_;
  CmosRtcConfig config_;
};

}  // namespace bulkhead::devproc
