// The records of the register path: what a request, a reply and their slots look like in shared memory.
//
// Flat structs of fixed layout, checked by static_assert; no pointers, no lengths that reach outside.
// Trust: a Request is written by the VMM and mapped read-only into the device process. A ReplySlot is
// written by the device process, which may be hostile: the VMM copies it once and checks the copy.
#pragma once

#include <atomic>
#include <cstdint>

#include "ipc/state/effects.h"

namespace bulkhead::ipc {

using Ticket = std::uint64_t;  // 1, 2, 3 ...: the order of all vCPUs' accesses to one device process

inline constexpr std::uint32_t kSlots = 64;         // a power of two, at least the number of vCPUs
inline constexpr std::uint32_t kPayloadBytes = 32;  // one access, or a piece of string I/O
inline constexpr std::size_t kCacheLine = 64;

enum class RequestKind : std::uint8_t {
  kRead = 1,
  kWrite = 2,
  kReset = 3,            // power-on state; Request::generation is the new generation
  kFunctionControl = 4,  // payload: u32 of FunctionControl bits
  kPowerButton = 5,
  kDesiredState = 6,      // offset: first effect wanted; the reply's payload is the u32 count of all
  kFunctionPresence = 7,  // payload: u32 of devfn and, in bit 8, whether the function is there (pci_bus alone)
  kSetLimit = 8,          // payload: RateLimit; offset: which of the device's limits. The reply's payload: u8, 1: done
  kSetting = 9,           // offset: a Setting (ipc/roles/settings.h); payload: its u64 value
  kTransferDone = 10,     // payload: u32 selector, offset: where a FwCfgTransfer left the item (fw_cfg alone)
  kDraining = 11,         // the reply's payload: u32, 1 while I/O from before a reset is not over
};

enum RequestFlag : std::uint8_t {
  kPosted = 1U << 0,  // nobody waits for the reply
};

struct Request {
  std::uint32_t generation = 0;
  RequestKind kind{};
  std::uint8_t size = 0;   // bytes of one element: 1, 2, 4, 8
  std::uint8_t count = 0;  // elements at the same address (string I/O), 1 otherwise
  std::uint8_t flags = 0;
  std::uint16_t instance = 0;  // which device of the role
  std::uint16_t region = 0;    // which of its regions
  std::uint32_t reserved = 0;
  std::uint64_t offset = 0;  // bytes into the region
  std::uint8_t payload[kPayloadBytes] = {};
};
static_assert(sizeof(Request) == 56);

struct alignas(kCacheLine) RequestSlot {
  std::atomic<Ticket> ticket;  // stored last, with release
  Request request;
};
static_assert(sizeof(RequestSlot) == kCacheLine);

enum class ReplyStatus : std::uint8_t {
  kDone = 1,
  kDropped = 2,        // of an older generation, or malformed: reads all ones
  kPendingBits = 3,    // the VMM completes the read from the vectors' pending state (MSI-X PBA)
  kPoisoned = 4,       // skipped because it kills its device: reads all ones
  kBarAccess = 5,      // the first element is an access to a BAR, which the VMM completes; no other was looked at
  kFwCfgTransfer = 6,  // the same for a write that starts fw_cfg's DMA
};

struct Reply {
  std::uint32_t generation = 0;
  ReplyStatus status{};
  std::uint8_t effect_count = 0;
  std::uint16_t function = 0;       // kPendingBits: devfn
  std::uint64_t effects_total = 0;  // effects of this role since the VM began, these included
  // kPendingBits: u16 first vector, u8 byte offset. kBarAccess: see ipc/wire/bar_access.h. kFwCfgTransfer: see
  // ipc/wire/fw_cfg_transfer.h.
  std::uint8_t payload[kPayloadBytes] = {};
};
static_assert(sizeof(Reply) == 48);

struct alignas(kCacheLine) ReplySlot {
  std::atomic<Ticket> ticket;              // stored last, with release
  std::atomic<std::uint32_t> incarnation;  // of the process that published it
  std::atomic<std::uint32_t> wake;         // futex word; grows when a sleeping waiter is woken
  Reply reply;
};
static_assert(sizeof(ReplySlot) == kCacheLine);

struct alignas(kCacheLine) EffectSlot {
  Effect effects[kMaxEffects];
  std::uint8_t reserved[kCacheLine];
};
static_assert(sizeof(EffectSlot) == 512);

static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

}  // namespace bulkhead::ipc
