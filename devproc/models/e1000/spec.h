// Registers, descriptors, EEPROM and PHY of the 82540EM, under the names of its manual.
//
// Document: PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual, 317453 ("SDM"): chapter 13
// (registers), 3 (descriptors), 5 (EEPROM), 13.4.3 (EECD), 13.5 (statistics). PHY: Marvell 88E1011, as the SDM's
// chapter 13 has it under MDI control. Registers are 32 bits wide, little-endian; descriptors are 16 bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace bulkhead::devproc::e1000_spec {

// ---- Registers, by offset in BAR 0 ----

inline constexpr std::uint32_t kCtrl = 0x0000;
inline constexpr std::uint32_t kCtrlDup = 0x0004;  // the same register
inline constexpr std::uint32_t kStatus = 0x0008;
inline constexpr std::uint32_t kEecd = 0x0010;
inline constexpr std::uint32_t kEerd = 0x0014;
inline constexpr std::uint32_t kCtrlExt = 0x0018;
inline constexpr std::uint32_t kFla = 0x001c;
inline constexpr std::uint32_t kMdic = 0x0020;
inline constexpr std::uint32_t kFcal = 0x0028;
inline constexpr std::uint32_t kFcah = 0x002c;
inline constexpr std::uint32_t kFct = 0x0030;
inline constexpr std::uint32_t kVet = 0x0038;
inline constexpr std::uint32_t kIcr = 0x00c0;
inline constexpr std::uint32_t kItr = 0x00c4;
inline constexpr std::uint32_t kIcs = 0x00c8;
inline constexpr std::uint32_t kIms = 0x00d0;
inline constexpr std::uint32_t kImc = 0x00d8;
inline constexpr std::uint32_t kRctl = 0x0100;
inline constexpr std::uint32_t kFcttv = 0x0170;
inline constexpr std::uint32_t kTxcw = 0x0178;
inline constexpr std::uint32_t kRxcw = 0x0180;
inline constexpr std::uint32_t kTctl = 0x0400;
inline constexpr std::uint32_t kTipg = 0x0410;
inline constexpr std::uint32_t kAit = 0x0458;
inline constexpr std::uint32_t kLedctl = 0x0e00;
inline constexpr std::uint32_t kPba = 0x1000;
inline constexpr std::uint32_t kFcrtl = 0x2160;
inline constexpr std::uint32_t kFcrth = 0x2168;
inline constexpr std::uint32_t kRdfh = 0x2410;
inline constexpr std::uint32_t kRdft = 0x2418;
inline constexpr std::uint32_t kRdfhs = 0x2420;
inline constexpr std::uint32_t kRdfts = 0x2428;
inline constexpr std::uint32_t kRdfpc = 0x2430;
inline constexpr std::uint32_t kRdbal = 0x2800;
inline constexpr std::uint32_t kRdbah = 0x2804;
inline constexpr std::uint32_t kRdlen = 0x2808;
inline constexpr std::uint32_t kRdh = 0x2810;
inline constexpr std::uint32_t kRdt = 0x2818;
inline constexpr std::uint32_t kRdtr = 0x2820;
inline constexpr std::uint32_t kRxdctl = 0x2828;
inline constexpr std::uint32_t kRadv = 0x282c;
inline constexpr std::uint32_t kRsrpd = 0x2c00;
inline constexpr std::uint32_t kTxdmac = 0x3000;
inline constexpr std::uint32_t kTdfh = 0x3410;
inline constexpr std::uint32_t kTdft = 0x3418;
inline constexpr std::uint32_t kTdfhs = 0x3420;
inline constexpr std::uint32_t kTdfts = 0x3428;
inline constexpr std::uint32_t kTdfpc = 0x3430;
inline constexpr std::uint32_t kTdbal = 0x3800;
inline constexpr std::uint32_t kTdbah = 0x3804;
inline constexpr std::uint32_t kTdlen = 0x3808;
inline constexpr std::uint32_t kTdh = 0x3810;
inline constexpr std::uint32_t kTdt = 0x3818;
inline constexpr std::uint32_t kTidv = 0x3820;
inline constexpr std::uint32_t kTxdctl = 0x3828;
inline constexpr std::uint32_t kTadv = 0x382c;
inline constexpr std::uint32_t kTspmt = 0x3830;
inline constexpr std::uint32_t kStatistics = 0x4000;  // to 40ffh
inline constexpr std::uint32_t kRxcsum = 0x5000;
inline constexpr std::uint32_t kMta = 0x5200;   // 128 dwords
inline constexpr std::uint32_t kRa = 0x5400;    // 16 pairs RAL, RAH
inline constexpr std::uint32_t kVfta = 0x5600;  // 128 dwords
inline constexpr std::uint32_t kWuc = 0x5800;
inline constexpr std::uint32_t kWufc = 0x5808;
inline constexpr std::uint32_t kWus = 0x5810;
inline constexpr std::uint32_t kManc = 0x5820;
inline constexpr std::uint32_t kIpav = 0x5838;
inline constexpr std::uint32_t kWupl = 0x5900;

