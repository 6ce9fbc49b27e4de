#include "devproc/models/virtio_blk/virtio_blk.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <bitset>
#include <cstring>

#include "devproc/models/virtio/spec.h"
#include "ipc/base/check.h"
#include "ipc/base/checked.h"

namespace bulkhead::devproc {

using namespace virtio;
using namespace virtio_blk_spec;

namespace {

VirtioBlkDeviceConfig device_config(const BlockGeometry& disk, std::uint16_t queues) {
  VirtioBlkDeviceConfig config;
  config.capacity = disk.bytes / kSectorBytes;
  config.seg_max = VirtioBlk::kSegMax;
  config.blk_size = disk.logical_block;
  const std::uint32_t physical = std::max(disk.physical_block, disk.logical_block) / disk.logical_block;
  config.physical_block_exp = static_cast<std::uint8_t>(std::bit_width(physical) - 1);
  config.min_io_size = static_cast<std::uint16_t>(std::min<std::uint32_t>(physical, UINT16_MAX));
  config.opt_io_size = disk.optimal_io / disk.logical_block;
  config.num_queues = queues;
  if (disk.discard && !disk.read_only) {
    config.max_discard_sectors = VirtioBlk::kMaxDiscardSectors;
    config.max_discard_seg = 1;
    config.discard_sector_alignment = std::max(disk.physical_block, disk.logical_block) / kSectorBytes;
  }
  if (disk.write_zeroes && !disk.read_only) {
    config.max_write_zeroes_sectors = VirtioBlk::kMaxWriteZeroesSectors;
    config.max_write_zeroes_seg = 1;
    config.write_zeroes_may_unmap = disk.discard ? 1 : 0;
  }
  return config;
}

std::uint8_t status_of(BlockStatus status) {
  switch (status) {
    case BlockStatus::kOk: return kVirtioBlkSOk;
    case BlockStatus::kUnsupported: return kVirtioBlkSUnsupp;
    default: return kVirtioBlkSIoErr;
  }
}

// The status byte is the last that the device may write.
std::optional<GuestPhys> status_place(const Chain& chain) {
  if (chain.writable.empty()) return std::nullopt;
  const Segment& last = chain.writable.back();
  return last.address + (last.length - 1);
}

VirtioBlkRecord in_range(VirtioBlkRecord record) {
  const std::uint16_t generation = record.generation;
  if (record.phase == VirtioBlkRecord::kDropped) return {.generation = generation, .phase = VirtioBlkRecord::kDropped};
  if (record.phase == VirtioBlkRecord::kFree || record.phase > VirtioBlkRecord::kHeld)
    return {.generation = generation};
  if (record.phase != VirtioBlkRecord::kOver) record.status = kVirtioBlkSOk;
  if (record.status > kVirtioBlkSUnsupp) record.status = kVirtioBlkSIoErr;
  record.status_only = record.status_only != 0 ? 1 : 0;
  record.may_hold = record.may_hold != 0 ? 1 : 0;
  record.reserved = {};
  return record;
}

}  // namespace

VirtioBlkStorage VirtioBlkStorage::allocate(StateAllocator& allocator) {
  const auto state = allocate_state<VirtioBlkState>(allocator);
  VirtioBlkStorage storage{state, allocate_state<RateLimiterState>(allocator), {}};
  for (std::size_t i = 0; i < kParts; ++i) storage.parts.push_back(allocate_state<VirtioBlkPart>(allocator));
  return storage;
}

VirtioBlk::VirtioBlk(const VirtioBlkStorage& storage, const VirtioBlkConfig& config, GuestMemory& memory,
                     BlockBackend& backend, Clock& clock, TimerQueue& timers, EffectSink& effects)
    : state_(storage.state),
      parts_(storage.parts),
      memory_(memory),
      backend_(backend),
      clock_(clock),
      timers_(timers),
      effects_(effects),
      limiter_(storage.limit, clock, timers, kLimitTimer),
      configured_limit_(config.limit),
      stop_on_no_space_(config.stop_on_no_space),
      geometry_(backend.geometry()),
      queues_(config.queues),
      share_(static_cast<std::uint16_t>(BlockBackend::kMostInFlight / std::max<std::uint16_t>(config.queues, 1))),
      config_(device_config(geometry_, config.queues)) {
  CHECK(queues_ >= 1 && queues_ <= kVirtioBlkMaxQueues, queues_);
  CHECK(parts_.size() == VirtioBlkStorage::kParts, parts_.size());
  std::memcpy(id_.data(), config.serial.data(), std::min(config.serial.size(), id_.size()));
}

// ---- Configuration ----

std::uint64_t VirtioBlk::features() const {
  // "Devices SHOULD always offer VIRTIO_BLK_F_FLUSH": on a disk without a cache it costs nothing.
  std::uint64_t bits = feature_bit(kVirtioBlkFSegMax) | feature_bit(kVirtioBlkFBlkSize) |
                       feature_bit(kVirtioBlkFTopology) | feature_bit(kVirtioBlkFFlush);
  if (queues_ > 1) bits |= feature_bit(kVirtioBlkFMq);
  if (geometry_.read_only) return bits | feature_bit(kVirtioBlkFRo);
  if (geometry_.discard) bits |= feature_bit(kVirtioBlkFDiscard);
  if (geometry_.write_zeroes) bits |= feature_bit(kVirtioBlkFWriteZeroes);
  return bits;
}

std::uint8_t VirtioBlk::read_config(std::uint32_t offset) const {
  const auto bytes = std::as_bytes(std::span(&config_, 1));
  return offset < bytes.size() ? static_cast<std::uint8_t>(bytes[offset]) : std::uint8_t{0};
}

// ---- Records ----

void VirtioBlk::put(Slot slot, const VirtioBlkRecord& value) {
  const VirtioBlkRecord& old = record(slot);
  if (value == old) return;
  Lane& lane = lanes_[queue_of(slot)];
  if (old.phase == VirtioBlkRecord::kOver) --lane.over;
  if (value.phase == VirtioBlkRecord::kOver) ++lane.over;
  if (old.phase == VirtioBlkRecord::kHeld) --lane.held;
  if (value.phase == VirtioBlkRecord::kHeld) ++lane.held;
  if (old.phase == VirtioBlkRecord::kDropped) --lane.dropped;
  if (value.phase == VirtioBlkRecord::kDropped) ++lane.dropped;
  if (value.phase == VirtioBlkRecord::kFree && old.phase != VirtioBlkRecord::kFree) lane.free[lane.free_count++] = slot;
  parts_[slot / VirtioBlkPart::kRecords].mut().records[slot % VirtioBlkPart::kRecords] = value;
}

void VirtioBlk::free_record(Slot slot) { put(slot, {.generation = record(slot).generation}); }

void VirtioBlk::rebuild_lanes() {
  for (QueueId queue = 0; queue < queues_; ++queue) {
    Lane& lane = lanes_[queue];
    lane.free_count = 0;
    lane.over = 0;
    lane.held = 0;
    lane.dropped = 0;
    for (std::uint16_t i = share_; i > 0; --i) {
      const auto slot = static_cast<Slot>(queue * share_ + i - 1);
      if (record(slot).phase == VirtioBlkRecord::kFree) lane.free[lane.free_count++] = slot;
      if (record(slot).phase == VirtioBlkRecord::kOver) ++lane.over;
      if (record(slot).phase == VirtioBlkRecord::kHeld) ++lane.held;
      if (record(slot).phase == VirtioBlkRecord::kDropped) ++lane.dropped;
    }
  }
}

std::span<const VirtioBlk::Slot> VirtioBlk::by_age(QueueId queue) {
  std::size_t count = 0;
  for (std::uint16_t i = 0; i < share_; ++i) {
    const auto slot = static_cast<Slot>(queue * share_ + i);
    if (record(slot).phase != VirtioBlkRecord::kFree) sorted_[count++] = slot;
  }
  const auto all = std::span(sorted_).first(count);
  const auto age = [&](Slot slot) { return state_->taken[queue] - record(slot).order; };
  std::sort(all.begin(), all.end(), [&](Slot a, Slot b) { return age(a) != age(b) ? age(a) > age(b) : a < b; });
  return all;
}

// ---- Taking requests ----

void VirtioBlk::on_ready(VirtioPort& port) {
  for (QueueId queue = 0; queue < queues_; ++queue) retire(port, queue);  // what has no room is left for on_queue()
  if (holds_any()) timers_.arm(kRetryTimer, clock_.now());
  limiter_.wake();  // its timer may have fired in vain
}

QueueWork VirtioBlk::on_queue(VirtioPort& port, QueueId index) {
  if (retire(port, index)) return QueueWork::kMore;
  const QueueWork work = take(port, index);
  // The driver will not kick: on_backend() goes on.
  lanes_[index].blocked = work == QueueWork::kBlocked;
  return work;
}

QueueWork VirtioBlk::take(VirtioPort& port, QueueId index) {
  VirtQueue& queue = port.queue(index);
  QueueWork work = QueueWork::kMore;
  Chain chain;
  for (int i = 0; i < kMostTaken && work == QueueWork::kMore; ++i) {
    if (lanes_[index].free_count == 0) {
      work = QueueWork::kBlocked;
      break;
    }
    const std::uint16_t before = queue.mark();
    switch (queue.pop(chain)) {
      case Pop::kEmpty: work = QueueWork::kDrained; continue;
      case Pop::kBroken: return QueueWork::kBlocked;
      case Pop::kChain: break;
    }
    switch (accept(port, index, chain)) {
      case Accepted::kTaken: break;
      case Accepted::kNoStatus: port.needs_reset(); return QueueWork::kBlocked;
      case Accepted::kHeldBack:
        queue.put_back(before);
        work = QueueWork::kBlocked;
        break;
    }
  }
  return retire(port, index) ? QueueWork::kMore : work;
}

VirtioBlk::Accepted VirtioBlk::accept(VirtioPort& port, QueueId queue, const Chain& chain) {
  const auto status_at = status_place(chain);
  if (!status_at || !memory_.load<std::byte>(*status_at)) return Accepted::kNoStatus;
  const Plan planned = plan(port, chain);
  if (!pass_limit(queue, planned)) return Accepted::kHeldBack;
  Lane& lane = lanes_[queue];
  const Slot slot = lane.free[lane.free_count - 1];
  VirtioBlkRecord taken;
  taken.generation = static_cast<std::uint16_t>(record(slot).generation + 1);
  if (taken.generation == 0) taken.generation = 1;
  taken.order = state_->taken[queue];
  taken.position = chain.position;
  taken.id = chain.id;
  taken.descriptors = chain.descriptors;
  submit(slot, planned, chain, *status_at, taken);
  --lane.free_count;
  put(slot, taken);
  ++state_.mut().taken[queue];
  return Accepted::kTaken;
}

bool VirtioBlk::pass_limit(QueueId queue, const Plan& planned) {
  if (!planned.request) return true;  // nothing is asked of the disk
  const BlockOp op = planned.request->op;
  const bool moves = op == BlockOp::kRead || op == BlockOp::kWrite || op == BlockOp::kWriteZeroes;
  return limiter_.pass(queue, moves ? planned.request->length : 0);
}

bool VirtioBlk::start(const VirtioPort& port, Slot slot, const Chain& chain, VirtioBlkRecord& value) {
  const auto status_at = status_place(chain);
  if (!status_at || !memory_.load<std::byte>(*status_at)) return false;
  submit(slot, plan(port, chain), chain, *status_at, value);
  return true;
}

void VirtioBlk::submit(Slot slot, const Plan& planned, const Chain& chain, GuestPhys status_at,
                       VirtioBlkRecord& value) {
  value.status_at = status_at;
  value.status_only = chain.writable_bytes == 1 ? 1 : 0;
  value.written = planned.written;
  value.status = planned.status;
  value.phase = VirtioBlkRecord::kOver;
  value.may_hold = 0;
  if (!planned.request) return;
  value.may_hold = planned.request->op != BlockOp::kRead && planned.request->op != BlockOp::kFlush ? 1 : 0;
  BlockRequest request = *planned.request;
  request.tag = (std::uint32_t{value.generation} << 16) | slot;
  if (backend_.submit(request))
    value.phase = VirtioBlkRecord::kInBackend;
  else
    value.status = kVirtioBlkSIoErr;
}

// ---- Completing requests ----

bool VirtioBlk::on_backend(VirtioPort& port, BackendId) {
  bool more = true;
  bool held = false;
  for (int i = 0; i < kMaxShown && more; ++i) {
    const auto completion = backend_.complete();
    if (completion && note(*completion)) held = true;
    more = completion.has_value();
  }
  if (held) {
    effects_.emit({.kind = static_cast<std::uint16_t>(EffectKind::kPause),
                   .data = static_cast<std::uint32_t>(PauseReason::kDiskFull)});
    timers_.arm(kRetryTimer, VmTime{clock_.now().ns + kRetryAfterNs});
  }
  if (!port.may_work()) return more;  // guest memory is out of bounds: on_ready() goes on
  for (QueueId queue = 0; queue < queues_; ++queue) {
    if (retire(port, queue)) more = true;
    if (lanes_[queue].blocked && lanes_[queue].free_count != 0 && unblock(port, queue)) more = true;
  }
  return more;
}

bool VirtioBlk::note(const BlockCompletion& completion) {
  const auto slot = static_cast<Slot>(completion.tag & 0xffff);
  if (slot >= queues_ * share_ || tag(slot) != completion.tag) return false;
  VirtioBlkRecord value = record(slot);
  if (value.phase == VirtioBlkRecord::kDropped) {
    free_record(slot);
    return false;
  }
  if (value.phase != VirtioBlkRecord::kInBackend) return false;
  const bool held = stop_on_no_space_ && completion.status == BlockStatus::kNoSpace && value.may_hold != 0;
  value.phase = held ? VirtioBlkRecord::kHeld : VirtioBlkRecord::kOver;
  value.status = held ? kVirtioBlkSOk : status_of(completion.status);
  put(slot, value);
  return held;
}

bool VirtioBlk::holds_any() const {
  return std::ranges::any_of(std::span(lanes_).first(queues_), [](const Lane& lane) { return lane.held != 0; });
}

void VirtioBlk::on_timer(VirtioPort& port, TimerId timer) {
  if (!port.may_work()) return;  // on_ready() goes on, or a kick
  if (timer == kRetryTimer) {
    for (QueueId queue = 0; queue < queues_; ++queue) {
      retry(port, queue);
      if (retire(port, queue)) timers_.arm(kRetryTimer, clock_.now());  // what is no disk request any more
    }
    return;
  }
  const QueueId first = limiter_.woken().value_or(0);
  bool more = false;
  for (QueueId i = 0; i < queues_; ++i) {
    const auto queue = static_cast<QueueId>((first + i) % queues_);
    if (lanes_[queue].blocked && lanes_[queue].free_count != 0 && unblock(port, queue)) more = true;
  }
  if (more) limiter_.wake();
}

bool VirtioBlk::on_limit(LimitId which, const RateLimit& limit) {
  if (which != kDiskLimit) return false;
  limiter_.set(limit);
  return true;
}

void VirtioBlk::retry(VirtioPort& port, QueueId index) {
  if (lanes_[index].held == 0) return;
  VirtQueue& queue = port.queue(index);
  Chain chain;
  for (const Slot slot : by_age(index)) {
    VirtioBlkRecord value = record(slot);
    if (value.phase != VirtioBlkRecord::kHeld) continue;
    if (!queue.usable()) return;
    // What the disk may still tell of the first time is not about this one. 0 is no generation (BlockRequest::tag).
    if (++value.generation == 0) value.generation = 1;
    if (queue.fetch(value.position, chain) != Pop::kChain) return;
    if (chain.id != value.id || chain.descriptors != value.descriptors || !start(port, slot, chain, value)) {
      queue.mut().broken = 1;
      return;
    }
    put(slot, value);
  }
}

bool VirtioBlk::retire(VirtioPort& port, QueueId index) {
  if (lanes_[index].over == 0) return false;
  VirtQueue& queue = port.queue(index);
  const bool in_order = (port.features() & feature_bit(kVirtioFRingPacked)) != 0;
  for (const Slot slot : by_age(index)) {
    if (record(slot).phase == VirtioBlkRecord::kDropped) continue;
    if (record(slot).phase != VirtioBlkRecord::kOver) {
      if (in_order) return false;
      continue;
    }
    if (queue.room() == 0) return true;
    finish(port, queue, slot);
  }
  return false;
}

void VirtioBlk::finish(VirtioPort& port, VirtQueue& queue, Slot slot) {
  const VirtioBlkRecord done = record(slot);
  const bool ok = done.status == kVirtioBlkSOk;
  if (!memory_.store(done.status_at, done.status)) port.needs_reset();
  // "len": bytes from the beginning on that are known to be written (2.7.8.2). Of a read that failed, none.
  queue.push({done.id, done.descriptors, ok ? done.written : done.status_only});
  free_record(slot);
  VirtioBlkState& state = state_.mut();
  ++state.requests;
  if (!ok) ++state.failed;
}

// The driver was asked not to kick while the queue was blocked.
bool VirtioBlk::unblock(VirtioPort& port, QueueId index) {
  if (!port.running()) return false;
  const QueueWork work = take(port, index);
  lanes_[index].blocked = work != QueueWork::kDrained;
  if (work != QueueWork::kDrained) return work == QueueWork::kMore;
  VirtQueue& queue = port.queue(index);
  queue.set_kicks(true);
  lanes_[index].blocked = queue.has_more();  // what came before that did not ring
  return lanes_[index].blocked;
}

// ---- Planning: what a request asks for ----

VirtioBlk::Plan VirtioBlk::plan(const VirtioPort& port, const Chain& chain) {
  VirtioBlkHeader header;
  Plan result{.status = kVirtioBlkSIoErr};
  if (!read_segments(memory_, chain.readable, 0, std::as_writable_bytes(std::span(&header, 1)))) return result;
  switch (header.type) {
    case kVirtioBlkTIn:
    case kVirtioBlkTOut: result = plan_transfer(header, chain); break;
    case kVirtioBlkTFlush: result = {.request = BlockRequest{.op = BlockOp::kFlush}}; break;
    case kVirtioBlkTGetId: return plan_id(chain);
    case kVirtioBlkTDiscard:
    case kVirtioBlkTWriteZeroes: result = plan_range(header, chain); break;
    default: result.status = kVirtioBlkSUnsupp; break;
  }
  if (header.type != kVirtioBlkTIn || !result.request) result.written = chain.writable_bytes == 1 ? 1 : 0;
  // A driver that did not take VIRTIO_BLK_F_FLUSH has no way to make a write stable but to wait for it.
  if (result.request && (port.features() & feature_bit(kVirtioBlkFFlush)) == 0) {
    result.request->stable = geometry_.volatile_cache &&
                             (result.request->op == BlockOp::kWrite || result.request->op == BlockOp::kWriteZeroes);
  }
  return result;
}

VirtioBlk::Plan VirtioBlk::plan_transfer(const VirtioBlkHeader& header, const Chain& chain) {
  const bool read = header.type == kVirtioBlkTIn;
  const Plan refused{.status = kVirtioBlkSIoErr};
  // "A device MUST set the status byte to VIRTIO_BLK_S_IOERR for a write request if the VIRTIO_BLK_F_RO feature if
  // offered, and MUST NOT write any data."
  if (!read && geometry_.read_only) return refused;
  const std::uint64_t bytes = read ? chain.writable_bytes - 1 : chain.readable_bytes - sizeof(header);
  if (bytes == 0 || !on_disk(header.sector, bytes)) return refused;
  const auto data = slice(read ? chain.writable : chain.readable, read ? 0 : sizeof(header), bytes);
  if (!data) return refused;
  return {.request = BlockRequest{.op = read ? BlockOp::kRead : BlockOp::kWrite,
                                  .offset = header.sector * kSectorBytes,
                                  .length = bytes,
                                  .memory = *data},
          .written = static_cast<std::uint32_t>(bytes + 1)};
}

VirtioBlk::Plan VirtioBlk::plan_range(const VirtioBlkHeader& header, const Chain& chain) {
  const bool zeroes = header.type == kVirtioBlkTWriteZeroes;
  if (geometry_.read_only) return {.status = kVirtioBlkSIoErr};
  if (!(zeroes ? geometry_.write_zeroes : geometry_.discard)) return {.status = kVirtioBlkSUnsupp};
  VirtioBlkRange range;
  const std::uint64_t bytes = chain.readable_bytes - sizeof(header);
  if (bytes == 0 || bytes % sizeof(range) != 0) return {.status = kVirtioBlkSIoErr};
  if (bytes != sizeof(range)) return {.status = kVirtioBlkSUnsupp};  // max_discard_seg, max_write_zeroes_seg
  if (!read_segments(memory_, chain.readable, sizeof(header), std::as_writable_bytes(std::span(&range, 1))))
    return {.status = kVirtioBlkSIoErr};
  // "The device MUST set the status byte to VIRTIO_BLK_S_UNSUPP for discard ... and write zeroes commands if any
  // unknown flag is set. Furthermore, ... for discard commands if the unmap flag is set."
  if ((range.flags & ~(zeroes ? kVirtioBlkRangeUnmap : 0U)) != 0) return {.status = kVirtioBlkSUnsupp};
  const std::uint64_t length = std::uint64_t{range.num_sectors} * kSectorBytes;
  if (range.num_sectors > (zeroes ? kMaxWriteZeroesSectors : kMaxDiscardSectors) || !on_disk(range.sector, length))
    return {.status = kVirtioBlkSIoErr};
  if (length == 0) return {};
  return {.request = BlockRequest{.op = zeroes ? BlockOp::kWriteZeroes : BlockOp::kDiscard,
                                  .unmap = (range.flags & kVirtioBlkRangeUnmap) != 0 && geometry_.discard,
                                  .offset = range.sector * kSectorBytes,
                                  .length = length}};
}

VirtioBlk::Plan VirtioBlk::plan_id(const Chain& chain) {
  const std::uint64_t room = chain.writable_bytes - 1;
  const auto bytes = std::span(id_).first(std::min<std::size_t>(room, id_.size()));
  if (!write_segments(memory_, chain.writable, 0, bytes)) return {.status = kVirtioBlkSIoErr};
  return {.written = static_cast<std::uint32_t>(bytes.size() + (room == bytes.size() ? 1 : 0))};
}

bool VirtioBlk::on_disk(std::uint64_t sector, std::uint64_t bytes) const {
  const std::uint64_t block = geometry_.logical_block / kSectorBytes;
  return bytes % geometry_.logical_block == 0 && sector % block == 0 &&
         fits(sector, bytes / kSectorBytes, geometry_.bytes / kSectorBytes);
}

std::optional<std::span<const Segment>> VirtioBlk::slice(std::span<const Segment> all, std::uint64_t offset,
                                                         std::uint64_t length) {
  std::size_t count = 0;
  for (const Segment& segment : all) {
    if (length == 0) break;
    if (offset >= segment.length) {
      offset -= segment.length;
      continue;
    }
    if (count == kSegMax) return std::nullopt;
    const std::uint64_t here = std::min<std::uint64_t>(length, segment.length - offset);
    data_[count++] = {segment.address + offset, static_cast<std::uint32_t>(here)};
    length -= here;
    offset = 0;
  }
  return std::span<const Segment>(data_).first(count);
}

// ---- Life ----

void VirtioBlk::forget(std::span<const Slot> slots) {
  for (const Slot slot : slots) {
    if (record(slot).phase == VirtioBlkRecord::kInBackend)
      drop(slot);
    else if (record(slot).phase == VirtioBlkRecord::kOver || record(slot).phase == VirtioBlkRecord::kHeld)
      free_record(slot);
  }
}

void VirtioBlk::drop(Slot slot) {
  if (backend_.cancel(tag(slot)))
    put(slot, {.generation = record(slot).generation, .phase = VirtioBlkRecord::kDropped});
  else
    free_record(slot);
}

void VirtioBlk::on_queue_reset(QueueId queue) {
  if (queue >= queues_) return;
  forget(by_age(queue));
  lanes_[queue].blocked = false;
}

void VirtioBlk::reset() {
  timers_.cancel(kRetryTimer);
  timers_.cancel(kLimitTimer);
  limiter_.start(configured_limit_);
  for (QueueId queue = 0; queue < queues_; ++queue) on_queue_reset(queue);
  rebuild_lanes();  // the first reset finds none: there was no state to look at before it
}

void VirtioBlk::restore() {
  for (std::size_t part = 0; part < parts_.size(); ++part) {
    VirtioBlkPart clean = parts_[part].get();
    for (std::size_t i = 0; i < VirtioBlkPart::kRecords; ++i) {
      const bool ours = part * VirtioBlkPart::kRecords + i < std::size_t{queues_} * share_;
      clean.records[i] = ours ? in_range(clean.records[i]) : VirtioBlkRecord{};
    }
    if (clean.records != parts_[part]->records) parts_[part].mut() = clean;
  }
  limiter_.restore();
  rebuild_lanes();
  for (Slot slot = 0; slot < queues_ * share_; ++slot) {
    if (record(slot).phase == VirtioBlkRecord::kDropped) drop(slot);
  }
}

void VirtioBlk::resume(VirtioPort& port) {
  for (QueueId queue = 0; queue < queues_; ++queue) {
    resume_queue(port, queue);
    lanes_[queue].blocked = true;  // it may have been: on_backend() looks
  }
  if (holds_any()) timers_.arm(kRetryTimer, clock_.now());
}

// What cannot be taken up again was changed by the guest under way, or never honest: then the queue is broken.
void VirtioBlk::resume_queue(VirtioPort& port, QueueId index) {
  const auto slots = by_age(index);
  if (slots.empty()) return;
  VirtQueue& queue = port.queue(index);
  std::bitset<65536> seen;  // positions
  Chain chain;
  for (const Slot slot : slots) {
    if (!queue.usable()) return forget(slots);
    VirtioBlkRecord value = record(slot);
    if (value.phase == VirtioBlkRecord::kDropped) continue;
    const bool twice = seen.test(value.position);
    seen.set(value.position);
    if (value.phase != VirtioBlkRecord::kInBackend && !twice) continue;
    if (!twice && queue.fetch(value.position, chain) != Pop::kChain) return forget(slots);
    if (twice || chain.id != value.id || chain.descriptors != value.descriptors || !start(port, slot, chain, value)) {
      queue.mut().broken = 1;
      return forget(slots);
    }
    put(slot, value);
  }
}

void VirtioBlk::inspect(Inspector& inspector) const {
  inspector.field("requests", state_->requests);
  inspector.field("failed", state_->failed);
  std::uint64_t held = 0;
  for (const Lane& lane : std::span(lanes_).first(queues_)) held += lane.held;
  inspector.field("held", held);
  limiter_.inspect(inspector);
  for (QueueId queue = 0; queue < queues_; ++queue)
    inspector.field(fmt::format("queue{}_in_flight", queue), std::uint64_t{share_} - lanes_[queue].free_count);
}

}  // namespace bulkhead::devproc
