// Ps2Mouse: the mouse at the other end of the controller's second port.
//
// A plain PS/2 mouse until the guest sets sample rates 200, 100, 80 (wheel) or 200, 200, 80 (five buttons)
// and reads its id. The sample rate itself is not timed: a report follows when the last one has been taken,
// and a button that changes is a report of its own while there is room.
// Threading: single-threaded. Trust: guest: any command; host input: any movement.
#pragma once

#include <cstdint>
#include <span>

#include "devproc/models/common/byte_fifo.h"
#include "devproc/models/i8042/spec.h"
#include "ipc/wire/input_event.h"

namespace bulkhead::devproc::i8042 {

struct Ps2Mouse {
  // Movement not reported yet.
  std::int32_t dx = 0;       // to the right
  std::int32_t dy = 0;       // away from the user: the mouse counts up where events count down
  std::int32_t dz = 0;       // wheel towards the user
  std::uint8_t buttons = 0;  // kButton*, as they are
  std::uint8_t reported_buttons = 0;
  std::uint8_t pending_command = 0;  // its parameter comes next; 0: none
  std::uint8_t reporting = 0;
  std::uint8_t remote = 0;
  std::uint8_t wrap = 0;
  std::uint8_t double_scale = 0;
  std::uint8_t resolution = kDefaultResolution;
  std::uint8_t rates[3] = {0, 0, kDefaultRate};  // the last three set, newest last
  std::uint8_t id = kIdPlain;
  std::uint8_t last_report[4] = {};
  std::uint8_t last_report_count = 0;
  std::uint8_t unused = 0;
  ByteFifo<32> out;

  // A byte that the guest sent to the mouse.
  void receive(std::uint8_t byte);
  void event(const InputEvent& event);

  [[nodiscard]] bool has_byte() const { return !out.empty(); }
  // The next byte; only when has_byte().
  std::uint8_t take();
  void sanitize();

  bool operator==(const Ps2Mouse&) const = default;

 private:
  [[nodiscard]] bool streams() const { return reporting != 0 && remote == 0 && wrap == 0; }
  [[nodiscard]] std::uint8_t report_size() const { return id == kIdPlain ? 3 : 4; }
  void receive_parameter(std::uint8_t command, std::uint8_t value);
  void receive_command(std::uint8_t command);
  void answer_status();
  void power_on();
  void set_defaults();
  void forget_movement();
  void report(bool scaled);
  void report_if_due();
};

}  // namespace bulkhead::devproc::i8042
