// VirtioNet: the network device: up to kVirtioNetMaxPairs queue pairs over as many frame backends, and a control queue.
//
// Document: VIRTIO 1.2, section 5.1. Layouts and bits: spec.h; headers: frame_header.h; filtering: receive_filter.h.
// Implemented: checksum offload and TCP segmentation with ECN both ways, mergeable receive buffers, link state with
//   configuration changes, MTU, speed and duplex, multiple queue pairs, control queue (receive modes, MAC table, MAC
//   address, VLAN filter, queue pairs, guest offloads).
// Missing: GUEST_ANNOUNCE (nobody tells the device that it has moved), UFO and USO, RSS and hash reports (which pair a
//   frame arrives at is the backend's business), notification coalescing, STANDBY, RSC_EXT, GUEST_HDRLEN.
// The frames of a backend whose pair is not in use go to the receive queues that are, so that a driver with one pair
//   loses nothing (5.1.6.5.5: a device does not use receive queues beyond virtqueue_pairs).
// Frames that are dropped and counted: without an Ethernet header, longer than kMostFrame, with a header that is
//   malformed or asks for what was not agreed on, and, when received, filtered out or too long for the driver's
//   buffers. A transmit chain whose header is not in RAM, or a receive chain that is not, sets DEVICE_NEEDS_RESET; a
//   frame that lies outside RAM is dropped by the backend.
// Units: bytes. Threading: single-threaded. Trust: rings, buffers and commands are the guest's; received frames and
//   their headers are the network's. Both are hostile.
// Config: VirtioNetConfig{.nic = {.mac = {0x52, 0x54, 0, 0, 0, 1}}, .mtu = 1500, .queue_pairs = 2}
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "devproc/core/frame_backend.h"
#include "devproc/core/guest_memory.h"
#include "devproc/core/limited_frames.h"
#include "devproc/models/virtio/transport.h"
#include "devproc/models/virtio_net/frame_header.h"
#include "devproc/models/virtio_net/receive_filter.h"
#include "devproc/models/virtio_net/spec.h"
#include "ipc/roles/device_config.h"

namespace bulkhead::devproc {

// Since the VM began.
struct VirtioNetCounters {
  std::uint64_t sent_frames = 0;
  std::uint64_t sent_bytes = 0;  // without headers, as all of these
  std::uint64_t received_frames = 0;
  std::uint64_t received_bytes = 0;
  std::uint64_t sent_bad_length = 0;  // dropped, as all that follow
  std::uint64_t sent_bad_header = 0;
  std::uint64_t sent_not_agreed = 0;  // offloads
  std::uint64_t received_bad_length = 0;
  std::uint64_t received_bad_header = 0;
  std::uint64_t received_not_agreed = 0;
  std::uint64_t received_filtered = 0;
  std::uint64_t received_no_fit = 0;
  std::uint64_t received_poisoned = 0;
  std::uint64_t commands_refused = 0;
  bool operator==(const VirtioNetCounters&) const = default;
};

struct VirtioNetState {
  VirtioNetCounters counters;
  std::uint64_t guest_offloads = 0;  // feature bits: as negotiated, or as the driver has set them since
  std::uint16_t pairs = 1;           // in use
  std::uint8_t started = 0;          // DRIVER_OK was seen
  std::uint8_t link = 0;             // as the driver was told
  std::uint8_t send_blocked = 0;     // bit n: the backend of pair n was full
  std::array<std::uint8_t, 3> reserved{};
  bool operator==(const VirtioNetState&) const = default;
};
static_assert(std::has_unique_object_representations_v<VirtioNetState>);

struct VirtioNetStorage {
  Persistent<VirtioNetState> state;
  Persistent<ReceiveFilter> filter;
  LimitedFramesStorage limits;

  [[nodiscard]] static VirtioNetStorage allocate(StateAllocator& allocator);
};

class VirtioNet final : public virtio::VirtioModel {
 public:
  static constexpr std::uint32_t kStateVersion = 3;
  // Bounds of one input's work on one queue. What an unfinished input sent is sent again after a kill.
  static constexpr unsigned kMostFrames = virtio::kMaxShown;
  static constexpr std::uint64_t kMostBytes = 262'144;

  // One backend a pair, which outlive this.
  VirtioNet(const VirtioNetStorage& storage, const VirtioNetConfig& config, GuestMemory& memory,
            std::span<FrameBackend* const> frames, Clock& clock, TimerQueue& timers);

