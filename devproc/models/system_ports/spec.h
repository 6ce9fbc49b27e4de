// The small ports of a PC's system board, and the debug ports that firmware knows.
//
// Port 92h: Intel 82371AB (PIIX4) data sheet, "P92: port 92 register". Port 80h: where a POST card listens;
// IBM PC AT Technical Reference, POST. E9h: the Bochs debug console; 402h: SeaBIOS' and OVMF's debug port
// (SeaBIOS docs/Debugging; OVMF README, "debug messages"). Both read as E9h when somebody listens.
#pragma once

#include <cstdint>

namespace bulkhead::devproc::system_ports {

inline constexpr std::uint8_t kFastInit = 1U << 0;  // a rising edge resets the machine
inline constexpr std::uint8_t kFastA20 = 1U << 1;   // A20M# is not asserted
inline constexpr std::uint8_t kPort92Mask = kFastInit | kFastA20;

inline constexpr std::uint8_t kDebugPresent = 0xe9;

}  // namespace bulkhead::devproc::system_ports
