// single_step(): runs code with the CPU's trap flag set and looks at memory after every instruction, and SnapshotLog,
// which keeps each state that the watched memory was ever in. Together: what a kill between any two instructions
// leaves.
//
// x86-64 only. What is called after each instruction runs in a signal handler: it may not allocate. Sanitizers' own
// code would be stepped through as well, so tests skip themselves there (kCanSingleStep).
#pragma once

#include <signal.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "ipc/base/check.h"

namespace bulkhead {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kCanSingleStep = false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr bool kCanSingleStep = false;
#else
inline constexpr bool kCanSingleStep = true;
#endif
#else
inline constexpr bool kCanSingleStep = true;
#endif

namespace internal {
inline void (*step_visit)(void*) = nullptr;
inline void* step_context = nullptr;
inline std::uint64_t step_instruction = 0;
inline void on_step(int, siginfo_t*, void* context) {
#if defined(__x86_64__)
  step_instruction = static_cast<std::uint64_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
#endif
  step_visit(step_context);
}
}  // namespace internal

// Where the instruction pointer stands, in what is called after an instruction.
inline std::uint64_t stepped_to() { return internal::step_instruction; }

template <class Body, class Visit>
void single_step(Body&& body, Visit&& visit) {
  internal::step_context = &visit;
  internal::step_visit = [](void* context) { (*static_cast<std::remove_reference_t<Visit>*>(context))(); };
  struct sigaction action {};
  struct sigaction before {};
  action.sa_sigaction = internal::on_step;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGTRAP, &action, &before);
  // The red zone below the stack pointer is the compiler's.
  asm volatile("sub $128, %%rsp; pushfq; orq $0x100, (%%rsp); popfq; add $128, %%rsp" ::: "memory", "cc");
  body();
  asm volatile("sub $128, %%rsp; pushfq; andq $~0x100, (%%rsp); popfq; add $128, %%rsp" ::: "memory", "cc");
  ::sigaction(SIGTRAP, &before, nullptr);
}

namespace internal {
inline void (*step_over)(bool begin) = nullptr;  // of another way of stepping (store_step.h)
}

// As long as one of these exists, nobody looks: what is done then is one step, as what the kernel does is to a process.
class StepOver {
 public:
  StepOver() {
    if (internal::step_over != nullptr) internal::step_over(true);
#if defined(__x86_64__)
    std::uint64_t flags = 0;
    asm volatile("sub $128, %%rsp; pushfq; popq %0; add $128, %%rsp" : "=r"(flags)::"memory", "cc");
    stepping_ = (flags & 0x100) != 0;
    if (stepping_)
      asm volatile("sub $128, %%rsp; pushfq; andq $~0x100, (%%rsp); popfq; add $128, %%rsp" ::: "memory", "cc");
#endif
  }
  ~StepOver() {
#if defined(__x86_64__)
    if (stepping_)
      asm volatile("sub $128, %%rsp; pushfq; orq $0x100, (%%rsp); popfq; add $128, %%rsp" ::: "memory", "cc");
#endif
    if (internal::step_over != nullptr) internal::step_over(false);
  }
  StepOver(const StepOver&) = delete;
  StepOver& operator=(const StepOver&) = delete;

 private:
  bool stepping_ = false;
};

class SnapshotLog {
 public:
  explicit SnapshotLog(std::vector<std::span<const std::byte>> regions, std::size_t max_changes = 20'000)
      : regions_(std::move(regions)) {
    for (const auto& region : regions_) {
      CHECK(region.size() % kLine == 0, region.size());
      first_.emplace_back(region.begin(), region.end());
    }
    last_ = first_;
    changes_.reserve(max_changes);
  }

  // Keeps what changed since the last look. Allocates nothing.
  void look() {
    ++looks_;
    bool changed = false;
    for (std::size_t r = 0; r < regions_.size(); ++r) {
      if (std::memcmp(regions_[r].data(), last_[r].data(), last_[r].size()) == 0) continue;
      for (std::size_t at = 0; at < last_[r].size(); at += kLine) {
        if (std::memcmp(regions_[r].data() + at, last_[r].data() + at, kLine) == 0) continue;
        if (changes_.size() == changes_.capacity()) {
          overflow_ = true;
          return;
        }
        if (!changed) ++snapshots_;
        changed = true;
        Change& change = changes_.emplace_back();
        change.snapshot = snapshots_;
        change.region = r;
        change.at = at;
        std::memcpy(change.bytes, regions_[r].data() + at, kLine);
        std::memcpy(last_[r].data() + at, regions_[r].data() + at, kLine);
      }
    }
  }

  // Calls visit(copies of the regions) for every state, the first one included.
  template <class Visit>
  void for_each(Visit&& visit) const {
    CHECK(!overflow_);
    auto state = first_;
    visit(state);
    for (std::size_t i = 0; i < changes_.size(); ++i) {
      const Change& change = changes_[i];
      std::memcpy(state[change.region].data() + change.at, change.bytes, kLine);
      if (i + 1 == changes_.size() || changes_[i + 1].snapshot != change.snapshot) visit(state);
    }
  }

  [[nodiscard]] std::size_t looks() const { return looks_; }              // instructions
  [[nodiscard]] std::size_t snapshots() const { return snapshots_ + 1; }  // distinct states

 private:
  static constexpr std::size_t kLine = 64;
  struct Change {
    std::size_t snapshot;
    std::size_t region;
    std::size_t at;
    std::byte bytes[kLine];
  };
  std::vector<std::span<const std::byte>> regions_;
  std::vector<std::vector<std::byte>> first_;
  std::vector<std::vector<std::byte>> last_;
  std::vector<Change> changes_;
  std::size_t looks_ = 0;
  std::size_t snapshots_ = 0;
  bool overflow_ = false;
};

}  // namespace bulkhead
