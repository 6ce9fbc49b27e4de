#include "devproc/models/i8042/scan_codes.h"
#include "tests/unit/devproc/models/i8042_fixture.h"

namespace bulkhead::devproc {
namespace {

using namespace i8042;
using namespace std::chrono_literals;

class I8042KeyboardTest : public I8042Fixture {};
class I8042MouseTest : public I8042Fixture {};

// --- keyboard ---

TEST_F(I8042KeyboardTest, linux_atkbd_probe_is_answered) {
  EXPECT_EQ(keyboard({kReset}), (Bytes{kAck, kBatPassed}));
  EXPECT_EQ(keyboard({kReadId}), (Bytes{kAck, 0xab, 0x41})) << "83h, translated";
  EXPECT_EQ(keyboard({kSetLeds, 0x00}), (Bytes{kAck, kAck}));
  EXPECT_EQ(keyboard({kDisable}), Bytes{kAck});
  EXPECT_EQ(keyboard({kSetRate, 0x00}), (Bytes{kAck, kAck}));
  EXPECT_EQ(keyboard({kEnable}), Bytes{kAck});
  key(kKeyA);
  EXPECT_EQ(drain(), Bytes{0x1e});
}

TEST_F(I8042KeyboardTest, without_translation_the_id_and_codes_are_raw) {
  set_command_byte(kKeyboardInterrupt);
  EXPECT_EQ(keyboard({kReadId}), (Bytes{kAck, 0xab, 0x83}));
  key(kKeyA, true);
  key(kKeyA, false);
  EXPECT_EQ(drain(), (Bytes{0x1c, 0xf0, 0x1c}));
}

TEST_F(I8042KeyboardTest, extended_keys_have_their_prefix) {
  key(kKeyRight, true);
  key(kKeyRight, false);
  EXPECT_EQ(drain(), (Bytes{0xe0, 0x4d, 0xe0, 0xcd}));
}

TEST_F(I8042KeyboardTest, print_screen_and_pause_are_sent_whole) {
  key(99, true);
  EXPECT_EQ(drain(), (Bytes{0xe0, 0x2a, 0xe0, 0x37}));
  key(99, false);
  EXPECT_EQ(drain(), (Bytes{0xe0, 0xb7, 0xe0, 0xaa}));
  key(119, true);
  EXPECT_EQ(drain(), (Bytes{0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5}));
  key(119, false);
  EXPECT_EQ(drain(), Bytes{});
}

TEST_F(I8042KeyboardTest, set_1_sends_what_translation_makes_of_set_2) {
  for (std::uint16_t code = 0; code < 256; ++code) {
    for (const bool pressed : {true, false}) {
      const ScanSequence set2 = scan_sequence(code, pressed, 2);
      const ScanSequence set1 = scan_sequence(code, pressed, 1);
      Bytes translated;
      bool released = false;
      for (std::size_t i = 0; i < set2.count; ++i) {
        if (set2.bytes[i] == kBreak) {
          released = true;
          continue;
        }
        translated.push_back(translate_to_set1(set2.bytes[i]) | (released ? kSet1Break : 0));
        released = false;
      }
      EXPECT_EQ(translated, Bytes(set1.bytes, set1.bytes + set1.count)) << code;
    }
  }
}

TEST_F(I8042KeyboardTest, every_key_of_a_pc_has_a_code) {
  for (std::uint16_t code = 1; code <= 88; ++code)
    EXPECT_EQ(scan_sequence(code, true, 2).count == 0, code == 84) << code;
  EXPECT_EQ(scan_sequence(0, true, 2).count, 0);
  EXPECT_EQ(scan_sequence(0x2ff, true, 2).count, 0);
}

TEST_F(I8042KeyboardTest, scan_code_set_can_be_chosen_and_read) {
  set_command_byte(kKeyboardInterrupt);
  EXPECT_EQ(keyboard({kScanCodeSet, 0}), (Bytes{kAck, kAck, 2}));
  EXPECT_EQ(keyboard({kScanCodeSet, 1}), (Bytes{kAck, kAck}));
  key(kKeyA, true);
  key(kKeyA, false);
  EXPECT_EQ(drain(), (Bytes{0x1e, 0x9e}));
  EXPECT_EQ(keyboard({kScanCodeSet, 3}), (Bytes{kAck, kResendAnswer})) << "no set 3";
  EXPECT_EQ(keyboard({kScanCodeSet, 0}), (Bytes{kAck, kAck, 1}));
}

TEST_F(I8042KeyboardTest, answers_come_before_keys_but_not_within_one) {
  set_command_byte(kKeyboardInterrupt);
  key(kKeyRight, true);
  key(kKeyA, true);
  EXPECT_EQ(data(), 0xe0);
  write(kEcho);
  EXPECT_EQ(drain(), (Bytes{0x74, kEcho, 0x1c}));
}

TEST_F(I8042KeyboardTest, disabled_scanning_drops_keys) {
  keyboard({kDisable});
  key(kKeyA);
  EXPECT_EQ(drain(), Bytes{});
  keyboard({kEnable});
  EXPECT_EQ(drain(), Bytes{});
  key(kKeyA);
  EXPECT_EQ(drain(), Bytes{0x1e});
}

TEST_F(I8042KeyboardTest, resend_repeats_the_last_byte) {
  key(kKeyA);
  drain();
  EXPECT_EQ(keyboard({kResend}), Bytes{0x1e});
  EXPECT_EQ(keyboard({kEcho, kResend}), (Bytes{kEcho, kEcho}));
}

TEST_F(I8042KeyboardTest, a_command_in_place_of_a_parameter_is_carried_out) {
  EXPECT_EQ(keyboard({kSetLeds, kReadId}), (Bytes{kAck, kAck, 0xab, 0x41}));
}

TEST_F(I8042KeyboardTest, unknown_commands_ask_to_resend) {
  EXPECT_EQ(keyboard({0x00}), Bytes{kResendAnswer});
  EXPECT_EQ(keyboard({0xef}), Bytes{kResendAnswer});
}

TEST_F(I8042KeyboardTest, set_3_key_types_are_acknowledged) {
  EXPECT_EQ(keyboard({0xf7, 0xfa, 0xfb, 0x1c}), (Bytes{kAck, kAck, kAck, kAck}));
}

TEST_F(I8042KeyboardTest, commands_without_reading_answers_stay_bounded) {
  for (int i = 0; i < 1000; ++i) write(kReadId);
  EXPECT_LE(drain().size(), 17U);
}

// --- mouse ---

TEST_F(I8042MouseTest, linux_psmouse_probe_is_answered) {
  EXPECT_EQ(mouse({kReset}), (Bytes{kAck, kBatPassed, 0x00}));
  EXPECT_EQ(mouse({kReadId}), (Bytes{kAck, kIdPlain}));
  EXPECT_EQ(mouse({kDisable}), Bytes{kAck});
}

TEST_F(I8042MouseTest, no_touchpad_or_logitech_mouse_is_found) {
  EXPECT_EQ(mouse({kSetResolution, 0, kSetResolution, 0, kSetResolution, 0, kSetResolution, 0}).size(), 8U);
  EXPECT_EQ(mouse({kStatusRequest}), (Bytes{kAck, 0x00, 0x00, 100})) << "a Synaptics says 47h";
  mouse({kSetResolution, 0, kScaling1, kScaling1, kScaling1});
  EXPECT_EQ(mouse({kStatusRequest})[2], 0) << "a Logitech gives its buttons";
  EXPECT_EQ(mouse({0xe1}), Bytes{kResendAnswer}) << "no TrackPoint";
}

TEST_F(I8042MouseTest, rates_200_100_80_make_a_wheel_mouse) {
  mouse({kSetRate, 200, kSetRate, 100, kSetRate, 80});
  EXPECT_EQ(mouse({kReadId}), (Bytes{kAck, kIdWheel}));
  mouse({kSetRate, 200, kSetRate, 200, kSetRate, 80});
  EXPECT_EQ(mouse({kReadId}), (Bytes{kAck, kIdFiveButtons}));
  mouse({kReset});
  EXPECT_EQ(mouse({kReadId}), (Bytes{kAck, kIdPlain}));
}

TEST_F(I8042MouseTest, other_rates_change_nothing) {
  mouse({kSetRate, 200, kSetRate, 100, kSetRate, 60});
  mouse({kSetRate, 100, kSetRate, 200, kSetRate, 80});
  EXPECT_EQ(mouse({kReadId}), (Bytes{kAck, kIdPlain}));
}

TEST_F(I8042MouseTest, movement_is_reported_when_enabled) {
  move(5, 3);
  EXPECT_EQ(drain(), Bytes{}) << "not enabled";
  mouse({kEnable});
  move(5, 3);
  EXPECT_TRUE(irq12.level);
  EXPECT_FALSE(irq1.level);
  EXPECT_NE(status() & kStatusAux, 0);
  EXPECT_EQ(drain(), (Bytes{0x28, 5, 0xfd})) << "down is negative for the mouse";
}

TEST_F(I8042MouseTest, each_byte_is_an_edge_of_irq12) {
  mouse({kEnable});
  move(1, -1, kButtonLeft);
  EXPECT_EQ(drain_by_interrupts(irq12), (Bytes{0x09, 1, 1}));
}

TEST_F(I8042MouseTest, far_movement_takes_several_reports) {
  mouse({kEnable});
  move(-600, 0);
  EXPECT_EQ(drain(), (Bytes{0x18, 0x01, 0, 0x18, 0x01, 0, 0x18, 0xa6, 0})) << "-255, -255, -90";
}

TEST_F(I8042MouseTest, movement_adds_up_while_the_guest_is_slow) {
  mouse({kEnable});
  for (int i = 0; i < 100; ++i) move(1, 0);
  EXPECT_EQ(drain(), (Bytes{0x08, 1, 0, 0x08, 99, 0}));
}

TEST_F(I8042MouseTest, a_click_is_not_lost_in_movement) {
  mouse({kEnable});
  move(1, 0);
  move(1, 0, kButtonLeft);
  move(1, 0, 0);
  EXPECT_EQ(drain(), (Bytes{0x08, 1, 0, 0x09, 1, 0, 0x08, 1, 0}));
}

TEST_F(I8042MouseTest, reports_stay_bounded_and_end_with_the_buttons_as_they_are) {
  mouse({kEnable});
  for (int i = 0; i < 1001; ++i) move(0, 0, i % 2 == 0 ? kButtonRight : 0);
  const Bytes bytes = drain();
  EXPECT_LE(bytes.size(), 40U);
  EXPECT_EQ(bytes[bytes.size() - 3], 0x0a);
}

TEST_F(I8042MouseTest, wheel_needs_the_wheel_mouse) {
  mouse({kEnable});
  move(0, 0, 0, 1);
  EXPECT_EQ(drain(), Bytes{});
  mouse({kSetRate, 200, kSetRate, 100, kSetRate, 80, kReadId, kEnable});
  move(0, 0, 0, 1);
  EXPECT_EQ(drain(), (Bytes{0x08, 0, 0, 0xff})) << "away from the user is negative";
}

TEST_F(I8042MouseTest, five_button_mouse_reports_the_side_buttons) {
  mouse({kSetRate, 200, kSetRate, 200, kSetRate, 80, kEnable});
  move(0, 0, kButtonSide | kButtonExtra, -1);
  EXPECT_EQ(drain(), (Bytes{0x08, 0, 0, 0x31}));
}

TEST_F(I8042MouseTest, scaling_doubles_stream_reports) {
  mouse({kScaling2, kEnable});
  move(10, -2);
  EXPECT_EQ(drain(), (Bytes{0x08, 20, 1}));
  mouse({kScaling1});
  move(10, -2);
  EXPECT_EQ(drain(), (Bytes{0x08, 10, 2}));
}

TEST_F(I8042MouseTest, remote_mode_reports_when_asked) {
  mouse({kRemoteMode});
  move(7, 0, kButtonMiddle);
  EXPECT_EQ(drain(), Bytes{});
  EXPECT_EQ(mouse({kReadData}), (Bytes{kAck, 0x0c, 7, 0}));
  EXPECT_EQ(mouse({kReadData}), (Bytes{kAck, 0x0c, 0, 0}));
}

TEST_F(I8042MouseTest, wrap_mode_echoes) {
  EXPECT_EQ(mouse({kWrapMode, 0x12, kReadId}), (Bytes{kAck, 0x12, kReadId}));
  EXPECT_EQ(mouse({kResetWrap, kReadId}), (Bytes{kAck, kAck, kIdPlain}));
}

TEST_F(I8042MouseTest, status_tells_mode_buttons_resolution_and_rate) {
  mouse({kEnable, kScaling2, kSetResolution, 3, kSetRate, 40});
  move(0, 0, kButtonLeft | kButtonRight);
  drain();
  EXPECT_EQ(mouse({kStatusRequest}), (Bytes{kAck, 0x35, 3, 40}));
}

TEST_F(I8042MouseTest, a_command_ends_a_report) {
  mouse({kEnable});
  move(1, 1);
  EXPECT_EQ(data(), 0x28);
  EXPECT_EQ(mouse({kDisable}), (Bytes{1, kAck})) << "but for the byte that the controller has already";
}

TEST_F(I8042MouseTest, resend_repeats_the_last_report) {
  mouse({kEnable});
  move(4, 0);
  EXPECT_EQ(drain(), (Bytes{0x08, 4, 0}));
  EXPECT_EQ(mouse({kResend}), (Bytes{0x08, 4, 0}));
}

TEST_F(I8042MouseTest, a_disabled_port_keeps_its_bytes) {
  mouse({kEnable});
  command(kDisableAux);
  move(1, 0);
  EXPECT_EQ(drain(), Bytes{});
  command(kEnableAux);
  EXPECT_EQ(drain().size(), 3U);
}

TEST_F(I8042MouseTest, a_full_keyboard_does_not_hold_up_the_mouse) {
  mouse({kEnable});
  command(kDisableKeyboard);
  guest_is_busy();
  for (int i = 0; i < 50; ++i) key(kKeyA);
  move(9, 0);
  EXPECT_EQ(drain(), (Bytes{0x08, 9, 0}));
}

}  // namespace
}  // namespace bulkhead::devproc
