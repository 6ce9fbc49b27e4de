// Power management registers of the PC: the PM block of Intel's 82371AB (PIIX4), a GPE block, and the APM
// ports.
//
// Documents: 82371AB data sheet (Intel 290562), "Power Management I/O registers" (function 3, offsets from
// PMBA) and "APM registers"; ACPI specification 1.0, section 4.7.3 (fixed feature registers) and 4.7.4.3
// (general-purpose events). PIIX4 and ACPI name the same bits; the ACPI names are used, PIIX4's follow.
#pragma once

#include <cstdint>

namespace bulkhead::devproc::acpi_pm {

// Offsets in the PM block.
inline constexpr std::uint64_t kPm1Sts = 0x00;  // PMSTS, 16 bits, a 1 clears
inline constexpr std::uint64_t kPm1En = 0x02;   // PMEN, 16 bits
inline constexpr std::uint64_t kPm1Cnt = 0x04;  // PMCNTRL, 16 bits
inline constexpr std::uint64_t kPmTmr = 0x08;   // PMTMR, 32 bits, read only
inline constexpr std::uint64_t kPmPorts = 0x40;

// Registers 0Ch-33h (GPSTS, GPEN, PCNTRL, PLVL2, PLVL3, GLBSTS, DEVSTS, GLBEN, GLBCTL, DEVCTL, GPIREG) read
// as 0 after reset. GPOREG, 34h-37h, does not.
inline constexpr std::uint64_t kGpoReg = 0x34;
inline constexpr std::uint32_t kGpoRegDefault = 0x7fffbfff;

// PM1_STS and PM1_EN, ACPI 4.7.3.1.
inline constexpr std::uint16_t kTmrSts = 1U << 0;     // TMROF_STS
inline constexpr std::uint16_t kBmSts = 1U << 4;      // BM_STS
inline constexpr std::uint16_t kGblSts = 1U << 5;     // GBL_STS
inline constexpr std::uint16_t kPwrbtnSts = 1U << 8;  // PWRBTN_STS
inline constexpr std::uint16_t kRtcSts = 1U << 10;    // RTC_STS
inline constexpr std::uint16_t kWakSts = 1U << 15;    // RSM_STS
inline constexpr std::uint16_t kPm1StsMask = kTmrSts | kBmSts | kGblSts | kPwrbtnSts | kRtcSts | kWakSts;
inline constexpr std::uint16_t kPm1EnMask = kTmrSts | kGblSts | kPwrbtnSts | kRtcSts;

// PM1_CNT, ACPI 4.7.3.2.
inline constexpr std::uint16_t kSciEn = 1U << 0;
inline constexpr std::uint16_t kBmRld = 1U << 1;
inline constexpr std::uint16_t kGblRls = 1U << 2;   // write only: raises an SMI
inline constexpr std::uint16_t kSlpTyp = 7U << 10;  // SUS_TYP
inline constexpr std::uint16_t kSlpEn = 1U << 13;   // SUS_EN, write only
inline constexpr std::uint16_t kPm1CntKept = kSciEn | kBmRld | kSlpTyp;
// SUS_TYP 000b: "Soft Off or Suspend to Disk". _S5 of the DSDT says the same.
inline constexpr std::uint16_t kSlpTypSoftOff = 0;

// PM_TMR, ACPI 4.7.3.3: 24 bits at 3.579545 MHz; TMR_STS "is set anytime the last bit of the timer (bit 23)
// goes from HIGH to LOW or LOW to HIGH".
inline constexpr std::int64_t kPmTimerHz = 3'579'545;
inline constexpr std::uint32_t kPmTimerMask = 0xffffff;
inline constexpr unsigned kPmTimerTopBit = 23;

// GPE0 block: 16 status bits (a 1 clears), then 16 enable bits.
inline constexpr std::uint64_t kGpe0Sts = 0;
inline constexpr std::uint64_t kGpe0En = 2;
inline constexpr std::uint64_t kGpe0Ports = 4;

// APM ports B2h and B3h.
inline constexpr std::uint64_t kApmc = 0;
inline constexpr std::uint64_t kApms = 1;
inline constexpr std::uint64_t kApmPorts = 2;
inline constexpr std::uint8_t kAcpiEnable = 0xf1;   // FADT.ACPI_ENABLE
inline constexpr std::uint8_t kAcpiDisable = 0xf0;  // FADT.ACPI_DISABLE

}  // namespace bulkhead::devproc::acpi_pm
