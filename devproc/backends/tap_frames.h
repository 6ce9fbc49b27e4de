// TapFrames: a queue of a TAP device (Linux, Documentation/networking/tuntap.rst) as a frame backend.
//
// The descriptor came with the role: a TAP with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE, headers of
// kFrameHeader bytes (TUNSETVNETHDRSZ), O_NONBLOCK. Used with readv(2)'s and writev(2)'s kin, poll(2) and one ioctl,
// TUNSETOFFLOAD, which concerns all queues of the device.
// A frame is written straight from guest RAM: the guest may change it meanwhile, and the host's kernel looks at its own
// copy. Nothing is allocated after construction.
// The event loop polls the descriptor for events(), tells of what came by on_events(), and asks the device's
// on_backend() then.
// Units: bytes. Threading: single-threaded. Trust: frames are the network's.
// Errors: a frame that the kernel refuses is dropped and counted. An interface that is down or gone is a cable that is
// pulled; poll() tells when it is back.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

#include "devproc/backends/backend.h"
#include "devproc/backends/guest_ranges.h"
#include "devproc/core/frame_backend.h"
#include "ipc/base/unique_fd.h"

namespace bulkhead::devproc {

class TapFrames final : public FrameBackend {
 public:
  // Both outlive this.
  TapFrames(BorrowedFd tap, GuestRanges& memory);

  Sent send(std::span<const std::byte> header, std::span<const Segment> memory) override;
  std::span<const std::byte> receive() override;
  void consume() override { held_ = 0; }
  void set_wanted(bool wanted) override { wanted_ = wanted; }
  void set_offloads(const Offloads& offloads) override;
  [[nodiscard]] bool link() const override { return link_; }

  // The poll(2) events that it waits for. 0: it is not to be polled, not even for errors.
  [[nodiscard]] short events() const;
  void on_events(short events);
  [[nodiscard]] BorrowedFd fd() const { return fd_; }

  // Frames read so far. What an input that did not end has read is lost.
  [[nodiscard]] std::uint64_t taken() const { return taken_; }
  // Frames to send that were dropped here or by the kernel.
  [[nodiscard]] std::uint64_t dropped() const { return dropped_; }

 private:
  static constexpr std::size_t kMostPieces = 1024;  // UIO_MAXIOV

  // False: not RAM, or in too many pieces.
  bool gather(std::span<const Segment> memory);
  void fail(int error);

  BorrowedFd fd_;
  GuestRanges& memory_;
  std::unique_ptr<std::array<std::byte, kMostFrame>> frame_;
  std::array<iovec, kMostPieces> pieces_{};
  std::size_t piece_count_ = 0;
  std::size_t held_ = 0;  // bytes of the next frame, which is in frame_
  std::uint64_t taken_ = 0;
  std::uint64_t dropped_ = 0;
  std::optional<Offloads> offloads_;  // as the kernel was told
  bool wanted_ = false;
  bool full_ = false;
  bool link_ = true;
  bool gone_ = false;  // for good
};

}  // namespace bulkhead::devproc
