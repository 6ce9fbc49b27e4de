// RigWire: what a network card's TAP descriptor leads to in a test without a TAP: a socket pair that keeps frames
// apart, with the test as the network. A frame that a process has read and not committed is gone with it, as from a
// TAP.
//
// Threading: single-threaded; look() may run in a signal handler.
#pragma once

#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "ipc/base/unique_fd.h"

namespace bulkhead::devproc {

class RigWire {
 public:
  using Frame = std::vector<std::byte>;  // header included
  // How far a card has come with it, for whoever watches memory.
  struct alignas(64) Marks {
    std::uint64_t unread = 0;  // bytes that the card has not read
    std::uint64_t sent = 0;    // bytes that it wrote
    std::uint64_t reserved[6]{};
    bool operator==(const Marks&) const = default;
  };
  struct State {
    Frame fed;
    Marks marks;
    bool sent_before = false;  // by a process before the one whose marks these are
    bool operator==(const State&) const = default;
  };

  // The card's end. The other one is made here.
  UniqueFd open() {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    network_.reset(ends[0]);
    UniqueFd card(ends[1]);
    card_ = card.borrow();
    return card;
  }
  [[nodiscard]] bool there() const { return network_.valid(); }

  // Sends the card a frame, and remembers it.
  void feed(Frame frame) {
    fed_ = std::move(frame);
    EXPECT_EQ(::send(network_.get(), fed_.data(), fed_.size(), 0), static_cast<ssize_t>(fed_.size()));
  }
  [[nodiscard]] const Frame& fed() const { return fed_; }
  // What the card has sent since the last look; before that, whether one that died had.
  std::vector<Frame> take() { return drain(network_.borrow()); }
  [[nodiscard]] bool predecessor_sent() const { return predecessor_sent_; }

  void look() {
    if (!there()) return;
    marks_.unread = waiting(card_);
    marks_.sent = waiting(network_.borrow());
  }
  [[nodiscard]] std::span<const std::byte> marks() const { return std::as_bytes(std::span(&marks_, 1)); }

  [[nodiscard]] State copy() {
    look();
    return {fed_, marks_, predecessor_sent_};
  }
  // As `state` has it.
  void put(const State& state) {
    if (!there()) return;
    (void)drain(card_);
    (void)drain(network_.borrow());
    fed_ = state.fed;
    if (state.marks.unread != 0) feed(fed_);
    predecessor_sent_ = state.sent_before || state.marks.sent != 0;
  }

 private:
  static std::uint64_t waiting(BorrowedFd fd) {
    int bytes = 0;
    return ::ioctl(fd.get(), SIOCINQ, &bytes) == 0 ? static_cast<std::uint64_t>(bytes) : 0;
  }
  static std::vector<Frame> drain(BorrowedFd fd) {
    std::vector<Frame> frames;
    std::array<std::byte, 4096> bytes{};
    for (ssize_t got = 0; (got = ::recv(fd.get(), bytes.data(), bytes.size(), 0)) > 0;)
      frames.emplace_back(bytes.begin(), bytes.begin() + got);
    return frames;
  }

  UniqueFd network_;
  BorrowedFd card_;  // the rig's
  Frame fed_;
  Marks marks_;
  bool predecessor_sent_ = false;
};

}  // namespace bulkhead::devproc
