// RingFrames: one end of a frame ring (ipc/ring/frame_ring.h) as a frame backend: a NIC's, or that of whoever stands at
// the cable's other end.
//
// Frames carry their struct virtio_net_hdr; what may stand in it is the two ends' agreement. Indexes are committed with
// the device's state and published by begin(), after the commit. A frame to be sent is copied out of guest RAM; one
// that came is copied out of the ring before anybody looks at it. Nothing is allocated after construction.
//
// Units: bytes. Threading: single-threaded. Errors: a frame that is too long or not in RAM is dropped and counted.
// Trust: the peer is hostile; it can lose frames, make them up, and keep this process awake by doing so for ever.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "devproc/backends/backend.h"
#include "devproc/backends/guest_ranges.h"
#include "devproc/core/frame_backend.h"
#include "devproc/core/persistent.h"
#include "ipc/base/unique_fd.h"
#include "ipc/ring/frame_ring.h"

namespace bulkhead::devproc {

// As handed over: the areas are mapped, the descriptors open.
struct FrameRingWires {
  ipc::FrameRingArea* own = nullptr;
  const ipc::FrameRingArea* peer = nullptr;
  BorrowedFd bell;       // rings for us
  BorrowedFd peer_bell;  // rings for the peer
};

class RingFrames final : public FrameBackend, public Backend {
 public:
  // What is behind the wires outlives this. `memory` may be null where nothing is sent from guest RAM.
  RingFrames(const FrameRingWires& wires, Persistent<ipc::FrameRingState> state, GuestRanges* memory);

  Sent send(std::span<const std::byte> header, std::span<const Segment> memory) override;
  std::span<const std::byte> receive() override;
  void consume() override;
  void set_wanted(bool wanted) override { wanted_ = wanted; }
  void set_offloads(const Offloads&) override {}
  [[nodiscard]] bool link() const override { return link_; }
  [[nodiscard]] std::uint64_t taken() const override { return state_->taken; }

  [[nodiscard]] BorrowedFd watched() const override { return wires_.bell; }
  void on_events(std::uint32_t epoll_events) override;
  [[nodiscard]] bool ready() const override;
  void start(bool resumed) override;
  void begin() override;
  void set_asleep(bool asleep) override;

  [[nodiscard]] std::uint64_t dropped() const { return state_->dropped; }
  [[nodiscard]] std::uint64_t broken() const { return state_->broken; }

 private:
  // Records of ours that the peer has yet to take; more than there is room for: the peer breaks the rules.
  [[nodiscard]] std::uint64_t outstanding() const;
  [[nodiscard]] std::uint64_t waiting() const;
  bool copy_out(std::uint64_t at, std::span<const std::byte> header, std::span<const Segment> memory);
  void put(std::uint64_t at, std::span<const std::byte> bytes);
  void give_up_waiting();
  void look_at_link();

  FrameRingWires wires_;
  Persistent<ipc::FrameRingState> state_;
  GuestRanges* memory_;
  std::unique_ptr<std::array<std::byte, kMostFrame>> frame_;
  std::size_t held_ = 0;  // bytes of the next frame, which is in frame_
  // As the working state says; unlike it, right between a commit and its sync as well.
  std::uint64_t produced_ = 0;
  std::uint64_t consumed_ = 0;
  std::uint64_t published_produced_ = 0;
  std::uint64_t published_consumed_ = 0;
  std::uint64_t starved_for_ = 0;  // bytes that send() found no room for; 0: none
  bool to_announce_ = false;       // wake the peer in any case
  bool wanted_ = false;
  bool link_ = true;
};

}  // namespace bulkhead::devproc
