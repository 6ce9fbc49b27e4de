#include "ipc/base/log.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "ipc/base/check.h"
#include "ipc/base/printable.h"

namespace bulkhead {
namespace {

constinit std::atomic<int> log_fd{STDERR_FILENO};
constinit std::atomic<LogLevel> lowest_level{LogLevel::kInfo};
constinit std::array<char, 32> log_role{"bulkhead"};

constexpr std::string_view name_of(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return "debug";
    case LogLevel::kInfo: return "info";
    case LogLevel::kWarning: return "warning";
    case LogLevel::kError: return "error";
  }
  return "?";
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
  // A full disk or a closed pipe must not stop a VM; the one who opens the log checks it first.
  [[maybe_unused]] const ssize_t written = ::write(log_fd.load(std::memory_order_relaxed), line.data(), line.size());
}

void check_failed(const char* file, int line, const char* condition, const std::string& operands) {
  write_log(LogLevel::kError, fmt::format("{}:{}: CHECK({}) failed:{}", file, line, condition, operands));
  std::abort();
}

}  // namespace bulkhead
