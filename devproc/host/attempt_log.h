// AttemptLog: the input that a device process is working on, noted before the work starts, and what a successor makes
// of the note: an input that was at hand at three deaths is poison and is not given to the model again (DESIGN.md,
// section 4.6).
//
// The notes lie in the state region's header. Threading: single-threaded. Trust: what a predecessor noted may be
// anything; the worst it can do is to have one input of its own devices skipped.
#pragma once

#include <cstdint>

#include "ipc/state/checkpoint.h"

namespace bulkhead::devproc {

// What kind of input, which one of them, and, where the kind does not number its inputs, the commit that it builds on.
class Attempt {
 public:
  static Attempt request(ipc::Ticket ticket) { return Attempt(kRequest | (ticket & kLow)); }
  static Attempt timer(std::uint32_t timer, std::uint64_t commit) { return Attempt(kTimer | pack(timer, commit)); }
  static Attempt stream(std::uint32_t stream, std::uint64_t commit) { return Attempt(kStream | pack(stream, commit)); }
  static Attempt queue(std::uint32_t kick, std::uint64_t commit) { return stream(kFirstQueue + kick, commit); }
  static Attempt backend(std::uint32_t backend, std::uint64_t commit) {
    return stream(kFirstBackend + backend, commit);
  }
  // Not the queue's own: it would clear the queue of what it is suspected of.
  static Attempt after_show(std::uint32_t instance, std::uint64_t commit) {
    return stream(kFirstAfterShow + instance, commit);
  }
  static Attempt start() { return Attempt(kStart); }  // reset or restore
  static Attempt from_word(std::uint64_t word) { return Attempt(word); }

  [[nodiscard]] std::uint64_t word() const { return word_; }
  [[nodiscard]] bool is_start() const { return (word_ & kKinds) == kStart; }
  // The same for every try of one input: each take-over commits, so the number of the commit is left out.
  [[nodiscard]] std::uint64_t key() const { return is_numbered() ? word_ : word_ & ~kCommit; }
  [[nodiscard]] bool committed(ipc::Ticket last_ticket, std::uint64_t commits) const {
    if (is_start()) return false;
    return is_numbered() ? (word_ & kLow) <= last_ticket : (word_ & kCommit) != (commits & kCommit);
  }

 private:
  static constexpr std::uint64_t kKinds = std::uint64_t{3} << 62;
  static constexpr std::uint64_t kRequest = 0;
  static constexpr std::uint64_t kTimer = std::uint64_t{1} << 62;
  static constexpr std::uint64_t kStream = std::uint64_t{2} << 62;
  static constexpr std::uint64_t kStart = std::uint64_t{3} << 62;
  static constexpr std::uint64_t kLow = ~kKinds;
  static constexpr std::uint32_t kFirstQueue = 0x80;       // streams are fewer
  static constexpr std::uint32_t kFirstBackend = 0x100;    // queues are kMaxKicks at most
  static constexpr std::uint32_t kFirstAfterShow = 0x180;  // backends are kMaxBackings at most
  static constexpr unsigned kCommitBits = 53;
  static constexpr std::uint64_t kCommit = (std::uint64_t{1} << kCommitBits) - 1;

  explicit Attempt(std::uint64_t word) : word_(word) {}
  static std::uint64_t pack(std::uint32_t index, std::uint64_t commit) {
    return (std::uint64_t{index} & 0x1ff) << kCommitBits | (commit & kCommit);
  }
  [[nodiscard]] bool is_numbered() const { return (word_ & kKinds) == kRequest; }

  std::uint64_t word_;
};

class AttemptLog {
 public:
  static constexpr std::uint32_t kDeaths = 3;

  explicit AttemptLog(ipc::StateHeader& header) : header_(header) {}

  // A successor's first act. `counts`: the predecessor died of its own doing.
  void judge(bool counts, ipc::Ticket last_ticket, std::uint64_t commits);

  void begin(Attempt attempt) {
    now_ = attempt.key();
    header_.attempt.store(attempt.word(), std::memory_order_relaxed);
  }
  // The input at hand is committed: it kills nobody.
  void finish() {
    if (suspect_ != 0 && now_ == suspect_) clear_suspect();
  }
  [[nodiscard]] bool poisoned(Attempt attempt) const { return poison_ != 0 && attempt.key() == poison_; }

 private:
  void clear_suspect();

  ipc::StateHeader& header_;
  std::uint64_t now_ = 0;
  std::uint64_t suspect_ = 0;
  std::uint64_t poison_ = 0;
};

}  // namespace bulkhead::devproc
