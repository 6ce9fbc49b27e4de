// VirtioVsock: the socket device. It passes packets between the guest's queues and a vsock_relay, the process that
// holds the host's sockets and knows what a connection is.
//
// Document: VIRTIO 1.2, section 5.10. Layouts and bits: spec.h.
// Implemented: stream sockets; VIRTIO_VSOCK_EVENT_TRANSPORT_RESET when the relay has forgotten its connections; packets
//   that are longer than the guest's buffers arrive in pieces.
// Missing: VIRTIO_VSOCK_F_SEQPACKET (Unix stream sockets on the host's side have no message boundaries).
// What is taken from a queue and put into the link, and the other way round, is committed together: a kill loses no
//   packet and doubles none.
// Packets that are dropped and counted: without a whole header, longer than kMostPayload or than their chain, from
//   another CID than the guest's, to another than the host's. A chain that is not in RAM, or a receive buffer without
//   room for a header and a byte, sets DEVICE_NEEDS_RESET.
// Units: bytes. Threading: single-threaded. Trust: queues and packets are the guest's; what the link has is another
//   device process's, and hostile too.
// Config: VirtioVsockConfig{.guest_cid = 3}
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "devproc/core/guest_memory.h"
#include "devproc/core/packet_link.h"
#include "devproc/models/virtio/transport.h"
#include "devproc/models/virtio_vsock/spec.h"
#include "ipc/roles/device_config.h"

namespace bulkhead::devproc {

struct VirtioVsockState {
  // Since the VM began.
  std::uint64_t sent_packets = 0;
  std::uint64_t sent_bytes = 0;  // payload
  std::uint64_t received_packets = 0;
  std::uint64_t received_bytes = 0;
  std::uint64_t sent_dropped = 0;
  std::uint64_t received_dropped = 0;
  std::uint64_t transport_resets = 0;
  std::uint32_t received_done = 0;  // payload of the link's next packet that the guest has already
  std::uint32_t peer_epoch = 0;     // of the relay, as the guest knows it
  std::uint8_t send_blocked = 0;    // the link was full
  std::uint8_t reset_owed = 0;      // the guest is to hear of a new epoch
  std::array<std::uint8_t, 6> reserved{};
  bool operator==(const VirtioVsockState&) const = default;
};
static_assert(std::has_unique_object_representations_v<VirtioVsockState>);

class VirtioVsock final : public virtio::VirtioModel {
 public:
  static constexpr std::uint32_t kStateVersion = 1;
  static constexpr std::uint64_t kMostBytes = 262'144;  // of one input, each way

  VirtioVsock(Persistent<VirtioVsockState> state, const VirtioVsockConfig& config, GuestMemory& memory,
              PacketLink& link);

  [[nodiscard]] std::string_view name() const override { return "virtio_vsock"; }
  [[nodiscard]] std::uint16_t queues() const override { return virtio_vsock_spec::kEventVq + 1; }
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] std::uint8_t read_config(std::uint32_t offset) const override;
  void on_ready(virtio::VirtioPort& port) override;
  virtio::QueueWork on_queue(virtio::VirtioPort& port, QueueId queue) override;
  bool on_backend(virtio::VirtioPort& port, BackendId backend) override;
  void on_backend_poisoned(virtio::VirtioPort& port, BackendId backend) override;
  void reset() override;
  void restore() override;
  void inspect(Inspector& inspector) const override;

 private:
  enum class Sending : std::uint8_t { kDone, kFull, kBadMemory };

  virtio::QueueWork transmit(virtio::VirtioPort& port);
  Sending send(const virtio::Chain& chain, std::uint64_t& bytes);
  virtio::QueueWork receive(virtio::VirtioPort& port);
  // Takes bad ones away. Empty: there is none.
  std::span<const std::byte> next_packet(virtio_vsock_spec::VsockHeader& header);
  bool deliver(const virtio::Chain& chain, virtio_vsock_spec::VsockHeader header, std::span<const std::byte> payload);
  virtio::QueueWork tell_of_reset(virtio::VirtioPort& port);
  void drop_received();

  Persistent<VirtioVsockState> state_;
  VirtioVsockConfig config_;
  GuestMemory& memory_;
  PacketLink& link_;
  std::vector<std::byte> payload_;  // scratch of one call
};

}  // namespace bulkhead::devproc
