// The two areas that a device process and the VMM share for traffic (DESIGN.md, section 3).
//
//   RequestArea   written by the VMM, mapped read-only into the device process
//   ReplyArea     written by the device process, mapped read-only into the VMM
//
// Each byte has exactly one writer. Indexes grow for ever and are reduced modulo a power of two on use.
#pragma once

#include <atomic>
#include <cstdint>

#include "ipc/wire/io_message.h"

namespace bulkhead::ipc {

inline constexpr std::uint64_t kAreaMagic = 0x3144'4b48'4c55'4221;  // layout 1
inline constexpr std::uint32_t kStreams = 8;                        // byte streams of a role, each way
inline constexpr std::uint32_t kInputBytes = 4096;                  // of one stream, VMM to device
inline constexpr std::uint32_t kOutputBytes = 16384;                // of one stream, device to VMM
inline constexpr std::uint32_t kOutboundEffects = 16;               // effects on a device's own account
inline constexpr std::int64_t kVmTimeRuns = INT64_MIN;              // VmTimeline::frozen_at while the VM runs

// When and where the peer was when it woke us: what the adaptive wait learns from.
struct alignas(kCacheLine) WakeNote {
  std::atomic<std::int64_t> time_ns;  // CLOCK_MONOTONIC
  std::atomic<std::uint32_t> cpu;
};

// VM time = CLOCK_MONOTONIC - base, or frozen_at while the VM is paused.
struct alignas(kCacheLine) VmTimeline {
  std::atomic<std::int64_t> base_ns;
  std::atomic<std::int64_t> frozen_at;
};

struct alignas(kCacheLine) RequestArea {
  std::uint64_t magic;
  std::atomic<std::uint32_t> incarnation;                      // grows at take-over
  alignas(kCacheLine) std::atomic<std::uint32_t> pump_asleep;  // the VMM's stream thread wants a signal
  WakeNote device_woken;
  VmTimeline time;
  alignas(kCacheLine) std::atomic<std::uint64_t> input_produced[kStreams];
  alignas(kCacheLine) std::atomic<std::uint64_t> output_consumed[kStreams];
  alignas(kCacheLine) std::atomic<std::uint64_t> outbound_consumed;
  // Set by a waiter that goes to sleep on slot i's reply, cleared by that waiter alone.
  alignas(kCacheLine) std::atomic<std::uint32_t> waiter_asleep[kSlots];
  RequestSlot slots[kSlots];
  std::uint8_t input[kStreams][kInputBytes];
};

// Counters that a device process publishes. Shown to people, believed by nobody.
struct alignas(kCacheLine) DeviceCounters {
  std::atomic<std::uint64_t> requests;
  std::atomic<std::uint64_t> commits;
  std::atomic<std::uint64_t> timers;
  std::atomic<std::uint64_t> interrupts;
  std::atomic<std::uint64_t> sleeps;
  std::atomic<std::uint64_t> spins_won;
  std::atomic<std::uint64_t> bad_accesses;  // no such register
  std::atomic<std::uint64_t> dropped;       // malformed or of an older generation
  std::atomic<std::uint64_t> poisoned;      // inputs skipped because they kill the device
  std::atomic<std::uint64_t> kicks;         // inputs that worked on a queue
  std::atomic<std::uint64_t> draining;      // 1: I/O that a device has given up, or knows nothing of, is not over
};

struct alignas(kCacheLine) ReplyArea {
  std::atomic<std::uint32_t> asleep;  // the device process waits for its doorbell
  WakeNote waiter_woken;
  DeviceCounters counters;
  alignas(kCacheLine) std::atomic<std::uint64_t> output_produced[kStreams];
  alignas(kCacheLine) std::atomic<std::uint64_t> input_consumed[kStreams];
  alignas(kCacheLine) std::atomic<std::uint64_t> outbound_produced;
  Effect outbound[kOutboundEffects];
  ReplySlot slots[kSlots];
  EffectSlot effects[kSlots];
  std::uint8_t output[kStreams][kOutputBytes];
};

inline constexpr std::size_t kPage = 4096;
constexpr std::size_t page_up(std::size_t n) { return (n + kPage - 1) & ~(kPage - 1); }
inline constexpr std::size_t kRequestAreaSize = page_up(sizeof(RequestArea));
inline constexpr std::size_t kReplyAreaSize = page_up(sizeof(ReplyArea));

static_assert((kSlots & (kSlots - 1)) == 0 && (kInputBytes & (kInputBytes - 1)) == 0 &&
              (kOutputBytes & (kOutputBytes - 1)) == 0);
static_assert(offsetof(RequestArea, slots) % kCacheLine == 0);
static_assert(offsetof(ReplyArea, slots) % kCacheLine == 0);

constexpr std::uint32_t slot_of(Ticket ticket) { return static_cast<std::uint32_t>(ticket % kSlots); }

}  // namespace bulkhead::ipc
