#include "devproc/models/uart16550/uart16550.h"

namespace bulkhead::devproc {

using namespace uart16550;

namespace {
constexpr RegionSpec kRegions[] = {{"registers", AddressKind::kPort, kPorts, kSize1}};
}  // namespace

std::span<const RegionSpec> Uart16550::regions() const { return kRegions; }

std::optional<std::uint64_t> Uart16550::read(const Access& access) {
  const bool dlab = (state_->lcr & kLcrDlab) != 0;
  switch (access.offset) {
    case kRbr: return dlab ? static_cast<std::uint8_t>(state_->divisor) : read_rbr();
    case kIer: return dlab ? static_cast<std::uint8_t>(state_->divisor >> 8) : state_->ier;
    case kIir: return read_iir();
    case kLcr: return state_->lcr;
    case kMcr: return state_->mcr;
    case kLsr: return read_lsr();
    case kMsr: return read_msr();
    case kScr: return state_->scr;
    default: return std::nullopt;
  }
}

bool Uart16550::write(const Access& access, std::uint64_t value) {
  const bool dlab = (state_->lcr & kLcrDlab) != 0;
  const auto byte = static_cast<std::uint8_t>(value);
  switch (access.offset) {
    case kThr:
      if (dlab) {
        state_.mut().divisor = static_cast<std::uint16_t>((state_->divisor & 0xff00) | byte);
      } else {
        write_thr(byte);
      }
      return true;
    case kIer:
      if (dlab) {
        state_.mut().divisor = static_cast<std::uint16_t>((state_->divisor & 0x00ff) | (byte << 8));
      } else {
        write_ier(byte);
      }
      return true;
    case kFcr: write_fcr(byte); return true;
    case kLcr: state_.mut().lcr = byte; return true;
    case kMcr: write_mcr(byte); return true;
    case kLsr: return true;  // "intended for read operations only"
    case kMsr: return true;
    case kScr: state_.mut().scr = byte; return true;
    default: return false;
  }
}

void Uart16550::reset() {
  state_.mut() = State{};
  timers_.cancel(kTimerSettle);
  update_irq();
}

void Uart16550::restore() {
  State clean = state_.get();
  clean.ier &= kIerMask;
  clean.fcr &= kFcrKept;
  clean.mcr &= kMcrMask;
  clean.msr_delta &= kMsrDelta;
  clean.overrun = clean.overrun != 0;
  clean.thre_pending = clean.thre_pending != 0;
  clean.thre_deferred = clean.thre_deferred != 0;
  clean.rx.sanitize();
  clean.tx.sanitize();
  if ((clean.fcr & kFcrEnable) == 0) {
    if (clean.rx.count > 1) clean.rx.count = 1;
    if (clean.tx.count > 1) clean.tx.count = 1;
  }
  if (clean != state_.get()) state_.mut() = clean;
  if (state_->thre_deferred != 0 || (state_->rx.empty() && stream_.readable())) settle_later();
  update_irq();
}

void Uart16550::on_timer(TimerId) {
  if (state_->thre_deferred != 0) {
    State& s = state_.mut();
    s.thre_deferred = 0;
    s.thre_pending = s.tx.empty();
  }
  fill_receiver();
  update_irq();
}

void Uart16550::on_stream(StreamId) {
  drain_transmitter();
  fill_receiver();
  update_irq();
}

// "Reset when the CPU reads the RBR ... or all of the data in the FIFO". The receiver is filled again as a
// separate input: in between the line falls, so that the next batch is a new edge at the PIC.
std::uint8_t Uart16550::read_rbr() {
  if (state_->rx.empty()) return state_->last_received;
  State& s = state_.mut();
  s.last_received = s.rx.pop();
  if (s.rx.empty() && stream_.readable()) settle_later();
  update_irq();
  return s.last_received;
}

// "Reading the IIR (if source of interrupt)" resets the THRE interrupt.
std::uint8_t Uart16550::read_iir() {
  const std::uint8_t id = interrupt_id();
  if (id == kIirThrEmpty) {
    state_.mut().thre_pending = 0;
    update_irq();
  }
  return fifo_mode() ? id | kIirFifosEnabled : id;
}

// OE "is reset whenever the CPU reads the contents of the Line Status Register".
std::uint8_t Uart16550::read_lsr() {
  const std::uint8_t value = lsr();
  if (state_->overrun != 0) {
    state_.mut().overrun = 0;
    update_irq();
  }
  return value;
}

std::uint8_t Uart16550::read_msr() {
  const std::uint8_t value = modem_lines() | state_->msr_delta;
  if (state_->msr_delta != 0) {
    state_.mut().msr_delta = 0;
    update_irq();
  }
  return value;
}

std::uint8_t Uart16550::lsr() const {
  std::uint8_t value = 0;
  if (!state_->rx.empty()) value |= kLsrDr;
  if (state_->overrun != 0) value |= kLsrOe;
  if (state_->tx.empty()) value |= kLsrThre | kLsrTemt;
  return value;
}

// A write resets the THRE interrupt; the byte leaves at once when the stream has room, which raises it
// again. When the guest had not acknowledged the last one, the line has to be low in between.
void Uart16550::write_thr(std::uint8_t value) {
  State& s = state_.mut();
  const bool unacknowledged = s.thre_pending != 0 && (s.ier & kIerEtbei) != 0;
  s.thre_pending = 0;
  if (s.tx.count >= depth()) {
    ++s.tx_overruns;
  } else {
    s.tx.push(value);
  }
  drain_transmitter();
  if (unacknowledged && s.thre_pending != 0) {
    s.thre_pending = 0;
    s.thre_deferred = 1;
    settle_later();
  }
  update_irq();
}

// Enabling the THRE interrupt while THRE is set raises it (Linux's serial8250_do_startup tests for that).
void Uart16550::write_ier(std::uint8_t value) {
  State& s = state_.mut();
  const bool enabled = (value & ~s.ier & kIerEtbei) != 0;
  s.ier = value & kIerMask;
  if (enabled && s.tx.empty()) s.thre_pending = 1;
  update_irq();
}

// "When changing from FIFO Mode to 16450 Mode and vice versa, data is automatically cleared from the
// FIFOs."
// "Bit 0 must be a 1 when other FCR bits are written to or they will not be programmed."
void Uart16550::write_fcr(std::uint8_t value) {
  State& s = state_.mut();
  const bool switched = ((value ^ s.fcr) & kFcrEnable) != 0;
  const bool enable = (value & kFcrEnable) != 0;
  const bool had_output = !s.tx.empty();
  if (switched || (enable && (value & kFcrResetRx) != 0)) s.rx.clear();
  if (switched || (enable && (value & kFcrResetTx) != 0)) s.tx.clear();
  s.fcr = enable ? value & kFcrKept : 0;
  if (had_output && s.tx.empty()) s.thre_pending = 1;
  if (s.rx.empty() && stream_.readable()) settle_later();
  update_irq();
}

void Uart16550::write_mcr(std::uint8_t value) {
  const std::uint8_t before = modem_lines();
  State& s = state_.mut();
  s.mcr = value & kMcrMask;
  const std::uint8_t after = modem_lines();
  const std::uint8_t changed = before ^ after;
  if ((changed & kMsrCts) != 0) s.msr_delta |= kMsrDcts;
  if ((changed & kMsrDsr) != 0) s.msr_delta |= kMsrDdsr;
  if ((changed & before & kMsrRi) != 0) s.msr_delta |= kMsrTeri;  // "from a low to a high state" of RI#
  if ((changed & kMsrDcd) != 0) s.msr_delta |= kMsrDdcd;
  drain_transmitter();
  if (s.rx.empty() && stream_.readable()) settle_later();
  update_irq();
}

// MSR bits 4-7. In loopback "the four modem control outputs are internally connected to the four modem
// control inputs"; otherwise somebody is always there.
std::uint8_t Uart16550::modem_lines() const {
  if (!loopback()) return kMsrCts | kMsrDsr | kMsrDcd;
  const std::uint8_t mcr = state_->mcr;
  std::uint8_t lines = 0;
  if ((mcr & kMcrRts) != 0) lines |= kMsrCts;
  if ((mcr & kMcrDtr) != 0) lines |= kMsrDsr;
  if ((mcr & kMcrOut1) != 0) lines |= kMsrRi;
  if ((mcr & kMcrOut2) != 0) lines |= kMsrDcd;
  return lines;
}

// A character from the line or, in loopback, from the transmitter. An overrun leaves the FIFO alone ("the
// character in the shift register is overwritten") and replaces the one character of the 16450.
void Uart16550::receive(std::uint8_t byte) {
  State& s = state_.mut();
  if (s.rx.count < depth()) {
    s.rx.push(byte);
    return;
  }
  s.overrun = 1;
  if (!fifo_mode()) {
    s.rx.clear();
    s.rx.push(byte);
  }
}

void Uart16550::fill_receiver() {
  if (loopback()) return;  // "the receiver Serial Input is disconnected"
  while (state_->rx.count < depth()) {
    const auto byte = stream_.get();
    if (!byte) return;
    receive(*byte);
  }
}

void Uart16550::drain_transmitter() {
  if (state_->tx.empty()) return;
  State& s = state_.mut();
  while (!s.tx.empty()) {
    if (loopback()) {
      receive(s.tx.front());
    } else if (!stream_.put(s.tx.front())) {
      return;
    }
    s.tx.pop();
  }
  s.thre_pending = 1;
}

void Uart16550::settle_later() { timers_.arm(kTimerSettle, clock_.now()); }

std::uint8_t Uart16550::interrupt_id() const {
  const State& s = state_.get();
  if ((s.ier & kIerElsi) != 0 && s.overrun != 0) return kIirLineStatus;
  if ((s.ier & kIerErbfi) != 0 && !s.rx.empty()) {
    const bool below = fifo_mode() && s.rx.count < kTriggerLevels[s.fcr >> kFcrTriggerShift];
    return below ? kIirTimeout : kIirDataAvailable;
  }
  if ((s.ier & kIerEtbei) != 0 && s.thre_pending != 0) return kIirThrEmpty;
  if ((s.ier & kIerEdssi) != 0 && s.msr_delta != 0) return kIirModemStatus;
  return kIirNone;
}

void Uart16550::update_irq() { interrupt_.set_level(interrupt_id() != kIirNone); }

void Uart16550::inspect(Inspector& inspector) const {
  const State& s = state_.get();
  inspector.field("ier", s.ier);
  inspector.field("iir", interrupt_id());
  inspector.field("fcr", s.fcr);
  inspector.field("lcr", s.lcr);
  inspector.field("mcr", s.mcr);
  inspector.field("lsr", lsr());
  inspector.field("divisor", s.divisor);
  inspector.field("receiver_bytes", s.rx.count);
  inspector.field("transmitter_bytes", s.tx.count);
  inspector.field("transmitter_overruns", s.tx_overruns);
}

}  // namespace bulkhead::devproc
