// RawTerminal: a terminal in raw mode for as long as the object lives, given back as it was found.
// Threading: one thread.
#pragma once

#include <termios.h>

#include "ipc/base/unique_fd.h"

namespace bulkhead::cli {

class RawTerminal {
 public:
  // Remembers the settings of `terminal`; changes nothing yet.
  static Result<RawTerminal> create(BorrowedFd terminal);
  RawTerminal(RawTerminal&& other) noexcept;
  RawTerminal& operator=(RawTerminal&&) = delete;
  ~RawTerminal() { leave(); }

  // Raw in both directions, if this process is in the terminal's foreground; else nothing happens.
  void enter();
  void leave();
  [[nodiscard]] bool is_raw() const { return raw_; }
  [[nodiscard]] bool in_foreground() const;

 private:
  RawTerminal(BorrowedFd fd, const termios& saved) : fd_(fd), saved_(saved) {}
  BorrowedFd fd_;
  termios saved_;
  bool raw_ = false;
};

}  // namespace bulkhead::cli
