// What the parts of RoleHost share. Threading, trust: role_host.h.
#pragma once

#include <atomic>
#include <cstdint>

#include "devproc/core/persistent.h"
#include "devproc/host/failpoint.h"
#include "ipc/base/futex.h"
#include "ipc/ring/layout.h"
#include "ipc/state/checkpoint.h"

namespace bulkhead::devproc {

inline void count(std::atomic<std::uint64_t>& counter, std::uint64_t n = 1) {
  counter.store(counter.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
}

inline void wake_waiter(ipc::ReplySlot& slot) {
  slot.wake.fetch_add(1, std::memory_order_seq_cst);
  FAILPOINT("wake: counted");
  futex_wake_all(&slot.wake);
  FAILPOINT("wake: done");
}

template <class State>
const State& committed(const ipc::Checkpoint& checkpoint, const Persistent<State>& state) {
  return *reinterpret_cast<const State*>(checkpoint.committed_bytes(state.segment()));
}

}  // namespace bulkhead::devproc
