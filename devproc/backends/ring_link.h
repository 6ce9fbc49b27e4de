// RingLink: a PacketLink over ipc/ring/packet_link.h.
//
// Its indexes are committed state of the role; begin(), after the commit, publishes them. Threading: single-threaded.
// Trust: see PacketLink; the area is the other side's to write as well.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "devproc/backends/backend.h"
#include "devproc/core/packet_link.h"
#include "devproc/core/persistent.h"
#include "ipc/base/result.h"
#include "ipc/ring/packet_link.h"
#include "ipc/shm/region.h"

namespace bulkhead::devproc {

struct PacketLinkState {
  std::uint64_t produced = 0;
  std::uint64_t consumed = 0;
  std::uint32_t epoch = 0;
  std::uint32_t reserved = 0;
};

class RingLink final : public Backend, public PacketLink {
 public:
  // `side`: 0 is the device's, 1 the relay's. Without an area (a process that is only asked what it could play) it
  // carries nothing.
  static Result<std::unique_ptr<RingLink>> create(Persistent<PacketLinkState> state, std::uint32_t side,
                                                  BorrowedFd area, BorrowedFd wake, BorrowedFd peer);
  RingLink(Persistent<PacketLinkState> state, std::uint32_t side, ipc::PacketLinkArea* area, BorrowedFd wake,
           BorrowedFd peer);

  [[nodiscard]] bool has_room(std::size_t size) const override;
  void send(std::span<const std::byte> head, std::span<const std::byte> body) override;
  std::span<const std::byte> receive() override;
  void consume() override;
  void begin_epoch() override;
  [[nodiscard]] std::uint32_t own_epoch() const override { return now_.epoch; }
  [[nodiscard]] std::uint32_t peer_epoch() const override;
  void restore() override;

  [[nodiscard]] BorrowedFd watched() const override { return wake_; }
  void on_events(std::uint32_t epoll_events) override;
  void begin() override;

 private:
  [[nodiscard]] ipc::PacketRing& out() const { return area_->from[side_]; }
  [[nodiscard]] ipc::PacketRing& in() const { return area_->from[1 - side_]; }
  void put(std::uint64_t at, std::span<const std::byte> bytes);

  Persistent<PacketLinkState> state_;
  std::uint32_t side_;
  std::optional<ipc::WritableRegion> region_;
  ipc::PacketLinkArea* area_;
  BorrowedFd wake_;
  BorrowedFd peer_;
  std::vector<std::byte> packet_;  // what receive() gave
  std::size_t packet_size_ = 0;    // 0: nothing
  PacketLinkState now_{};          // what begin() is to publish
  bool told_ = false;              // it has published since this process began
};

}  // namespace bulkhead::devproc
