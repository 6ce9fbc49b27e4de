#include "devproc/models/i8042/i8042.h"

#include <algorithm>
#include <bit>

#include "devproc/models/i8042/scan_codes.h"
#include "ipc/state/effects.h"

namespace bulkhead::devproc {

using namespace i8042;

namespace {

constexpr RegionSpec kRegions[] = {
    {"data", AddressKind::kPort, 1, kSize1},
    {"status and command", AddressKind::kPort, 1, kSize1},
};

// A guest that has not taken a byte for so long has no driver for its keyboard.
constexpr std::int64_t kPatienceNs = 1'000'000'000;
// Events taken in one input at most; a writer that never stops cannot keep the device busy.
constexpr int kEventsPerInput = 512;

}  // namespace

std::span<const RegionSpec> I8042::regions() const { return kRegions; }

std::optional<std::uint64_t> I8042::read(const Access& access) {
  switch (access.region) {
    case kData: return read_data();
    case kCommand: return read_status();
    default: return std::nullopt;
  }
}

bool I8042::write(const Access& access, std::uint64_t value) {
  const auto byte = static_cast<std::uint8_t>(value);
  switch (access.region) {
    case kData: write_data(byte); break;
    case kCommand: write_command(byte); break;
    default: return false;
  }
  fill_output();
  update_irq();
  return true;
}

// The place in the input stream is the host's affair: half an event stays half an event.
void I8042::reset() {
  State fresh;
  fresh.partial_count = state_->partial_count % sizeof(InputEvent);
  std::copy(std::begin(state_->partial), std::end(state_->partial), fresh.partial);
  state_.mut() = fresh;
  timers_.cancel(kTimerNextByte);
  update_irq();
}

void I8042::restore() {
  State clean = state_.get();
  const std::int64_t now = std::max<std::int64_t>(clock_.now().ns, 0);
  clean.last_read_ns = std::clamp<std::int64_t>(clean.last_read_ns, 0, now);
  clean.mouse.sanitize();
  clean.keyboard.sanitize();
  clean.ram[0] &= kCommandByteMask;
  clean.output_port &= kOutputPowerOn;
  clean.last_write_command = clean.last_write_command != 0;
  clean.output_full = clean.output_full != 0;
  clean.output_aux = clean.output_aux != 0;
  clean.answer_waits = clean.answer_waits != 0;
  clean.answer_aux = clean.answer_aux != 0;
  clean.break_seen = clean.break_seen != 0;
  clean.partial_count %= sizeof(InputEvent);
  clean.unused = 0;
  if (clean != state_.get()) state_.mut() = clean;
  timers_.arm(kTimerNextByte, clock_.now());
  update_irq();
}

void I8042::on_timer(TimerId) {
  pull_input();
  fill_output();
  update_irq();
}

void I8042::on_stream(StreamId) {
  pull_input();
  fill_output();
  update_irq();
}

// Bits 1 (input buffer full) and 6, 7 (time-out, parity) are never set: bytes written are taken at once.
std::uint8_t I8042::status() const {
  const State& s = state_.get();
  std::uint8_t value = kStatusUnlocked;
  if (s.output_full != 0) value |= kStatusObf;
  if (s.output_full != 0 && s.output_aux != 0) value |= kStatusAux;
  if ((command_byte() & kSystemFlag) != 0) value |= kStatusSystem;
  if (s.last_write_command != 0) value |= kStatusCommand;
  return value;
}

// A guest that polls gets the next byte with its next look; one that waits for the interrupt, with timer 0.
std::uint8_t I8042::read_status() {
  if (state_->output_full == 0 && byte_waits()) {
    fill_output();
    update_irq();
  }
  return status();
}

// An empty output buffer still holds its last byte.
std::uint8_t I8042::read_data() {
  const std::uint8_t byte = state_->output;
  if (state_->output_full == 0) return byte;
  State& s = state_.mut();
  s.output_full = 0;
  s.last_read_ns = clock_.now().ns;
  update_irq();
  if (byte_waits() || input_.readable()) timers_.arm(kTimerNextByte, clock_.now());
  return byte;
}

void I8042::write_command(std::uint8_t command) {
  State& s = state_.mut();
  s.last_write_command = 1;
  s.pending_command = 0;
  if (command >= kReadRam && command < kReadRam + kRamBytes) {
    answer(s.ram[command & kRamAddress]);
    return;
  }
  if (command >= kWriteRam && command < kWriteRam + kRamBytes) {
    s.pending_command = command;
    return;
  }
  if (command >= kPulseOutput) {
    if ((command & kOutputReset) == 0) request_reset();
    return;
  }
  switch (command) {
    case kTestPassword: answer(kNoPassword); break;
    case kDisableAux: set_command_bits(kAuxDisable, true); break;
    case kEnableAux: set_command_bits(kAuxDisable, false); break;
    case kTestAux: answer(kInterfaceGood); break;
    case kSelfTest:
      set_command_bits(kSystemFlag, true);
      answer(kSelfTestPassed);
      break;
    case kTestKeyboard: answer(kInterfaceGood); break;
    case kDisableKeyboard: set_command_bits(kKeyboardDisable, true); break;
    case kEnableKeyboard: set_command_bits(kKeyboardDisable, false); break;
    case kReadInputPort: answer(kInputPort); break;
    case kReadOutputPort: answer(output_port()); break;
    case kWriteOutputPort:
    case kWriteKeyboardOutput:
    case kWriteAuxOutput:
    case kWriteAux: s.pending_command = command; break;
    case kDisableA20: s.output_port &= static_cast<std::uint8_t>(~kOutputA20); break;
    case kEnableA20: s.output_port |= kOutputA20; break;
    default: break;
  }
}

// A byte for the keyboard also enables its interface: "writing to the keyboard re-enables it".
void I8042::write_data(std::uint8_t value) {
  State& s = state_.mut();
  s.last_write_command = 0;
  const std::uint8_t command = s.pending_command;
  s.pending_command = 0;
  if (command != 0) {
    write_parameter(command, value);
    return;
  }
  set_command_bits(kKeyboardDisable, false);
  s.keyboard.receive(value);
}

void I8042::write_parameter(std::uint8_t command, std::uint8_t value) {
  State& s = state_.mut();
  switch (command) {
    case kWriteOutputPort: write_output_port(value); break;
    case kWriteKeyboardOutput: answer(value); break;
    case kWriteAuxOutput: answer(value, true); break;
    case kWriteAux:
      set_command_bits(kAuxDisable, false);
      s.mouse.receive(value);
      break;
    default: {
      const std::uint8_t address = command & kRamAddress;
      s.ram[address] = address == 0 ? value & kCommandByteMask : value;
      break;
    }
  }
}

void I8042::write_output_port(std::uint8_t value) {
  state_.mut().output_port = (value & kOutputA20) | kOutputReset;
  if ((value & kOutputReset) == 0) request_reset();
}

std::uint8_t I8042::output_port() const {
  const State& s = state_.get();
  std::uint8_t value = s.output_port | kOutputLines;
  if (s.output_full != 0) value |= s.output_aux != 0 ? kOutputAuxObf : kOutputObf;
  return value;
}

// The controller has one byte of its own at a time; a guest that does not wait for it loses it.
void I8042::answer(std::uint8_t byte, bool aux) {
  State& s = state_.mut();
  s.answer = byte;
  s.answer_aux = aux;
  s.answer_waits = 1;
}

void I8042::set_command_bits(std::uint8_t mask, bool on) {
  std::uint8_t& command_byte = state_.mut().ram[0];
  command_byte = on ? command_byte | mask : command_byte & static_cast<std::uint8_t>(~mask);
}

void I8042::request_reset() {
  Effect effect;
  effect.kind = static_cast<std::uint16_t>(EffectKind::kPower);
  effect.data = static_cast<std::uint32_t>(PowerAction::kReset);
  effects_.emit(effect);
}

bool I8042::guest_reads() const {
  std::int64_t silence = 0;
  if (__builtin_sub_overflow(clock_.now().ns, state_->last_read_ns, &silence)) return false;
  return silence < kPatienceNs;
}

void I8042::pull_input() {
  for (int events = 0; events < kEventsPerInput && input_.readable(); ++events) {
    const bool keyboard_full = state_->keyboard.scanning != 0 && !state_->keyboard.room_for_key();
    if (keyboard_full && guest_reads()) return;
    State& s = state_.mut();
    while (s.partial_count < sizeof(InputEvent)) {
      const auto byte = input_.get();
      if (!byte) return;
      s.partial[s.partial_count++] = *byte;
    }
    s.partial_count = 0;
    take_event(std::bit_cast<InputEvent>(s.partial));
  }
  if (input_.readable()) timers_.arm(kTimerNextByte, clock_.now());
}

void I8042::take_event(const InputEvent& event) {
  State& s = state_.mut();
  switch (static_cast<InputEventType>(event.type)) {
    case InputEventType::kKey: s.keyboard.key(event.code, (event.flags & kKeyPressed) != 0); break;
    case InputEventType::kMouse: s.mouse.event(event); break;
  }
}

bool I8042::byte_waits() const {
  const State& s = state_.get();
  if (s.answer_waits != 0) return true;
  if ((command_byte() & kKeyboardDisable) == 0 && s.keyboard.has_byte()) return true;
  return (command_byte() & kAuxDisable) == 0 && s.mouse.has_byte();
}

// The controller's own byte first, then the keyboard's, then the mouse's.
void I8042::fill_output() {
  if (state_->output_full != 0 || !byte_waits()) return;
  State& s = state_.mut();
  if (s.answer_waits != 0) {
    s.answer_waits = 0;
    s.output = s.answer;
    s.output_aux = s.answer_aux;
    s.output_full = 1;
    return;
  }
  if ((command_byte() & kKeyboardDisable) == 0) {
    if (const auto byte = next_keyboard_byte()) {
      s.output = *byte;
      s.output_aux = 0;
      s.output_full = 1;
      return;
    }
  }
  if ((command_byte() & kAuxDisable) == 0 && s.mouse.has_byte()) {
    s.output = s.mouse.take();
    s.output_aux = 1;
    s.output_full = 1;
  }
}

// "F0h is not passed on: the controller sets bit 7 of the scan code that follows."
std::optional<std::uint8_t> I8042::next_keyboard_byte() {
  State& s = state_.mut();
  while (s.keyboard.has_byte()) {
    const std::uint8_t byte = s.keyboard.take();
    if ((command_byte() & kTranslate) == 0) return byte;
    if (byte == kBreak) {
      s.break_seen = 1;
      continue;
    }
    const std::uint8_t translated = translate_to_set1(byte);
    const bool released = s.break_seen != 0;
    s.break_seen = 0;
    return released ? translated | kSet1Break : translated;
  }
  return std::nullopt;
}

void I8042::update_irq() {
  const State& s = state_.get();
  const bool keyboard = s.output_full != 0 && s.output_aux == 0;
  const bool mouse = s.output_full != 0 && s.output_aux != 0;
  keyboard_interrupt_.set_level(keyboard && (command_byte() & kKeyboardInterrupt) != 0);
  mouse_interrupt_.set_level(mouse && (command_byte() & kAuxInterrupt) != 0);
}

void I8042::inspect(Inspector& inspector) const {
  const State& s = state_.get();
  inspector.field("status", status());
  inspector.field("command_byte", command_byte());
  inspector.field("output_port", output_port());
  inspector.field("keyboard_bytes", s.keyboard.keys.count);
  inspector.field("keyboard_scanning", s.keyboard.scanning);
  inspector.field("keyboard_set", s.keyboard.scan_set);
  inspector.field("mouse_bytes", s.mouse.out.count);
  inspector.field("mouse_id", s.mouse.id);
  inspector.field("mouse_reporting", s.mouse.reporting);
}

}  // namespace bulkhead::devproc
