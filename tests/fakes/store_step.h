// step_stores(): runs code and looks after each instruction that stores to some regions. Memory changes by stores
// alone, so this visits every state that single_step() would, in a hundredth of the time where code computes much and
// stores little: the regions are read-only, and whoever stores to one is let through for one instruction.
//
// x86-64 only, single-threaded; one at a time. What is called after a store runs in a signal handler: it may not
// allocate. Regions are whole pages. System calls must not write to them.
#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "ipc/base/check.h"
#include "tests/fakes/single_step.h"

namespace bulkhead {

namespace internal {

struct StoreStep {
  std::vector<std::span<const std::byte>> regions;
  std::size_t open = 0;  // that may be stored to, for this instruction
  void (*visit)(void*) = nullptr;
  void* context = nullptr;

  void protect(std::size_t region, bool on) const {
    const auto bytes = regions[region];
    auto* const start = const_cast<std::byte*>(bytes.data());
    CHECK(::mprotect(start, bytes.size(), on ? PROT_READ : PROT_READ | PROT_WRITE) == 0, errno);
  }
  void protect_all(bool on) const {
    for (std::size_t i = 0; i < regions.size(); ++i) protect(i, on);
  }
};
inline StoreStep* store_step = nullptr;

inline void set_trap_flag([[maybe_unused]] void* context, [[maybe_unused]] bool on) {
#if defined(__x86_64__)
  auto& flags = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL];
  flags = on ? flags | 0x100 : flags & ~0x100LL;
#endif
}
inline void on_store(int, siginfo_t* info, void* context) {
  StoreStep& all = *store_step;
  const auto* const at = static_cast<const std::byte*>(info->si_addr);
  for (all.open = 0; all.open < all.regions.size(); ++all.open) {
    const auto bytes = all.regions[all.open];
    if (at < bytes.data() || at >= bytes.data() + bytes.size()) continue;
    all.protect(all.open, false);
    return set_trap_flag(context, true);
  }
  ::signal(SIGSEGV, SIG_DFL);  // none of ours
}
inline void on_stored(int, siginfo_t*, void* context) {
  set_trap_flag(context, false);
  store_step->protect(store_step->open, true);
  store_step->visit(store_step->context);
}

}  // namespace internal

template <class Body, class Visit>
void step_stores(const std::vector<std::span<const std::byte>>& regions, Body&& body, Visit&& visit) {
  internal::StoreStep all;
  for (const auto region : regions) {
    if (!region.empty()) all.regions.push_back(region);
  }
  all.context = &visit;
  all.visit = [](void* context) { (*static_cast<std::remove_reference_t<Visit>*>(context))(); };
  internal::store_step = &all;
  internal::step_over = [](bool begin) {
    internal::store_step->protect_all(!begin);
    if (!begin) internal::store_step->visit(internal::store_step->context);
  };
  struct sigaction on_store {};
  struct sigaction on_stored {};
  struct sigaction before[2];
  on_store.sa_sigaction = internal::on_store;
  on_stored.sa_sigaction = internal::on_stored;
  on_store.sa_flags = on_stored.sa_flags = SA_SIGINFO;
  ::sigaction(SIGSEGV, &on_store, &before[0]);
  ::sigaction(SIGTRAP, &on_stored, &before[1]);
  all.protect_all(true);
  body();
  all.protect_all(false);
  ::sigaction(SIGSEGV, &before[0], nullptr);
  ::sigaction(SIGTRAP, &before[1], nullptr);
  internal::step_over = nullptr;
  internal::store_step = nullptr;
}

}  // namespace bulkhead