inline constexpr std::uint32_t kMtaSize = 128;
inline constexpr std::uint32_t kVftaSize = 128;
inline constexpr std::uint32_t kReceiveAddresses = 16;

// BAR 2 (section 13.2.2): a window to the registers.
inline constexpr std::uint32_t kIoAddr = 0;
inline constexpr std::uint32_t kIoData = 4;

// CTRL (13.4.1).
inline constexpr std::uint32_t kCtrlFd = 1U << 0;
inline constexpr std::uint32_t kCtrlLrst = 1U << 3;
inline constexpr std::uint32_t kCtrlAsde = 1U << 5;
inline constexpr std::uint32_t kCtrlSlu = 1U << 6;
inline constexpr unsigned kCtrlSpeedShift = 8;  // 2 bits: 10, 100, 1000 Mbit/s
inline constexpr std::uint32_t kCtrlFrcspd = 1U << 11;
inline constexpr std::uint32_t kCtrlFrcdplx = 1U << 12;
inline constexpr std::uint32_t kCtrlRst = 1U << 26;  // clears itself
inline constexpr std::uint32_t kCtrlRfce = 1U << 27;
inline constexpr std::uint32_t kCtrlTfce = 1U << 28;
inline constexpr std::uint32_t kCtrlVme = 1U << 30;
inline constexpr std::uint32_t kCtrlPhyRst = 1U << 31;

// STATUS (13.4.2).
inline constexpr std::uint32_t kStatusFd = 1U << 0;
inline constexpr std::uint32_t kStatusLu = 1U << 1;
inline constexpr std::uint32_t kStatusTxoff = 1U << 4;  // transmission is paused
inline constexpr unsigned kStatusSpeedShift = 6;
inline constexpr unsigned kStatusAsdvShift = 8;

// EECD (13.4.3): the EEPROM's pins.
inline constexpr std::uint32_t kEecdSk = 1U << 0;
inline constexpr std::uint32_t kEecdCs = 1U << 1;
inline constexpr std::uint32_t kEecdDi = 1U << 2;
inline constexpr std::uint32_t kEecdDo = 1U << 3;
inline constexpr std::uint32_t kEecdFwe = 3U << 4;
inline constexpr std::uint32_t kEecdReq = 1U << 6;
inline constexpr std::uint32_t kEecdGnt = 1U << 7;
inline constexpr std::uint32_t kEecdPres = 1U << 8;

// EERD (13.4.4).
inline constexpr std::uint32_t kEerdStart = 1U << 0;
inline constexpr std::uint32_t kEerdDone = 1U << 4;
inline constexpr unsigned kEerdAddrShift = 8;
inline constexpr unsigned kEerdDataShift = 16;

// CTRL_EXT (13.4.5).
inline constexpr std::uint32_t kCtrlExtEeRst = 1U << 13;  // clears itself

