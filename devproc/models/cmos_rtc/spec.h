// The real-time clock and the bytes of CMOS memory that PC firmware reads.
//
// Documents: Motorola MC146818A data sheet ("Address map", "Registers", tables 3 to 6); IBM PC AT Technical
// Reference, "Real-time clock/CMOS RAM information"; for the bytes beyond, SeaBIOS src/hw/rtc.h, which is
// what reads them.
#pragma once

#include <cstdint>

namespace bulkhead::devproc::cmos_rtc {

// Ports 70h and 71h.
inline constexpr std::uint64_t kIndexPort = 0;  // write only: bits 0-6 index, bit 7 masks the NMI
inline constexpr std::uint64_t kDataPort = 1;
inline constexpr std::uint64_t kPorts = 2;
inline constexpr std::uint8_t kIndexMask = 0x7f;
inline constexpr std::uint8_t kNmiMask = 0x80;
inline constexpr std::uint32_t kCmosBytes = 128;

// Time, calendar and alarm.
inline constexpr std::uint8_t kSeconds = 0x00;
inline constexpr std::uint8_t kSecondsAlarm = 0x01;
inline constexpr std::uint8_t kMinutes = 0x02;
inline constexpr std::uint8_t kMinutesAlarm = 0x03;
inline constexpr std::uint8_t kHours = 0x04;
inline constexpr std::uint8_t kHoursAlarm = 0x05;
inline constexpr std::uint8_t kDayOfWeek = 0x06;  // 1 is Sunday
inline constexpr std::uint8_t kDayOfMonth = 0x07;
inline constexpr std::uint8_t kMonth = 0x08;
inline constexpr std::uint8_t kYear = 0x09;
inline constexpr std::uint8_t kCentury = 0x32;   // IBM PC AT; FADT.CENTURY
inline constexpr std::uint8_t kDontCare = 0xc0;  // an alarm byte with both bits set matches anything
inline constexpr std::uint8_t kHoursPm = 0x80;   // 12-hour mode

// Register A.
inline constexpr std::uint8_t kRegA = 0x0a;
inline constexpr std::uint8_t kUip = 0x80;          // update in progress, read only
inline constexpr std::uint8_t kDivider = 0x70;      // DV2-DV0
inline constexpr std::uint8_t kDividerRuns = 0x20;  // 010b: 32.768 kHz, the crystal of a PC
inline constexpr std::uint8_t kRate = 0x0f;         // RS3-RS0
inline constexpr std::uint8_t kRegAPowerOn = 0x26;  // divider runs, 1024 Hz

// Register B.
inline constexpr std::uint8_t kRegB = 0x0b;
inline constexpr std::uint8_t kSet = 0x80;
inline constexpr std::uint8_t kPie = 0x40;
inline constexpr std::uint8_t kAie = 0x20;
inline constexpr std::uint8_t kUie = 0x10;
inline constexpr std::uint8_t kSqwe = 0x08;
inline constexpr std::uint8_t kBinary = 0x04;  // DM
inline constexpr std::uint8_t k24Hours = 0x02;
inline constexpr std::uint8_t kRegBPowerOn = k24Hours;

// Register C: flags, in the places of their enable bits in register B. A read clears them.
inline constexpr std::uint8_t kRegC = 0x0c;
inline constexpr std::uint8_t kIrqf = 0x80;
inline constexpr std::uint8_t kPf = kPie;
inline constexpr std::uint8_t kAf = kAie;
inline constexpr std::uint8_t kUf = kUie;
inline constexpr std::uint8_t kFlags = kPf | kAf | kUf;

// Register D.
inline constexpr std::uint8_t kRegD = 0x0d;
inline constexpr std::uint8_t kVrt = 0x80;  // valid RAM and time: the battery is good

// CMOS memory.
inline constexpr std::uint8_t kShutdownStatus = 0x0f;
inline constexpr std::uint8_t kEquipment = 0x14;
inline constexpr std::uint8_t kEquipmentFpu = 0x02;
inline constexpr std::uint8_t kEquipmentMouse = 0x04;
inline constexpr std::uint8_t kBaseMemory = 0x15;      // 2 bytes, KiB
inline constexpr std::uint8_t kExtendedMemory = 0x17;  // 2 bytes, KiB above 1 MiB
inline constexpr std::uint8_t kChecksum = 0x2e;        // 2 bytes, high first: sum of 10h-2Dh
inline constexpr std::uint8_t kChecksumFirst = 0x10;
inline constexpr std::uint8_t kExtendedMemoryPost = 0x30;  // 2 bytes, as found by POST
inline constexpr std::uint8_t kMemoryAbove16M = 0x34;      // 2 bytes, 64 KiB
inline constexpr std::uint8_t kBootFlags1 = 0x38;          // bits 4-7: third boot device; bit 0: no floppy check
inline constexpr std::uint8_t kBootFlags2 = 0x3d;          // bits 0-3: first boot device; 4-7: second
inline constexpr std::uint8_t kBootDisk = 2;
inline constexpr std::uint8_t kBootCdrom = 3;
inline constexpr std::uint8_t kBootNetwork = 4;
inline constexpr std::uint8_t kMemoryAbove4G = 0x5b;  // 3 bytes, 64 KiB
inline constexpr std::uint8_t kCpus = 0x5f;           // number of CPUs - 1

// "UIP ... will be 1 for at least 244 us before" an update cycle, which itself takes 1984 us.
inline constexpr std::int64_t kUipNs = 244'000 + 1'984'000;

}  // namespace bulkhead::devproc::cmos_rtc
