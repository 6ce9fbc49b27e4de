// ConsoleLog: the last that came out of a console, for those who look on (`bulkhead console`), however many and from
// whenever on.
//
// Positions count bytes since the VM began. What is older than kKept bytes is gone: who asks for it gets what is left.
// Threading: any. Trust: bytes are the guest's.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

namespace bulkhead::vmm {

class ConsoleLog {
 public:
  static constexpr std::size_t kKept = std::size_t{64} * 1024;

  void append(std::span<const std::uint8_t> bytes) {
    const std::lock_guard lock(mutex_);
    for (const std::uint8_t byte : bytes) kept_[written_++ % kKept] = byte;
  }

  struct Part {
    std::vector<std::byte> bytes;
    std::uint64_t next = 0;  // the position behind them
  };
  // At most `most` bytes from position `after` on.
  [[nodiscard]] Part since(std::uint64_t after, std::size_t most) const {
    const std::lock_guard lock(mutex_);
    const std::uint64_t oldest = written_ - std::min<std::uint64_t>(written_, kKept);
    const std::uint64_t from = std::clamp(after, oldest, written_);
    Part part{.bytes = std::vector<std::byte>(std::min<std::uint64_t>(written_ - from, most)), .next = from};
    for (std::byte& byte : part.bytes) byte = static_cast<std::byte>(kept_[part.next++ % kKept]);
    return part;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::uint8_t> kept_ = std::vector<std::uint8_t>(kKept);
  std::uint64_t written_ = 0;
};

}  // namespace bulkhead::vmm