  [[nodiscard]] std::string_view name() const override { return "virtio_net"; }
  [[nodiscard]] std::uint16_t queues() const override { return static_cast<std::uint16_t>(2 * most_pairs() + 1); }
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] std::uint8_t read_config(std::uint32_t offset) const override;
  void on_ready(virtio::VirtioPort& port) override;
  virtio::QueueWork on_queue(virtio::VirtioPort& port, QueueId queue) override;
  bool on_backend(virtio::VirtioPort& port, BackendId backend) override;
  void on_backend_poisoned(virtio::VirtioPort& port, BackendId backend) override;
  void on_timer(virtio::VirtioPort& port, TimerId timer) override;
  bool on_limit(LimitId which, const RateLimit& limit) override { return limits_.set(which, limit); }
  void reset() override;
  void restore() override;
  void inspect(Inspector& inspector) const override;

 private:
  struct Role {
    enum class Kind : std::uint8_t { kReceive, kTransmit, kControl, kNone };
    Kind kind = Kind::kNone;
    std::uint16_t pair = 0;
  };
  enum class Sending : std::uint8_t { kDone, kFull, kBadMemory };
  enum class Receiving : std::uint8_t {
    kDone,       // this frame: delivered or dropped
    kNoFrames,   // the backend has no more
    kNoBuffers,  // the driver is asked to kick
    kNoRoom,     // for this input
    kBroken,     // the queue, or a buffer is not in RAM
  };
  using Counter = std::uint64_t VirtioNetCounters::*;

  [[nodiscard]] std::uint16_t most_pairs() const { return static_cast<std::uint16_t>(frames_.size()); }
  [[nodiscard]] Role role(const virtio::VirtioPort& port, QueueId queue) const;
  // Where frames of a backend go.
  [[nodiscard]] std::uint16_t pair_of(std::size_t backend) const {
    return static_cast<std::uint16_t>(backend % state_->pairs);
  }
  void count(Counter counter, std::uint64_t by = 1) { state_.mut().counters.*counter += by; }

  void update_link(virtio::VirtioPort& port);
  void tell_offloads();
  void want_frames(std::uint16_t pair, bool wanted);
  void want_all(bool wanted);

  // Transmission.
  virtio::QueueWork transmit(virtio::VirtioPort& port, std::uint16_t pair);
  Sending send(const virtio::VirtioPort& port, std::uint16_t pair, const virtio::Chain& chain);
  void set_send_blocked(std::uint16_t pair, bool blocked);

  // Reception.
  virtio::QueueWork receive_all(virtio::VirtioPort& port, std::uint16_t pair);
  Receiving receive(virtio::VirtioPort& port, std::size_t backend);
  std::optional<virtio_net_spec::NetHdr> admit(const virtio::VirtioPort& port, std::span<const std::byte> frame);
  Receiving deliver(virtio::VirtioPort& port, virtio::VirtQueue& queue, std::span<const std::byte> frame,
                    const virtio_net_spec::NetHdr& header);
  bool fill(const virtio::Chain& chain, std::size_t done, std::span<const std::byte> piece,
            const virtio_net_spec::NetHdr& header);
  bool set_num_buffers(std::uint16_t count);

  // The control queue: control.cc.
  virtio::QueueWork control(virtio::VirtioPort& port, QueueId queue);
  bool obey(const virtio::VirtioPort& port, const virtio::Chain& chain);
  bool set_receive_mode(std::uint64_t features, std::uint8_t command, std::span<const std::byte> data);
  bool set_mac_table(const virtio::Chain& chain);
  std::optional<std::uint64_t> read_mac_table(const virtio::Chain& chain, std::uint64_t offset,
                                              ReceiveFilter::Table& table);
  bool set_vlan(std::uint8_t command, std::uint16_t vlan);
  bool set_pairs(std::uint16_t pairs);
  bool set_guest_offloads(std::uint64_t features, std::uint64_t offloads);

  Persistent<VirtioNetState> state_;
  Persistent<ReceiveFilter> filter_;
  VirtioNetConfig config_;
  GuestMemory& memory_;
  LimitedFrames limits_;
  std::span<FrameBackend* const> frames_;  // those of limits_

  // Scratch of one call.
  std::array<Segment, virtio::kMaxQueueSize> segments_{};
  std::array<Segment, kFrameHeader> head_{};  // where a received frame's header lies
  std::size_t head_segments_ = 0;
  std::array<virtio::UsedElement, virtio::kMaxShown> taken_{};
};

}  // namespace bulkhead::devproc
