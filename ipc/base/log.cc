#include "ipc/base/log.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "ipc/base/check.h"
#include "ipc/base/printable.h"

namespace bulkhead {
namespace {

constinit std::atomic<int> log_fd{STDERR_FILENO};
constinit std::atomic<LogLevel> lowest_level{LogLevel::kInfo};
constinit std::array<char, 32> log_role{"bulkhead"};
constinit std::atomic<std::uint64_t> lost_lines{0};  // since the last one that was written

constexpr std::string_view name_of(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return "debug";
    case LogLevel::kInfo: return "info";
    case LogLevel::kWarning: return "warning";
    case LogLevel::kError: return "error";
  }
  return "?";
}

// A pipe has room for one write at least, or a terminal has not been stopped: write(2) will not wait.
bool takes_a_line(int fd) {
  pollfd one{.fd = fd, .events = POLLOUT, .revents = 0};
  return ::poll(&one, 1, 0) == 1 && (one.revents & POLLOUT) != 0;
}

}  // namespace

void set_log_fd(BorrowedFd fd) { log_fd.store(fd.get(), std::memory_order_relaxed); }

void set_log_role(std::string_view role) {
  log_role.fill('\0');
  std::copy_n(role.begin(), std::min(role.size(), log_role.size() - 1), log_role.begin());
}

void set_log_level(LogLevel lowest) { lowest_level.store(lowest, std::memory_order_relaxed); }

bool log_enabled(LogLevel level) { return level >= lowest_level.load(std::memory_order_relaxed); }

void write_log(LogLevel level, std::string_view message) {
  if (!log_enabled(level)) return;
  // A message may quote what a guest or a device process sent: no control character gets through.
  std::string line = fmt::format("{}: {}: ", log_role.data(), name_of(level));
  line += printable(message, ' ');
  line += '\n';
  // A full disk, a closed pipe or a reader that does not read must not stop a VM; the one who opens the log checks it
  // first.
  const int fd = log_fd.load(std::memory_order_relaxed);
  if (!takes_a_line(fd)) {
    lost_lines.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  if (const std::uint64_t lost = lost_lines.exchange(0, std::memory_order_relaxed); lost != 0)
    line.insert(0, fmt::format("{}: warning: {} lines are missing here: nobody took them\n", log_role.data(), lost));
  [[maybe_unused]] const ssize_t written = ::write(fd, line.data(), line.size());
}

void check_failed(const char* file, int line, const char* condition, const std::string& operands) {
  write_log(LogLevel::kError, fmt::format("{}:{}: CHECK({}) failed:{}", file, line, condition, operands));
  std::abort();
}

}  // namespace bulkhead
