// The MSI-X table of one function, committed 16 vectors at a time so that a commit copies what changed.
//
// Document: PCI Local Bus Specification 3.0, section 6.8.2. Accesses are aligned dwords and quadwords.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "devproc/core/persistent.h"

namespace bulkhead::devproc {

struct MsixEntry {
  std::uint32_t address = 0;  // bits 1:0 are always 0
  std::uint32_t address_high = 0;
  std::uint32_t data = 0;
  std::uint32_t control = 1;  // bit 0: the vector is masked, as it is after reset
  bool operator==(const MsixEntry&) const = default;
};
static_assert(sizeof(MsixEntry) == 16);

class MsixTable {
 public:
  static constexpr std::uint16_t kVectorsPerSegment = 16;

  MsixTable(std::uint16_t vectors, StateAllocator& allocator);

  [[nodiscard]] std::uint16_t vectors() const { return vectors_; }
  [[nodiscard]] MsixEntry entry(std::uint16_t vector) const;

  // `offset` from the table's start, 4-byte aligned. Beyond the last vector: 0, and writes are dropped.
  [[nodiscard]] std::uint32_t read(std::uint64_t offset) const;
  // The vector that changed, if one did.
  std::optional<std::uint16_t> write(std::uint64_t offset, std::uint32_t value);

  void reset();
  void restore();

 private:
  struct Segment {
    std::array<MsixEntry, kVectorsPerSegment> entries;
    bool operator==(const Segment&) const = default;
  };
  std::uint16_t vectors_;
  std::vector<Persistent<Segment>> segments_;
};

}  // namespace bulkhead::devproc
