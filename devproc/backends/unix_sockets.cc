#include "devproc/backends/unix_sockets.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace bulkhead::devproc {

Result<std::unique_ptr<UnixSockets>> UnixSockets::create(BorrowedFd listener, BorrowedFd connector) {
  auto sockets = std::make_unique<UnixSockets>(listener, connector);
  if (!listener.valid() || !connector.valid()) return sockets;  // it is only asked whether it could play the role
  sockets->epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!sockets->epoll_.valid()) return make_errno_error("cannot create an epoll descriptor for sockets");
  RETURN_IF_ERROR(sockets->watch(listener, EPOLLIN | EPOLLET, kListener));
  RETURN_IF_ERROR(sockets->watch(connector, EPOLLIN | EPOLLET, kConnector));
  return sockets;
}

UnixSockets::UnixSockets(BorrowedFd listener, BorrowedFd connector)
    : listener_(listener), connector_(connector), slots_(kMostSockets) {
  free_.reserve(kMostSockets);
  for (SocketId i = kMostSockets; i > 0; --i) free_.push_back(i - 1);
}

Status UnixSockets::watch(BorrowedFd fd, std::uint32_t events, std::uint64_t key) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = key;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd.get(), &event) != 0) return make_errno_error("cannot watch a socket");
  return ok();
}

bool UnixSockets::add(UniqueFd fd, SocketId& socket) {
  if (free_.empty()) return false;
  socket = free_.back();
  const std::uint64_t key = std::uint64_t{slots_[socket].turn} << 32 | socket;
  if (!watch(fd.borrow(), EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, key)) return false;
  free_.pop_back();
  slots_[socket].fd = std::move(fd);
  return true;
}

bool UnixSockets::accept_one(SocketEvent& event) {
  // With every socket in use whoever connects waits until one ends.
  while (accept_ && !free_.empty()) {
    UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd.valid()) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      accept_ = false;
      return false;
    }
    event = {.kind = SocketEvent::Kind::kAccepted};
    if (add(std::move(fd), event.socket)) return true;
  }
  return false;
}

bool UnixSockets::take_answer(SocketEvent& event) {
  while (answers_) {
    std::array<std::uint32_t, 2> answer{};  // tag, errno
    iovec bytes{.iov_base = answer.data(), .iov_len = sizeof answer};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t size = ::recvmsg(connector_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (size < 0 && errno == EINTR) continue;
    if (size != sizeof answer) {
      answers_ = false;
      return false;
    }
    UniqueFd fd;
    const cmsghdr* header = CMSG_FIRSTHDR(&message);
    if (header != nullptr && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len == CMSG_LEN(sizeof(int))) {
      int number = -1;
      std::memcpy(&number, CMSG_DATA(header), sizeof number);
      fd.reset(number);
    }
    event = {.kind = SocketEvent::Kind::kRefused, .tag = answer[0]};
    if (answer[1] == 0 && fd.valid() && add(std::move(fd), event.socket)) event.kind = SocketEvent::Kind::kConnected;
    return true;
  }
  return false;
}

std::optional<SocketEvent> UnixSockets::next_event() {
  if (!epoll_.valid()) return std::nullopt;
  SocketEvent event;
  for (;;) {
    if (take_answer(event) || accept_one(event)) return event;
    if (next_event_ == event_count_) {
      next_event_ = 0;
      event_count_ = ::epoll_wait(epoll_.get(), events_.data(), kMostEvents, 0);
      if (event_count_ <= 0) {
        event_count_ = 0;
        return std::nullopt;
      }
    }
    const epoll_event& news = events_[static_cast<std::size_t>(next_event_++)];
    if (news.data.u64 == kListener) {
      accept_ = true;
    } else if (news.data.u64 == kConnector) {
      answers_ = true;
    } else {
      const auto socket = static_cast<SocketId>(news.data.u64);
      if (fd_of(socket) < 0 || slots_[socket].turn != news.data.u64 >> 32) continue;
      return SocketEvent{
          .kind = SocketEvent::Kind::kReady, .socket = socket, .gone = (news.events & (EPOLLHUP | EPOLLERR)) != 0};
    }
  }
}

bool UnixSockets::connect(std::uint32_t port, std::uint32_t tag) {
  const std::array<std::uint32_t, 2> question{port, tag};
  return connector_.valid() && ::write(connector_.get(), question.data(), sizeof question) == sizeof question;
}

StreamSockets::Moved UnixSockets::read(SocketId socket, std::span<std::byte> out) {
  for (;;) {
    const ssize_t n = ::read(fd_of(socket), out.data(), out.size());
    if (n > 0) return {Moved::Result::kDone, static_cast<std::size_t>(n)};
    if (n == 0) return {Moved::Result::kEnd};
    if (errno == EINTR) continue;
    return {errno == EAGAIN ? Moved::Result::kWait : Moved::Result::kError};
  }
}

StreamSockets::Moved UnixSockets::write(SocketId socket, std::span<const std::byte> in) {
  for (;;) {
    // Not write(2): a socket whose other side is gone would raise SIGPIPE.
    const ssize_t n = ::sendto(fd_of(socket), in.data(), in.size(), MSG_NOSIGNAL | MSG_DONTWAIT, nullptr, 0);
    if (n >= 0) return {Moved::Result::kDone, static_cast<std::size_t>(n)};
    if (errno == EINTR) continue;
    return {errno == EAGAIN ? Moved::Result::kWait : Moved::Result::kError};
  }
}

void UnixSockets::shut_write(SocketId socket) { (void)::shutdown(fd_of(socket), SHUT_WR); }

void UnixSockets::close(SocketId socket) {
  if (fd_of(socket) < 0) return;
  slots_[socket].fd.reset();  // which takes it out of the epoll descriptor
  ++slots_[socket].turn;
  free_.push_back(socket);
}

}  // namespace bulkhead::devproc
