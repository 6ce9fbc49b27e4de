#include "ipc/control/channel.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>

namespace bulkhead::control {
namespace {

constexpr std::size_t kControlBytes = CMSG_SPACE(kMaxMessageFds * sizeof(int));

Error bad_message(std::string why) { return Error{"bad control message: " + std::move(why), kBadMessage}; }
Error peer_closed() { return Error{"the peer closed the control channel", kPeerClosed}; }

// Waits until `fd` has one of `events`. Hang-up and errors end the wait too: the next call reports them.
Status wait_until(BorrowedFd fd, short events, Deadline deadline) {
  for (;;) {
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left.count() <= 0) return Error{"the control channel's deadline passed", kTimedOut};
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
    const timespec timeout{.tv_sec = seconds.count(), .tv_nsec = (left - seconds).count()};
    pollfd entry{.fd = fd.get(), .events = events, .revents = 0};
    const int ready = ::ppoll(&entry, 1, deadline == no_deadline() ? nullptr : &timeout, nullptr);
    if (ready > 0) return ok();
    if (ready < 0 && errno != EINTR) return make_errno_error("cannot wait for the control channel");
  }
}

// Repeats `call` (a send or receive that does not wait) until it does something or the deadline passes.
template <class Call>
Result<std::size_t> repeat(BorrowedFd fd, short events, Deadline deadline, Call call) {
  for (;;) {
    const ssize_t done = call();
    if (done >= 0) return static_cast<std::size_t>(done);
    switch (errno) {
      case EINTR:
      // The peer ended with something of ours unread. The kernel says so once, ahead of the peer's last
      // words.
      case ECONNRESET: continue;
      case EAGAIN:
        if (deadline == no_wait()) return Error{"nothing to do on the control channel yet", kTimedOut};
        RETURN_IF_ERROR(wait_until(fd, events, deadline));
        continue;
      case EPIPE:
      case ENOTCONN: return peer_closed();
      default: return make_errno_error("the control channel failed");
    }
  }
}

// Takes ownership of every descriptor before anything is judged, so that none can leak.
std::vector<UniqueFd> take_descriptors(msghdr& header, bool& foreign) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* item = CMSG_FIRSTHDR(&header); item != nullptr; item = CMSG_NXTHDR(&header, item)) {
    if (item->cmsg_level != SOL_SOCKET || item->cmsg_type != SCM_RIGHTS) {
      foreign = true;
      continue;
    }
    const std::size_t count = (item->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(item) + i * sizeof(int), sizeof fd);
      fds.emplace_back(fd);
    }
  }
  return fds;
}

}  // namespace

Result<ControlChannel> ControlChannel::adopt(UniqueFd socket) {
  int domain = 0;
  int type = 0;
  socklen_t length = sizeof domain;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0)
    return make_errno_error("the control channel is not a socket");
  length = sizeof type;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_TYPE, &type, &length) != 0)
    return make_errno_error("the control channel is not a socket");
  if (domain != AF_UNIX || type != SOCK_SEQPACKET)
    return make_error("the control channel is not an AF_UNIX SOCK_SEQPACKET socket");
  if (::fcntl(socket.get(), F_SETFD, FD_CLOEXEC) != 0)
    return make_errno_error("cannot set close-on-exec on the control channel");
  return ControlChannel(std::move(socket));
}

Result<std::pair<ControlChannel, ControlChannel>> ControlChannel::create_pair() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0)
    return make_errno_error("cannot create a control channel");
  return std::pair(ControlChannel(UniqueFd(ends[0])), ControlChannel(UniqueFd(ends[1])));
}

Status ControlChannel::send(std::span<const std::byte> bytes, std::span<const BorrowedFd> fds, Deadline deadline) {
  if (bytes.empty() || bytes.size() > kMaxMessageBytes)
    return bad_message(fmt::format("{} bytes to send, 1 to {} allowed", bytes.size(), kMaxMessageBytes));
  if (fds.size() > kMaxMessageFds)
    return bad_message(fmt::format("{} descriptors to send, at most {} allowed", fds.size(), kMaxMessageFds));

  alignas(cmsghdr) std::array<std::byte, kControlBytes> control{};
  iovec part{.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (!fds.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* item = CMSG_FIRSTHDR(&header);
    item->cmsg_level = SOL_SOCKET;
    item->cmsg_type = SCM_RIGHTS;
    item->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    for (std::size_t i = 0; i < fds.size(); ++i) {
      const int fd = fds[i].get();
      std::memcpy(CMSG_DATA(item) + i * sizeof fd, &fd, sizeof fd);
    }
  }
  ASSIGN_OR_RETURN(const std::size_t sent, repeat(fd(), POLLOUT, deadline, [&] {
                     return ::sendmsg(socket_.get(), &header, MSG_NOSIGNAL | MSG_DONTWAIT);
                   }));
  if (sent != bytes.size()) return make_error("the kernel sent only a part of a control message");
  return ok();
}

Result<Message> ControlChannel::receive(Deadline deadline, std::size_t max_fds) {
  max_fds = std::min(max_fds, kMaxMessageFds);
  // Without a deadline the call itself waits: a device process then needs recvmsg and nothing else.
  const int wait_flag = deadline == no_deadline() ? 0 : MSG_DONTWAIT;

  msghdr peek{};
  ASSIGN_OR_RETURN(const std::size_t length, repeat(fd(), POLLIN, deadline, [&] {
                     return ::recvmsg(socket_.get(), &peek, MSG_PEEK | MSG_TRUNC | wait_flag);
                   }));
  if (length == 0) return peer_closed();  // or an empty packet, which no honest peer sends
  if (length > kMaxMessageBytes)
    return bad_message(fmt::format("{} bytes, at most {} allowed", length, kMaxMessageBytes));

  Message message;
  message.bytes.resize(length);
  alignas(cmsghdr) std::array<std::byte, kControlBytes> control{};
  iovec part{.iov_base = message.bytes.data(), .iov_len = length};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  // With no control buffer the kernel installs no descriptor at all and sets MSG_CTRUNC.
  header.msg_control = max_fds == 0 ? nullptr : control.data();
  header.msg_controllen = max_fds == 0 ? 0 : CMSG_SPACE(max_fds * sizeof(int));
  ASSIGN_OR_RETURN(const std::size_t received, repeat(fd(), POLLIN, deadline, [&] {
                     return ::recvmsg(socket_.get(), &header, MSG_CMSG_CLOEXEC | wait_flag);
                   }));
  bool foreign = false;
  if (header.msg_control != nullptr) message.fds = take_descriptors(header, foreign);
  if ((header.msg_flags & MSG_CTRUNC) != 0 || message.fds.size() > max_fds)
    return bad_message(fmt::format("more than the {} descriptors allowed here", max_fds));
  if (foreign) return bad_message("control data other than descriptors");
  if ((header.msg_flags & MSG_TRUNC) != 0 || received != length) return bad_message("length changed");
  return message;
}

}  // namespace bulkhead::control
