// E1000's registers: SDM, chapter 13.
#include <algorithm>

#include "devproc/models/e1000/e1000.h"
#include "devproc/models/e1000/timers.h"

namespace bulkhead::devproc {

using namespace e1000_spec;

namespace {

// High halves of 64-bit statistics: reading them clears the low ones as well.
constexpr bool is_high_half(std::uint32_t offset) {
  return offset == kGorcl + 4 || offset == kGotcl + 4 || offset == kTorl + 4 || offset == kTotl + 4;
}
constexpr bool is_low_half(std::uint32_t offset) { return is_high_half(offset + 4); }

constexpr bool within(std::uint32_t offset, std::uint32_t start, std::uint32_t dwords) {
  return offset >= start && offset < start + 4 * dwords;
}

}  // namespace

// A dword that is no register reads zero.
std::uint32_t E1000::read_register(std::uint32_t offset) {
  const E1000State& s = state_.get();
  switch (offset) {
    case kCtrlDup: return plain(kCtrl);
    case kStatus: return status();
    case kEecd: return setup_->eeprom.read_pins();
    case kEerd: return setup_->eerd;
    case kMdic: return setup_->mdic;
    case kIcr: {
      const std::uint32_t value = s.icr;
      if (value != 0) {
        state_.mut().icr = 0;
        update_line();
      }
      return value;
    }
    case kIcs: return s.icr;
    case kIms:
    case kImc: return s.ims;
    case kRxcw: return (status() & kStatusLu) != 0 ? 0x4000'0000U : 0U;  // synchronized
    case kPba: return plain(kPba) | (64 - std::min(plain(kPba), 64U)) << 16;
    case kRdbal: return s.receive.low;
    case kRdbah: return s.receive.high;
    case kRdlen: return s.receive.length;
    case kRdh: return s.receive.head;
    case kRdt: return s.receive.tail;
    case kTdbal: return s.transmit.low;
    case kTdbah: return s.transmit.high;
    case kTdlen: return s.transmit.length;
    case kTdh: return s.transmit.head;
    case kTdt: return s.transmit.tail;
    default: break;
  }
  if (within(offset, kStatistics, kStatisticsCount)) return read_statistic(offset);
  if (const std::optional<std::uint32_t> value = read_table(offset)) return *value;
  const std::size_t index = e1000_plain_index(offset);
  return index < kE1000Plain.size() ? setup_->plain[index] : 0;
}

std::optional<std::uint32_t> E1000::read_table(std::uint32_t offset) const {
  if (within(offset, kMta, kMtaSize)) return filter_->multicast[(offset - kMta) / 4];
  if (within(offset, kVfta, kVftaSize)) return filter_->vlans[(offset - kVfta) / 4];
  if (within(offset, kRa, 2 * kReceiveAddresses)) return filter_->addresses[(offset - kRa) / 8][(offset - kRa) / 4 % 2];
  return std::nullopt;
}

std::uint32_t E1000::read_statistic(std::uint32_t offset) {
  const std::size_t index = (offset - kStatistics) / 4;
  const std::uint32_t value = state_->statistics[index];
  const bool high = is_high_half(offset);
  if (is_low_half(offset) || (value == 0 && (!high || state_->statistics[index - 1] == 0))) return value;
  auto& all = state_.mut().statistics;
  all[index] = 0;
  if (high) all[index - 1] = 0;
  return value;
}

std::uint32_t E1000::status() const {
  const std::uint32_t ctrl = plain(kCtrl);
  const E1000Phy& phy = setup_->phy;
  const std::uint32_t speed = (ctrl & kCtrlFrcspd) != 0 ? std::min(ctrl >> kCtrlSpeedShift & 3, 2U) : phy.speed();
  const bool duplex = (ctrl & kCtrlFrcdplx) != 0 ? (ctrl & kCtrlFd) != 0 : phy.full_duplex();
  const bool up = (ctrl & kCtrlSlu) != 0 && (phy.link() || (plain(kRctl) & kRctlLbm) != 0);
  // A frame that waits for room or a rate limit waits as behind a PAUSE: Linux takes it for a hang otherwise.
  const bool paused = state_->send_blocked != 0;
  return (duplex ? kStatusFd : 0U) | (up ? kStatusLu : 0U) | (paused ? kStatusTxoff : 0U) | speed << kStatusSpeedShift |
         phy.speed() << kStatusAsdvShift;
}

bool E1000::write_register(std::uint32_t offset, std::uint32_t value) {
  switch (offset) {
    case kCtrl:
    case kCtrlDup: write_ctrl(value); return true;
    case kCtrlExt:
      write_plain(e1000_plain_index(kCtrlExt), value);
      if ((value & kCtrlExtEeRst) != 0) filter_.mut().set_address(0, setup_->eeprom.mac());
      return true;
    case kEecd: setup_.mut().eeprom.write_pins(value); return true;
    case kEerd: {
      const std::uint32_t address = value >> kEerdAddrShift & 0xff;
      const std::uint32_t word = setup_->eeprom.word(address);
      const bool start = (value & kEerdStart) != 0;
      setup_.mut().eerd = address << kEerdAddrShift | (start ? kEerdDone | word << kEerdDataShift : 0U);
      return true;
    }
    case kMdic: write_mdic(value); return true;
    case kRctl:
      write_plain(e1000_plain_index(kRctl), value);
      state_.mut().starved = 0;
      want_frames();
      return true;
    case kTctl:
      write_plain(e1000_plain_index(kTctl), value);
      if (transmit()) transmit_later();
      return true;
    case kRdtr:
      write_plain(e1000_plain_index(kRdtr), value);
      if ((value & kRdtrFpd) != 0 && (state_->receive_deadline != 0 || state_->receive_last != 0)) receive_interrupt();
      return true;
    case kStatus:
    case kFla:
    case kRxcw:
    case kWus: return true;  // read-only here
    default: break;
  }
  if (write_interrupt_register(offset, value) || write_ring_register(offset, value) || write_table(offset, value))
    return true;
  const std::size_t index = e1000_plain_index(offset);
  if (index == kE1000Plain.size()) return within(offset, kStatistics, kStatisticsCount);
  write_plain(index, value);
  return true;
}

void E1000::write_plain(std::size_t index, std::uint32_t value) {
  const std::uint32_t masked = value & kE1000Plain[index].mask;
  if (setup_->plain[index] != masked) setup_.mut().plain[index] = masked;
}

void E1000::write_ctrl(std::uint32_t value) {
  if ((value & kCtrlRst) != 0) {
    device_reset();
    return;
  }
  write_plain(e1000_plain_index(kCtrl), value);
  if ((value & kCtrlPhyRst) != 0) {
    setup_.mut().phy.reset();
    update_link(true);
  }
}

void E1000::write_mdic(std::uint32_t value) {
  const std::uint32_t command = value & ~(kMdicReady | kMdicError);
  const auto reg = static_cast<std::uint8_t>(value >> kMdicRegShift & 31);
  std::uint32_t result = command | kMdicReady;
  bool renewed = false;
  if ((value >> kMdicPhyShift & 31) != kPhyAddress) {
    result |= kMdicError;  // nobody answers
  } else if ((value & kMdicOpRead) != 0) {
    result = (result & 0xffff'0000) | setup_.mut().phy.read(reg);
  } else if ((value & kMdicOpWrite) != 0) {
    renewed = setup_.mut().phy.write(reg, static_cast<std::uint16_t>(value));
  }
  setup_.mut().mdic = result;
  if (renewed) {
    update_link(true);
    want_frames();
  }
  if ((value & kMdicInterrupt) != 0) raise(kIntMdac);
}

bool E1000::write_interrupt_register(std::uint32_t offset, std::uint32_t value) {
  switch (offset) {
    case kIcr:
      if ((state_->icr & value) != 0) state_.mut().icr &= ~value;
      break;
    case kIcs: raise(value & kIntAll); return true;
    case kIms:
      if ((value & kIntAll & ~state_->ims) != 0) state_.mut().ims |= value & kIntAll;
      break;
    case kImc:
      if ((value & state_->ims) != 0) state_.mut().ims &= ~value;
      break;
    default: return false;
  }
  update_line();
  return true;
}

bool E1000::write_ring_register(std::uint32_t offset, std::uint32_t value) {
  if (!within(offset, kRdbal, 7) && !within(offset, kTdbal, 7)) return false;
  E1000State& s = state_.mut();
  switch (offset) {
    case kRdbal: s.receive.low = value & kRingAddressMask; return true;
    case kRdbah: s.receive.high = value; return true;
    case kRdlen: s.receive.length = value & kRingLengthMask; return true;
    case kRdh: s.receive.head = value & kRingIndexMask; return true;
    case kRdt:
      s.receive.tail = value & kRingIndexMask;
      s.starved = 0;
      want_frames();
      return true;
    case kTdbal: s.transmit.low = value & kRingAddressMask; return true;
    case kTdbah: s.transmit.high = value; return true;
    case kTdlen:
      s.transmit.length = value & kRingLengthMask;
      s.segments_sent = 0;
      s.dropping = 0;
      return true;
    case kTdh:
      s.transmit.head = value & kRingIndexMask;
      s.segments_sent = 0;
      s.dropping = 0;
      return true;
    case kTdt:
      s.transmit.tail = value & kRingIndexMask;
      if (s.send_blocked == 0 && transmit()) transmit_later();
      return true;
    default: return false;
  }
}

bool E1000::write_table(std::uint32_t offset, std::uint32_t value) {
  if (within(offset, kMta, kMtaSize)) {
    filter_.mut().multicast[(offset - kMta) / 4] = value;
  } else if (within(offset, kVfta, kVftaSize)) {
    filter_.mut().vlans[(offset - kVfta) / 4] = value;
  } else if (within(offset, kRa, 2 * kReceiveAddresses)) {
    const std::uint32_t at = (offset - kRa) / 4;
    filter_.mut().addresses[at / 2][at % 2] = at % 2 == 0 ? value : value & (kRahAv | kRahAs | 0xffff);
  } else {
    return false;
  }
  return true;
}

}  // namespace bulkhead::devproc
