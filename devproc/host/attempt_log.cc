#include "devproc/host/attempt_log.h"

namespace bulkhead::devproc {

void AttemptLog::judge(bool counts, ipc::Ticket last_ticket, std::uint64_t commits) {
  const std::uint64_t word = header_.attempt.load(std::memory_order_relaxed);
  const Attempt last = Attempt::from_word(word);
  suspect_ = header_.suspect.load(std::memory_order_relaxed);
  std::uint32_t deaths = header_.suspect_deaths.load(std::memory_order_relaxed);
  // A death while a role was being taken over says nothing about an input, and leaves what was suspected before.
  if (word != 0 && !last.is_start()) {
    if (last.committed(last_ticket, commits)) {
      if (last.key() == suspect_) suspect_ = 0;
    } else if (counts) {
      deaths = last.key() == suspect_ ? deaths + 1 : 1;
      suspect_ = last.key();
    }
  }
  if (suspect_ == 0) deaths = 0;
  header_.suspect.store(suspect_, std::memory_order_relaxed);
  header_.suspect_deaths.store(deaths, std::memory_order_relaxed);
  poison_ = deaths >= kDeaths ? suspect_ : 0;
  begin(Attempt::start());
}

void AttemptLog::clear_suspect() {
  suspect_ = poison_ = 0;
  header_.suspect.store(0, std::memory_order_relaxed);
  header_.suspect_deaths.store(0, std::memory_order_relaxed);
}

}  // namespace bulkhead::devproc
