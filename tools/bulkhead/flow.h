// Flow: bytes from one descriptor to another through a bounded buffer, without ever waiting; and
// EscapeFilter: the Ctrl-A sequences in what is typed. Threading: one thread.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "ipc/base/unique_fd.h"

namespace bulkhead::cli {

class Flow {
 public:
  static constexpr std::size_t kCapacity = std::size_t{64} << 10;

  Flow() = default;
  Flow(BorrowedFd source, BorrowedFd sink) : source_(source), sink_(sink) {}

  // What to poll for: with a full buffer nothing is read, so a slow sink holds the source back.
  [[nodiscard]] bool wants_read() const { return source_.valid() && !source_ended_ && pending() < kCapacity / 2; }
  [[nodiscard]] bool wants_write() const { return pending() != 0 && sink_.valid(); }
  [[nodiscard]] std::size_t pending() const { return buffer_.size() - sent_; }
  // Nothing more will come out of this flow.
  [[nodiscard]] bool is_finished() const { return (source_ended_ || !source_.valid()) && pending() == 0; }

  // Reads once from a readable source. Returns the bytes that came, before they are put(); empty at its
  // end.
  [[nodiscard]] std::string_view read_once();
  void put(std::string_view bytes);
  // Writes once to a writable sink. False, once, when the sink has failed: from then on bytes are dropped.
  bool write_once();

  void end_source() { source_ended_ = true; }
  void set_sink(BorrowedFd sink) { sink_ = sink; }
  [[nodiscard]] BorrowedFd source() const { return source_; }
  [[nodiscard]] BorrowedFd sink() const { return sink_; }

 private:
  BorrowedFd source_;
  BorrowedFd sink_;
  std::string buffer_;
  std::size_t sent_ = 0;  // of buffer_
  bool source_ended_ = false;
  bool sink_failed_ = false;
  std::string input_;  // what read_once() returned
};

// Takes Ctrl-A x, Ctrl-A a and Ctrl-A h out of the bytes typed. Any other pair goes through unchanged.
class EscapeFilter {
 public:
  enum class Command { kNone, kEnd, kHelp };
  struct Outcome {
    std::string bytes;  // for the guest
    Command command = Command::kNone;
  };
  Outcome filter(std::string_view typed);

 private:
  bool after_escape_ = false;
};

}  // namespace bulkhead::cli