// MDIC (13.4.6).
inline constexpr unsigned kMdicRegShift = 16;
inline constexpr unsigned kMdicPhyShift = 21;
inline constexpr std::uint32_t kMdicOpWrite = 1U << 26;
inline constexpr std::uint32_t kMdicOpRead = 2U << 26;
inline constexpr std::uint32_t kMdicReady = 1U << 28;
inline constexpr std::uint32_t kMdicInterrupt = 1U << 29;
inline constexpr std::uint32_t kMdicError = 1U << 30;
inline constexpr std::uint32_t kPhyAddress = 1;

// ICR and its kin (13.4.17).
inline constexpr std::uint32_t kIntTxdw = 1U << 0;
inline constexpr std::uint32_t kIntTxqe = 1U << 1;
inline constexpr std::uint32_t kIntLsc = 1U << 2;
inline constexpr std::uint32_t kIntRxdmt0 = 1U << 4;
inline constexpr std::uint32_t kIntRxo = 1U << 6;
inline constexpr std::uint32_t kIntRxt0 = 1U << 7;
inline constexpr std::uint32_t kIntMdac = 1U << 9;
inline constexpr std::uint32_t kIntPhy = 1U << 12;
inline constexpr std::uint32_t kIntTxdLow = 1U << 15;
inline constexpr std::uint32_t kIntSrpd = 1U << 16;
inline constexpr std::uint32_t kIntAll = 0x0001'f6df;

// ITR, RDTR, RADV, TIDV, TADV: 16 bits of these.
inline constexpr std::int64_t kItrUnitNs = 256;
inline constexpr std::int64_t kDelayUnitNs = 1024;
inline constexpr std::uint32_t kDelayMask = 0xffff;
inline constexpr std::uint32_t kRdtrFpd = 1U << 31;  // clears itself

// RCTL (13.4.22).
inline constexpr std::uint32_t kRctlEn = 1U << 1;
inline constexpr std::uint32_t kRctlSbp = 1U << 2;
inline constexpr std::uint32_t kRctlUpe = 1U << 3;
inline constexpr std::uint32_t kRctlMpe = 1U << 4;
inline constexpr std::uint32_t kRctlLpe = 1U << 5;
inline constexpr std::uint32_t kRctlLbm = 3U << 6;
inline constexpr unsigned kRctlRdmtsShift = 8;  // 2 bits: half, quarter, eighth
inline constexpr unsigned kRctlMoShift = 12;    // 2 bits
inline constexpr std::uint32_t kRctlBam = 1U << 15;
inline constexpr unsigned kRctlBsizeShift = 16;  // 2 bits
inline constexpr std::uint32_t kRctlVfe = 1U << 18;
inline constexpr std::uint32_t kRctlCfien = 1U << 19;
inline constexpr std::uint32_t kRctlCfi = 1U << 20;
inline constexpr std::uint32_t kRctlBsex = 1U << 25;
inline constexpr std::uint32_t kRctlSecrc = 1U << 26;
inline constexpr std::uint32_t kRctlMask = 0x06dfb3fe;

// TCTL (13.4.33).
inline constexpr std::uint32_t kTctlEn = 1U << 1;
inline constexpr std::uint32_t kTctlPsp = 1U << 3;

// RXCSUM (13.4.42).
inline constexpr std::uint32_t kRxcsumPcss = 0xff;
inline constexpr std::uint32_t kRxcsumIpofl = 1U << 8;
inline constexpr std::uint32_t kRxcsumTuofl = 1U << 9;

// RAH (13.5.3).
inline constexpr std::uint32_t kRahAs = 3U << 16;  // 0: destination, 1: source address
inline constexpr std::uint32_t kRahAv = 1U << 31;

// TXDCTL (13.4.43): when the number of descriptors left falls to 8 times this, ICR.TXD_LOW.
inline constexpr unsigned kTxdctlLwthreshShift = 25;

// ---- Statistics (13.7), by offset; read to clear ----

