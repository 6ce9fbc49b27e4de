#include "devproc/models/i8042/keyboard.h"

#include "devproc/models/i8042/scan_codes.h"

namespace bulkhead::devproc::i8042 {

void Ps2Keyboard::receive(std::uint8_t byte) {
  // A command where a parameter was due ends the old command and is carried out.
  if (pending_command != 0 && byte < kSetLeds) {
    const std::uint8_t command = pending_command;
    pending_command = 0;
    receive_parameter(command, byte);
    return;
  }
  pending_command = 0;
  switch (byte) {
    case kEcho: replies.push(kEcho); break;
    case kSetLeds:
    case kScanCodeSet:
    case kSetRate:
      replies.push(kAck);
      pending_command = byte;
      break;
    case kReadId:
      replies.push(kAck);
      for (const std::uint8_t id : kKeyboardId) replies.push(id);
      break;
    case kEnable:
      forget_keys();
      scanning = 1;
      replies.push(kAck);
      break;
    case kDisable:
      set_defaults();
      scanning = 0;
      replies.push(kAck);
      break;
    case kSetDefault:
      set_defaults();
      replies.push(kAck);
      break;
    case kResend: replies.push(last_sent); break;
    case kReset:
      *this = Ps2Keyboard{};
      replies.push(kAck);
      replies.push(kBatPassed);
      break;
    default:
      if (byte >= kAllKeysFirst && byte <= kAllKeysLast) {
        replies.push(kAck);
      } else if (byte >= kKeyTypeFirst && byte <= kKeyTypeLast) {
        replies.push(kAck);
        pending_command = byte;
      } else {
        replies.push(kResendAnswer);
      }
      break;
  }
}

void Ps2Keyboard::receive_parameter(std::uint8_t command, std::uint8_t value) {
  switch (command) {
    case kSetLeds: leds = value & 7; break;
    case kSetRate: typematic = value & 0x7f; break;
    case kScanCodeSet:
      if (value > 2) {
        replies.push(kResendAnswer);
        return;
      }
      replies.push(kAck);
      if (value == 0) {
        replies.push(scan_set);
      } else {
        scan_set = value;
        forget_keys();
      }
      return;
    default: break;  // set 3 key types: acknowledged, no set 3 here
  }
  replies.push(kAck);
}

void Ps2Keyboard::set_defaults() {
  forget_keys();
  scan_set = 2;
  typematic = kDefaultTypematic;
}

void Ps2Keyboard::forget_keys() {
  keys.clear();
  overrun = inside_sequence = 0;
}

void Ps2Keyboard::key(std::uint16_t code, bool pressed) {
  if (scanning == 0) return;
  const ScanSequence sequence = scan_sequence(code, pressed, scan_set);
  if (keys.count + sequence.count <= kKeyBytes) {
    for (std::size_t i = 0; i < sequence.count; ++i) keys.push(sequence.bytes[i]);
    return;
  }
  if (overrun != 0) return;
  overrun = 1;
  keys.push(scan_set == 1 ? kSet1Overrun : kSet2Overrun);
}

bool Ps2Keyboard::room_for_key() const { return keys.count + kLongestSequence <= kKeyBytes; }

// Replies come before keys, but not between the bytes of one key.
std::uint8_t Ps2Keyboard::take() {
  const bool from_keys = !keys.empty() && (inside_sequence != 0 || replies.empty());
  if (!from_keys) {
    last_sent = replies.pop();
    return last_sent;
  }
  const std::uint8_t byte = keys.pop();
  inside_sequence = byte == kBreak || byte == kExtended || byte == kExtendedPause;
  if (keys.empty()) overrun = inside_sequence = 0;
  last_sent = byte;
  return byte;
}

void Ps2Keyboard::sanitize() {
  scanning = scanning != 0;
  if (scan_set != 1) scan_set = 2;
  leds &= 7;
  typematic &= 0x7f;
  inside_sequence = inside_sequence != 0;
  overrun = overrun != 0;
  replies.sanitize();
  keys.sanitize();
}

}  // namespace bulkhead::devproc::i8042
