#include "ipc/base/log.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "ipc/base/check.h"

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

// How many bytes the printable character at the start of `text` has, 0 when it is none. Bytes from 80h up
// pass as well-formed UTF-8 alone, and not the control characters U+0080 to U+009F: a terminal may act on
// 9Bh as on ESC [.
std::size_t printable_length(std::string_view text) {
  const auto byte = [text](std::size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const unsigned first = byte(0);
  if (first < 0x80) return first >= 0x20 && first != 0x7f ? 1 : 0;
  const std::size_t length = first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
  if (length == 0 || (first == 0xc2 && byte(1) < 0xa0)) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  return length;
}

}  // namespace

void set_log_fd(BorrowedFd fd) { log_fd.store(fd.get(), std::memory_order_relaxed); }

void set_log_role(std::string_view role) {
  log_role.fill('\0');
  std::copy_n(role.begin(), std::min(role.size(), log_role.size() - 1), log_role.begin());
}

void set_log_level(LogLevel lowest) { lowest_level.store(lowest, std::memory_order_relaxed); }

bool log_enabled(LogLevel level) {
  return level >= lowest_level.load(std::memory_order_relaxed);
}

void write_log(LogLevel level, std::string_view message) {
  if (!log_enabled(level)) return;
  // A message may quote what a guest or a device process sent: no control character gets through.
  std::string line = fmt::format("{}: {}: ", log_role.data(), name_of(level));
  for (std::size_t i = 0; i < message.size();) {
    const std::size_t length = printable_length(message.substr(i));
    line += length == 0 ? std::string_view(" ") : message.substr(i, length);
    i += std::max<std::size_t>(length, 1);
  }
  line += '\n';
  // A full disk or a closed pipe must not stop a VM; the one who opens the log checks it first.
  [[maybe_unused]] const ssize_t written =
      ::write(log_fd.load(std::memory_order_relaxed), line.data(), line.size());
}

void check_failed(const char* file, int line, const char* condition, const std::string& operands) {
  write_log(LogLevel::kError,
            fmt::format("{}:{}: CHECK({}) failed:{}", file, line, condition, operands));
  std::abort();
}

}  // namespace bulkhead
