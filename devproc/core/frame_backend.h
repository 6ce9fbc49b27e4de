// FrameBackend: one queue pair of the network behind a NIC model: a TAP queue, or a frame ring to another process.
//
// Frames go and come with a struct virtio_net_hdr in front (VIRTIO 1.2, section 5.1.6; little-endian, 12 bytes, its
// num_buffers meaning nothing here), which says what is left to do about checksums and segmentation. It is the format
// of a TAP with IFF_VNET_HDR; a NIC without offloads sends zeroes and asks for no offload.
// A frame is sent while its input is handled, so a kill may repeat or lose frames of the one unfinished input, never
// more; what was received and not committed is counted by the backend (DESIGN.md, section 4.5).
//
// Units: bytes. Threading: single-threaded. Errors: a frame that cannot be sent is dropped, as by a wire.
// Trust: what comes is the network's, hostile in content and header; what goes is the guest's. The backend looks at
// neither; whoever is behind it does (the host's kernel, the other end of a ring).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "devproc/core/guest_memory.h"

namespace bulkhead::devproc {

inline constexpr std::size_t kFrameHeader = 12;          // struct virtio_net_hdr_v1
inline constexpr std::size_t kMostFrame = 65550 + 4096;  // the header, a GSO frame of 64 KiB and its link header

class FrameBackend {
 public:
  // What the NIC's guest takes on itself when it receives (TUN_F_*: linux/if_tun.h).
  struct Offloads {
    bool checksum = false;
    bool tso4 = false;
    bool tso6 = false;
    bool ecn = false;
    bool uso = false;
    bool operator==(const Offloads&) const = default;
  };
  enum class Sent : std::uint8_t {
    kSent,  // or dropped by whoever is behind
    kFull,  // not now: Device::on_backend tells when
  };

  virtual ~FrameBackend() = default;
  // `header` stands in front of what is in memory: the first bytes of the frame that the model has made itself.
  virtual Sent send(std::span<const std::byte> header, std::span<const Segment> memory) = 0;
  // The next frame, header included; empty when there is none. It stays the next one until consume().
  virtual std::span<const std::byte> receive() = 0;
  virtual void consume() = 0;
  // Says that the model cannot take frames (false), or can again: a backend that nobody reads must not wake anybody.
  virtual void set_wanted(bool wanted) = 0;
  virtual void set_offloads(const Offloads& offloads) = 0;
  // Whether a cable is plugged in; a change comes as Device::on_backend.
  [[nodiscard]] virtual bool link() const = 0;
  // Frames that were taken off the network and consumed, or lost with a process: since the VM began. One more than that
  // for each process that died just before it read.
  [[nodiscard]] virtual std::uint64_t taken() const { return 0; }
  // Whether headers of frames to send may ask for checksums and segmentation. Where not, they ask for nothing.
  [[nodiscard]] virtual bool takes_offloads() const { return true; }
};

}  // namespace bulkhead::devproc
