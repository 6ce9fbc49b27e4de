// ControlChannel: whole messages with file descriptors over one AF_UNIX SOCK_SEQPACKET socket.
//
// It carries the messages of device_messages.h (VMM and device process) and vm_config.h (CLI and VMM); it
// knows nothing of their content. No RPC, no threads, no buffering: one send is one message.
// Trust: the peer may be hostile. Every limit is checked before memory is taken; descriptors that a message
// should not carry are closed at once. After an error the channel is of no further use, except for
// kTimedOut. Threading: one thread at a time sends, one receives.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"

namespace bulkhead::control {

inline constexpr std::size_t kMaxMessageBytes = std::size_t{64} << 10;
inline constexpr std::size_t kMaxMessageFds = 64;  // the kernel's own limit, SCM_MAX_FD, is 253

using Deadline = std::chrono::steady_clock::time_point;
[[nodiscard]] inline Deadline deadline_in(std::chrono::nanoseconds wait) {
  return std::chrono::steady_clock::now() + wait;
}
[[nodiscard]] constexpr Deadline no_deadline() { return Deadline::max(); }
// A deadline that has passed: send and receive only what goes without waiting.
[[nodiscard]] constexpr Deadline no_wait() { return Deadline::min(); }

// Error::error_number of what a channel reports.
inline constexpr int kTimedOut = ETIMEDOUT;  // nothing came, or there was no room, before the deadline
inline constexpr int kPeerClosed = EPIPE;    // the peer closed its end, or its process is gone
inline constexpr int kBadMessage = EBADMSG;  // what came breaks a rule that the message names

// bytes.data() is aligned for any fundamental type.
struct Message {
  std::vector<std::byte> bytes;
  std::vector<UniqueFd> fds;  // all with CLOEXEC
};

class ControlChannel {
 public:
  ControlChannel() = default;
  // Fails unless `socket` is an AF_UNIX SOCK_SEQPACKET socket.
  static Result<ControlChannel> adopt(UniqueFd socket);
  // Two connected channels, both ends CLOEXEC.
  static Result<std::pair<ControlChannel, ControlChannel>> create_pair();

  Status send(std::span<const std::byte> bytes, std::span<const BorrowedFd> fds, Deadline deadline);
  Status send(std::span<const std::byte> bytes, Deadline deadline) { return send(bytes, {}, deadline); }

  // A message with more than `max_fds` descriptors is an error (kBadMessage), so the VMM passes 0 when it
  // listens to a device process.
  Result<Message> receive(Deadline deadline, std::size_t max_fds = 0);

  [[nodiscard]] BorrowedFd fd() const { return socket_.borrow(); }  // for poll(2)
  [[nodiscard]] bool valid() const { return socket_.valid(); }
  UniqueFd take_socket() { return std::move(socket_); }

 private:
  explicit ControlChannel(UniqueFd socket) : socket_(std::move(socket)) {}
  UniqueFd socket_;
};

}  // namespace bulkhead::control
