// Ps2Keyboard: the 101-key keyboard at the other end of the controller's first port.
//
// A value that is part of I8042State: bytes in from the controller, keys in from the host, bytes out.
// Threading: single-threaded. Trust: guest: any command; host input: any key code.
#pragma once

#include <cstddef>
#include <cstdint>

#include "devproc/models/common/byte_fifo.h"
#include "devproc/models/i8042/spec.h"

namespace bulkhead::devproc::i8042 {

// IBM's keyboard holds 16 bytes. Two fewer here: with the one in the controller's output buffer and the
// overrun code, Linux finds no more than the 16 bytes that it flushes before it says "No controller found".
inline constexpr std::size_t kKeyBytes = 14;

struct Ps2Keyboard {
  std::uint8_t pending_command = 0;  // its parameter comes next; 0: none
  std::uint8_t scanning = 1;
  std::uint8_t scan_set = 2;
  std::uint8_t leds = 0;
  std::uint8_t typematic = kDefaultTypematic;
  std::uint8_t last_sent = 0;
  std::uint8_t inside_sequence = 0;  // the last byte out was a prefix of the next
  std::uint8_t overrun = 0;          // keys were lost since the buffer was last empty
  ByteFifo<16> replies;
  ByteFifo<16> keys;

  // A byte that the guest sent to the keyboard.
  void receive(std::uint8_t byte);
  void key(std::uint16_t code, bool pressed);

  [[nodiscard]] bool has_byte() const { return !replies.empty() || !keys.empty(); }
  // The next byte; only when has_byte().
  std::uint8_t take();
  // Whether a key of any kind fits.
  [[nodiscard]] bool room_for_key() const;
  void sanitize();

  bool operator==(const Ps2Keyboard&) const = default;

 private:
  void receive_parameter(std::uint8_t command, std::uint8_t value);
  void set_defaults();
  void forget_keys();
};

}  // namespace bulkhead::devproc::i8042
