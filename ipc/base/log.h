// One line a message, written with a single write(2) that never waits: a line that nobody takes is counted and dropped.
// The only logging that works the same in the VMM and inside a jail that allows little more than write and poll. Each
// line names the role of its process. Threading: any thread; set_* only before the first thread starts.
#pragma once

#include <fmt/format.h>

#include <atomic>
#include <cstdint>
#include <string_view>

#include "ipc/base/unique_fd.h"

namespace bulkhead {

enum class LogLevel : std::uint8_t { kDebug, kInfo, kWarning, kError };

void set_log_fd(BorrowedFd fd);            // default: standard error
void set_log_role(std::string_view role);  // at most 31 characters are kept
void set_log_level(LogLevel lowest);
void write_log(LogLevel level, std::string_view message);
[[nodiscard]] bool log_enabled(LogLevel level);

template <class... T>
void log(LogLevel level, fmt::format_string<T...> format, T&&... args) {
  if (log_enabled(level)) write_log(level, fmt::format(format, std::forward<T>(args)...));
}

// Lets at most `burst` messages through, then one for every doubling of the count: a guest can
// neither flood the log nor hide what it does.
class LogLimiter {
 public:
  constexpr explicit LogLimiter(std::uint64_t burst = 8) : burst_(burst) {}
  // Counts one event; true when this one should be logged.
  bool allow() {
    const std::uint64_t n = count_.fetch_add(1, std::memory_order_relaxed) + 1;
    return n <= burst_ || (n & (n - 1)) == 0;
  }
  [[nodiscard]] std::uint64_t count() const { return count_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> count_{0};
  std::uint64_t burst_;
};

}  // namespace bulkhead
