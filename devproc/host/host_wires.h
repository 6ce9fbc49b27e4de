// The host's side of a model's wires: each only writes into the role's uncommitted state. RoleHost acts on
// what was written after the commit.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "devproc/core/wires.h"
#include "ipc/base/unique_fd.h"
#include "ipc/ring/layout.h"
#include "ipc/state/checkpoint.h"

namespace bulkhead::devproc {

inline constexpr std::uint32_t kMaxLines = 64;
inline constexpr std::uint32_t kMaxTimers = 64;
inline constexpr std::uint32_t kMaxMessages = 256;
inline constexpr std::int64_t kTimerOff = std::numeric_limits<std::int64_t>::max();

// The host's own part of the checkpoint, in segments by how often they change.
struct LineState {
  std::uint64_t levels;  // bit i: line i of the role is asserted
};
struct TimerState {
  std::int64_t deadline[kMaxTimers];  // VM time, kTimerOff when disarmed
};
struct StreamState {
  std::uint64_t produced[ipc::kStreams];
  std::uint64_t consumed[ipc::kStreams];
};
struct OutboundState {
  std::uint64_t produced;
  Effect ring[ipc::kOutboundEffects];
};

struct HostState {
  explicit HostState(ipc::StateAllocator& allocator)
      : lines(allocate_state<LineState>(allocator)),
        timers(allocate_state<TimerState>(allocator)),
        streams(allocate_state<StreamState>(allocator)),
        outbound(allocate_state<OutboundState>(allocator)) {}
  Persistent<LineState> lines;
  Persistent<TimerState> timers;
  Persistent<StreamState> streams;
  Persistent<OutboundState> outbound;
};

class HostIrqLine final : public IrqLine {
 public:
  HostIrqLine(HostState& state, std::uint32_t line) : state_(state), bit_(std::uint64_t{1} << line) {}
  void set_level(bool asserted) override {
    const bool now = (state_.lines->levels & bit_) != 0;
    if (now == asserted) return;
    state_.lines.mut().levels ^= bit_;
  }

 private:
  HostState& state_;
  std::uint64_t bit_;
};

class HostMsiSender final : public MsiSender {
 public:
  HostMsiSender(ipc::Checkpoint& checkpoint, std::uint32_t first, std::uint32_t count)
      : checkpoint_(checkpoint), first_(first), count_(count) {}
  void send(std::uint16_t vector) override {
    if (vector >= count_) return;
    const std::uint32_t bit = first_ + vector;
    checkpoint_.input().messages[bit / 64] |= std::uint64_t{1} << (bit % 64);
  }

 private:
  ipc::Checkpoint& checkpoint_;
  std::uint32_t first_;
  std::uint32_t count_;
};

// Messages that go out at once, after the commit (Device::show).
class DirectMsiSender final : public MsiSender {
 public:
  DirectMsiSender(std::span<const BorrowedFd> events, std::uint32_t first, std::uint32_t count,
                  std::atomic<std::uint64_t>& counter)
      : events_(events), first_(first), count_(count), counter_(counter) {}
  void send(std::uint16_t vector) override;

 private:
  std::span<const BorrowedFd> events_;
  std::uint32_t first_;
  std::uint32_t count_;
  std::atomic<std::uint64_t>& counter_;
};

class HostTimerQueue final : public TimerQueue {
 public:
  HostTimerQueue(HostState& state, std::uint16_t first, std::uint16_t count)
      : state_(state), first_(first), count_(count) {}
  void arm(std::uint16_t timer, VmTime deadline) override {
    if (timer < count_) set(first_ + timer, deadline.ns);
  }
  void cancel(std::uint16_t timer) override {
    if (timer < count_) set(first_ + timer, kTimerOff);
  }

 private:
  void set(std::uint32_t index, std::int64_t deadline) {
    if (state_.timers->deadline[index] != deadline) state_.timers.mut().deadline[index] = deadline;
  }
  HostState& state_;
  std::uint16_t first_;
  std::uint16_t count_;
};

// Time stands still within one input: the first look of an input decides.
class HostClock final : public Clock {
 public:
  explicit HostClock(const ipc::VmTimeline& timeline) : timeline_(timeline) {}
  void new_input() { sampled_ = wall_sampled_ = false; }
  [[nodiscard]] VmTime now() const override;
  [[nodiscard]] WallTime wall() const override;
  [[nodiscard]] bool frozen() const;
  // VM time to CLOCK_MONOTONIC.
  [[nodiscard]] std::int64_t to_monotonic(std::int64_t vm_ns) const;

 private:
  const ipc::VmTimeline& timeline_;
  mutable bool sampled_ = false;
  mutable bool wall_sampled_ = false;
  mutable VmTime now_{};
  mutable WallTime wall_{};
};

// Collects the effects of the input at hand, until RoleHost puts them into the commit.
class HostEffectSink final : public EffectSink {
 public:
  void emit(const Effect& effect) override {
    if (count_ < kMaxEffects) {
      effects_[count_++] = effect;
    } else {
      ++dropped_;
    }
  }
  void clear() { count_ = 0; }
  [[nodiscard]] std::span<const Effect> collected() const { return std::span(effects_).first(count_); }
  [[nodiscard]] std::uint64_t dropped() const { return dropped_; }

 private:
  Effect effects_[kMaxEffects];
  std::uint32_t count_ = 0;
  std::uint64_t dropped_ = 0;
};

// Turns the reply of the request at hand into one that the VMM completes.
class HostRedirect final : public Redirect {
 public:
  explicit HostRedirect(ipc::Checkpoint& checkpoint) : checkpoint_(checkpoint) {}
  void pending_bits(std::uint8_t devfn, std::uint16_t first_vector, std::uint8_t byte_offset) override;
  void bar_access(const BarAccess& access) override;
  void fw_cfg_transfer(const FwCfgTransfer& transfer) override;

 private:
  ipc::Checkpoint& checkpoint_;
};

// One byte stream each way. Indexes are state; bytes lie in the shared areas.
class HostCharBackend final : public CharBackend {
 public:
  HostCharBackend(HostState& state, const ipc::RequestArea& requests, ipc::ReplyArea& replies, std::uint32_t stream)
      : state_(state), requests_(requests), replies_(replies), stream_(stream) {}
  bool put(std::uint8_t byte) override;
  [[nodiscard]] std::size_t room() const override;
  std::optional<std::uint8_t> get() override;
  [[nodiscard]] bool readable() const override;

  // Since the last call: whether the device found no room. A successor assumes that it did.
  [[nodiscard]] bool starved() const { return starved_; }
  void clear_starved() { starved_ = false; }

 private:
  HostState& state_;
  const ipc::RequestArea& requests_;
  ipc::ReplyArea& replies_;
  std::uint32_t stream_;
  mutable bool starved_ = true;
};

}  // namespace bulkhead::devproc
