// VirtioBalloon: the memory balloon: the guest gives pages up, and the host gets them.
//
// Document: VIRTIO 1.2, section 5.5. Layouts and bits: spec.h.
// Implemented: inflate and deflate, statistics, DEFLATE_ON_OOM (nothing to do here: the guest takes pages back by
//   itself), free page reporting, PAGE_POISON (of a guest that fills its free pages with anything but zero, reported
//   pages are left as they are: they would come back as zeroes).
// Missing: MUST_TELL_HOST (a page that the guest takes back is there when it is touched, so it need not ask),
//   FREE_PAGE_HINT (it serves migration).
// Queue numbers: as in the specification, and as Linux counts them, which leaves no gap for the free_page_vq that is
//   not there; where the two differ, a queue that only one of them has is that one.
//
// When a page goes back to the host: while the chain that names it is at hand, which is before the guest sees it used.
// A kill makes the successor do so again, but only for chains that were not shown to be used, and their pages are still
// the guest's gift: it takes back no page of a chain that it waits for. What was shown is never released again.
// Units: pages of 4 KiB in registers and queues, bytes elsewhere. Threading: single-threaded.
// Trust: page numbers and statistics are the guest's. Pages outside RAM are counted and left alone.
// Config: VirtioBalloonConfig{.target = 64 << 20, .stats_seconds = 10}
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "devproc/core/guest_memory.h"
#include "devproc/core/ram_release.h"
#include "devproc/core/wires.h"
#include "devproc/models/virtio/transport.h"
#include "devproc/models/virtio_balloon/spec.h"
#include "ipc/roles/device_config.h"

namespace bulkhead::devproc {

struct VirtioBalloonState {
  // Since the VM began.
  std::uint64_t inflated_pages = 0;
  std::uint64_t deflated_pages = 0;
  std::uint64_t reported_bytes = 0;
  std::uint64_t refused = 0;  // pages and ranges outside RAM
  std::uint64_t stats_updates = 0;
  std::uint64_t inflate_done = 0;  // bytes of the first chain in inflateq that are done
  std::uint64_t report_done = 0;   // likewise, of the queue of reports
  std::array<std::uint64_t, virtio_balloon_spec::kStatTags> stats{};  // as the guest said last
  std::uint32_t target = 0;                                           // pages: num_pages
  std::uint32_t actual = 0;
  std::uint32_t poison = 0;
  std::uint32_t held_written = 0;      // 0: the padding of a UsedElement
  std::uint16_t held_id = 0;           // the statistics' buffer, kept until the next are wanted
  std::uint16_t held_descriptors = 0;  // 0: none is
  std::uint8_t target_set = 0;
  std::array<std::uint8_t, 3> reserved{};
  bool operator==(const VirtioBalloonState&) const = default;
};
static_assert(std::has_unique_object_representations_v<VirtioBalloonState>);

class VirtioBalloon final : public virtio::VirtioModel {
 public:
  static constexpr std::uint32_t kStateVersion = 1;
  static constexpr TimerId kStatsTimer = 0;  // new statistics are wanted, or there may be the first ones
  // Bounds of one input's work.
  static constexpr std::uint32_t kMostPages = 1024;                     // of an inflation
  static constexpr std::uint64_t kMostBytes = std::uint64_t{64} << 20;  // of reports
  static constexpr std::uint32_t kMostStats = 64;                       // entries that are looked at

  VirtioBalloon(Persistent<VirtioBalloonState> state, const VirtioBalloonConfig& config, GuestMemory& memory,
                RamRelease& ram, Clock& clock, TimerQueue& timers);

  [[nodiscard]] std::string_view name() const override { return "virtio_balloon"; }
  [[nodiscard]] std::uint16_t queues() const override { return virtio_balloon_spec::kReportingVq + 1; }
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] std::uint8_t read_config(std::uint32_t offset) const override;
  void write_config(virtio::VirtioPort& port, std::uint32_t offset, std::uint8_t value) override;
  void on_ready(virtio::VirtioPort& port) override;
  virtio::QueueWork on_queue(virtio::VirtioPort& port, QueueId queue) override;
  void on_timer(virtio::VirtioPort& port, TimerId timer) override;
  void on_setting(virtio::VirtioPort& port, Setting setting, std::uint64_t value) override;
  void on_queue_reset(QueueId queue) override;
  void reset() override;
  void restore() override;
  void inspect(Inspector& inspector) const override;

 private:
  enum class Kind : std::uint8_t { kInflate, kDeflate, kStats, kReport, kNone };
  // How a chain ended: wholly, or what is left of it is for the next input.
  enum class Done : std::uint8_t { kAll, kPart, kBadMemory };

  [[nodiscard]] Kind kind(const virtio::VirtioPort& port, QueueId queue) const;
  void forget_chains();
  template <class Work>
  virtio::QueueWork each_chain(virtio::VirtioPort& port, QueueId queue, Work&& work);
  Done inflate(const virtio::Chain& chain, std::uint32_t& budget);
  Done report(const virtio::Chain& chain, std::uint64_t& budget);
  void release(GuestPhys address, std::uint64_t length);
  virtio::QueueWork take_stats(virtio::VirtioPort& port, QueueId queue);
  bool read_stats(const virtio::Chain& chain);

  Persistent<VirtioBalloonState> state_;
  VirtioBalloonConfig config_;
  GuestMemory& memory_;
  RamRelease& ram_;
  Clock& clock_;
  TimerQueue& timers_;
};

}  // namespace bulkhead::devproc
