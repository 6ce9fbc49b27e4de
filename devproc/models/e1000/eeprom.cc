#include "devproc/models/e1000/eeprom.h"

#include <algorithm>

namespace bulkhead::devproc {

using namespace e1000_spec;

namespace {

constexpr std::uint8_t kInstructionBits = 3 + kEepromAddressBits;  // with the start bit
constexpr std::uint8_t kWithDataBits = kInstructionBits + 16;
constexpr std::uint32_t kAddressMask = (1U << kEepromAddressBits) - 1;

enum Opcode : std::uint32_t { kExtended = 0, kWrite = 1, kRead = 2, kErase = 3 };
// The upper two bits of the address, when the opcode is kExtended.
enum Extended : std::uint32_t { kEwds = 0, kWral = 1, kEral = 2, kEwen = 3 };

constexpr std::uint32_t kDriverPins = kEecdSk | kEecdCs | kEecdDi | kEecdFwe | kEecdReq;

}  // namespace

void E1000Eeprom::load(const std::array<std::uint8_t, 6>& mac) {
  words = {};
  for (std::size_t i = 0; i < 3; ++i) words[i] = static_cast<std::uint16_t>(mac[2 * i] | mac[2 * i + 1] << 8);
  words[kEepromInitControl1] = 0x640b;  // signature, full duplex, the ids below are to be loaded
  words[kEepromSubsystem] = 0x001e;
  words[kEepromSubsystemVendor] = 0x8086;
  words[kEepromDevice] = 0x100e;
  words[kEepromVendor] = 0x8086;
  words[kEepromInitControl2] = 0x3040;  // both kinds of PAUSE
  std::uint16_t sum = 0;
  for (const std::uint16_t one : words) sum = static_cast<std::uint16_t>(sum + one);
  words[kEepromChecksum] = static_cast<std::uint16_t>(kEepromSum - sum);
  loaded = 1;
}

std::array<std::uint8_t, 6> E1000Eeprom::mac() const {
  std::array<std::uint8_t, 6> mac{};
  for (std::size_t i = 0; i < mac.size(); ++i) mac[i] = static_cast<std::uint8_t>(words[i / 2] >> (8 * (i % 2)));
  return mac;
}

void E1000Eeprom::write_pins(std::uint32_t eecd) {
  const std::uint32_t before = pins;
  pins = eecd & kDriverPins;
  if ((pins & kEecdCs) == 0) {
    if ((before & kEecdCs) != 0) program();
    shifted = 0;
    bits = 0;
    output_bits = 0;
    data_out = 1;
    return;
  }
  if ((pins & kEecdSk) != 0 && (before & kEecdSk) == 0) clock_in((pins & kEecdDi) != 0);
}

void E1000Eeprom::clock_in(bool bit) {
  if (output_bits != 0) {
    data_out = static_cast<std::uint8_t>(output >> 15);
    output = static_cast<std::uint16_t>(output << 1);
    if (--output_bits != 0) return;
    address = static_cast<std::uint8_t>((address + 1U) & kAddressMask);
    output = words[address];
    output_bits = 16;
    return;
  }
  if ((bits == 0 && !bit) || bits == kWithDataBits) return;
  shifted = shifted << 1 | (bit ? 1U : 0U);
  if (++bits == kInstructionBits) obey();
}

void E1000Eeprom::obey() {
  const std::uint32_t opcode = shifted >> kEepromAddressBits & 3;
  const std::uint32_t at = shifted & kAddressMask;
  if (opcode == kRead) {
    address = static_cast<std::uint8_t>(at);
    output = words[at];
    output_bits = 16;
    data_out = 0;  // the dummy bit
    return;
  }
  if (opcode != kExtended) return;
  const std::uint32_t extended = at >> (kEepromAddressBits - 2);
  if (extended == kEwen) writable = 1;
  if (extended == kEwds) writable = 0;
}

void E1000Eeprom::program() {
  if (writable == 0 || bits < kInstructionBits || output_bits != 0) return;
  const bool with_data = bits == kWithDataBits;
  const auto data = static_cast<std::uint16_t>(shifted);
  const std::uint32_t instruction = with_data ? shifted >> 16 : shifted;
  const std::uint32_t at = instruction & kAddressMask;
  const std::uint32_t extended = at >> (kEepromAddressBits - 2);
  switch (instruction >> kEepromAddressBits & 3) {
    case kWrite:
      if (with_data) words[at] = data;
      return;
    case kErase: words[at] = 0xffff; return;
    case kExtended:
      if (extended == kEral) words.fill(0xffff);
      if (extended == kWral && with_data) words.fill(data);
      return;
    default: return;
  }
}

std::uint32_t E1000Eeprom::read_pins() const {
  return pins | kEecdPres | (data_out != 0 ? kEecdDo : 0U) | ((pins & kEecdReq) != 0 ? kEecdGnt : 0U);
}

void E1000Eeprom::sanitize() {
  pins &= kDriverPins;
  bits = std::min(bits, kWithDataBits);
  output_bits = std::min<std::uint8_t>(output_bits, 16);
  address &= kAddressMask;
  writable = writable != 0 ? 1 : 0;
  data_out = data_out != 0 ? 1 : 0;
  loaded = loaded != 0 ? 1 : 0;
}

}  // namespace bulkhead::devproc
