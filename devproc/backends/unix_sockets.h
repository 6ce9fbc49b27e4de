// UnixSockets: StreamSockets on a listening Unix socket and on connections that the VMM makes.
//
// Guest-initiated connections go to PATH_PORT. The jail has no file system, so the VMM connects: it is sent {port, tag}
// on the connector, and answers {tag, errno} with the connected socket (SCM_RIGHTS). Errors: none; what fails is told
// as an event. Threading: single-threaded. Trust: the host's programs say what they like.
#pragma once

#include <sys/epoll.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "devproc/backends/backend.h"
#include "devproc/core/stream_sockets.h"
#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"

namespace bulkhead::devproc {

class UnixSockets final : public Backend, public StreamSockets {
 public:
  static Result<std::unique_ptr<UnixSockets>> create(BorrowedFd listener, BorrowedFd connector);
  UnixSockets(BorrowedFd listener, BorrowedFd connector);

  std::optional<SocketEvent> next_event() override;
  bool connect(std::uint32_t port, std::uint32_t tag) override;
  Moved read(SocketId socket, std::span<std::byte> out) override;
  Moved write(SocketId socket, std::span<const std::byte> in) override;
  void shut_write(SocketId socket) override;
  void close(SocketId socket) override;

  [[nodiscard]] BorrowedFd watched() const override { return epoll_.borrow(); }
  // Who waits for a free socket is told of once, and may be taken as soon as one is closed.
  [[nodiscard]] bool ready() const override { return epoll_.valid() && accept_ && !free_.empty(); }

 private:
  static constexpr int kMostEvents = 64;
  static constexpr std::uint64_t kListener = ~std::uint64_t{0};
  static constexpr std::uint64_t kConnector = ~std::uint64_t{1};
  struct Slot {
    UniqueFd fd;
    std::uint32_t turn = 0;  // how often it was somebody's: news of an earlier one are nobody's
  };

  Status watch(BorrowedFd fd, std::uint32_t events, std::uint64_t key);
  bool add(UniqueFd fd, SocketId& socket);
  bool accept_one(SocketEvent& event);
  bool take_answer(SocketEvent& event);
  [[nodiscard]] int fd_of(SocketId socket) const { return socket < slots_.size() ? slots_[socket].fd.get() : -1; }

  BorrowedFd listener_;
  BorrowedFd connector_;
  UniqueFd epoll_;
  std::vector<Slot> slots_;
  std::vector<SocketId> free_;
  bool accept_ = true;  // somebody may wait at the listener
  bool answers_ = true;
  std::array<epoll_event, kMostEvents> events_{};
  int event_count_ = 0;
  int next_event_ = 0;
};

}  // namespace bulkhead::devproc