inline constexpr std::uint32_t kMpc = 0x4010;
inline constexpr std::uint32_t kPrc64 = 0x405c;  // ... PRC1522, by size
inline constexpr std::uint32_t kGprc = 0x4074;
inline constexpr std::uint32_t kBprc = 0x4078;
inline constexpr std::uint32_t kMprc = 0x407c;
inline constexpr std::uint32_t kGptc = 0x4080;
inline constexpr std::uint32_t kGorcl = 0x4088;
inline constexpr std::uint32_t kGotcl = 0x4090;
inline constexpr std::uint32_t kRnbc = 0x40a0;
inline constexpr std::uint32_t kRuc = 0x40a4;
inline constexpr std::uint32_t kRoc = 0x40ac;
inline constexpr std::uint32_t kTorl = 0x40c0;
inline constexpr std::uint32_t kTotl = 0x40c8;
inline constexpr std::uint32_t kTpr = 0x40d0;
inline constexpr std::uint32_t kTpt = 0x40d4;
inline constexpr std::uint32_t kPtc64 = 0x40d8;  // ... PTC1522, by size
inline constexpr std::uint32_t kMptc = 0x40f0;
inline constexpr std::uint32_t kBptc = 0x40f4;
inline constexpr std::uint32_t kTsctc = 0x40f8;
inline constexpr std::uint32_t kTsctfc = 0x40fc;
inline constexpr std::size_t kStatisticsCount = 64;

// ---- Descriptors: an address, then the quadword that the device writes back ----

struct Descriptor {
  std::uint64_t address = 0;
  std::uint64_t rest = 0;
};
static_assert(sizeof(Descriptor) == 16);

// Receive (3.2.3): length 15:0, packet checksum 31:16, status 39:32, errors 47:40, special 63:48.
inline constexpr std::uint8_t kRxDd = 1U << 0;
inline constexpr std::uint8_t kRxEop = 1U << 1;
inline constexpr std::uint8_t kRxIxsm = 1U << 2;
inline constexpr std::uint8_t kRxVp = 1U << 3;
inline constexpr std::uint8_t kRxTcpcs = 1U << 5;
inline constexpr std::uint8_t kRxIpcs = 1U << 6;
inline constexpr std::uint8_t kRxPif = 1U << 7;
inline constexpr std::uint8_t kRxTcpe = 1U << 5;  // errors
inline constexpr std::uint8_t kRxIpe = 1U << 6;

// Transmit, legacy (3.3.3): length 15:0, CSO 23:16, CMD 31:24, STA 35:32, CSS 47:40, special 63:48. Data (3.3.7):
// DTALEN 19:0, DTYP 23:20, DCMD 31:24, STA 35:32, POPTS 47:40, special 63:48. Context (3.3.6): its address has the
// checksums' places; PAYLEN 19:0, DTYP 23:20, TUCMD 31:24, STA 35:32, HDRLEN 47:40, MSS 63:48.
inline constexpr unsigned kTxCmdShift = 24;
inline constexpr std::uint8_t kTxCmdEop = 1U << 0;
inline constexpr std::uint8_t kTxCmdIfcs = 1U << 1;
inline constexpr std::uint8_t kTxCmdIc = 1U << 2;   // legacy: insert a checksum
inline constexpr std::uint8_t kTxCmdTse = 1U << 2;  // data: segment
inline constexpr std::uint8_t kTxCmdRs = 1U << 3;
inline constexpr std::uint8_t kTxCmdRps = 1U << 4;
inline constexpr std::uint8_t kTxCmdDext = 1U << 5;
inline constexpr std::uint8_t kTxCmdVle = 1U << 6;
inline constexpr std::uint8_t kTxCmdIde = 1U << 7;
inline constexpr std::uint64_t kTxDd = std::uint64_t{1} << 32;
inline constexpr std::uint64_t kTxSta = std::uint64_t{0xf} << 32;
inline constexpr std::uint8_t kTxTypeContext = 0;
inline constexpr std::uint8_t kTxTypeData = 1;
inline constexpr std::uint8_t kTxPoptsIxsm = 1U << 0;
inline constexpr std::uint8_t kTxPoptsTxsm = 1U << 1;
inline constexpr std::uint8_t kTucmdTcp = 1U << 0;
inline constexpr std::uint8_t kTucmdIp = 1U << 1;  // IPv4

