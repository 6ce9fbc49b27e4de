// Registers of a VGA and of the Bochs VBE extension.
//
// Documents: IBM Personal System/2 Hardware Interface Technical Reference (May 1988), "Video Subsystem"; Intel 845G
// Graphics Memory Controller Hub, volume 2 (VGA registers); Bochs, vbe_display_api.txt; QEMU,
// docs/specs/standard-vga.rst (BAR 2). Ports are offsets from 3B0h.
#pragma once

#include <cstdint>

namespace bulkhead::devproc::vga {

// Ports. Those of the CRTC, of Input Status 1 and of Feature Control are at 3Bxh or at 3Dxh (Miscellaneous Output bit
// 0).
inline constexpr std::uint32_t kMonoCrtcIndex = 0x04;       // 3B4h
inline constexpr std::uint32_t kMonoCrtcData = 0x05;        // 3B5h
inline constexpr std::uint32_t kMonoStatus1 = 0x0a;         // 3BAh; write: Feature Control
inline constexpr std::uint32_t kAttribute = 0x10;           // 3C0h: index and data by turns
inline constexpr std::uint32_t kAttributeRead = 0x11;       // 3C1h
inline constexpr std::uint32_t kMiscOutputWrite = 0x12;     // 3C2h; read: Input Status 0
inline constexpr std::uint32_t kSubsystemEnable = 0x13;     // 3C3h
inline constexpr std::uint32_t kSequencerIndex = 0x14;      // 3C4h
inline constexpr std::uint32_t kSequencerData = 0x15;       // 3C5h
inline constexpr std::uint32_t kPelMask = 0x16;             // 3C6h
inline constexpr std::uint32_t kDacReadIndex = 0x17;        // 3C7h; read: DAC State
inline constexpr std::uint32_t kDacWriteIndex = 0x18;       // 3C8h
inline constexpr std::uint32_t kDacData = 0x19;             // 3C9h
inline constexpr std::uint32_t kFeatureControlRead = 0x1a;  // 3CAh
inline constexpr std::uint32_t kMiscOutputRead = 0x1c;      // 3CCh
inline constexpr std::uint32_t kGraphicsIndex = 0x1e;       // 3CEh
inline constexpr std::uint32_t kGraphicsData = 0x1f;        // 3CFh
inline constexpr std::uint32_t kColourCrtcIndex = 0x24;     // 3D4h
inline constexpr std::uint32_t kColourCrtcData = 0x25;      // 3D5h
inline constexpr std::uint32_t kColourStatus1 = 0x2a;       // 3DAh

// Miscellaneous Output.
inline constexpr std::uint8_t kMiscColour = 0x01;     // the CRTC is at 3Dxh
inline constexpr std::uint8_t kMiscRamEnable = 0x02;  // the CPU reaches the video memory

// Input Status 0 and 1.
inline constexpr std::uint8_t kStatus0Switch = 0x10;   // a monitor is there
inline constexpr std::uint8_t kStatus1Blank = 0x01;    // no pixel is drawn now
inline constexpr std::uint8_t kStatus1Retrace = 0x08;  // vertical retrace

// Sequencer.
inline constexpr std::size_t kMapMask = 2;
inline constexpr std::size_t kMemoryMode = 4;
inline constexpr std::uint8_t kMemoryOddEvenOff = 0x04;
inline constexpr std::uint8_t kMemoryChain4 = 0x08;

// Graphics Controller.
inline constexpr std::size_t kSetReset = 0;
inline constexpr std::size_t kEnableSetReset = 1;
inline constexpr std::size_t kColourCompare = 2;
inline constexpr std::size_t kDataRotate = 3;
inline constexpr std::size_t kReadMapSelect = 4;
inline constexpr std::size_t kGraphicsMode = 5;
inline constexpr std::size_t kMiscellaneous = 6;
inline constexpr std::size_t kColourDontCare = 7;
inline constexpr std::size_t kBitMask = 8;
inline constexpr std::uint8_t kModeRead1 = 0x08;
inline constexpr std::uint8_t kModeOddEven = 0x10;
inline constexpr std::uint8_t kMiscellaneousGraphics = 0x01;
inline constexpr unsigned kMemoryMapShift = 2;

// CRTC.
inline constexpr std::size_t kVerticalRetraceEnd = 0x11;
inline constexpr std::uint8_t kCrtcProtect = 0x80;   // of registers 0-7
inline constexpr std::uint8_t kLineCompare8 = 0x10;  // of register 7: writable all the same
inline constexpr std::uint8_t kCrtcLatch = 0x22;     // read-only: the latch of the plane that Read Map Select names
inline constexpr std::uint8_t kCrtcAttributeState = 0x24;  // read-only: bit 7: 3C0h expects data

// BAR 2.
inline constexpr std::uint32_t kEdidOffset = 0x000;
inline constexpr std::uint32_t kEdidSize = 0x400;  // what is behind the EDID's 128 bytes is 0
inline constexpr std::uint32_t kPortsOffset = 0x400;
inline constexpr std::uint32_t kPortsSize = 0x20;  // 3C0h-3DFh
inline constexpr std::uint32_t kVbeOffset = 0x500;
inline constexpr std::uint32_t kVbeSize = 2 * 11;
inline constexpr std::uint32_t kExtensionOffset = 0x600;  // its size, then the byte order of true colour
inline constexpr std::uint32_t kExtensionSize = 8;
inline constexpr std::uint32_t kLittleEndian = 0x1e1e1e1e;

// Bochs VBE.
inline constexpr std::uint16_t kVbeIdFirst = 0xb0c0;
inline constexpr std::uint16_t kVbeIdLast = 0xb0c5;

// 60 frames a second of 525 lines, 45 of which nobody sees; the timing of 640x480.
inline constexpr std::int64_t kFrameNs = 16'683'000;
inline constexpr std::int64_t kLines = 525;
inline constexpr std::int64_t kVisibleLines = 480;

}  // namespace bulkhead::devproc::vga
