#include "ipc/base/unique_fd.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace bulkhead {

void UniqueFd::reset(int fd) {
  // close(2) releases the descriptor even when it reports EINTR, so it is never repeated.
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

Result<UniqueFd> UniqueFd::create_eventfd(unsigned initial) {
  const int fd = ::eventfd(initial, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return make_errno_error("cannot create an eventfd");
  return UniqueFd(fd);
}

Result<UniqueFd> UniqueFd::open(const std::string& path, int flags, unsigned mode) {
  int fd = -1;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return make_errno_error("cannot open " + path);
  return UniqueFd(fd);
}

Result<UniqueFd> UniqueFd::duplicate(BorrowedFd fd) {
  const int copy = ::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return make_errno_error("cannot duplicate a file descriptor");
  return UniqueFd(copy);
}

void signal_eventfd(BorrowedFd fd) {
  const std::uint64_t one = 1;
  // EAGAIN (counter full) means the reader has yet to look, which is all a signal has to say.
  while (::write(fd.get(), &one, sizeof one) < 0 && errno == EINTR) {
  }
}

std::uint64_t drain_eventfd(BorrowedFd fd) {
  std::uint64_t value = 0;
  ssize_t got = 0;
  do {
    got = ::read(fd.get(), &value, sizeof value);
  } while (got < 0 && errno == EINTR);
  return got == sizeof value ? value : 0;
}

}  // namespace bulkhead
