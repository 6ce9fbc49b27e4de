#include "devproc/models/virtio_console/virtio_console.h"

#include <algorithm>
#include <array>
#include <span>

#include "devproc/models/virtio/spec.h"

namespace bulkhead::devproc {

using namespace virtio;
using namespace virtio_console_spec;

VirtioConsole::VirtioConsole(Persistent<VirtioConsoleState> state, const VirtioConsoleConfig& config,
                             GuestMemory& memory, CharBackend& stream, Clock& clock, TimerQueue& timers)
    : state_(state), config_(config), memory_(memory), stream_(stream), clock_(clock), timers_(timers) {}

std::uint64_t VirtioConsole::features() const {
  return feature_bit(kVirtioFInOrder) | feature_bit(kConsoleFEmergWrite) | (sized() ? feature_bit(kConsoleFSize) : 0);
}

// ---- Configuration ----

std::uint8_t VirtioConsole::read_config(std::uint32_t offset) const {
  // max_nr_ports belongs to a feature that is not offered, and emerg_wr is written only.
  const ConsoleConfig config{.cols = state_->columns, .rows = state_->rows};
  if (offset >= sizeof(config)) return 0;
  return std::to_integer<std::uint8_t>(std::as_bytes(std::span(&config, 1))[offset]);
}

// Section 5.3.4: the low byte of emerg_wr is a character, which goes out whatever state the driver is in.
void VirtioConsole::write_config(VirtioPort&, std::uint32_t offset, std::uint8_t value) {
  if (offset != offsetof(ConsoleConfig, emerg_wr)) return;
  const bool taken = stream_.put(value);
  VirtioConsoleState& state = state_.mut();
  ++(taken ? state.sent : state.emergency_dropped);
}

void VirtioConsole::on_setting(VirtioPort& port, Setting setting, std::uint64_t value) {
  const auto columns = static_cast<std::uint16_t>(value);
  const auto rows = static_cast<std::uint16_t>(value >> 16);
  if (setting != Setting::kTerminalSize || !sized() || (columns == state_->columns && rows == state_->rows)) return;
  VirtioConsoleState& state = state_.mut();
  state.columns = columns;
  state.rows = rows;
  if (has_feature(port.features(), kConsoleFSize)) port.config_changed();
}

// ---- Life ----

void VirtioConsole::on_ready(VirtioPort&) { timers_.arm(kGoOn, clock_.now()); }

void VirtioConsole::reset() {
  VirtioConsoleState state = state_.get();
  state.head_done = 0;
  state.send_blocked = 0;
  // After the first reset the terminal's size is what its user made it since.
  if (state.columns == 0 && state.rows == 0) {
    state.columns = config_.columns;
    state.rows = config_.rows;
  }
  if (state != state_.get()) state_.mut() = state;
  timers_.cancel(kGoOn);
}

void VirtioConsole::restore() {
  VirtioConsoleState state = state_.get();
  state.send_blocked = state.send_blocked != 0 ? 1 : 0;
  state.reserved = {};
  if (state != state_.get()) state_.mut() = state;
}

void VirtioConsole::on_queue_reset(QueueId queue) {
  if (queue != kTransmitq || (state_->head_done == 0 && state_->send_blocked == 0)) return;
  state_.mut().head_done = 0;
  state_.mut().send_blocked = 0;
}

// ---- Inputs ----

QueueWork VirtioConsole::on_queue(VirtioPort& port, QueueId queue) {
  return queue == kTransmitq ? transmit(port) : receive(port);
}

void VirtioConsole::on_stream(VirtioPort& port, StreamId) { go_on(port); }

void VirtioConsole::on_timer(VirtioPort& port, TimerId) { go_on(port); }

void VirtioConsole::go_on(VirtioPort& port) {
  if (!port.may_work()) return;
  bool more = false;
  const auto work = [&](QueueId index, QueueWork outcome) {
    VirtQueue& queue = port.queue(index);
    if (outcome == QueueWork::kDrained) queue.set_kicks(true);  // what came while they were off did not ring
    more |= outcome == QueueWork::kMore || (outcome == QueueWork::kDrained && queue.has_more());
  };
  if (state_->send_blocked != 0) work(kTransmitq, transmit(port));
  work(kReceiveq, receive(port));
  if (more) timers_.arm(kGoOn, clock_.now());
}

// ---- Transmission ----

QueueWork VirtioConsole::transmit(VirtioPort& port) {
  VirtQueue& queue = port.queue(kTransmitq);
  if (state_->send_blocked != 0) state_.mut().send_blocked = 0;
  Chain chain;
  while (queue.room() != 0) {
    const std::uint16_t mark = queue.mark();
    switch (queue.pop(chain)) {
      case Pop::kEmpty: return QueueWork::kDrained;
      case Pop::kBroken: return QueueWork::kBlocked;
      case Pop::kChain: break;
    }
    switch (send(chain)) {
      case Sending::kDone: break;
      case Sending::kFull:
        queue.put_back(mark);  // and how much of it is done is state
        state_.mut().send_blocked = 1;
        return QueueWork::kBlocked;
      case Sending::kBadMemory: port.needs_reset(); return QueueWork::kBlocked;
    }
    state_.mut().head_done = 0;
    queue.push({chain.id, chain.descriptors, 0});
  }
  return QueueWork::kMore;
}

VirtioConsole::Sending VirtioConsole::send(const Chain& chain) {
  std::array<std::byte, 512> bytes{};
  VirtioConsoleState& state = state_.mut();
  // The driver may have changed a chain that it had given away: then what is left of it may be nothing.
  while (state.head_done < chain.readable_bytes) {
    const std::uint64_t most = std::min<std::uint64_t>(stream_.room(), bytes.size());
    if (most == 0) return Sending::kFull;
    const auto piece = std::span(bytes).first(std::min(most, chain.readable_bytes - state.head_done));
    if (!read_segments(memory_, chain.readable, state.head_done, piece)) return Sending::kBadMemory;
    for (const std::byte byte : piece) stream_.put(std::to_integer<std::uint8_t>(byte));
    state.head_done += piece.size();
    state.sent += piece.size();
  }
  return Sending::kDone;
}

// ---- Reception ----

QueueWork VirtioConsole::receive(VirtioPort& port) {
  VirtQueue& queue = port.queue(kReceiveq);
  Chain chain;
  while (queue.room() != 0) {
    if (!stream_.readable()) return QueueWork::kBlocked;  // whatever buffers there are
    switch (queue.pop(chain)) {
      case Pop::kEmpty: return QueueWork::kDrained;
      case Pop::kBroken: return QueueWork::kBlocked;
      case Pop::kChain: break;
    }
    std::uint32_t written = 0;
    if (!fill(chain, written)) {
      port.needs_reset();
      return QueueWork::kBlocked;
    }
    state_.mut().received += written;
    queue.push({chain.id, chain.descriptors, written});
  }
  return stream_.readable() ? QueueWork::kMore : QueueWork::kBlocked;
}

bool VirtioConsole::fill(const Chain& chain, std::uint32_t& written) {
  std::array<std::byte, 512> bytes{};
  while (written < chain.writable_bytes) {
    std::size_t count = 0;
    while (count < bytes.size() && written + count < chain.writable_bytes && stream_.readable())
      bytes[count++] = std::byte{stream_.get().value_or(0)};
    if (count == 0) break;
    if (!write_segments(memory_, chain.writable, written, std::span(bytes).first(count))) return false;
    written += static_cast<std::uint32_t>(count);
  }
  return true;
}

void VirtioConsole::inspect(Inspector& inspector) const {
  const VirtioConsoleState& s = state_.get();
  inspector.field("sent_bytes", s.sent);
  inspector.field("received_bytes", s.received);
  inspector.field("emergency_dropped", s.emergency_dropped);
  inspector.field("columns", s.columns);
  inspector.field("rows", s.rows);
  inspector.field("send_blocked", s.send_blocked);
}

}  // namespace bulkhead::devproc
