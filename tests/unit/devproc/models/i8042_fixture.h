// I8042Fixture: the controller with its wires, and the steps by which drivers talk to it.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <initializer_list>
#include <optional>
#include <vector>

#include "devproc/models/i8042/i8042.h"
#include "tests/fakes/fake_wires.h"
#include "tests/fakes/register_access.h"

namespace bulkhead::devproc {

using Bytes = std::vector<std::uint8_t>;

inline constexpr std::uint16_t kKeyA = 30;
inline constexpr std::uint16_t kKeyRight = 106;

class I8042Fixture : public ::testing::Test {
 protected:
  I8042Fixture() {
    fakes.clock.set_now(VmTime{10'000'000'000});
    fakes.clock.attach(device);
    device.reset();
  }

  std::uint8_t status() { return static_cast<std::uint8_t>(regs.in(0, 1, I8042::kCommand)); }
  std::uint8_t data() { return static_cast<std::uint8_t>(regs.in(0, 1, I8042::kData)); }
  void command(std::uint8_t value) { EXPECT_TRUE(regs.out(0, value, 1, I8042::kCommand)); }
  void write(std::uint8_t value) { EXPECT_TRUE(regs.out(0, value, 1, I8042::kData)); }
  void to_mouse(std::uint8_t value) {
    command(i8042::kWriteAux);
    write(value);
  }

  // All bytes of the output buffer, as a polling driver reads them: status, data, status ...
  Bytes drain(std::size_t limit = 1000) {
    Bytes bytes;
    while (bytes.size() < limit && (status() & i8042::kStatusObf) != 0) bytes.push_back(data());
    return bytes;
  }
  // The same by interrupts alone: one byte for each rising edge of `line`.
  Bytes drain_by_interrupts(const FakeIrqLine& line) {
    Bytes bytes;
    int served = line.level ? line.rises - 1 : line.rises;
    while (served < line.rises && bytes.size() < 10'000) {
      ++served;
      bytes.push_back(data());
      fakes.clock.advance(std::chrono::microseconds(100));
    }
    return bytes;
  }
  std::uint8_t ask(std::uint8_t value) {
    command(value);
    EXPECT_NE(status() & i8042::kStatusObf, 0);
    return data();
  }
  std::uint8_t command_byte() { return ask(i8042::kReadRam); }
  void set_command_byte(std::uint8_t value) {
    command(i8042::kWriteRam);
    write(value);
  }
  Bytes keyboard(std::initializer_list<std::uint8_t> bytes) {
    Bytes answers;
    for (const std::uint8_t byte : bytes) {
      write(byte);
      for (const std::uint8_t answer : drain()) answers.push_back(answer);
    }
    return answers;
  }
  Bytes mouse(std::initializer_list<std::uint8_t> bytes) {
    Bytes answers;
    for (const std::uint8_t byte : bytes) {
      to_mouse(byte);
      while ((status() & i8042::kStatusObf) != 0) {
        EXPECT_NE(status() & i8042::kStatusAux, 0);
        answers.push_back(data());
      }
    }
    return answers;
  }

  void feed(const InputEvent& event) {
    const auto bytes = std::bit_cast<std::array<std::uint8_t, sizeof event>>(event);
    input.feed(bytes);
  }
  void key(std::uint16_t code, bool pressed = true) {
    feed({.type = 1, .flags = static_cast<std::uint8_t>(pressed ? 1 : 0), .code = code});
    device.on_stream(0);
  }
  void move(std::int16_t dx, std::int16_t dy, std::uint8_t buttons = 0, std::int16_t wheel = 0) {
    feed({.type = 2, .flags = buttons, .code = static_cast<std::uint16_t>(wheel), .dx = dx, .dy = dy});
    device.on_stream(0);
  }
  // The guest has not looked at its keyboard for a while.
  void guest_is_busy() { fakes.clock.advance(std::chrono::seconds(2)); }

  FakeWires fakes{{.lines = 2, .streams = 1}};
  FakeIrqLine& irq1 = fakes.lines[0];
  FakeIrqLine& irq12 = fakes.lines[1];
  FakeCharBackend& input = fakes.streams[0];
  Persistent<I8042State> state = allocate_state<I8042State>(fakes.state);
  I8042 device{state, irq1, irq12, input, fakes.clock, fakes.clock, fakes.effects};
  RegisterAccess regs{device, fakes};
};

}  // namespace bulkhead::devproc
