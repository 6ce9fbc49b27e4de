#include "tools/bulkhead/flow.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace bulkhead::cli {
namespace {

// POLLOUT promises that a blocking pipe takes at least this much (PIPE_BUF) without waiting.
constexpr std::size_t kWriteOnce = 4096;
constexpr char kEscape = 0x01;  // Ctrl-A

}  // namespace

std::string_view Flow::read_once() {
  input_.resize(kCapacity / 2);
  const ssize_t got = ::read(source_.get(), input_.data(), input_.size());
  if (got > 0) return std::string_view(input_).substr(0, static_cast<std::size_t>(got));
  // EIO: the terminal was hung up.
  if (got == 0 || (errno != EINTR && errno != EAGAIN)) source_ended_ = true;
  return {};
}

void Flow::put(std::string_view bytes) {
  if (sink_failed_) return;
  if (sent_ >= kCapacity / 2) {
    buffer_.erase(0, sent_);
    sent_ = 0;
  }
  buffer_ += bytes;
}

bool Flow::write_once() {
  const ssize_t written = ::write(sink_.get(), buffer_.data() + sent_, std::min(pending(), kWriteOnce));
  if (written < 0) {
    if (errno == EINTR || errno == EAGAIN) return true;
    sink_failed_ = true;
    buffer_.clear();
    sent_ = 0;
    return false;
  }
  sent_ += static_cast<std::size_t>(written);
  if (sent_ == buffer_.size()) {
    buffer_.clear();
    sent_ = 0;
  }
  return true;
}

EscapeFilter::Outcome EscapeFilter::filter(std::string_view typed) {
  Outcome outcome;
  for (const char c : typed) {
    if (!after_escape_) {
      if (c == kEscape)
        after_escape_ = true;
      else
        outcome.bytes += c;
      continue;
    }
    after_escape_ = false;
    switch (c) {
      case 'x': outcome.command = Command::kEnd; return outcome;
      case 'h': outcome.command = Command::kHelp; break;
      case 'a': outcome.bytes += kEscape; break;
      default: outcome.bytes += kEscape; outcome.bytes += c;
    }
  }
  return outcome;
}

}  // namespace bulkhead::cli
