// AcpiPm: the ACPI fixed hardware: power button, soft off, PM timer, SCI; GPE0; the APM ports.
//
// Chip:        Intel 82371AB (PIIX4), function 3, I/O side; its config space lives in the `pci` process
// Document:    82371AB data sheet, Power Management I/O registers; ACPI 1.0, sections 4.7.3 and 4.7.4
// Implemented: PM1 status, enable and control; the 24-bit PM timer and its overflow; power button; soft
//              off (SLP_TYP 0); GPE0 status and enable; APMC and APMS; F1h/F0h at B2h set and clear
//              SCI_EN
// Missing:     SMIs (no SMM here, so writes to APMC and GBL_RLS raise none); sleep states but S5
//              (SLP_EN with another type is ignored); C2 and C3 (PLVL2, PLVL3 read 0 and do nothing);
//              PIIX4's own device monitors. Those registers read as after reset and take no writes. No
//              GPE source exists yet.
// PM timer:    counts VM time, so it stands while the VM does, and needs no state: a read is one
//              multiply and one divide. TMR_STS follows from the time too; a host timer runs only while
//              TMR_EN is set.
// Ignored:     reserved bits, read as 0
// Wires:       line 0: SCI, level; no stream; timer 0: the PM timer's next overflow
// Threading:   single-threaded
// Trust:       guest: any access
// Config:      {"acpi_pm", AcpiPmConfig{.sci_enabled = true}}; regions at PMBASE, AFE0h and B2h
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
#include "devproc/models/acpi_pm/spec.h"
#include "ipc/roles/device_config.h"

namespace bulkhead::devproc {

struct AcpiPmState {
  std::uint64_t overflows_seen = 0;  // half periods of the PM timer that TMR_STS has answered for
  std::uint16_t pm1_sts = 0;         // TMR_STS may be set by the time alone: see sts()
  std::uint16_t pm1_en = 0;
  std::uint16_t pm1_cnt = 0;
  std::uint16_t gpe0_sts = 0;
  std::uint16_t gpe0_en = 0;
  std::uint8_t apmc = 0;
  std::uint8_t apms = 0;
  std::uint32_t unused = 0;

  bool operator==(const AcpiPmState&) const = default;
};
static_assert(std::has_unique_object_representations_v<AcpiPmState>, "no hidden padding");

class AcpiPm final : public Device {
 public:
  using State = AcpiPmState;
  static constexpr std::uint32_t kStateVersion = 1;
  static constexpr std::uint16_t kLines = 1;  // SCI
  static constexpr std::uint16_t kStreams = 0;
  static constexpr std::uint16_t kTimers = 1;  // kTimerOverflow
  static constexpr TimerId kTimerOverflow = 0;

  enum Region : RegionIndex { kPm, kGpe0, kApm };

  AcpiPm(Persistent<State> state, IrqLine& sci, Clock& clock, TimerQueue& timers, EffectSink& effects,
         const AcpiPmConfig& config)
      : state_(state), sci_(sci), clock_(clock), timers_(timers), effects_(effects), config_(config) {}

  [[nodiscard]] std::string_view name() const override { return "acpi_pm"; }
  [[nodiscard]] std::span<const RegionSpec> regions() const override;
  std::optional<std::uint64_t> read(const Access& access) override;
  bool write(const Access& access, std::uint64_t value) override;
  void reset() override;
  void restore() override;
  void on_timer(TimerId timer) override;
  void on_power_button() override;
  void inspect(Inspector& inspector) const override;

 private:
  [[nodiscard]] std::uint64_t ticks() const;
  [[nodiscard]] std::uint64_t overflows() const { return ticks() >> acpi_pm::kPmTimerTopBit; }
  [[nodiscard]] std::uint16_t sts() const;
  [[nodiscard]] std::uint8_t pm_byte(std::uint64_t offset) const;
  [[nodiscard]] std::uint8_t byte(RegionIndex region, std::uint64_t offset) const;
  void write_byte(RegionIndex region, std::uint64_t offset, std::uint8_t value);
  void write_pm(std::uint64_t offset, std::uint8_t value);
  void write_gpe0(std::uint64_t offset, std::uint8_t value);
  void write_apm(std::uint64_t offset, std::uint8_t value);
  void write_control(std::uint16_t value);
  void update_irq();

  Persistent<State> state_;
  IrqLine& sci_;
  Clock& clock_;
  TimerQueue& timers_;
  EffectSink& effects_;
  AcpiPmConfig config_;
};

}  // namespace bulkhead::devproc
