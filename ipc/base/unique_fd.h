// UniqueFd owns a file descriptor; BorrowedFd names one that somebody else owns and keeps open.
// Every creator here sets CLOEXEC. Threading: values; moving is not atomic.
#pragma once

#include <cstdint>
#include <string>

#include "ipc/base/result.h"

namespace bulkhead {

class BorrowedFd {
 public:
  constexpr BorrowedFd() = default;
  constexpr explicit BorrowedFd(int fd) : fd_(fd) {}
  [[nodiscard]] constexpr int get() const { return fd_; }
  [[nodiscard]] constexpr bool valid() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  [[nodiscard]] BorrowedFd borrow() const { return BorrowedFd(fd_); }
  int release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }
  void reset(int fd = -1);

  // A non-blocking eventfd(2) whose counter starts at `initial`.
  static Result<UniqueFd> create_eventfd(unsigned initial = 0);
  // open(2) with O_CLOEXEC; the error names the path.
  static Result<UniqueFd> open(const std::string& path, int flags, unsigned mode = 0);
  static Result<UniqueFd> duplicate(BorrowedFd fd);

 private:
  int fd_ = -1;
};

// Adds 1 to an eventfd. A full counter already says what there is to say, so EAGAIN is success.
void signal_eventfd(BorrowedFd fd);
// Takes what an eventfd holds (0 when it was not signalled).
std::uint64_t drain_eventfd(BorrowedFd fd);

}  // namespace bulkhead
