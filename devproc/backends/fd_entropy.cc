#include "devproc/backends/fd_entropy.h"

#include <unistd.h>

#include <cerrno>

#include "ipc/base/check.h"

namespace bulkhead::devproc {

void FdEntropy::fill(std::span<std::byte> out) {
  while (!out.empty()) {
    const ssize_t got = ::read(fd_.get(), out.data(), out.size());
    if (got < 0 && errno == EINTR) continue;
    CHECK(got > 0);
    out = out.subspan(static_cast<std::size_t>(got));
  }
}

}  // namespace bulkhead::devproc
