// VectorMemory: guest RAM [base, base + size) on the heap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "devproc/core/guest_memory.h"
#include "ipc/base/checked.h"

namespace bulkhead::devproc {

class VectorMemory final : public GuestMemory {
 public:
  explicit VectorMemory(std::size_t size = 64 * 1024, GuestPhys base = 0) : bytes(size), base_(base) {}

  bool read(GuestPhys address, std::span<std::byte> out) override {
    if (!inside(address, out.size())) return false;
    if (!out.empty()) std::memcpy(out.data(), bytes.data() + (address - base_), out.size());
    return true;
  }
  bool write(GuestPhys address, std::span<const std::byte> in) override {
    if (!inside(address, in.size())) return false;
    if (!in.empty()) std::memcpy(bytes.data() + (address - base_), in.data(), in.size());
    return true;
  }

  std::optional<std::uint16_t> load_acquire(GuestPhys address) override {
    if ((address & 1) != 0) return std::nullopt;
    return load<std::uint16_t>(address);
  }
  bool store_release(GuestPhys address, std::uint16_t value) override {
    return (address & 1) == 0 && store<std::uint16_t>(address, value);
  }

  std::vector<std::byte> bytes;
  int failures = 0;  // accesses outside RAM

 private:
  bool inside(GuestPhys address, std::size_t size) {
    if (address >= base_ && fits(address - base_, size, bytes.size())) return true;
    ++failures;
    return false;
  }

  GuestPhys base_;
};

}  // namespace bulkhead::devproc
