// FdEntropy: random bytes from a descriptor of the kernel's generator (urandom(4)), which came with the role.
// Threading: single-threaded. Errors: a generator that gives nothing ends the process; there is no answer to make up.
#pragma once

#include "devproc/core/entropy.h"
#include "ipc/base/unique_fd.h"

namespace bulkhead::devproc {

class FdEntropy final : public Entropy {
 public:
  explicit FdEntropy(BorrowedFd fd) : fd_(fd) {}
  void fill(std::span<std::byte> out) override;

 private:
  BorrowedFd fd_;
};

}  // namespace bulkhead::devproc
