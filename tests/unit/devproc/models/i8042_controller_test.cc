#include "tests/unit/devproc/models/i8042_fixture.h"

namespace bulkhead::devproc {
namespace {

using namespace i8042;
using namespace std::chrono_literals;

class I8042ControllerTest : public I8042Fixture {};

// --- what Linux's i8042 driver does (drivers/input/serio/i8042.c) ---

TEST_F(I8042ControllerTest, linux_flush_ends_after_at_most_sixteen_bytes) {
  guest_is_busy();
  for (int i = 0; i < 100; ++i) key(static_cast<std::uint16_t>(kKeyA + i % 8), i % 2 == 0);
  EXPECT_LE(drain().size(), 16U) << "else: No controller found";
  set_command_byte(kKeyboardInterrupt | kSystemFlag);
  guest_is_busy();
  for (int i = 0; i < 100; ++i) key(kKeyRight, i % 2 == 0);
  EXPECT_LE(drain().size(), 16U) << "without translation";
}

TEST_F(I8042ControllerTest, linux_controller_init_passes) {
  drain();
  EXPECT_EQ(ask(kSelfTest), kSelfTestPassed);
  const std::uint8_t ctr = command_byte();
  EXPECT_NE(ctr & kTranslate, 0);
  EXPECT_NE(status() & kStatusUnlocked, 0) << "keyboard is not locked";
  const auto disabled = static_cast<std::uint8_t>((ctr | kKeyboardDisable) & ~kKeyboardInterrupt);
  set_command_byte(disabled);
  EXPECT_EQ(command_byte(), disabled);
}

TEST_F(I8042ControllerTest, linux_aux_loop_test_passes) {
  command(kWriteAuxOutput);
  write(0x5a);
  EXPECT_EQ(status() & (kStatusObf | kStatusAux), kStatusObf | kStatusAux);
  EXPECT_EQ(data(), 0x5a);
  command(kDisableAux);
  EXPECT_NE(command_byte() & kAuxDisable, 0);
  command(kEnableAux);
  EXPECT_EQ(command_byte() & kAuxDisable, 0);
}

TEST_F(I8042ControllerTest, linux_finds_no_multiplexer) {
  for (const std::uint8_t probe : {0xf0, 0x56, 0xa4}) {
    command(kWriteAuxOutput);
    write(probe);
    EXPECT_EQ(data(), probe);
  }
}

TEST_F(I8042ControllerTest, linux_aux_interrupt_test_gets_irq12) {
  set_command_byte(kAuxInterrupt | kTranslate);
  command(kWriteAuxOutput);
  write(0xa5);
  EXPECT_TRUE(irq12.level);
  EXPECT_FALSE(irq1.level);
  EXPECT_EQ(data(), 0xa5);
  EXPECT_FALSE(irq12.level);
}

TEST_F(I8042ControllerTest, loop_works_while_the_port_is_disabled) {
  command(kDisableAux);
  command(kWriteAuxOutput);
  write(0x5a);
  EXPECT_EQ(drain(), Bytes{0x5a});
}

// --- controller ---

TEST_F(I8042ControllerTest, tests_report_no_error) {
  EXPECT_EQ(ask(kTestAux), 0x00);
  EXPECT_EQ(ask(kTestKeyboard), 0x00);
  EXPECT_EQ(ask(kTestPassword), kNoPassword);
}

TEST_F(I8042ControllerTest, status_says_which_port_was_written_last) {
  command(kEnableKeyboard);
  EXPECT_NE(status() & kStatusCommand, 0);
  write(kEcho);
  EXPECT_EQ(status() & kStatusCommand, 0);
}

TEST_F(I8042ControllerTest, self_test_sets_the_system_flag) {
  set_command_byte(0);
  EXPECT_EQ(status() & kStatusSystem, 0);
  ask(kSelfTest);
  EXPECT_NE(status() & kStatusSystem, 0);
}

TEST_F(I8042ControllerTest, controller_ram_keeps_what_is_written) {
  for (std::uint8_t i = 1; i < kRamBytes; ++i) {
    command(static_cast<std::uint8_t>(kWriteRam + i));
    write(static_cast<std::uint8_t>(0xc0 + i));
  }
  for (std::uint8_t i = 1; i < kRamBytes; ++i) EXPECT_EQ(ask(static_cast<std::uint8_t>(kReadRam + i)), 0xc0 + i);
  EXPECT_EQ(command_byte(), kCommandBytePowerOn);
}

TEST_F(I8042ControllerTest, an_empty_buffer_reads_its_last_byte) {
  ask(kSelfTest);
  EXPECT_EQ(status() & kStatusObf, 0);
  EXPECT_EQ(data(), kSelfTestPassed);
}

TEST_F(I8042ControllerTest, pulse_of_bit_0_resets_the_machine) {
  command(0xff);
  EXPECT_TRUE(fakes.effects.emitted.empty()) << "no bit pulsed";
  command(0xfd);
  EXPECT_TRUE(fakes.effects.emitted.empty()) << "another bit";
  command(0xfe);
  EXPECT_EQ(fakes.effects.count(PowerAction::kReset), 1U);
}

TEST_F(I8042ControllerTest, output_port_resets_when_bit_0_is_written_low) {
  command(kWriteOutputPort);
  write(0x03);
  EXPECT_TRUE(fakes.effects.emitted.empty());
  command(kWriteOutputPort);
  write(0x02);
  EXPECT_EQ(fakes.effects.count(PowerAction::kReset), 1U);
}

TEST_F(I8042ControllerTest, output_port_remembers_a20) {
  EXPECT_NE(ask(kReadOutputPort) & kOutputA20, 0);
  command(kWriteOutputPort);
  write(0x01);
  EXPECT_EQ(ask(kReadOutputPort) & (kOutputA20 | kOutputReset), kOutputReset);
  command(kEnableA20);
  EXPECT_NE(ask(kReadOutputPort) & kOutputA20, 0);
  command(kDisableA20);
  EXPECT_EQ(ask(kReadOutputPort) & kOutputA20, 0);
}

TEST_F(I8042ControllerTest, a_new_command_ends_one_that_waits_for_its_parameter) {
  command(kWriteRam);
  command(kEnableKeyboard);
  write(kEcho);
  EXPECT_EQ(drain(), Bytes{kEcho}) << "the byte went to the keyboard";
  EXPECT_EQ(command_byte(), kCommandBytePowerOn);
}

TEST_F(I8042ControllerTest, unknown_commands_do_nothing) {
  for (const std::uint8_t unknown : {0x00, 0x5f, 0x80, 0xa1, 0xac, 0xb0, 0xc1, 0xd5, 0xe0}) command(unknown);
  EXPECT_EQ(drain(), Bytes{});
  EXPECT_EQ(command_byte(), kCommandBytePowerOn);
}

// --- interrupts and order ---

TEST_F(I8042ControllerTest, each_byte_is_an_edge_of_its_own) {
  key(kKeyA, true);
  key(kKeyA, false);
  EXPECT_EQ(drain_by_interrupts(irq1), (Bytes{0x1e, 0x9e}));
  EXPECT_FALSE(irq1.level);
}

TEST_F(I8042ControllerTest, the_line_is_low_after_each_read) {
  key(kKeyA, true);
  key(kKeyA, false);
  ASSERT_TRUE(irq1.level);
  EXPECT_FALSE(irq12.level);
  data();
  EXPECT_FALSE(irq1.level) << "in the same input as the read";
  fakes.clock.advance(0ns);
  EXPECT_TRUE(irq1.level);
}

TEST_F(I8042ControllerTest, interrupts_follow_the_command_byte) {
  set_command_byte(kTranslate);
  key(kKeyA);
  EXPECT_FALSE(irq1.level);
  EXPECT_NE(status() & kStatusObf, 0);
  set_command_byte(kTranslate | kKeyboardInterrupt);
  EXPECT_TRUE(irq1.level);
}

TEST_F(I8042ControllerTest, a_disabled_keyboard_keeps_its_bytes) {
  command(kDisableKeyboard);
  key(kKeyA);
  EXPECT_EQ(drain(), Bytes{});
  command(kEnableKeyboard);
  EXPECT_EQ(drain(), Bytes{0x1e});
}

TEST_F(I8042ControllerTest, a_byte_for_the_keyboard_enables_it) {
  command(kDisableKeyboard);
  EXPECT_EQ(keyboard({kEcho}), Bytes{kEcho});
  EXPECT_EQ(command_byte() & kKeyboardDisable, 0);
}

TEST_F(I8042ControllerTest, controllers_answer_comes_after_the_byte_that_is_there) {
  key(kKeyA);
  command(kSelfTest);
  EXPECT_EQ(drain(), (Bytes{0x1e, kSelfTestPassed}));
}

TEST_F(I8042ControllerTest, polling_an_idle_controller_changes_no_state) {
  fakes.state.reset_dirty();
  for (int i = 0; i < 10; ++i) {
    status();
    data();
  }
  EXPECT_FALSE(state.segment().dirty);
}

// --- input stream ---

TEST_F(I8042ControllerTest, an_event_may_come_in_pieces) {
  const auto bytes = std::bit_cast<std::array<std::uint8_t, 8>>(InputEvent{.type = 1, .flags = 1, .code = kKeyA});
  for (const std::uint8_t byte : bytes) {
    EXPECT_EQ(status() & kStatusObf, 0);
    input.feed(std::span(&byte, 1));
    device.on_stream(0);
  }
  EXPECT_EQ(drain(), Bytes{0x1e});
}

TEST_F(I8042ControllerTest, unknown_events_are_dropped) {
  feed({.type = 0, .flags = 1, .code = kKeyA});
  feed({.type = 77, .flags = 0xff, .code = 0xffff, .dx = -1, .dy = -1});
  feed({.type = 1, .flags = 1, .code = 0xffff});
  key(kKeyA);
  EXPECT_EQ(drain(), Bytes{0x1e});
}

TEST_F(I8042ControllerTest, a_guest_that_reads_loses_no_keys) {
  key(kKeyA);
  drain();
  Bytes expected;
  for (int i = 0; i < 1000; ++i) {
    feed({.type = 1, .flags = 1, .code = kKeyRight});
    feed({.type = 1, .flags = 0, .code = kKeyRight});
    expected.insert(expected.end(), {0xe0, 0x4d, 0xe0, 0xcd});
  }
  device.on_stream(0);
  EXPECT_EQ(drain_by_interrupts(irq1), expected);
}

TEST_F(I8042ControllerTest, a_guest_that_does_not_read_does_not_hold_up_the_stream) {
  guest_is_busy();
  for (int i = 0; i < 3000; ++i) feed({.type = 1, .flags = 1, .code = kKeyA});
  device.on_stream(0);
  fakes.clock.advance(0ns);
  EXPECT_TRUE(input.input.empty());
  const Bytes bytes = drain();
  EXPECT_EQ(bytes.back(), 0xff) << "the overrun code, translated";
}

TEST_F(I8042ControllerTest, take_over_goes_on_with_the_next_byte) {
  key(kKeyRight);
  EXPECT_EQ(data(), 0xe0);
  fakes.clock.cancel(I8042::kTimerNextByte);
  I8042 successor{state, irq1, irq12, input, fakes.clock, fakes.clock, fakes.effects};
  fakes.clock.attach(successor);
  successor.restore();
  fakes.clock.advance(0ns);
  EXPECT_TRUE(irq1.level);
  EXPECT_EQ(state->output, 0x4d);
}

TEST_F(I8042ControllerTest, restore_brings_every_field_into_range) {
  std::ranges::fill(fakes.state.bytes(0), std::byte{0xff});
  device.restore();
  EXPECT_EQ(state->ram[0], kCommandByteMask);
  EXPECT_EQ(state->output_port, kOutputPowerOn);
  EXPECT_LT(state->partial_count, sizeof(InputEvent));
  EXPECT_EQ(state->keyboard.keys.count, 16);
  EXPECT_EQ(state->keyboard.scan_set, 2);
  EXPECT_EQ(state->mouse.out.count, 32);
  EXPECT_EQ(state->mouse.id, kIdPlain);
  EXPECT_LE(state->mouse.last_report_count, 4);
  EXPECT_EQ(state->last_read_ns, 0);
}

TEST_F(I8042ControllerTest, a_last_read_in_the_future_is_now) {
  state.mut().last_read_ns = std::numeric_limits<std::int64_t>::max();
  device.restore();
  EXPECT_EQ(state->last_read_ns, fakes.clock.now().ns);
}

TEST_F(I8042ControllerTest, reset_keeps_the_place_in_the_stream) {
  const auto bytes = std::bit_cast<std::array<std::uint8_t, 8>>(InputEvent{.type = 1, .flags = 1, .code = kKeyA});
  input.feed(std::span(bytes).first(3));
  device.on_stream(0);
  device.reset();
  input.feed(std::span(bytes).subspan(3));
  device.on_stream(0);
  key(kKeyA, false);
  EXPECT_EQ(drain(), (Bytes{0x1e, 0x9e}));
}

}  // namespace
}  // namespace bulkhead::devproc
