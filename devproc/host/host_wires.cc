#include "devproc/host/host_wires.h"

#include <time.h>

#include <algorithm>
#include <cstring>

#include "devproc/host/failpoint.h"
#include "ipc/ring/adaptive_wait.h"
#include "ipc/wire/bar_access.h"
#include "ipc/wire/fw_cfg_transfer.h"

namespace bulkhead::devproc {

VmTime HostClock::now() const {
  if (!sampled_) {
    sampled_ = true;
    const std::int64_t frozen = timeline_.frozen_at.load(std::memory_order_acquire);
    const std::int64_t time =
        frozen != ipc::kVmTimeRuns ? frozen : ipc::monotonic_ns() - timeline_.base_ns.load(std::memory_order_relaxed);
    // The moment of a pause is chosen before we can see it, so it may lie before our last look.
    now_.ns = std::max(now_.ns, time);
  }
  return now_;
}

WallTime HostClock::wall() const {
  if (!wall_sampled_) {
    wall_sampled_ = true;
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    wall_.ns = now.tv_sec * 1'000'000'000LL + now.tv_nsec;
  }
  return wall_;
}

bool HostClock::frozen() const { return timeline_.frozen_at.load(std::memory_order_acquire) != ipc::kVmTimeRuns; }

std::int64_t HostClock::to_monotonic(std::int64_t vm_ns) const {
  std::int64_t sum = 0;
  if (__builtin_add_overflow(vm_ns, timeline_.base_ns.load(std::memory_order_relaxed), &sum)) return kTimerOff;
  return sum;
}

void HostRedirect::pending_bits(std::uint8_t devfn, std::uint16_t first_vector, std::uint8_t byte_offset) {
  ipc::Reply& reply = checkpoint_.input().reply;
  reply.status = ipc::ReplyStatus::kPendingBits;
  reply.function = devfn;
  std::memcpy(reply.payload, &first_vector, sizeof first_vector);
  reply.payload[2] = byte_offset;
}

void HostRedirect::bar_access(const BarAccess& access) { ipc::store_bar_access(checkpoint_.input().reply, access); }

void HostRedirect::fw_cfg_transfer(const FwCfgTransfer& transfer) {
  ipc::store_fw_cfg_transfer(checkpoint_.input().reply, transfer);
}

std::size_t HostCharBackend::room() const {
  const std::uint64_t taken = requests_.output_consumed[stream_].load(std::memory_order_acquire);
  const std::uint64_t waiting = state_.streams->produced[stream_] - taken;
  const std::size_t room = waiting >= ipc::kOutputBytes ? 0 : ipc::kOutputBytes - waiting;
  if (room == 0) starved_ = true;
  return room;
}

bool HostCharBackend::put(std::uint8_t byte) {
  if (room() == 0) return false;
  std::uint64_t& produced = state_.streams.mut().produced[stream_];
  replies_.output[stream_][produced % ipc::kOutputBytes] = byte;
  ++produced;
  return true;
}

bool HostCharBackend::readable() const {
  const std::uint64_t given = requests_.input_produced[stream_].load(std::memory_order_acquire);
  return given != state_.streams->consumed[stream_];
}

std::optional<std::uint8_t> HostCharBackend::get() {
  if (!readable()) return std::nullopt;
  std::uint64_t& consumed = state_.streams.mut().consumed[stream_];
  return requests_.input[stream_][consumed++ % ipc::kInputBytes];
}

void DirectMsiSender::send(std::uint16_t vector) {
  if (vector >= count_ || first_ + vector >= events_.size()) return;
  FAILPOINT("show: before a message");
  signal_eventfd(events_[first_ + vector]);
  FAILPOINT("show: message sent");
  counter_.store(counter_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

}  // namespace bulkhead::devproc
