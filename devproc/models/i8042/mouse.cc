#include "devproc/models/i8042/mouse.h"

#include <algorithm>

namespace bulkhead::devproc::i8042 {

namespace {

constexpr std::int32_t kMovementLimit = 32'767;
constexpr std::int32_t kReportLimit = 255;  // nine bits, two's complement
constexpr std::int32_t kWheelLimit = 7;     // four bits, two's complement

std::int32_t add(std::int32_t sum, std::int32_t change) {
  return std::clamp(sum + change, -kMovementLimit, kMovementLimit);
}

// Scaling 2:1, IBM's table: 0, 1, 1, 3, 6, 9, then twice the count.
std::int32_t scale(std::int32_t count) {
  constexpr std::int32_t kTable[] = {0, 1, 1, 3, 6, 9};
  const std::int32_t size = count < 0 ? -count : count;
  const std::int32_t scaled = size < 6 ? kTable[size] : 2 * size;
  return std::clamp(count < 0 ? -scaled : scaled, -kReportLimit, kReportLimit);
}

std::uint8_t low_byte(std::int32_t value) { return static_cast<std::uint8_t>(value); }

}  // namespace

void Ps2Mouse::event(const InputEvent& event) {
  buttons = event.flags & kButtonMask;
  if (reporting == 0 && remote == 0) return;
  dx = add(dx, event.dx);
  dy = add(dy, -std::int32_t{event.dy});
  dz = add(dz, -std::int32_t{static_cast<std::int16_t>(event.code)});
  report_if_due();
}

void Ps2Mouse::receive(std::uint8_t byte) {
  out.clear();  // a command ends whatever was being sent
  if (wrap != 0 && byte != kReset && byte != kResetWrap) {
    out.push(byte);
    return;
  }
  const std::uint8_t command = pending_command;
  pending_command = 0;
  if (command != 0) {
    receive_parameter(command, byte);
  } else {
    receive_command(byte);
  }
}

void Ps2Mouse::receive_parameter(std::uint8_t command, std::uint8_t value) {
  out.push(kAck);
  if (command == kSetResolution) {
    resolution = value & 3;
    return;
  }
  rates[0] = rates[1];
  rates[1] = rates[2];
  rates[2] = value;
  if (rates[0] != 200 || rates[2] != 80) return;
  if (rates[1] == 100) id = kIdWheel;
  if (rates[1] == 200) id = kIdFiveButtons;
}

void Ps2Mouse::receive_command(std::uint8_t command) {
  if (command == kResend) {
    for (std::uint8_t i = 0; i < last_report_count; ++i) out.push(last_report[i]);
    return;
  }
  if (command == kReset) power_on();
  out.push(kAck);
  switch (command) {
    case kReset:
      out.push(kBatPassed);
      out.push(kIdPlain);
      break;
    case kSetDefault: set_defaults(); break;
    case kDisable:
      reporting = 0;
      forget_movement();
      break;
    case kEnable:
      reporting = 1;
      forget_movement();
      break;
    case kSetRate:
    case kSetResolution: pending_command = command; break;
    case kReadId: out.push(id); break;
    case kRemoteMode:
      remote = 1;
      forget_movement();
      break;
    case kStreamMode:
      remote = 0;
      forget_movement();
      break;
    case kWrapMode: wrap = 1; break;
    case kResetWrap: wrap = 0; break;
    case kReadData: report(false); break;
    case kStatusRequest: answer_status(); break;
    case kScaling1: double_scale = 0; break;
    case kScaling2: double_scale = 1; break;
    default:
      out.clear();
      out.push(kResendAnswer);
      break;
  }
}

void Ps2Mouse::answer_status() {
  std::uint8_t status = 0;
  if (remote != 0) status |= 1U << 6;
  if (reporting != 0) status |= 1U << 5;
  if (double_scale != 0) status |= 1U << 4;
  if ((buttons & kButtonLeft) != 0) status |= 1U << 2;
  if ((buttons & kButtonMiddle) != 0) status |= 1U << 1;
  if ((buttons & kButtonRight) != 0) status |= 1U << 0;
  out.push(status);
  out.push(resolution);
  out.push(rates[2]);
}

void Ps2Mouse::power_on() {
  const std::uint8_t held = buttons;
  *this = Ps2Mouse{};
  buttons = held;
}

void Ps2Mouse::set_defaults() {
  reporting = remote = double_scale = 0;
  resolution = kDefaultResolution;
  rates[2] = kDefaultRate;
  forget_movement();
}

void Ps2Mouse::forget_movement() { dx = dy = dz = 0; }

// One report: what fits of the movement, and the buttons as they are. The rest stays for the next.
void Ps2Mouse::report(bool scaled) {
  const std::int32_t x = std::clamp(dx, -kReportLimit, kReportLimit);
  const std::int32_t y = std::clamp(dy, -kReportLimit, kReportLimit);
  const std::int32_t z = std::clamp(dz, -kWheelLimit, kWheelLimit);
  dx -= x;
  dy -= y;
  dz -= z;
  const std::int32_t shown_x = scaled && double_scale != 0 ? scale(x) : x;
  const std::int32_t shown_y = scaled && double_scale != 0 ? scale(y) : y;
  std::uint8_t head = 1U << 3;
  head |= buttons & (kButtonLeft | kButtonRight | kButtonMiddle);
  if (shown_x < 0) head |= 1U << 4;
  if (shown_y < 0) head |= 1U << 5;
  last_report[0] = head;
  last_report[1] = low_byte(shown_x);
  last_report[2] = low_byte(shown_y);
  last_report[3] = low_byte(z);
  if (id == kIdFiveButtons) {
    const auto side = static_cast<std::uint8_t>((buttons & (kButtonSide | kButtonExtra)) << 1);
    last_report[3] = (last_report[3] & 0x0f) | side;
  }
  last_report_count = report_size();
  for (std::uint8_t i = 0; i < last_report_count; ++i) out.push(last_report[i]);
  reported_buttons = buttons;
}

void Ps2Mouse::report_if_due() {
  if (!streams()) return;
  if (id == kIdPlain) dz = 0;
  const bool moved = dx != 0 || dy != 0 || dz != 0;
  const bool clicked = buttons != reported_buttons;
  if (clicked ? out.room() >= report_size() : moved && out.empty()) report(true);
}

std::uint8_t Ps2Mouse::take() {
  const std::uint8_t byte = out.pop();
  if (out.empty()) report_if_due();
  return byte;
}

void Ps2Mouse::sanitize() {
  dx = std::clamp(dx, -kMovementLimit, kMovementLimit);
  dy = std::clamp(dy, -kMovementLimit, kMovementLimit);
  dz = std::clamp(dz, -kMovementLimit, kMovementLimit);
  buttons &= kButtonMask;
  reported_buttons &= kButtonMask;
  reporting = reporting != 0;
  remote = remote != 0;
  wrap = wrap != 0;
  double_scale = double_scale != 0;
  resolution &= 3;
  if (id != kIdWheel && id != kIdFiveButtons) id = kIdPlain;
  last_report_count = std::min<std::uint8_t>(last_report_count, 4);
  unused = 0;
  out.sanitize();
}

}  // namespace bulkhead::devproc::i8042
