// I8042: the keyboard controller of a PC, with a PS/2 keyboard and a PS/2 mouse behind it.
//
// Chip:        Intel 8042 with IBM's PS/2 firmware
// Document:    IBM PS/2 Hardware Interface Technical Reference; see spec.h
// Implemented: status, data, command byte, controller RAM; self and interface tests; enable and disable
//              of both ports; translation of set 2 to set 1; output port with A20 and reset; pulse
//              commands; loop commands D2h and D3h; the keyboard's commands with scan code sets 1 and
//              2; the mouse's commands, stream, remote and wrap mode, wheel and five buttons
// Missing:     scan code set 3 (no common driver asks for it); typematic repeat (the user's own
//              keyboard repeats); the NumLock and Shift brackets around grey keys; passwords; an A20
//              gate (KVM masks no address line: the bit is only remembered); serial line timing and its
//              errors; diagnostic dump (ACh)
// Input:       stream 0 carries InputEvents (ipc/wire/input_event.h). While the guest reads its
//              keyboard, keys wait in the stream for room. A guest that has not read for a second loses
//              what the keyboard's buffer cannot hold, as with a real one, and the mouse is not held up
//              by it.
// Interrupts:  both are edges at the PIC. After a read of port 60h the lines are low; the next byte is
//              put in the output buffer as a later input (timer 0, due at once, or the guest's own look
//              at port 64h), so each byte is an edge of its own.
// Ignored:     unknown controller commands; writes to reserved bits
// Wires:       line 0: keyboard (IRQ 1), line 1: mouse (IRQ 12); stream 0: input events; timer 0: next
//              byte
// Threading:   single-threaded
// Trust:       guest: any access; stream: any bytes
// Config:      {"i8042", I8042Config{}} at ports 60h and 64h with IRQs 1 and 12
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

#include "devproc/core/clock.h"
#include "devproc/core/device.h"
#include "devproc/core/persistent.h"
#include "devproc/core/wires.h"
#include "devproc/models/i8042/keyboard.h"
#include "devproc/models/i8042/mouse.h"
#include "devproc/models/i8042/spec.h"
#include "ipc/wire/input_event.h"

namespace bulkhead::devproc {

struct I8042State {
  std::int64_t last_read_ns = 0;  // VM time when the guest last took a byte
  i8042::Ps2Mouse mouse;
  i8042::Ps2Keyboard keyboard;
  std::uint8_t ram[i8042::kRamBytes] = {i8042::kCommandBytePowerOn};
  std::uint8_t output_port = i8042::kOutputPowerOn;  // bits 0 and 1
  std::uint8_t pending_command = 0;                  // its parameter comes next at port 60h; 0: none
  std::uint8_t last_write_command = 0;
  std::uint8_t output = 0;
  std::uint8_t output_full = 0;
  std::uint8_t output_aux = 0;
  std::uint8_t answer = 0;  // a byte of the controller's own, behind the one in `output`
  std::uint8_t answer_waits = 0;
  std::uint8_t answer_aux = 0;
  std::uint8_t break_seen = 0;     // translation: F0h came last
  std::uint8_t partial_count = 0;  // bytes of an event that has not come completely
  std::uint8_t partial[sizeof(InputEvent)] = {};
  std::uint8_t unused = 0;

  bool operator==(const I8042State&) const = default;
};
static_assert(std::has_unique_object_representations_v<I8042State>, "no hidden padding");

class I8042 final : public Device {
 public:
  using State = I8042State;
  static constexpr std::uint32_t kStateVersion = 1;
  static constexpr std::uint16_t kLines = 2;    // keyboard, mouse
  static constexpr std::uint16_t kStreams = 1;  // input events
  static constexpr std::uint16_t kTimers = 1;   // kTimerNextByte
  static constexpr TimerId kTimerNextByte = 0;

  enum Region : RegionIndex { kData, kCommand };

  I8042(Persistent<State> state, IrqLine& keyboard_interrupt, IrqLine& mouse_interrupt, CharBackend& input,
        Clock& clock, TimerQueue& timers, EffectSink& effects)
      : state_(state),
        keyboard_interrupt_(keyboard_interrupt),
        mouse_interrupt_(mouse_interrupt),
        input_(input),
        clock_(clock),
        timers_(timers),
        effects_(effects) {}

  [[nodiscard]] std::string_view name() const override { return "i8042"; }
  [[nodiscard]] std::span<const RegionSpec> regions() const override;
  std::optional<std::uint64_t> read(const Access& access) override;
  bool write(const Access& access, std::uint64_t value) override;
  void reset() override;
  void restore() override;
  void on_timer(TimerId timer) override;
  void on_stream(StreamId stream) override;
  void inspect(Inspector& inspector) const override;

 private:
  [[nodiscard]] std::uint8_t command_byte() const { return state_->ram[0]; }
  [[nodiscard]] std::uint8_t status() const;
  [[nodiscard]] std::uint8_t output_port() const;
  [[nodiscard]] bool byte_waits() const;
  [[nodiscard]] bool guest_reads() const;

  std::uint8_t read_data();
  std::uint8_t read_status();
  void write_command(std::uint8_t command);
  void write_data(std::uint8_t value);
  void write_parameter(std::uint8_t command, std::uint8_t value);
  void write_output_port(std::uint8_t value);
  void answer(std::uint8_t byte, bool aux = false);
  void set_command_bits(std::uint8_t mask, bool on);
  void request_reset();

  void pull_input();
  void take_event(const InputEvent& event);
  void fill_output();
  [[nodiscard]] std::optional<std::uint8_t> next_keyboard_byte();
  void update_irq();

  Persistent<State> state_;
  IrqLine& keyboard_interrupt_;
  IrqLine& mouse_interrupt_;
  CharBackend& input_;
  Clock& clock_;
  TimerQueue& timers_;
  EffectSink& effects_;
};

}  // namespace bulkhead::devproc
