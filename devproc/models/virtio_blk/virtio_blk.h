// VirtioBlk: a disk.
//
// Document: Virtual I/O Device (VIRTIO) Version 1.2, section 5.2.
// Implemented: reads, writes, flush, device id, discard and write zeroes (one range each, unmap), several queues, block
//   size and topology, read-only disks. Header, data and status may lie in any number of descriptors, split anywhere.
//   A driver without VIRTIO_BLK_F_FLUSH gets a write-through disk, as section 5.2.6.2 promises it.
// Missing: VIRTIO_BLK_F_SIZE_MAX (no length of a segment is too much, and there are drivers that do not look);
//   VIRTIO_BLK_F_CONFIG_WCE (drivers choose by taking VIRTIO_BLK_F_FLUSH or not); GEOMETRY (of disks that have one);
//   secure erase, lifetime, zones.
//
// In flight: a chain that was taken has a record in the committed state until it is pushed. The record says where the
// chain is, so that a successor reads it anew and submits it again under the same tag (block_backend.h); what has come
// back, but cannot be pushed yet, says so in its record. A split ring is used in whatever order the disk answers; a
// packed one in the order in which chains were taken, or fetching them again would find used elements (queue.h).
// Each queue has its own share of what may be in flight: no queue starves another.
//
// No space (VirtioBlkConfig::stop_on_no_space): a write for which the host has no room is held, and the VM asked to
// pause; it is tried again a moment of VM time later, hence after the VM was resumed. Only what moves data is: a flush
// that fails has lost what it was to keep, and doing it again would seem to succeed.
// Limits: what has no tokens stays in its queue (rate_limiter.h).
//
// Reset: what was taken is given up. What of it is under way keeps its record until it is over, and so long the driver
// reads that its reset is not done (draining()): only then may it reuse its buffers. A tag has its record's generation,
// which a reset does not take back: an old completion is never taken for a new one.
//
// Threading: single-threaded. Trust: rings, headers and ranges are the guest's; the backend's answers are believed, but
// tags that are not in flight are ignored. Errors: the guest's mistakes get IOERR or UNSUPP, and a chain without a
// place for that DEVICE_NEEDS_RESET; the host's errors are IOERR (but see No space). Config: VirtioBlkConfig{.queues =
// 1, .serial = "disk0"}
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "devproc/core/block_backend.h"
#include "devproc/core/guest_memory.h"
#include "devproc/core/persistent.h"
#include "devproc/core/rate_limiter.h"
#include "devproc/core/wires.h"
#include "devproc/models/virtio/transport.h"
#include "devproc/models/virtio_blk/spec.h"
#include "ipc/roles/device_config.h"
#include "ipc/roles/virtio_decl.h"

namespace bulkhead::devproc {

struct VirtioBlkState {
  std::uint64_t requests = 0;                              // completed, since the VM began
  std::uint64_t failed = 0;                                // of these, not with OK
  std::array<std::uint32_t, kVirtioBlkMaxQueues> taken{};  // chains, of each queue
  bool operator==(const VirtioBlkState&) const = default;
};

// A request that was taken and not used yet. kFree and kDropped (its driver has given it up, the disk has not): zeroes
// but for phase and generation.
struct VirtioBlkRecord {
  enum Phase : std::uint8_t { kFree, kInBackend, kOver, kHeld, kDropped };

