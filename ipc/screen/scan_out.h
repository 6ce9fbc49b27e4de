// ScanOut: the block behind the video memory in which a VGA's process shows its registers to those who draw.
//
// The writer may die in the middle and its successor begin anew: `sequence` is odd while a copy is written, and a
// successor makes it odd before it writes, whatever it finds. A reader takes a copy between two equal even values,
// tries a few times and otherwise keeps the picture that it has. Threading: one writer, any number of readers. Trust:
// the writer is hostile; the copy is checked by whoever uses it (geometry_of() has an answer to anything).
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "ipc/screen/vga_registers.h"

namespace bulkhead::screen {

struct ScanOut {
  std::atomic<std::uint32_t> sequence{0};
  std::array<std::atomic<std::uint32_t>, sizeof(VgaRegisters) / 4> words{};
};
static_assert(sizeof(VgaRegisters) % 4 == 0);

inline constexpr std::size_t kScanOutSize = 4096;
inline constexpr std::size_t kScreenRegionSize = kVideoMemory + kScanOutSize;  // of the shared region
static_assert(sizeof(ScanOut) <= kScanOutSize);

inline void write_scan_out(ScanOut& to, const VgaRegisters& registers) {
  const std::uint32_t odd = to.sequence.load(std::memory_order_relaxed) | 1;
  to.sequence.store(odd, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  const auto words = std::bit_cast<std::array<std::uint32_t, sizeof(VgaRegisters) / 4>>(registers);
  for (std::size_t i = 0; i < words.size(); ++i) to.words[i].store(words[i], std::memory_order_relaxed);
  to.sequence.store(odd + 1, std::memory_order_release);
}

// nullopt: it is being written, or its writer is dead.
[[nodiscard]] inline std::optional<VgaRegisters> read_scan_out(const ScanOut& from) {
  constexpr int kMostTries = 64;
  for (int i = 0; i < kMostTries; ++i) {
    const std::uint32_t before = from.sequence.load(std::memory_order_acquire);
    if ((before & 1) != 0) continue;
    std::array<std::uint32_t, sizeof(VgaRegisters) / 4> words;
    for (std::size_t n = 0; n < words.size(); ++n) words[n] = from.words[n].load(std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_acquire);
    if (from.sequence.load(std::memory_order_relaxed) != before) continue;
    return std::bit_cast<VgaRegisters>(words);
  }
  return std::nullopt;
}

}  // namespace bulkhead::screen