// ---- EEPROM (chapter 5): 64 words, microwire ----

inline constexpr std::size_t kEepromWords = 64;
inline constexpr unsigned kEepromAddressBits = 6;
inline constexpr std::uint16_t kEepromSum = 0xbaba;  // of all words
inline constexpr std::size_t kEepromInitControl1 = 0x0a;
inline constexpr std::size_t kEepromSubsystem = 0x0b;
inline constexpr std::size_t kEepromSubsystemVendor = 0x0c;
inline constexpr std::size_t kEepromDevice = 0x0d;
inline constexpr std::size_t kEepromVendor = 0x0e;
inline constexpr std::size_t kEepromInitControl2 = 0x0f;
inline constexpr std::size_t kEepromChecksum = 0x3f;

// ---- PHY: registers of IEEE 802.3 clause 22 and of the 88E1011 ----

inline constexpr std::uint8_t kPhyControl = 0;
inline constexpr std::uint8_t kPhyStatus = 1;
inline constexpr std::uint8_t kPhyId1 = 2;
inline constexpr std::uint8_t kPhyId2 = 3;
inline constexpr std::uint8_t kPhyAdvertise = 4;
inline constexpr std::uint8_t kPhyPartner = 5;
inline constexpr std::uint8_t kPhyExpansion = 6;
inline constexpr std::uint8_t kPhyNextPage = 7;
inline constexpr std::uint8_t kPhy1000Control = 9;
inline constexpr std::uint8_t kPhy1000Status = 10;
inline constexpr std::uint8_t kPhyExtStatus = 15;
inline constexpr std::uint8_t kPhySpecControl = 16;
inline constexpr std::uint8_t kPhySpecStatus = 17;
inline constexpr std::uint8_t kPhyIntEnable = 18;
inline constexpr std::uint8_t kPhyIntStatus = 19;
inline constexpr std::uint8_t kPhyExtSpecControl = 20;

inline constexpr std::uint16_t kPhyCtlReset = 1U << 15;
inline constexpr std::uint16_t kPhyCtlLoopback = 1U << 14;
inline constexpr std::uint16_t kPhyCtlSpeedLow = 1U << 13;
inline constexpr std::uint16_t kPhyCtlAneg = 1U << 12;
inline constexpr std::uint16_t kPhyCtlPowerDown = 1U << 11;
inline constexpr std::uint16_t kPhyCtlIsolate = 1U << 10;
inline constexpr std::uint16_t kPhyCtlRestart = 1U << 9;
inline constexpr std::uint16_t kPhyCtlDuplex = 1U << 8;
inline constexpr std::uint16_t kPhyCtlSpeedHigh = 1U << 6;

// ---- Frames ----

inline constexpr std::size_t kEthernetHeader = 14;
inline constexpr std::size_t kEthernetType = 12;
inline constexpr std::size_t kVlanTag = 4;
inline constexpr std::size_t kFcs = 4;
inline constexpr std::size_t kLeastFrame = 60;   // without the FCS
inline constexpr std::size_t kMostPlain = 1522;  // with it: beyond that is a long packet
inline constexpr std::size_t kMostLong = 16384;  // what RCTL.LPE lets in

// Of the receive descriptors' buffers, in bytes; 0 in the manual's table is reserved and taken as 2048.
[[nodiscard]] constexpr std::uint32_t buffer_size(std::uint32_t rctl) {
  const std::uint32_t size = rctl >> kRctlBsizeShift & 3;
  if ((rctl & kRctlBsex) == 0) return 2048U >> size;
  return size == 0 ? 2048U : 32768U >> size;
}

}  // namespace bulkhead::devproc::e1000_spec