  std::uint64_t status_at = 0;   // guest-physical address of its status byte
  std::uint32_t order = 0;       // VirtioBlkState::taken when it was taken
  std::uint32_t written = 0;     // UsedElement::written if it succeeds
  std::uint16_t generation = 0;  // how often this record was taken
  std::uint16_t position = 0;    // Chain::position
  std::uint16_t id = 0;
  std::uint16_t descriptors = 0;
  std::uint8_t phase = kFree;
  std::uint8_t status = 0;       // kOver: VIRTIO_BLK_S_*
  std::uint8_t status_only = 0;  // 1: the status byte is all that the device may write
  std::uint8_t may_hold = 0;     // 1: kHeld, rather than an error, when there is no space
  std::array<std::uint8_t, 4> reserved{};
  bool operator==(const VirtioBlkRecord&) const = default;
};
static_assert(sizeof(VirtioBlkRecord) == 32);

// Some records: a commit copies only those parts that an input changed.
struct VirtioBlkPart {
  static constexpr std::size_t kRecords = 8;
  std::array<VirtioBlkRecord, kRecords> records{};
};

struct VirtioBlkStorage {
  static constexpr std::size_t kParts = BlockBackend::kMostInFlight / VirtioBlkPart::kRecords;
  Persistent<VirtioBlkState> state;
  Persistent<RateLimiterState> limit;
  std::vector<Persistent<VirtioBlkPart>> parts;  // kParts

  [[nodiscard]] static VirtioBlkStorage allocate(StateAllocator& allocator);
};

class VirtioBlk final : public virtio::VirtioModel {
 public:
  static constexpr std::uint32_t kStateVersion = 2;
  static constexpr std::uint16_t kQueueSize = 256;
  static constexpr std::uint32_t kSegMax = kQueueSize - 2;            // data segments; header and status have one each
  static constexpr std::uint32_t kMaxDiscardSectors = 4U << 20;       // 2 GiB
  static constexpr std::uint32_t kMaxWriteZeroesSectors = 64U << 10;  // 32 MiB: a disk may have to write them
  static constexpr int kMostTaken = 64;                               // chains in one input
  static constexpr TimerId kRetryTimer = 0;                           // for what is held
  static constexpr TimerId kLimitTimer = 1;
  static constexpr std::int64_t kRetryAfterNs = 100'000'000;

  // All references outlive it. `config` was checked: 1 to kVirtioBlkMaxQueues queues.
  VirtioBlk(const VirtioBlkStorage& storage, const VirtioBlkConfig& config, GuestMemory& memory, BlockBackend& backend,
            Clock& clock, TimerQueue& timers, EffectSink& effects);

  [[nodiscard]] std::string_view name() const override { return "virtio_blk"; }
  [[nodiscard]] std::uint16_t queues() const override { return queues_; }
  [[nodiscard]] std::uint16_t queue_size(QueueId) const override { return kQueueSize; }
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] std::uint8_t read_config(std::uint32_t offset) const override;
  void on_ready(virtio::VirtioPort& port) override;
  virtio::QueueWork on_queue(virtio::VirtioPort& port, QueueId queue) override;
  bool on_backend(virtio::VirtioPort& port, BackendId backend) override;
  void on_timer(virtio::VirtioPort& port, TimerId timer) override;
  bool on_limit(LimitId which, const RateLimit& limit) override;
  void on_queue_reset(QueueId queue) override;
  [[nodiscard]] bool draining(QueueId queue) const override { return queue < queues_ && lanes_[queue].dropped != 0; }
  void reset() override;
  void restore() override;
  void resume(virtio::VirtioPort& port) override;
  void inspect(Inspector& inspector) const override;

 private:
  using Slot = std::uint16_t;  // of a record; those of queue q are [q * share_, (q + 1) * share_)

  // What can be told from the records at any time: a queue's free ones, and how many are over.
  struct Lane {
    std::array<Slot, BlockBackend::kMostInFlight> free;  // the first free_count; the last one is taken next
    std::uint16_t free_count = 0;
    std::uint16_t over = 0;
    std::uint16_t held = 0;
    std::uint16_t dropped = 0;
    bool blocked = false;  // there may be more in the queue, which waits for a free record
  };
  enum class Accepted : std::uint8_t {
    kTaken,
    kNoStatus,  // it has no status byte in RAM
    kHeldBack,  // by the limit
  };
  // What a chain asks for: I/O, or it is over at once.
  struct Plan {
    std::optional<BlockRequest> request{};
    std::uint8_t status = virtio_blk_spec::kVirtioBlkSOk;
    std::uint32_t written = 0;
  };

