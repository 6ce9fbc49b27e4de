#include "devproc/models/virtio_net/virtio_net.h"

#include <algorithm>
#include <cstring>

#include "devproc/models/virtio/spec.h"
#include "ipc/base/check.h"
#include "ipc/roles/virtio_decl.h"

namespace bulkhead::devproc {

using namespace virtio;
using namespace virtio_net_spec;

namespace {

constexpr std::uint32_t kSpeed = 10'000;  // Mbit/s: what a TAP is taken for elsewhere

constexpr std::uint64_t kGuestOffloads = feature_bit(kNetFGuestCsum) | feature_bit(kNetFGuestTso4) |
                                         feature_bit(kNetFGuestTso6) | feature_bit(kNetFGuestEcn);

constexpr std::uint64_t kOffloads = kGuestOffloads | feature_bit(kNetFCsum) | feature_bit(kNetFHostTso4) |
                                    feature_bit(kNetFHostTso6) | feature_bit(kNetFHostEcn) |
                                    feature_bit(kNetFCtrlGuestOffloads);

constexpr std::uint64_t kFeatures = kOffloads | feature_bit(kNetFMac) | feature_bit(kNetFMtu) |
                                    feature_bit(kNetFStatus) | feature_bit(kNetFSpeedDuplex) |
                                    feature_bit(kNetFMrgRxbuf) | feature_bit(kNetFCtrlVq) | feature_bit(kNetFCtrlRx) |
                                    feature_bit(kNetFCtrlRxExtra) | feature_bit(kNetFCtrlVlan) |
                                    feature_bit(kNetFCtrlMacAddr) | feature_bit(kVirtioFInOrder);

// Only what may be used: a bit whose own requirement (section 5.1.3.1) was not agreed on is none.
OffloadRules send_rules(std::uint64_t features) {
  const bool checksum = has_feature(features, kNetFCsum);
  return {.checksum = checksum,
          .tso4 = checksum && has_feature(features, kNetFHostTso4),
          .tso6 = checksum && has_feature(features, kNetFHostTso6),
          .ecn = has_feature(features, kNetFHostEcn)};
}

}  // namespace

VirtioNetStorage VirtioNetStorage::allocate(StateAllocator& allocator) {
  const auto state = allocate_state<VirtioNetState>(allocator);
  const auto filter = allocate_state<ReceiveFilter>(allocator);
  return {state, filter, LimitedFramesStorage::allocate(allocator)};
}

VirtioNet::VirtioNet(const VirtioNetStorage& storage, const VirtioNetConfig& config, GuestMemory& memory,
                     std::span<FrameBackend* const> frames, Clock& clock, TimerQueue& timers)
    : state_(storage.state),
      filter_(storage.filter),
      config_(config),
      memory_(memory),
      limits_(storage.limits, clock, timers, frames),
      frames_(limits_.frames()) {
  CHECK(!frames_.empty() && frames_.size() <= kVirtioNetMaxPairs, frames_.size());
  config_.mtu = std::max(config_.mtu, kLeastMtu);
}

std::uint64_t VirtioNet::features() const {
  // Whoever is behind a backend without offloads takes whole frames alone, and gives no others.
  const std::uint64_t features = config_.nic.offloads ? kFeatures : kFeatures & ~kOffloads;
  return features | (most_pairs() > 1 ? feature_bit(kNetFMq) : 0);
}

std::uint8_t VirtioNet::read_config(std::uint32_t offset) const {
  NetConfig config;
  if (offset >= sizeof(config)) return 0;
  config.mac = filter_->mac;
  config.status = state_->link != 0 ? kNetSLinkUp : 0;
  config.max_virtqueue_pairs = most_pairs();
  config.mtu = config_.mtu;
  config.speed = kSpeed;
  config.duplex = kNetFullDuplex;
  return std::to_integer<std::uint8_t>(std::as_bytes(std::span(&config, 1))[offset]);
}

// Section 5.1.2: where the control queue is depends on whether the driver knows of several pairs.
VirtioNet::Role VirtioNet::role(const VirtioPort& port, QueueId queue) const {
  const unsigned pairs = has_feature(port.features(), kNetFMq) ? most_pairs() : 1U;
  const auto pair = static_cast<std::uint16_t>(queue / 2);
  if (pair < pairs) return {queue % 2 == 0 ? Role::Kind::kReceive : Role::Kind::kTransmit, pair};
  const bool control = queue == 2 * pairs && has_feature(port.features(), kNetFCtrlVq);
  return {control ? Role::Kind::kControl : Role::Kind::kNone, 0};
}

// ---- Life ----

void VirtioNet::on_ready(VirtioPort& port) {
  if (state_->started == 0) {
    VirtioNetState& state = state_.mut();
    state.started = 1;
    state.guest_offloads = port.features() & kGuestOffloads;
  }
  tell_offloads();
  want_all(true);
  update_link(port);
}

void VirtioNet::reset() {
  const VirtioNetCounters counters = state_->counters;
  VirtioNetState& state = state_.mut();
  state = VirtioNetState{};
  state.counters = counters;
  state.link = std::ranges::all_of(frames_, [](const FrameBackend* one) { return one->link(); }) ? 1 : 0;
  filter_.mut() = ReceiveFilter::after_reset(config_.nic.mac);
  limits_.start(config_.nic.limits);
  tell_offloads();
  want_all(false);
}

void VirtioNet::restore() {
  VirtioNetState state = state_.get();
  state.guest_offloads &= kGuestOffloads;
  if (state.pairs == 0 || state.pairs > most_pairs()) state.pairs = 1;
  state.started = state.started != 0 ? 1 : 0;
  state.link = state.link != 0 ? 1 : 0;
  state.send_blocked &= static_cast<std::uint8_t>((1U << most_pairs()) - 1);
  state.reserved = {};
  if (state != state_.get()) state_.mut() = state;
  ReceiveFilter filter = filter_.get();
  filter.sanitize();
  if (filter != filter_.get()) filter_.mut() = filter;
  limits_.restore();
  tell_offloads();
  // A backend that is new knows nothing. What cannot be taken turns it off again.
  want_all(state.started != 0);
}

void VirtioNet::update_link(VirtioPort& port) {
  const std::uint8_t link = std::ranges::all_of(frames_, [](const FrameBackend* one) { return one->link(); }) ? 1 : 0;
  if (link == state_->link) return;
  state_.mut().link = link;
  if (has_feature(port.features(), kNetFStatus)) port.config_changed();
}

void VirtioNet::tell_offloads() {
  const std::uint64_t on = state_->guest_offloads;
  const bool checksum = has_feature(on, kNetFGuestCsum);
  const FrameBackend::Offloads offloads{.checksum = checksum,
                                        .tso4 = checksum && has_feature(on, kNetFGuestTso4),
                                        .tso6 = checksum && has_feature(on, kNetFGuestTso6),
                                        .ecn = checksum && has_feature(on, kNetFGuestEcn)};
  for (FrameBackend* frames : frames_) frames->set_offloads(offloads);
}

// ---- Queues and backends ----

QueueWork VirtioNet::on_queue(VirtioPort& port, QueueId queue) {
  const Role its = role(port, queue);
  QueueWork work = QueueWork::kBlocked;
  switch (its.kind) {
    case Role::Kind::kReceive:
      if (its.pair < state_->pairs) work = receive_all(port, its.pair);
      break;
    case Role::Kind::kTransmit: work = transmit(port, its.pair); break;
    case Role::Kind::kControl: work = control(port, queue); break;
    case Role::Kind::kNone: break;
  }
  update_link(port);  // sending may have shown that it is down
  return work;
}

bool VirtioNet::on_backend(VirtioPort& port, BackendId backend) {
  if (backend >= frames_.size()) return false;
  update_link(port);
  if (!port.may_work()) {
    frames_[backend]->set_wanted(false);  // until on_ready()
    return false;
  }
  bool more = false;
  if ((state_->send_blocked >> backend & 1) != 0) {
    VirtQueue& queue = port.queue(static_cast<QueueId>(2 * backend + 1));
    const QueueWork work = transmit(port, backend);
    more = work == QueueWork::kMore;
    if (work == QueueWork::kDrained) {
      queue.set_kicks(true);  // on_queue() left them off
      more = queue.has_more();
    }
    // The next input has to come here again, not to on_queue().
    if (more) set_send_blocked(backend, true);
  }
  switch (receive(port, backend)) {
    case Receiving::kDone:
    case Receiving::kNoRoom: more = true; break;
    case Receiving::kNoFrames: break;
    case Receiving::kNoBuffers:
    case Receiving::kBroken: want_frames(pair_of(backend), false); break;
  }
  update_link(port);
  return more;
}

// The frame at hand, or the chain that waits for room, ends processes.
void VirtioNet::on_backend_poisoned(VirtioPort& port, BackendId backend) {
  if (backend >= frames_.size()) return;
  if (!frames_[backend]->receive().empty()) {
    frames_[backend]->consume();
    count(&VirtioNetCounters::received_poisoned);
  }
  if ((state_->send_blocked >> backend & 1) != 0) port.needs_reset();
}

// A limit lets frames through again.
void VirtioNet::on_timer(VirtioPort& port, TimerId timer) {
  limits_.on_timer(timer, [&](BackendId backend) { return on_backend(port, backend); });
}

// ---- Transmission, section 5.1.6.2 ----

QueueWork VirtioNet::transmit(VirtioPort& port, std::uint16_t pair) {
  VirtQueue& queue = port.queue(static_cast<QueueId>(2 * pair + 1));
  set_send_blocked(pair, false);  // as well when the queue was reset meanwhile
  Chain chain;
  std::uint64_t bytes = 0;
  while (queue.room() != 0 && bytes < kMostBytes) {
    const std::uint16_t before = queue.mark();
    switch (queue.pop(chain)) {
      case Pop::kEmpty: return QueueWork::kDrained;
      case Pop::kBroken: return QueueWork::kBlocked;
      case Pop::kChain: break;
    }
    switch (send(port, pair, chain)) {
      case Sending::kFull:
        queue.put_back(before);
        set_send_blocked(pair, true);
        return QueueWork::kBlocked;
      case Sending::kBadMemory: port.needs_reset(); return QueueWork::kBlocked;
      case Sending::kDone: break;
    }
    bytes += chain.readable_bytes;
    queue.push({chain.id, chain.descriptors, 0});
  }
  return QueueWork::kMore;
}

VirtioNet::Sending VirtioNet::send(const VirtioPort& port, std::uint16_t pair, const Chain& chain) {
  if (chain.readable_bytes < sizeof(NetHdr) + kEthernetHeader || chain.readable_bytes > kMostFrame) {
    count(&VirtioNetCounters::sent_bad_length);
    return Sending::kDone;
  }
  NetHdr header;
  const auto bytes = std::as_writable_bytes(std::span(&header, 1));
  if (!read_segments(memory_, chain.readable, 0, bytes)) return Sending::kBadMemory;
  const std::uint64_t length = chain.readable_bytes - sizeof(header);
  switch (clean_header(header, length, send_rules(port.features()))) {
    case HeaderVerdict::kNotAgreed: count(&VirtioNetCounters::sent_not_agreed); return Sending::kDone;
    case HeaderVerdict::kMalformed: count(&VirtioNetCounters::sent_bad_header); return Sending::kDone;
    case HeaderVerdict::kGood: break;
  }
  // What lies behind the header, which may end anywhere.
  std::size_t segments = 0;
  std::uint32_t skip = sizeof(header);
  for (const Segment& segment : chain.readable) {
    const std::uint32_t here = std::min(skip, segment.length);
    skip -= here;
    if (here == segment.length) continue;
    segments_[segments++] = {segment.address + here, segment.length - here};
  }
  if (frames_[pair]->send(bytes, std::span(segments_).first(segments)) == FrameBackend::Sent::kFull)
    return Sending::kFull;
  count(&VirtioNetCounters::sent_frames);
  count(&VirtioNetCounters::sent_bytes, length);
  return Sending::kDone;
}

void VirtioNet::set_send_blocked(std::uint16_t pair, bool blocked) {
  if ((state_->send_blocked >> pair & 1) == (blocked ? 1 : 0)) return;
  state_.mut().send_blocked ^= static_cast<std::uint8_t>(1U << pair);
}

void VirtioNet::inspect(Inspector& inspector) const {
  const VirtioNetState& s = state_.get();
  const VirtioNetCounters& c = s.counters;
  inspector.field("link", s.link);
  inspector.field("pairs", s.pairs);
  inspector.field("guest_offloads", s.guest_offloads);
  inspector.field("receive_modes", filter_->modes);
  inspector.field("sent_frames", c.sent_frames);
  inspector.field("sent_bytes", c.sent_bytes);
  inspector.field("received_frames", c.received_frames);
  inspector.field("received_bytes", c.received_bytes);
  inspector.field("sent_bad_length", c.sent_bad_length);
  inspector.field("sent_bad_header", c.sent_bad_header);
  inspector.field("sent_not_agreed", c.sent_not_agreed);
  inspector.field("received_bad_length", c.received_bad_length);
  inspector.field("received_bad_header", c.received_bad_header);
  inspector.field("received_not_agreed", c.received_not_agreed);
  inspector.field("received_filtered", c.received_filtered);
  inspector.field("received_no_fit", c.received_no_fit);
  inspector.field("received_poisoned", c.received_poisoned);
  // What a process had taken when it died, and had not committed.
  std::uint64_t taken = 0;
  for (const FrameBackend* frames : frames_) taken += frames->taken();
  const std::uint64_t known = c.received_frames + c.received_bad_length + c.received_bad_header +
                              c.received_not_agreed + c.received_filtered + c.received_no_fit + c.received_poisoned;
  inspector.field("received_lost", taken > known ? taken - known : 0);
  inspector.field("commands_refused", c.commands_refused);
  limits_.inspect(inspector);
}

}  // namespace bulkhead::devproc
