// FakeRam: pages of a VectorMemory that go back to the host: they read zero from then on, and what went is noted.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "devproc/core/ram_release.h"
#include "tests/fakes/vector_memory.h"

namespace bulkhead::devproc {

class FakeRam final : public RamRelease {
 public:
  explicit FakeRam(VectorMemory& memory) : memory_(memory) {}
  bool release(GuestPhys address, std::uint64_t length) override {
    constexpr std::uint64_t kPage = 4096;
    const std::uint64_t size = memory_.bytes.size();
    if (address > UINT64_MAX - length || address > UINT64_MAX - kPage) return false;
    const std::uint64_t first = (address + kPage - 1) / kPage * kPage;
    const std::uint64_t last = (address + length) / kPage * kPage;
    const std::uint64_t end = std::min(last, size / kPage * kPage);
    if (first < end) {
      std::fill(memory_.bytes.begin() + static_cast<long>(first), memory_.bytes.begin() + static_cast<long>(end),
                std::byte{0});
      released.emplace_back(first, end - first);
    }
    return last <= size;
  }

  std::vector<std::pair<GuestPhys, std::uint64_t>> released;

 private:
  VectorMemory& memory_;
};

}  // namespace bulkhead::devproc
