#include "devproc/backends/tap_frames.h"

#include <linux/if_tun.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace bulkhead::devproc {
namespace {

// All of them mean that no frame goes through, whatever it holds.
bool is_link_error(int error) {
  switch (error) {
    case EIO:  // the interface is down
    case ENETDOWN:
    case EBADFD:  // the queue is detached, or the interface is gone
    case EFAULT:  // reading from a queue that is being detached
    case ENODEV:
    case EPIPE:
    case ECONNRESET:
    case ENOTCONN: return true;
    default: return false;
  }
}

}  // namespace

TapFrames::TapFrames(BorrowedFd tap, GuestRanges& memory, std::atomic<std::uint64_t>& taken)
    : fd_(tap), memory_(memory), frame_(std::make_unique<std::array<std::byte, kMostFrame>>()), taken_(taken) {
  // A successor begins with the link as it is: a cable that seems to be plugged in for a moment is a change, too.
  link_ = writable();
}

bool TapFrames::writable() const {
  // A TAP is writable when its interface is up.
  pollfd now{.fd = fd_.get(), .events = POLLOUT, .revents = 0};
  return ::poll(&now, 1, 0) < 0 || ((now.revents & POLLOUT) != 0 && (now.revents & (POLLERR | POLLHUP)) == 0);
}

FrameBackend::Sent TapFrames::send(std::span<const std::byte> header, std::span<const Segment> memory) {
  // const_cast: an iovec is for reading and writing. This one is read.
  pieces_[0] = {const_cast<std::byte*>(header.data()), header.size()};
  piece_count_ = 1;
  piece_bytes_ = header.size();
  if (!gather(memory)) {
    ++dropped_;
    return Sent::kSent;
  }
  // poll() after EAGAIN: room that was made in between would not be told of.
  for (int tries = 0; tries < 3; ++tries) {
    ssize_t sent = -1;
    do {
      sent = write_frame();
    } while (sent < 0 && errno == EINTR);
    if (sent >= 0) return Sent::kSent;
    if (errno != EAGAIN && errno != EWOULDBLOCK) {
      ++dropped_;
      fail(errno);
      return Sent::kSent;
    }
    if (!writable()) break;
  }
  return Sent::kFull;
}

bool TapFrames::gather(std::span<const Segment> memory) {
  for (Segment left : memory) {
    while (left.length != 0) {
      const std::span<std::byte> bytes = memory_.host_range(left.address, left.length);
      if (bytes.empty() || piece_count_ == kMostPieces) return false;
      pieces_[piece_count_++] = {bytes.data(), bytes.size()};
      piece_bytes_ += bytes.size();
      left.address += bytes.size();
      left.length -= static_cast<std::uint32_t>(bytes.size());
    }
  }
  return true;
}

ssize_t TapFrames::write_frame() {
  if (piece_bytes_ > small_.size()) return ::writev(fd_.get(), pieces_.data(), static_cast<int>(piece_count_));
  std::byte* at = small_.data();
  for (const iovec& piece : std::span(pieces_).first(piece_count_)) {
    std::memcpy(at, piece.iov_base, piece.iov_len);
    at += piece.iov_len;
  }
  return ::write(fd_.get(), small_.data(), piece_bytes_);
}

std::span<const std::byte> TapFrames::receive() {
  const std::uint64_t before = taken_.load(std::memory_order_relaxed);
  while (held_ == 0) {
    taken_.store(before + 1, std::memory_order_relaxed);
    const ssize_t got = ::read(fd_.get(), frame_->data(), frame_->size());
    if (got > 0) {
      link_ = true;
      held_ = static_cast<std::size_t>(got);
      break;
    }
    taken_.store(before, std::memory_order_relaxed);
    if (got < 0 && errno == EINTR) continue;
    may_have_frames_ = false;
    if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) fail(got == 0 ? EPIPE : errno);
    return {};
  }
  return std::span(*frame_).first(held_);
}

void TapFrames::fail(int error) {
  // It may be back already; if not, the descriptor tells when it is, now that it was asked.
  if (is_link_error(error)) link_ = writable();
}

void TapFrames::set_offloads(const Offloads& offloads) {
  if (offloads_ == offloads) return;
  offloads_ = offloads;
  unsigned long flags = offloads.checksum ? TUN_F_CSUM : 0;
  if (offloads.tso4) flags |= TUN_F_TSO4;
  if (offloads.tso6) flags |= TUN_F_TSO6;
  // Segments with ECN need segmentation itself.
  if (offloads.ecn && (offloads.tso4 || offloads.tso6)) flags |= TUN_F_TSO_ECN;
#if defined(TUN_F_USO4) && defined(TUN_F_USO6)
  if (offloads.uso) flags |= TUN_F_USO4 | TUN_F_USO6;
#endif
  // A kernel that refuses goes on as before, and its model drops the frames that its guest cannot take.
  (void)::ioctl(fd_.get(), TUNSETOFFLOAD, flags);
}

void TapFrames::on_events(std::uint32_t epoll_events) {
  if ((epoll_events & EPOLLIN) != 0) may_have_frames_ = true;
  if ((epoll_events & (EPOLLERR | EPOLLHUP)) != 0)
    link_ = false;
  else if ((epoll_events & EPOLLOUT) != 0)
    link_ = true;
}

}  // namespace bulkhead::devproc
