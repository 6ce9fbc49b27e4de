#include "vmm/memory/shadow_ram.h"

#include <algorithm>
#include <cstring>

#include "ipc/base/check.h"
#include "ipc/base/log.h"
#include "ipc/state/effects.h"

namespace bulkhead::vmm {
namespace {

constexpr std::uint64_t kSmallSegment = 16 * kKiB;
constexpr std::uint64_t kSystemSegment = 0xF0000;  // the last one, 64 KiB
constexpr std::uint64_t kRomWindow = kExtendedMemory - kMirroredRom;
static_assert(kShadowAllRam == (1U << (2 * kShadowSegments)) - 1);

constexpr std::uint64_t segment_start(std::uint32_t segment) { return kShadowWindow + segment * kSmallSegment; }
constexpr std::uint64_t segment_end(std::uint32_t segment) {
  return segment + 1 == kShadowSegments ? kExtendedMemory : segment_start(segment + 1);
}
static_assert(segment_start(kShadowSegments - 1) == kSystemSegment);

constexpr std::uint32_t segment_at(std::uint64_t address) {
  return address >= kSystemSegment ? kShadowSegments - 1
                                   : static_cast<std::uint32_t>((address - kShadowWindow) / kSmallSegment);
}
constexpr std::uint32_t rights(std::uint32_t wanted, std::uint32_t segment) { return wanted >> (2 * segment) & 3; }

ShadowKind kind_of(std::uint32_t wanted, std::uint32_t segment, bool rom) {
  const std::uint32_t has = rights(wanted, segment);
  if ((has & kShadowRead) != 0) return (has & kShadowWrite) != 0 ? ShadowKind::kRam : ShadowKind::kRamReadOnly;
  return rom && segment_start(segment) >= kRomWindow ? ShadowKind::kRom : ShadowKind::kNothing;
}

}  // namespace

std::vector<ShadowRun> shadow_runs(std::uint32_t wanted, bool rom) {
  std::vector<ShadowRun> runs;
  if ((wanted & kShadowVgaOpen) != 0) runs.push_back({kVgaWindow, kShadowWindow - kVgaWindow, ShadowKind::kRam});
  for (std::uint32_t segment = 0; segment < kShadowSegments; ++segment) {
    const ShadowKind kind = kind_of(wanted, segment, rom);
    if (kind == ShadowKind::kNothing) continue;
    const std::uint64_t start = segment_start(segment);
    const std::uint64_t size = segment_end(segment) - start;
    const bool joins = !runs.empty() && runs.back().kind == kind && runs.back().address + runs.back().size == start &&
                       start != kShadowWindow;  // the VGA window stays apart
    if (joins) {
      runs.back().size += size;
    } else {
      runs.push_back({start, size, kind});
    }
  }
  return runs;
}

ShadowRam::ShadowRam(Vm& vm, GuestRam& ram, std::span<std::byte> rom, std::uint32_t first_slot)
    : vm_(vm), ram_(ram), rom_(rom), first_slot_(first_slot) {
  CHECK(rom.empty() || rom.size() == kMirroredRom, rom.size());
}

Status ShadowRam::set(std::uint32_t slot, const ShadowRun& run, bool there) {
  std::byte* host = run.kind == ShadowKind::kRom ? rom_.data() + (run.address - kRomWindow) : ram_.host() + run.address;
  return vm_.set_memory_slot({.slot = first_slot_ + slot,
                              .guest_address = run.address,
                              .size = there ? run.size : 0,
                              .host = host,
                              .read_only = run.kind != ShadowKind::kRam});
}

void ShadowRam::apply(std::uint32_t wanted) {
  static constinit LogLimiter limiter{4};
  const std::vector<ShadowRun> runs = shadow_runs(wanted, !rom_.empty());
  const auto report = [&](const Status& status) {
    if (!status && limiter.allow()) log(LogLevel::kError, "shadow RAM: {}", status.error().message);
    return bool(status);
  };
  // What goes makes room for what comes.
  for (std::uint32_t slot = 0; slot < kSlotCount; ++slot) {
    ShadowRun& now = slots_[slot];
    if (now.kind == ShadowKind::kNothing || std::find(runs.begin(), runs.end(), now) != runs.end()) continue;
    if (report(set(slot, now, false))) now = {};
  }
  for (const ShadowRun& run : runs) {
    if (std::find(std::begin(slots_), std::end(slots_), run) != std::end(slots_)) continue;
    ShadowRun* free = std::find(std::begin(slots_), std::end(slots_), ShadowRun{});
    if (free == std::end(slots_)) break;  // only when KVM would not give slots back
    if (report(set(static_cast<std::uint32_t>(free - slots_), run, true))) *free = run;
  }
  wanted_.store(wanted, std::memory_order_relaxed);
}

void ShadowRam::read(std::uint32_t, const BusAccess& access, std::span<std::byte> out) {
  const std::uint64_t address = kShadowWindow + access.offset;
  for (std::uint32_t i = 0; i < access.count; ++i) {
    const std::span<std::byte> one = out.subspan(std::size_t{i} * access.size, access.size);
    std::fill(one.begin(), one.end(), std::byte{0xff});
    if ((rights(wanted(), segment_at(address)) & kShadowRead) != 0) {
      (void)ram_.read(address, one);
    } else if (!rom_.empty() && address >= kRomWindow) {
      std::memcpy(one.data(), rom_.data() + (address - kRomWindow), one.size());
    }
  }
}

void ShadowRam::write(std::uint32_t, const BusAccess& access, std::span<const std::byte> in) {
  const std::uint64_t address = kShadowWindow + access.offset;
  if ((rights(wanted(), segment_at(address)) & kShadowWrite) == 0) return;
  for (std::uint32_t i = 0; i < access.count; ++i)
    ram_.write(address, in.subspan(std::size_t{i} * access.size, access.size));
}

}  // namespace bulkhead::vmm
