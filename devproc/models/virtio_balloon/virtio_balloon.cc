#include "devproc/models/virtio_balloon/virtio_balloon.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>

#include "devproc/models/virtio/spec.h"

namespace bulkhead::devproc {

using namespace virtio;
using namespace virtio_balloon_spec;

namespace {

constexpr std::int64_t kSecondNs = 1'000'000'000;

std::uint32_t to_pages(std::uint64_t bytes) {
  return static_cast<std::uint32_t>(
      std::min<std::uint64_t>(bytes >> kPfnShift, std::numeric_limits<std::uint32_t>::max()));
}

void set_byte(std::uint32_t& field, std::uint32_t byte, std::uint8_t value) {
  field = (field & ~(0xffU << (8 * byte))) | std::uint32_t{value} << (8 * byte);
}

}  // namespace

VirtioBalloon::VirtioBalloon(Persistent<VirtioBalloonState> state, const VirtioBalloonConfig& config,
                             GuestMemory& memory, RamRelease& ram, Clock& clock, TimerQueue& timers)
    : state_(state), config_(config), memory_(memory), ram_(ram), clock_(clock), timers_(timers) {}

std::uint64_t VirtioBalloon::features() const {
  return feature_bit(kVirtioFInOrder) | (config_.stats_seconds != 0 ? feature_bit(kBalloonFStatsVq) : 0) |
         (config_.deflate_on_oom ? feature_bit(kBalloonFDeflateOnOom) : 0) |
         (config_.reporting ? feature_bit(kBalloonFPageReporting) | feature_bit(kBalloonFPagePoison) : 0);
}

// ---- Configuration ----

std::uint8_t VirtioBalloon::read_config(std::uint32_t offset) const {
  const BalloonConfig config{.num_pages = state_->target, .actual = state_->actual, .poison_val = state_->poison};
  if (offset >= sizeof(config)) return 0;
  return std::to_integer<std::uint8_t>(std::as_bytes(std::span(&config, 1))[offset]);
}

void VirtioBalloon::write_config(VirtioPort&, std::uint32_t offset, std::uint8_t value) {
  constexpr std::uint32_t kActual = offsetof(BalloonConfig, actual);
  constexpr std::uint32_t kPoison = offsetof(BalloonConfig, poison_val);
  if (offset - kActual < 4) {
    set_byte(state_.mut().actual, offset - kActual, value);
  } else if (offset - kPoison < 4) {
    set_byte(state_.mut().poison, offset - kPoison, value);
  }
}

void VirtioBalloon::on_setting(VirtioPort& port, Setting setting, std::uint64_t value) {
  if (setting != Setting::kBalloonTarget) return;
  VirtioBalloonState& state = state_.mut();
  state.target_set = 1;
  if (state.target == to_pages(value)) return;
  state.target = to_pages(value);
  port.config_changed();
}

// ---- Life ----

void VirtioBalloon::forget_chains() {
  VirtioBalloonState& state = state_.mut();
  state.inflate_done = state.report_done = 0;
  state.held_id = state.held_descriptors = 0;
}

// The driver's reset empties the balloon (5.5.5): pages are back when they are touched. The target is its user's.
void VirtioBalloon::reset() {
  forget_chains();
  VirtioBalloonState& state = state_.mut();
  state.actual = 0;
  state.poison = 0;
  state.stats = {};
  if (state.target_set == 0) state.target = to_pages(config_.target);
  timers_.cancel(kStatsTimer);
}

void VirtioBalloon::restore() {
  VirtioBalloonState state = state_.get();
  state.target_set = state.target_set != 0 ? 1 : 0;
  state.held_written = 0;
  state.reserved = {};
  if (state != state_.get()) state_.mut() = state;
}

void VirtioBalloon::on_queue_reset(QueueId queue) {
  VirtioBalloonState& state = state_.mut();
  if (queue == kInflateq) state.inflate_done = 0;
  if (queue == kStatsq) state.held_id = state.held_descriptors = 0;
  // Reports come by either of two queues. What of them was done is harmless to do again, as the pages are free.
  if (queue >= kStatsq) state.report_done = 0;
}

// Linux offers its first statistics, and kicks, before it sets DRIVER_OK: a kick that was in vain.
void VirtioBalloon::on_ready(VirtioPort& port) {
  if (has_feature(port.features(), kBalloonFStatsVq)) timers_.arm(kStatsTimer, clock_.now());
}

// ---- Queues ----

VirtioBalloon::Kind VirtioBalloon::kind(const VirtioPort& port, QueueId queue) const {
  if (queue == kInflateq) return Kind::kInflate;
  if (queue == kDeflateq) return Kind::kDeflate;
  const bool stats = has_feature(port.features(), kBalloonFStatsVq);
  if (queue == kStatsq && stats) return Kind::kStats;
  const bool reports = has_feature(port.features(), kBalloonFPageReporting);
  const QueueId counted = stats ? kStatsq + 1 : kStatsq;  // Linux: without a gap
  return reports && (queue == counted || queue == kReportingVq) ? Kind::kReport : Kind::kNone;
}

// Does `work` with each chain, and uses it; a chain of which only a part is done stays the next one.
template <class Work>
QueueWork VirtioBalloon::each_chain(VirtioPort& port, QueueId index, Work&& work) {
  VirtQueue& queue = port.queue(index);
  Chain chain;
  while (queue.room() != 0) {
    const std::uint16_t mark = queue.mark();
    switch (queue.pop(chain)) {
      case Pop::kEmpty: return QueueWork::kDrained;
      case Pop::kBroken: return QueueWork::kBlocked;
      case Pop::kChain: break;
    }
    switch (work(chain)) {
      case Done::kAll: queue.push({chain.id, chain.descriptors, 0}); break;
      case Done::kPart: queue.put_back(mark); return QueueWork::kMore;
      case Done::kBadMemory: port.needs_reset(); return QueueWork::kBlocked;
    }
  }
  return QueueWork::kMore;
}

QueueWork VirtioBalloon::on_queue(VirtioPort& port, QueueId queue) {
  switch (kind(port, queue)) {
    case Kind::kInflate: {
      std::uint32_t budget = kMostPages;
      return each_chain(port, queue, [&](const Chain& chain) { return inflate(chain, budget); });
    }
    case Kind::kDeflate:
      // The page is there again when the guest touches it.
      return each_chain(port, queue, [this](const Chain& chain) {
        state_.mut().deflated_pages += chain.readable_bytes / sizeof(std::uint32_t);
        return Done::kAll;
      });
    case Kind::kReport: {
      std::uint64_t budget = kMostBytes;
      return each_chain(port, queue, [&](const Chain& chain) { return report(chain, budget); });
    }
    case Kind::kStats: return take_stats(port, queue);
    case Kind::kNone: break;
  }
  return QueueWork::kBlocked;
}

void VirtioBalloon::release(GuestPhys address, std::uint64_t length) {
  if (!ram_.release(address, length)) ++state_.mut().refused;
}

// Neighbours go back together: the driver's pages often lie side by side, in either order.
VirtioBalloon::Done VirtioBalloon::inflate(const Chain& chain, std::uint32_t& budget) {
  std::array<std::uint32_t, 256> pages{};
  VirtioBalloonState& state = state_.mut();
  const std::uint64_t end = chain.readable_bytes - chain.readable_bytes % sizeof(std::uint32_t);
  while (state.inflate_done < end) {
    if (budget == 0) return Done::kPart;
    const std::uint64_t left = (end - state.inflate_done) / sizeof(std::uint32_t);
    const auto piece = std::span(pages).first(std::min<std::uint64_t>({left, budget, pages.size()}));
    if (!read_segments(memory_, chain.readable, state.inflate_done, std::as_writable_bytes(piece)))
      return Done::kBadMemory;
    for (std::size_t i = 0; i < piece.size();) {
      std::uint64_t first = piece[i];
      std::uint64_t count = 1;
      for (++i; i < piece.size(); ++i, ++count) {
        if (piece[i] + std::uint64_t{1} == first) {
          first = piece[i];
        } else if (piece[i] != first + count) {
          break;
        }
      }
      release(first << kPfnShift, count << kPfnShift);
    }
    budget -= static_cast<std::uint32_t>(piece.size());
    state.inflated_pages += piece.size();
    state.inflate_done += piece.size_bytes();
  }
  state.inflate_done = 0;
  return Done::kAll;
}

// Section 5.5.6.7: the buffers themselves are the free pages.
VirtioBalloon::Done VirtioBalloon::report(const Chain& chain, std::uint64_t& budget) {
  VirtioBalloonState& state = state_.mut();
  std::uint64_t skip = state.report_done;
  for (const Segment& segment : chain.writable) {
    if (skip >= segment.length) {
      skip -= segment.length;
      continue;
    }
    if (budget == 0) return Done::kPart;
    // A part ends at a page, so that the page is not lost between two.
    std::uint64_t length = segment.length - skip;
    if (length > budget) length = std::max(budget & ~(kPageBytes - 1), std::min(length, kPageBytes));
    if (state.poison == 0) release(segment.address + skip, length);
    state.reported_bytes += length;
    budget -= std::min(budget, length);
    state.report_done += length;
    if (skip + length < segment.length) return Done::kPart;
    skip = 0;
  }
  state.report_done = 0;
  return Done::kAll;
}

// ---- Statistics ----

// The driver offers one buffer with its statistics in it; the device keeps it, and gives it back when it wants new
// ones.
QueueWork VirtioBalloon::take_stats(VirtioPort& port, QueueId index) {
  VirtQueue& queue = port.queue(index);
  Chain chain;
  while (queue.room() != 0) {
    if (state_->held_descriptors != 0) return QueueWork::kBlocked;
    switch (queue.pop(chain)) {
      case Pop::kEmpty: return QueueWork::kDrained;
      case Pop::kBroken: return QueueWork::kBlocked;
      case Pop::kChain: break;
    }
    if (!read_stats(chain)) {
      port.needs_reset();
      return QueueWork::kBlocked;
    }
    VirtioBalloonState& state = state_.mut();
    state.held_id = chain.id;
    state.held_descriptors = chain.descriptors;
    ++state.stats_updates;
    timers_.arm(kStatsTimer, VmTime{clock_.now().ns + config_.stats_seconds * kSecondNs});
  }
  return QueueWork::kMore;
}

bool VirtioBalloon::read_stats(const Chain& chain) {
  VirtioBalloonState& state = state_.mut();
  const std::uint64_t entries = std::min<std::uint64_t>(chain.readable_bytes / kStatBytes, kMostStats);
  for (std::uint64_t i = 0; i < entries; ++i) {
    std::array<std::byte, kStatBytes> entry{};
    if (!read_segments(memory_, chain.readable, i * kStatBytes, entry)) return false;
    std::uint16_t tag = 0;
    std::uint64_t value = 0;
    std::memcpy(&tag, entry.data(), sizeof tag);
    std::memcpy(&value, entry.data() + sizeof tag, sizeof value);
    if (tag < kStatTags) state.stats[tag] = value;
  }
  return true;
}

void VirtioBalloon::on_timer(VirtioPort& port, TimerId) {
  if (!port.may_work()) return;
  VirtQueue& queue = port.queue(kStatsq);
  if (state_->held_descriptors == 0) {
    if (take_stats(port, kStatsq) != QueueWork::kDrained) return;
    queue.set_kicks(true);
    if (queue.has_more()) timers_.arm(kStatsTimer, clock_.now());
    return;
  }
  const UsedElement element{state_->held_id, state_->held_descriptors, 0};
  state_.mut().held_id = state_.mut().held_descriptors = 0;
  queue.set_kicks(true);  // off since the buffer came
  queue.push(element);
}

void VirtioBalloon::inspect(Inspector& inspector) const {
  const VirtioBalloonState& s = state_.get();
  inspector.field("target_bytes", std::uint64_t{s.target} << kPfnShift);
  inspector.field("actual_bytes", std::uint64_t{s.actual} << kPfnShift);
  inspector.field("inflated_pages", s.inflated_pages);
  inspector.field("deflated_pages", s.deflated_pages);
  inspector.field("reported_bytes", s.reported_bytes);
  inspector.field("refused", s.refused);
  inspector.field("poison", s.poison);
  inspector.field("stats_updates", s.stats_updates);
  if (s.stats_updates == 0) return;
  for (std::size_t tag = 0; tag < kStatTags; ++tag) inspector.field(kStatNames[tag], s.stats[tag]);
}

}  // namespace bulkhead::devproc