  [[nodiscard]] const VirtioBlkRecord& record(Slot slot) const {
    return parts_[slot / VirtioBlkPart::kRecords]->records[slot % VirtioBlkPart::kRecords];
  }
  // The only place where records change while there are lanes.
  void put(Slot slot, const VirtioBlkRecord& value);
  void free_record(Slot slot);
  [[nodiscard]] std::uint32_t tag(Slot slot) const { return (std::uint32_t{record(slot).generation} << 16) | slot; }
  [[nodiscard]] QueueId queue_of(Slot slot) const { return static_cast<QueueId>(slot / share_); }
  void rebuild_lanes();
  // The queue's records that are not free, oldest first. Valid until the next call.
  std::span<const Slot> by_age(QueueId queue);

  virtio::QueueWork take(virtio::VirtioPort& port, QueueId queue);
  Accepted accept(virtio::VirtioPort& port, QueueId queue, const virtio::Chain& chain);
  // Whether the limit lets it pass, which then has counted it.
  bool pass_limit(QueueId queue, const Plan& planned);
  // Plans a chain, submits it if it is I/O, and says so in `value`. False: it has no status byte in RAM.
  bool start(const virtio::VirtioPort& port, Slot slot, const virtio::Chain& chain, VirtioBlkRecord& value);
  void submit(Slot slot, const Plan& planned, const virtio::Chain& chain, GuestPhys status_at, VirtioBlkRecord& value);
  // True: it is held now.
  bool note(const BlockCompletion& completion);
  // Submits a queue's held requests again.
  void retry(virtio::VirtioPort& port, QueueId queue);
  [[nodiscard]] bool holds_any() const;
  // Uses what is over. True: there is no room for all of it.
  bool retire(virtio::VirtioPort& port, QueueId queue);
  void finish(virtio::VirtioPort& port, virtio::VirtQueue& queue, Slot slot);
  bool unblock(virtio::VirtioPort& port, QueueId queue);
  void resume_queue(virtio::VirtioPort& port, QueueId queue);
  void forget(std::span<const Slot> slots);
  void drop(Slot slot);

  Plan plan(const virtio::VirtioPort& port, const virtio::Chain& chain);
  Plan plan_transfer(const virtio_blk_spec::VirtioBlkHeader& header, const virtio::Chain& chain);
  Plan plan_range(const virtio_blk_spec::VirtioBlkHeader& header, const virtio::Chain& chain);
  Plan plan_id(const virtio::Chain& chain);
  [[nodiscard]] bool on_disk(std::uint64_t sector, std::uint64_t bytes) const;
  // The part of `all` from `offset` on that has `length` bytes. nullopt: more than kSegMax segments.
  std::optional<std::span<const Segment>> slice(std::span<const Segment> all, std::uint64_t offset,
                                                std::uint64_t length);

  Persistent<VirtioBlkState> state_;
  std::vector<Persistent<VirtioBlkPart>> parts_;
  GuestMemory& memory_;
  BlockBackend& backend_;
  Clock& clock_;
  TimerQueue& timers_;
  EffectSink& effects_;
  RateLimiter limiter_;
  const RateLimit configured_limit_;
  const bool stop_on_no_space_;
  const BlockGeometry geometry_;
  std::uint16_t queues_;
  std::uint16_t share_;  // records of each queue
  std::array<std::byte, virtio_blk_spec::kIdBytes> id_{};
  virtio_blk_spec::VirtioBlkDeviceConfig config_;
  std::array<Lane, kVirtioBlkMaxQueues> lanes_;
  std::array<Slot, BlockBackend::kMostInFlight> sorted_;
  std::array<Segment, BlockBackend::kMostSegments> data_;
};

}  // namespace bulkhead::devproc
