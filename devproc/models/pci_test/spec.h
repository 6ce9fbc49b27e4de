// Registers of the PCI test function. This file is its data sheet.
//
// All values are little-endian. An access within one aligned quadword (BAR 0) or dword (BAR 2) reads the
// bytes of every register that it touches, in ascending order, each register's side effect once. A write
// narrower than a register leaves the other bytes of a read-write register as they were; to write-only and
// write-1-to-clear registers they count as 0. An access beyond that, or to none of these registers, finds
// no register: it reads all ones, and a write is dropped.
#pragma once

#include <cstdint>

namespace bulkhead::devproc::pci_test_spec {

// BAR 0: registers, 4 KiB, not posted; 1, 2, 4 and 8 bytes wide accesses.
inline constexpr std::uint32_t kId = 0x000;             // RO, kIdValue
inline constexpr std::uint32_t kVersion = 0x004;        // RO, 1
inline constexpr std::uint32_t kCounter = 0x008;        // RW; a read returns it and then adds 1
inline constexpr std::uint32_t kAccesses = 0x00c;       // RO, accesses to all BARs so far, but for the log's
inline constexpr std::uint32_t kLastPosted = 0x010;     // RO 64, value of the last write to BAR 1
inline constexpr std::uint32_t kPostedCount = 0x018;    // RO, writes to BAR 1
inline constexpr std::uint32_t kPostedWhere = 0x01c;    // RO, the last one's size << 16 | offset
inline constexpr std::uint32_t kIntStatus = 0x020;      // W1C; INTx is asserted while status & ~mask is not 0
inline constexpr std::uint32_t kIntMask = 0x024;        // RW, 1 = masked
inline constexpr std::uint32_t kIntRaise = 0x028;       // WO, sets bits of kIntStatus
inline constexpr std::uint32_t kMsiSend = 0x02c;        // WO, sends the vector of that number
inline constexpr std::uint32_t kDmaSource = 0x030;      // RW 64, guest-physical
inline constexpr std::uint32_t kDmaTarget = 0x038;      // RW 64, guest-physical
inline constexpr std::uint32_t kDmaLength = 0x040;      // RW, bytes, 1 to kDmaMaxLength
inline constexpr std::uint32_t kDmaCommand = 0x044;     // WO, kDmaCopy and what follows it
inline constexpr std::uint32_t kDmaStatus = 0x048;      // RO, DmaStatus of the last copy
inline constexpr std::uint32_t kDmaCount = 0x04c;       // RO, copies done
inline constexpr std::uint32_t kTime = 0x050;           // RO 64; reading the low dword takes VM time, ns
inline constexpr std::uint32_t kLastTime = 0x058;       // RO 64, the time last taken
inline constexpr std::uint32_t kTimerDelay = 0x060;     // RW, ns; a write arms the timer, 0 cancels it
inline constexpr std::uint32_t kTimerAction = 0x064;    // RW, kTimerMessage | vector: send that one too
inline constexpr std::uint32_t kTimerDeadline = 0x068;  // RO 64, VM time; 0: not armed
inline constexpr std::uint32_t kTimerFired = 0x070;     // RO, count
inline constexpr std::uint32_t kMessagesSent = 0x074;   // RO, MSI and MSI-X messages sent
inline constexpr std::uint32_t kControl = 0x078;        // RO, FunctionControl bits as last told
inline constexpr std::uint32_t kLogControl = 0x080;     // RW, bit 0: record accesses; 1 after reset
inline constexpr std::uint32_t kLogCount = 0x084;       // RO, entries ever recorded
inline constexpr std::uint32_t kScratch = 0x100;        // RW, 16 dwords
inline constexpr std::uint32_t kScratchCount = 16;
inline constexpr std::uint32_t kLog = 0x400;  // RO, ring of the last 64 accesses: entry n at n mod 64
inline constexpr std::uint32_t kLogEntries = 64;
inline constexpr std::uint32_t kLogEntrySize = 16;  // {what, offset, value (64 bits)}

inline constexpr std::uint32_t kIdValue = 0xb41cbeef;
inline constexpr std::uint32_t kVersionValue = 1;

// kIntStatus bits that the function sets by itself; all others are for kIntRaise.
inline constexpr std::uint32_t kIntDma = 1U << 0;
inline constexpr std::uint32_t kIntTimer = 1U << 1;

// kDmaCommand. A copy needs bus mastering; source and target must not overlap, so that a copy that is done
// twice leaves what one does.
inline constexpr std::uint32_t kDmaCopy = 1U << 0;
inline constexpr std::uint32_t kDmaThenInterrupt = 1U << 1;  // kIntDma when done
inline constexpr std::uint32_t kDmaThenMessage = 1U << 2;    // vector 0 when done
inline constexpr std::uint32_t kDmaMaxLength = 64 * 1024;
enum DmaStatus : std::uint32_t {
  kDmaIdle = 0,
  kDmaDone = 1,
  kDmaFault = 2,        // an address outside RAM; bytes before it may have been copied
  kDmaNoBusMaster = 3,  // bus mastering is off, or the function is in D3hot
  kDmaBadLength = 4,
  kDmaOverlap = 5,
};

inline constexpr std::uint32_t kTimerMessage = 1U << 31;
inline constexpr std::uint32_t kTimerVector = 0xff;

// A log entry's first dword: size | kLogWrite | region << 16.
inline constexpr std::uint32_t kLogSize = 0xff;
inline constexpr std::uint32_t kLogWrite = 1U << 8;
inline constexpr unsigned kLogRegionShift = 16;

// BAR 1: doorbells, 4 KiB, posted; every offset and width. Each write is counted and remembered; some
// offsets do more. A read of any of them returns the low bytes of kPostedCount.
inline constexpr std::uint32_t kDoorbellRaise = 0x800;  // sets bits of kIntStatus
inline constexpr std::uint32_t kDoorbellMsi = 0x804;    // sends the vector of that number

// BAR 2: ports, 64 bytes; 1, 2 and 4 bytes wide accesses.
inline constexpr std::uint32_t kPortScratch = 0x00;  // RW, 8 dwords
inline constexpr std::uint32_t kPortScratchCount = 8;
inline constexpr std::uint32_t kPortCounter = 0x20;     // RW; a read returns it and then adds 1
inline constexpr std::uint32_t kPortStream = 0x24;      // at this offset only: a read takes the next bytes of
                                                        // 0, 1, 2 ... 255, 0 ...; a write adds its bytes
inline constexpr std::uint32_t kPortStreamIn = 0x28;    // RO, bytes read
inline constexpr std::uint32_t kPortStreamOut = 0x2c;   // RO, bytes written
inline constexpr std::uint32_t kPortStreamHash = 0x30;  // RO, 32-bit FNV-1a of the bytes written
inline constexpr std::uint32_t kPortRaise = 0x34;       // WO, sets bits of kIntStatus
inline constexpr std::uint32_t kPortMsi = 0x38;         // WO, sends the vector of that number
inline constexpr std::uint32_t kPortId = 0x3c;          // RO, kIdValue

inline constexpr std::uint32_t kFnvBasis = 0x811c9dc5;
inline constexpr std::uint32_t kFnvPrime = 0x01000193;

}  // namespace bulkhead::devproc::pci_test_spec
