#include "devproc/models/usernet/usernet.h"

#include <algorithm>

#include "devproc/models/usernet/outgoing_filter.h"

namespace bulkhead::devproc {
namespace {

constexpr TimerId kNetworkTimer = 0;

// A header that asks for nothing: no flags, no segmentation (VIRTIO 1.2, section 5.1.6).
bool asks_for_nothing(std::span<const std::byte> header) {
  return std::ranges::all_of(header.first(2), [](std::byte b) { return b == std::byte{0}; });
}

}  // namespace

Usernet::Usernet(Persistent<State> state, const UsernetConfig& config, FrameBackend& ring, UserNetwork& network,
                 const Clock& clock, TimerQueue& timers)
    : state_(state), config_(config), ring_(ring), network_(network), clock_(clock), timers_(timers) {
  ring_.set_wanted(true);
}

// A cable does not notice that the computer at its other end was reset: leases and connections are the guest's affair.
void Usernet::reset() {}

// Every state is one that an honest model could have written. A network that is new has no timers: its first input,
// which follows, sets them.
void Usernet::restore() { timers_.cancel(kNetworkTimer); }

void Usernet::on_timer(TimerId timer) {
  if (timer == kNetworkTimer) run_network();
}

bool Usernet::on_backend(BackendId /*backend*/) {
  unsigned frames = 0;
  while (frames < kMostFrames && take_frame()) ++frames;
  run_network();
  return frames == kMostFrames;
}

// Whether it was the frame or a socket's news that was deadly is not known.
void Usernet::on_backend_poisoned(BackendId /*backend*/) {
  if (!ring_.receive().empty()) ring_.consume();
}

bool Usernet::take_frame() {
  const std::span<const std::byte> all = ring_.receive();
  if (all.empty()) return false;
  State& state = state_.mut();
  if (all.size() < kFrameHeader || !asks_for_nothing(all)) {
    ++state.bad_frames;
  } else {
    const auto frame = all.subspan(kFrameHeader);
    switch (judge_outgoing(frame, config_)) {
      case Outgoing::kTooShort: ++state.bad_frames; break;
      case Outgoing::kForbidden: ++state.forbidden; break;
      case Outgoing::kPass:
        ++state.from_guest;
        network_.input(frame, clock_.now(), *this);
        break;
    }
  }
  ring_.consume();
  return true;
}

void Usernet::run_network() {
  const std::optional<VmTime> again = network_.run(clock_.now(), *this);
  if (again)
    timers_.arm(kNetworkTimer, *again);
  else
    timers_.cancel(kNetworkTimer);
}

void Usernet::frame(std::span<const std::byte> frame) {
  if (frame.size() > whole_.size() - kFrameHeader) {
    ++state_.mut().no_room;
    return;
  }
  std::ranges::copy(frame, whole_.begin() + kFrameHeader);
  const bool sent = ring_.send(std::span(whole_).first(kFrameHeader + frame.size()), {}) == FrameBackend::Sent::kSent;
  ++(sent ? state_.mut().to_guest : state_.mut().no_room);
}

void Usernet::inspect(Inspector& inspector) const {
  const State& s = state_.get();
  inspector.field("from_guest", s.from_guest);
  inspector.field("to_guest", s.to_guest);
  inspector.field("bad_frames", s.bad_frames);
  inspector.field("forbidden", s.forbidden);
  inspector.field("no_room", s.no_room);
}

}  // namespace bulkhead::devproc
