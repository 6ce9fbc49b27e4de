// The registers beyond the standard header of the three chipset functions, as their data sheets list them.
//
// Documents: Intel 440FX PCIset, 82441FX PCI and memory controller (PMC), order 290549, section 3.2;
// 82371FB/82371SB (PIIX, PIIX3), order 290550, section 2.2; 82371AB (PIIX4), order 290562, section 7.1.
// Registers that no table names read zero and ignore writes.
#pragma once

#include <cstdint>

#include "ipc/roles/pci_decl.h"

namespace bulkhead::devproc::chipset_spec {

struct Register {
  const char* name;
  std::uint8_t offset;
  std::uint8_t size;       // bytes
  std::uint32_t reset;     // value after RESET#
  std::uint32_t writable;  // bits that software can change
};

inline constexpr PciDecl kHostBridge{
    .vendor_id = 0x8086, .device_id = 0x1237, .revision_id = 0x02, .class_code = 0x060000};
inline constexpr PciDecl kIsaBridge{
    .vendor_id = 0x8086, .device_id = 0x7000, .class_code = 0x060100, .multi_function = true};
// Revision 3 is the 82371MB (PIIX4M) stepping: the one without the errata that Linux works around.
inline constexpr PciDecl kPm{
    .vendor_id = 0x8086, .device_id = 0x7113, .revision_id = 0x03, .class_code = 0x068000, .interrupt_pin = 1};

// Host bridge of a machine that firmware takes for QEMU's (qemu, docs/specs/pci-ids.rst: 1af4:1100).
inline constexpr std::uint16_t kVirtualSubsystemVendor = 0x1af4;
inline constexpr std::uint16_t kVirtualSubsystem = 0x1100;

// 82441FX PMC.
inline constexpr std::uint8_t kPam0 = 0x59;
inline constexpr std::uint8_t kPamCount = 7;
inline constexpr std::uint8_t kPam0Writable = 0x30;  // F0000h-FFFFFh in the high nibble alone
inline constexpr std::uint8_t kPamWritable = 0x33;   // two segments: read enable, write enable
inline constexpr std::uint8_t kSmram = 0x72;
inline constexpr std::uint8_t kSmramOpen = 1U << 6;    // D_OPEN
inline constexpr std::uint8_t kSmramClosed = 1U << 5;  // D_CLS
inline constexpr std::uint8_t kSmramLock = 1U << 4;    // D_LCK
inline constexpr std::uint8_t kTrc = 0x93;
inline constexpr std::uint8_t kTrcResetCpu = 1U << 2;  // RCPU: a rising edge resets
inline constexpr Register kHostBridgeRegisters[] = {
    {"PCICMD", 0x04, 2, 0x0006, 0x0142},  // SERRE, PERRE, MAE
    {"PCISTS", 0x06, 2, 0x0280, 0},
    {"MLT", 0x0d, 1, 0x00, 0xf8},
    {"PMCCFG", 0x50, 2, 0x0000, 0xc0f4},
    {"DETURBO", 0x52, 1, 0x00, 0xff},
    {"DBC", 0x53, 1, 0x80, 0xff},
    {"AXC", 0x54, 1, 0x00, 0x82},
    {"DRT", 0x55, 2, 0x0000, 0xffff},
    {"DRAMC", 0x57, 1, 0x01, 0x77},
    {"DRAMT", 0x58, 1, 0x10, 0x7f},
    {"PAM0", kPam0, 1, 0x00, kPam0Writable},
    {"PAM1", 0x5a, 1, 0x00, kPamWritable},
    {"PAM2", 0x5b, 1, 0x00, kPamWritable},
    {"PAM3", 0x5c, 1, 0x00, kPamWritable},
    {"PAM4", 0x5d, 1, 0x00, kPamWritable},
    {"PAM5", 0x5e, 1, 0x00, kPamWritable},
    {"PAM6", 0x5f, 1, 0x00, kPamWritable},
    {"DRB0-3", 0x60, 4, 0x01010101, 0xffffffff},
    {"DRB4-7", 0x64, 4, 0x01010101, 0xffffffff},
    {"FDHC", 0x68, 1, 0x00, 0xc0},
    {"MTT", 0x70, 1, 0x00, 0xf8},
    {"CLT", 0x71, 1, 0x10, 0x1f},
    {"SMRAM", kSmram, 1, 0x02, 0x78},
    {"ERRCMD", 0x90, 1, 0x00, 0x1b},
    {"ERRSTS", 0x91, 1, 0x00, 0},
    {"TRC", kTrc, 1, 0x00, 0x0f},
};

// 82371SB PIIX3, function 0.
inline constexpr std::uint8_t kPirqrc = 0x60;            // PIRQRC[A]; B, C and D follow
inline constexpr std::uint8_t kPirqrcDisable = 1U << 7;  // IRQROUTEN, active low
inline constexpr std::uint8_t kPirqrcIrq = 0x0f;
inline constexpr std::uint16_t kPirqrcIrqs = 0xdef8;  // 3-7, 9-12, 14, 15; the others are reserved
inline constexpr Register kIsaBridgeRegisters[] = {
    {"PCICMD", 0x04, 2, 0x0007, 0x0008},  // SCE; IO, memory and master are always on
    {"PCISTS", 0x06, 2, 0x0200, 0},           {"IORT", 0x4c, 1, 0x4d, 0xff},
    {"XBCS", 0x4e, 2, 0x0003, 0x01ff},        {"PIRQRCA", kPirqrc, 1, 0x80, 0x8f},
    {"PIRQRCB", 0x61, 1, 0x80, 0x8f},         {"PIRQRCC", 0x62, 1, 0x80, 0x8f},
    {"PIRQRCD", 0x63, 1, 0x80, 0x8f},         {"TOM", 0x69, 1, 0x02, 0xfe},
    {"MSTAT", 0x6a, 2, 0x0000, 0x00c1},  // USBE stays 0: function 2 is not fitted
    {"MBIRQ0", 0x70, 1, 0x80, 0xef},          {"MBDMA0", 0x76, 1, 0x04, 0x87},
    {"MBDMA1", 0x77, 1, 0x04, 0x87},          {"PCSC", 0x78, 2, 0x0002, 0xffff},
    {"APICBASE", 0x80, 1, 0x00, 0x7f},        {"DLC", 0x82, 1, 0x00, 0x0f},
    {"SMICNTL", 0xa0, 1, 0x08, 0x1f},         {"SMIEN", 0xa2, 2, 0x0000, 0x01ff},
    {"SEE", 0xa4, 4, 0x00000000, 0xeffffffb}, {"FTMR", 0xa8, 1, 0x0f, 0xff},
    {"SMIREQ", 0xaa, 2, 0x0000, 0},           {"CTLTMR", 0xac, 1, 0x00, 0xff},
    {"CTHTMR", 0xae, 1, 0x00, 0xff},
};

// 82371AB PIIX4, function 3.
inline constexpr std::uint8_t kPmba = 0x40;
inline constexpr std::uint32_t kPmbaBase = 0xffc0;
inline constexpr std::uint8_t kPmregmisc = 0x80;
inline constexpr std::uint8_t kPmiose = 1U << 0;  // the window at PMBA decodes
inline constexpr Register kPmRegisters[] = {
    {"PCICMD", 0x04, 2, 0x0000, 0x0009},  // SCE; IOSE, which gates the SMBus block alone
    {"PCISTS", 0x06, 2, 0x0280, 0},
    {"INTLN", 0x3c, 1, 0x00, 0xff},
    {"PMBA", kPmba, 4, 0x00000001, 0x0000ffc0},
    {"CNTA", 0x44, 4, 0, 0xffffffff},
    {"CNTB", 0x48, 4, 0, 0x0173ffff},
    {"GPICTL", 0x4c, 4, 0, 0x0fffffff},
    {"DEVRESD", 0x50, 4, 0, 0x007f583f},
    {"DEVACTA", 0x54, 4, 0, 0xffffffff},
    {"DEVACTB", 0x58, 4, 0x02000000, 0x03ffff77},  // APMC_EN reads 1: this machine has no SMM (MACHINE.md)
    {"DEVRESA", 0x5c, 4, 0, 0xffffffff},
    {"DEVRESB", 0x60, 4, 0, 0xf7ffffff},
    {"DEVRESC", 0x64, 4, 0, 0xffefffff},
    {"DEVRESE", 0x68, 4, 0, 0x001fffff},
    {"DEVRESF", 0x6c, 4, 0, 0xffff80ff},
    {"DEVRESG", 0x70, 4, 0, 0x001fffff},
    {"DEVRESH", 0x74, 4, 0, 0xff0080ff},
    {"DEVRESI", 0x78, 4, 0, 0x001fffff},
    {"DEVRESJ", 0x7c, 4, 0, 0x001fffff},
    {"PMREGMISC", kPmregmisc, 1, 0x00, 0x01},
    {"SMBBA", 0x90, 4, 0x00000001, 0x0000fff0},
    {"SMBHSTCFG", 0xd2, 1, 0x00, 0x0f},
    {"SMBSLVC", 0xd3, 1, 0x00, 0xff},
    {"SMBSHDW1", 0xd4, 1, 0x00, 0xff},
    {"SMBSHDW2", 0xd5, 1, 0x00, 0xff},
};

}  // namespace bulkhead::devproc::chipset_spec
