// Direct boot: no firmware runs, so reset leaves the bus as PC firmware would have (MACHINE.md).
//
// The state follows what SeaBIOS 1.16 leaves: PIRQA-D on IRQ 10, 10, 11, 11; interrupt lines to match (9
// for the PM function); BARs assigned and decoding, bus mastering off; PMBASE set and enabled. Two things
// differ: all of C0000h-FFFFFh is left as plain RAM (PAM), since no ROM is there to protect; and the SMBus
// block stays off, since this machine has none.
// The assignment is a pure function of the configuration: the same in every process that plays the role.
#pragma once

#include <cstdint>
#include <span>

#include "devproc/models/pci/config_space.h"

namespace bulkhead::devproc {

// Where BARs may go. The memory hole ends at the IOAPIC.
inline constexpr std::uint64_t kFirmwareIoBase = 0xc000;
inline constexpr std::uint64_t kFirmwareIoEnd = 0x10000;
inline constexpr std::uint64_t kFirmwareMemoryBase = 0xe0000000;
inline constexpr std::uint64_t kFirmwareMemoryEnd = 0xfec00000;

struct FirmwareTarget {
  std::uint8_t devfn;
  FunctionRules* rules;  // its reset image is changed
};

// Functions whose BARs do not all fit keep that kind of space disabled and the BARs that failed at 0.
void leave_as_firmware(std::span<const FirmwareTarget> functions, std::uint16_t pm_base, std::uint64_t ram_below_4g);

}  // namespace bulkhead::devproc
