// Entropy: random bytes from the host. Threading: single-threaded. Trust: the host's.
#pragma once

#include <cstddef>
#include <span>

namespace bulkhead::devproc {

class Entropy {
 public:
  virtual ~Entropy() = default;
  // Fills all of `out`, with bytes fit for keys. Never blocks: the host's pool is ready before any VM runs.
  virtual void fill(std::span<std::byte> out) = 0;
};

}  // namespace bulkhead::devproc
