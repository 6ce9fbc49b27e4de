// Registers of the 16550A, by their names in the PC16550D data sheet (National Semiconductor, June 1995),
// section 8.0, table II; each group names its own section.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bulkhead::devproc::uart16550 {

// Offsets (A2-A0).
inline constexpr std::uint64_t kRbr = 0;  // receiver buffer: read, DLAB = 0
inline constexpr std::uint64_t kThr = 0;  // transmitter holding: write, DLAB = 0
inline constexpr std::uint64_t kIer = 1;  // interrupt enable: DLAB = 0
inline constexpr std::uint64_t kIir = 2;  // interrupt identification: read
inline constexpr std::uint64_t kFcr = 2;  // FIFO control: write
inline constexpr std::uint64_t kLcr = 3;  // line control
inline constexpr std::uint64_t kMcr = 4;  // modem control
inline constexpr std::uint64_t kLsr = 5;  // line status
inline constexpr std::uint64_t kMsr = 6;  // modem status
inline constexpr std::uint64_t kScr = 7;  // scratch
inline constexpr std::uint64_t kDll = 0;  // divisor latch, low byte: DLAB = 1
inline constexpr std::uint64_t kDlm = 1;  // divisor latch, high byte: DLAB = 1
inline constexpr std::uint64_t kPorts = 8;

inline constexpr std::size_t kFifoDepth = 16;

// IER, section 8.7.
inline constexpr std::uint8_t kIerErbfi = 1U << 0;  // received data available (and character timeout)
inline constexpr std::uint8_t kIerEtbei = 1U << 1;  // transmitter holding register empty
inline constexpr std::uint8_t kIerElsi = 1U << 2;   // receiver line status
inline constexpr std::uint8_t kIerEdssi = 1U << 3;  // modem status
inline constexpr std::uint8_t kIerMask = 0x0f;      // "bits 4 through 7: always logic 0"

// IIR, section 8.6, table IV: highest priority first.
inline constexpr std::uint8_t kIirNone = 0x01;           // bit 0: "0 if interrupt pending"
inline constexpr std::uint8_t kIirLineStatus = 0x06;     // priority 1
inline constexpr std::uint8_t kIirDataAvailable = 0x04;  // priority 2
inline constexpr std::uint8_t kIirTimeout = 0x0c;        // priority 2, FIFO mode only
inline constexpr std::uint8_t kIirThrEmpty = 0x02;       // priority 3
inline constexpr std::uint8_t kIirModemStatus = 0x00;    // priority 4
inline constexpr std::uint8_t kIirFifosEnabled = 0xc0;   // "set when FCR0 = 1"

// FCR, section 8.5.
inline constexpr std::uint8_t kFcrEnable = 1U << 0;
inline constexpr std::uint8_t kFcrResetRx = 1U << 1;  // clears itself
inline constexpr std::uint8_t kFcrResetTx = 1U << 2;  // clears itself
inline constexpr std::uint8_t kFcrTrigger = 0xc0;
inline constexpr std::uint8_t kFcrKept = kFcrEnable | kFcrTrigger;
inline constexpr unsigned kFcrTriggerShift = 6;
inline constexpr std::uint8_t kTriggerLevels[4] = {1, 4, 8, 14};

// LCR, section 8.1.
inline constexpr std::uint8_t kLcrDlab = 1U << 7;

// MCR, section 8.8.
inline constexpr std::uint8_t kMcrDtr = 1U << 0;
inline constexpr std::uint8_t kMcrRts = 1U << 1;
inline constexpr std::uint8_t kMcrOut1 = 1U << 2;
inline constexpr std::uint8_t kMcrOut2 = 1U << 3;
inline constexpr std::uint8_t kMcrLoop = 1U << 4;
inline constexpr std::uint8_t kMcrMask = 0x1f;

// LSR, section 8.4.
inline constexpr std::uint8_t kLsrDr = 1U << 0;
inline constexpr std::uint8_t kLsrOe = 1U << 1;
inline constexpr std::uint8_t kLsrThre = 1U << 5;
inline constexpr std::uint8_t kLsrTemt = 1U << 6;

// MSR, section 8.9.
inline constexpr std::uint8_t kMsrDcts = 1U << 0;
inline constexpr std::uint8_t kMsrDdsr = 1U << 1;
inline constexpr std::uint8_t kMsrTeri = 1U << 2;
inline constexpr std::uint8_t kMsrDdcd = 1U << 3;
inline constexpr std::uint8_t kMsrDelta = 0x0f;
inline constexpr std::uint8_t kMsrCts = 1U << 4;
inline constexpr std::uint8_t kMsrDsr = 1U << 5;
inline constexpr std::uint8_t kMsrRi = 1U << 6;
inline constexpr std::uint8_t kMsrDcd = 1U << 7;

// What firmware would have left: 9600 baud of the PC's 1.8432 MHz crystal. The data sheet leaves the latch
// undefined after reset; Linux divides by what it finds there when a console has no speed given.
inline constexpr std::uint16_t kPowerOnDivisor = 12;

}  // namespace bulkhead::devproc::uart16550
