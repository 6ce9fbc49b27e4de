// The 82540EM's EEPROM: 64 words behind the pins of a microwire part (93C46), which the driver toggles by hand.
//
// Document: SDM, chapter 5 (contents), section 13.4.3 (EECD); the part's protocol: a start bit, two bits of opcode, six
// of address, then sixteen of data, each taken at a rising clock, the most significant first.
// Implemented: READ (with consecutive words), EWEN, EWDS, WRITE, WRAL, ERASE, ERAL. Programming takes no time.
// Pure. Trust: state may hold anything, until sanitize().
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "devproc/models/e1000/spec.h"

namespace bulkhead::devproc {

struct E1000Eeprom {
  std::array<std::uint16_t, e1000_spec::kEepromWords> words{};
  std::uint32_t shifted = 0;  // bits of the instruction since its start bit, that bit included
  std::uint32_t pins = 0;     // EECD as the driver wrote it
  std::uint16_t output = 0;   // bits of a READ that are still to come, at the top
  std::uint8_t bits = 0;      // how many `shifted` has; 0: no start bit yet
  std::uint8_t output_bits = 0;
  std::uint8_t address = 0;  // of the word that `output` came from
  std::uint8_t writable = 0;
  std::uint8_t data_out = 1;  // the pin DO; 1: ready
  std::uint8_t loaded = 0;    // words have been put in

  // The contents of a card with this address.
  void load(const std::array<std::uint8_t, 6>& mac);
  [[nodiscard]] std::uint16_t word(std::size_t index) const {
    return index < words.size() ? words[index] : std::uint16_t{0};
  }
  [[nodiscard]] std::array<std::uint8_t, 6> mac() const;
  void write_pins(std::uint32_t eecd);
  [[nodiscard]] std::uint32_t read_pins() const;
  void sanitize();
  bool operator==(const E1000Eeprom&) const = default;

 private:
  void clock_in(bool bit);
  void obey();     // all bits of an instruction without data are there
  void program();  // an instruction that changes words ends with its chip select
};
static_assert(std::has_unique_object_representations_v<E1000Eeprom>);

}  // namespace bulkhead::devproc
