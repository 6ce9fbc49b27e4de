// TapFrames: a queue of a TAP device (Linux, Documentation/networking/tuntap.rst) as a frame backend.
//
// The descriptor came with the role: a TAP with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE, headers of
// kFrameHeader bytes (TUNSETVNETHDRSZ), O_NONBLOCK. Used with read(2), write(2), writev(2), poll(2) and one ioctl,
// TUNSETOFFLOAD, which concerns all queues of the device.
// A large frame is written straight from guest RAM: the guest may change it meanwhile, and the host's kernel looks at
// its own copy. A small one is copied first: one write(2) of few bytes costs less than what writev(2) does to find out
// where they are. Nothing is allocated after construction.
// The event loop watches the descriptor by edges. Nobody is asked to look for frames while the model wants none, or
// after read(2) said that there are none, until the descriptor tells of more.
// Frames taken are counted in a word that outlives the process, before they are read: what a dead process had read and
// not committed is the difference to what the model has counted.
// Units: bytes. Threading: single-threaded. Trust: frames are the network's.
// Errors: a frame that the kernel refuses is dropped and counted. An interface that is down or gone is a cable that is
// pulled; poll() tells when it is back.
#pragma once

#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "devproc/backends/backend.h"
#include "devproc/backends/guest_ranges.h"
#include "devproc/core/frame_backend.h"
#include "ipc/base/unique_fd.h"

namespace bulkhead::devproc {

class TapFrames final : public FrameBackend, public Backend {
 public:
  // All outlive this; `taken` outlives the process as well.
  TapFrames(BorrowedFd tap, GuestRanges& memory, std::atomic<std::uint64_t>& taken);

  Sent send(std::span<const std::byte> header, std::span<const Segment> memory) override;
  std::span<const std::byte> receive() override;
  void consume() override { held_ = 0; }
  void set_wanted(bool wanted) override { wanted_ = wanted; }
  void set_offloads(const Offloads& offloads) override;
  [[nodiscard]] bool link() const override { return link_; }

  [[nodiscard]] std::uint64_t taken() const override { return taken_.load(std::memory_order_relaxed) - (held_ != 0); }

  [[nodiscard]] BorrowedFd watched() const override { return fd_; }
  [[nodiscard]] bool ready() const override { return wanted_ && (held_ != 0 || may_have_frames_); }
  void on_events(std::uint32_t epoll_events) override;

  // Frames to send that were dropped here or by the kernel.
  [[nodiscard]] std::uint64_t dropped() const { return dropped_; }

 private:
  static constexpr std::size_t kMostPieces = 1024;  // UIO_MAXIOV

  static constexpr std::size_t kSmallFrame = 2048;  // header included: what an Ethernet frame fits in

  // write(2) or writev(2) of what was gathered.
  ssize_t write_frame();
  // False: not RAM, or in too many pieces.
  bool gather(std::span<const Segment> memory);
  void fail(int error);
  // Also makes the kernel tell of room that is not there yet.
  [[nodiscard]] bool writable() const;

  BorrowedFd fd_;
  GuestRanges& memory_;
  std::unique_ptr<std::array<std::byte, kMostFrame>> frame_;
  std::array<iovec, kMostPieces> pieces_{};
  std::size_t piece_count_ = 0;
  std::size_t piece_bytes_ = 0;
  std::array<std::byte, kSmallFrame> small_{};
  std::size_t held_ = 0;  // bytes of the next frame, which is in frame_
  std::atomic<std::uint64_t>& taken_;
  std::uint64_t dropped_ = 0;
  std::optional<Offloads> offloads_;  // as the kernel was told
  bool wanted_ = false;
  bool may_have_frames_ = true;
  bool link_ = true;
};

}  // namespace bulkhead::devproc
