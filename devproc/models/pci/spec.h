// PCI configuration: mechanism 1, the type 0 header and the capabilities that functions here have.
//
// Documents: PCI Local Bus Specification 3.0 (section 3.2.2.3.2: mechanism 1; chapter 6: configuration
// space; 6.7 and 6.8: capabilities, MSI, MSI-X), PCI Bus Power Management Interface Specification 1.2,
// chapter 3; Virtual I/O Device (VIRTIO) 1.2, section 4.1.4: struct virtio_pci_cap. The reset control register: 82371SB
// (PIIX3) data sheet, register RC.
#pragma once

#include <cstdint>

#include "ipc/roles/pci_decl.h"

namespace bulkhead::devproc::pci_spec {

// Ports, as offsets from CF8h.
inline constexpr std::uint32_t kConfigPorts = 8;   // length of the region
inline constexpr std::uint32_t kConfadd = 0;       // CF8h, dword accesses only
inline constexpr std::uint32_t kResetControl = 1;  // CF9h, byte accesses only
inline constexpr std::uint32_t kConfdata = 4;      // CFCh-CFFh

// CONFADD, configuration address register.
inline constexpr std::uint32_t kConfaddEnable = 1U << 31;
inline constexpr std::uint32_t kConfaddWritable = 0x80fffffc;

// RC, reset control register.
inline constexpr std::uint8_t kResetHard = 1U << 1;  // SRST: hard rather than soft reset
inline constexpr std::uint8_t kResetCpu = 1U << 2;   // RCPU: a rising edge resets

// Type 0 header.
inline constexpr std::uint8_t kVendorId = 0x00;
inline constexpr std::uint8_t kDeviceId = 0x02;
inline constexpr std::uint8_t kCommand = 0x04;
inline constexpr std::uint8_t kStatus = 0x06;
inline constexpr std::uint8_t kRevisionId = 0x08;
inline constexpr std::uint8_t kClassCode = 0x09;  // 3 bytes
inline constexpr std::uint8_t kCacheLineSize = 0x0c;
inline constexpr std::uint8_t kLatencyTimer = 0x0d;
inline constexpr std::uint8_t kHeaderType = 0x0e;
inline constexpr std::uint8_t kBar0 = 0x10;
inline constexpr std::uint8_t kSubsystemVendorId = 0x2c;
inline constexpr std::uint8_t kSubsystemId = 0x2e;
inline constexpr std::uint8_t kRomBase = 0x30;
inline constexpr std::uint8_t kCapabilities = 0x34;
inline constexpr std::uint8_t kInterruptLine = 0x3c;
inline constexpr std::uint8_t kInterruptPin = 0x3d;
inline constexpr std::uint8_t kDeviceSpecific = kPciCapabilitiesStart;

// Command register, section 6.2.2.
inline constexpr std::uint16_t kCommandIo = 1U << 0;
inline constexpr std::uint16_t kCommandMemory = 1U << 1;
inline constexpr std::uint16_t kCommandBusMaster = 1U << 2;
inline constexpr std::uint16_t kCommandParity = 1U << 6;
inline constexpr std::uint16_t kCommandSerr = 1U << 8;
inline constexpr std::uint16_t kCommandIntxDisable = 1U << 10;

// Status register, section 6.2.3.
inline constexpr std::uint16_t kStatusCapabilities = 1U << 4;
inline constexpr std::uint16_t kStatusFastBackToBack = 1U << 7;
inline constexpr std::uint16_t kStatusDevselMedium = 1U << 9;

inline constexpr std::uint8_t kHeaderMultiFunction = 0x80;

// Base address registers, section 6.2.5.
inline constexpr std::uint32_t kBarIo = 1U << 0;
inline constexpr std::uint32_t kBarMemory64 = 2U << 1;
inline constexpr std::uint32_t kBarPrefetchable = 1U << 3;
inline constexpr std::uint32_t kRomEnable = 1U << 0;

// Capability list: {id, next}.
inline constexpr std::uint8_t kCapIdPm = 0x01;
inline constexpr std::uint8_t kCapIdMsi = 0x05;
inline constexpr std::uint8_t kCapIdVendor = 0x09;
inline constexpr std::uint8_t kCapIdMsix = 0x11;

// Power management capability, offsets from its start.
inline constexpr std::uint8_t kPmCapabilities = 2;
inline constexpr std::uint8_t kPmControl = 4;  // PMCSR
inline constexpr std::uint8_t kPmLength = kPciPmLength;
inline constexpr std::uint16_t kPmVersion = 3;  // of the specification, 1.2
inline constexpr std::uint16_t kPmStateMask = 3;
inline constexpr std::uint16_t kPmStateD3hot = 3;
inline constexpr std::uint16_t kPmNoSoftReset = 1U << 3;

// MSI capability with 64-bit address and per-vector masking, section 6.8.1.
inline constexpr std::uint8_t kMsiControl = 2;
inline constexpr std::uint8_t kMsiAddress = 4;
inline constexpr std::uint8_t kMsiAddressHigh = 8;
inline constexpr std::uint8_t kMsiData = 12;
inline constexpr std::uint8_t kMsiMask = 16;
inline constexpr std::uint8_t kMsiPending = 20;
inline constexpr std::uint8_t kMsiLength = kPciMsiLength;
inline constexpr std::uint16_t kMsiEnable = 1U << 0;
inline constexpr unsigned kMsiCapableShift = 1;  // log2 of the vectors that the function asks for
inline constexpr unsigned kMsiEnabledShift = 4;  // log2 of the vectors that it was given
inline constexpr std::uint16_t kMsiLog2Mask = 7;
inline constexpr std::uint16_t kMsi64Bit = 1U << 7;
inline constexpr std::uint16_t kMsiMaskable = 1U << 8;

// MSI-X capability and table, section 6.8.2.
inline constexpr std::uint8_t kMsixControl = 2;
inline constexpr std::uint8_t kMsixTable = 4;
inline constexpr std::uint8_t kMsixPba = 8;
inline constexpr std::uint8_t kMsixLength = kPciMsixLength;
inline constexpr std::uint16_t kMsixFunctionMask = 1U << 14;
inline constexpr std::uint16_t kMsixEnable = 1U << 15;
inline constexpr std::uint32_t kMsixEntrySize = 16;
inline constexpr std::uint32_t kMsixVectorMask = 1U << 0;

// struct virtio_pci_cap, VIRTIO 1.2, section 4.1.4, offsets from its start.
inline constexpr std::uint8_t kVirtioCapLen = 2;
inline constexpr std::uint8_t kVirtioCfgType = 3;
inline constexpr std::uint8_t kVirtioBar = 4;
inline constexpr std::uint8_t kVirtioId = 5;
inline constexpr std::uint8_t kVirtioOffset = 8;
inline constexpr std::uint8_t kVirtioLength = 12;
inline constexpr std::uint8_t kVirtioNotifyOffMultiplier = 16;  // section 4.1.4.4
inline constexpr std::uint8_t kVirtioPciCfgData = 16;           // section 4.1.4.9

}  // namespace bulkhead::devproc::pci_spec
