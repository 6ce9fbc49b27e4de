#include "tools/bulkhead/terminal.h"

#include <unistd.h>

#include <csignal>
#include <utility>

namespace bulkhead::cli {

Result<RawTerminal> RawTerminal::create(BorrowedFd terminal) {
  termios settings{};
  if (::tcgetattr(terminal.get(), &settings) != 0) return make_errno_error("cannot read the terminal's settings");
  return RawTerminal(terminal, settings);
}

RawTerminal::RawTerminal(RawTerminal&& other) noexcept
    : fd_(other.fd_), saved_(other.saved_), raw_(std::exchange(other.raw_, false)) {}

bool RawTerminal::in_foreground() const {
  const pid_t group = ::tcgetpgrp(fd_.get());
  return group == -1 || group == ::getpgrp();  // -1: not our controlling terminal, so no job control on it
}

void RawTerminal::enter() {
  if (!in_foreground()) return;
  termios raw = saved_;
  ::cfmakeraw(&raw);
  raw.c_cc[VMIN] = 1;
  raw.c_cc[VTIME] = 0;
  // TCSADRAIN rather than TCSAFLUSH: what the user typed ahead is for the guest.
  raw_ = ::tcsetattr(fd_.get(), TCSADRAIN, &raw) == 0;
}

void RawTerminal::leave() {
  if (!std::exchange(raw_, false)) return;
  // In the background SIGTTOU would stop us with the terminal still raw; blocked, the call goes through.
  sigset_t block{};
  sigset_t before{};
  sigemptyset(&block);
  sigaddset(&block, SIGTTOU);
  ::pthread_sigmask(SIG_BLOCK, &block, &before);
  while (::tcsetattr(fd_.get(), TCSADRAIN, &saved_) != 0 && errno == EINTR) {
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace bulkhead::cli
