// Registers and commands of the PC's keyboard controller and of the devices behind it.
//
// Documents: IBM PS/2 Hardware Interface Technical Reference (1988), "Keyboard and Auxiliary Device
// Controller (type 1)", for the 8042; the same reference, "101- and 102-key keyboards", for the keyboard;
// "Mouse", for the mouse; Microsoft "Intellimouse" PS/2 extensions for wheel and five buttons; Microsoft
// "Keyboard Scan Code Specification" 1.3a, appendix A, for the scan codes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bulkhead::devproc::i8042 {

// Status register, port 64h.
inline constexpr std::uint8_t kStatusObf = 1U << 0;      // output buffer full
inline constexpr std::uint8_t kStatusSystem = 1U << 2;   // command byte bit 2
inline constexpr std::uint8_t kStatusCommand = 1U << 3;  // the last write was to port 64h
inline constexpr std::uint8_t kStatusUnlocked = 1U << 4;
inline constexpr std::uint8_t kStatusAux = 1U << 5;  // the output buffer holds the mouse's byte

// Command byte, controller RAM address 0.
inline constexpr std::uint8_t kKeyboardInterrupt = 1U << 0;
inline constexpr std::uint8_t kAuxInterrupt = 1U << 1;
inline constexpr std::uint8_t kSystemFlag = 1U << 2;
inline constexpr std::uint8_t kKeyboardDisable = 1U << 4;
inline constexpr std::uint8_t kAuxDisable = 1U << 5;
inline constexpr std::uint8_t kTranslate = 1U << 6;
inline constexpr std::uint8_t kCommandByteMask = 0x7f;
// As firmware leaves it: interrupts on, codes translated to set 1, self test passed.
inline constexpr std::uint8_t kCommandBytePowerOn = kKeyboardInterrupt | kAuxInterrupt | kSystemFlag | kTranslate;

inline constexpr std::size_t kRamBytes = 32;

// Controller commands, written to port 64h.
inline constexpr std::uint8_t kReadRam = 0x20;   // 20h-3Fh
inline constexpr std::uint8_t kWriteRam = 0x60;  // 60h-7Fh
inline constexpr std::uint8_t kRamAddress = 0x1f;
inline constexpr std::uint8_t kTestPassword = 0xa4;  // answers F1h: none installed
inline constexpr std::uint8_t kDisableAux = 0xa7;
inline constexpr std::uint8_t kEnableAux = 0xa8;
inline constexpr std::uint8_t kTestAux = 0xa9;       // answers 00h: no error
inline constexpr std::uint8_t kSelfTest = 0xaa;      // answers 55h: passed
inline constexpr std::uint8_t kTestKeyboard = 0xab;  // answers 00h: no error
inline constexpr std::uint8_t kDisableKeyboard = 0xad;
inline constexpr std::uint8_t kEnableKeyboard = 0xae;
inline constexpr std::uint8_t kReadInputPort = 0xc0;
inline constexpr std::uint8_t kReadOutputPort = 0xd0;
inline constexpr std::uint8_t kWriteOutputPort = 0xd1;
inline constexpr std::uint8_t kWriteKeyboardOutput = 0xd2;
inline constexpr std::uint8_t kWriteAuxOutput = 0xd3;
inline constexpr std::uint8_t kWriteAux = 0xd4;
inline constexpr std::uint8_t kDisableA20 = 0xdd;
inline constexpr std::uint8_t kEnableA20 = 0xdf;
inline constexpr std::uint8_t kPulseOutput = 0xf0;  // F0h-FFh: bits 0-3 that are 0 are pulsed low

inline constexpr std::uint8_t kNoPassword = 0xf1;
inline constexpr std::uint8_t kSelfTestPassed = 0x55;
inline constexpr std::uint8_t kInterfaceGood = 0x00;
inline constexpr std::uint8_t kInputPort = 0x80;  // bit 7: keyboard not inhibited

// Output port.
inline constexpr std::uint8_t kOutputReset = 1U << 0;  // low resets the machine
inline constexpr std::uint8_t kOutputA20 = 1U << 1;
inline constexpr std::uint8_t kOutputObf = 1U << 4;
inline constexpr std::uint8_t kOutputAuxObf = 1U << 5;
inline constexpr std::uint8_t kOutputLines = 0xc0;  // clock and data of the keyboard are high
inline constexpr std::uint8_t kOutputPowerOn = kOutputReset | kOutputA20;

// Answers of both devices.
inline constexpr std::uint8_t kAck = 0xfa;
inline constexpr std::uint8_t kResendAnswer = 0xfe;
inline constexpr std::uint8_t kBatPassed = 0xaa;

// Commands that both devices know.
inline constexpr std::uint8_t kReset = 0xff;
inline constexpr std::uint8_t kResend = 0xfe;
inline constexpr std::uint8_t kSetDefault = 0xf6;
inline constexpr std::uint8_t kDisable = 0xf5;
inline constexpr std::uint8_t kEnable = 0xf4;
inline constexpr std::uint8_t kSetRate = 0xf3;  // keyboard: typematic; mouse: samples a second
inline constexpr std::uint8_t kReadId = 0xf2;

// Keyboard commands.
inline constexpr std::uint8_t kSetLeds = 0xed;
inline constexpr std::uint8_t kEcho = 0xee;
inline constexpr std::uint8_t kScanCodeSet = 0xf0;
inline constexpr std::uint8_t kAllKeysFirst = 0xf7;  // F7h-FAh: set 3, for all keys
inline constexpr std::uint8_t kAllKeysLast = 0xfa;
inline constexpr std::uint8_t kKeyTypeFirst = 0xfb;  // FBh-FDh: set 3, for the key in the parameter
inline constexpr std::uint8_t kKeyTypeLast = 0xfd;
inline constexpr std::uint8_t kKeyboardId[2] = {0xab, 0x83};
inline constexpr std::uint8_t kDefaultTypematic = 0x2b;

// Scan codes.
inline constexpr std::uint8_t kBreak = 0xf0;  // set 2: the key that follows is released
inline constexpr std::uint8_t kExtended = 0xe0;
inline constexpr std::uint8_t kExtendedPause = 0xe1;
inline constexpr std::uint8_t kSet1Break = 0x80;  // set 1: bit 7 of the code
inline constexpr std::uint8_t kSet1Overrun = 0xff;
inline constexpr std::uint8_t kSet2Overrun = 0x00;
inline constexpr std::size_t kLongestSequence = 8;  // Pause, set 2

// Mouse commands.
inline constexpr std::uint8_t kScaling1 = 0xe6;
inline constexpr std::uint8_t kScaling2 = 0xe7;
inline constexpr std::uint8_t kSetResolution = 0xe8;
inline constexpr std::uint8_t kStatusRequest = 0xe9;
inline constexpr std::uint8_t kStreamMode = 0xea;
inline constexpr std::uint8_t kReadData = 0xeb;
inline constexpr std::uint8_t kResetWrap = 0xec;
inline constexpr std::uint8_t kWrapMode = 0xee;
inline constexpr std::uint8_t kRemoteMode = 0xf0;

inline constexpr std::uint8_t kDefaultRate = 100;
inline constexpr std::uint8_t kDefaultResolution = 2;  // 4 counts a millimetre
inline constexpr std::uint8_t kIdPlain = 0;
inline constexpr std::uint8_t kIdWheel = 3;        // after rates 200, 100, 80
inline constexpr std::uint8_t kIdFiveButtons = 4;  // after rates 200, 200, 80

}  // namespace bulkhead::devproc::i8042
