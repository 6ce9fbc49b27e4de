#include "devproc/models/pci/msix_table.h"

#include "devproc/models/pci/spec.h"

namespace bulkhead::devproc {
namespace {

namespace spec = pci_spec;

void legalise(MsixEntry& entry) {
  entry.address &= ~3U;
  entry.control &= spec::kMsixVectorMask;
}

}  // namespace

MsixTable::MsixTable(std::uint16_t vectors, StateAllocator& allocator) : vectors_(vectors) {
  for (unsigned first = 0; first < vectors; first += kVectorsPerSegment)
    segments_.push_back(allocate_state<Segment>(allocator));
}

MsixEntry MsixTable::entry(std::uint16_t vector) const {
  if (vector >= vectors_) return {};
  return segments_[vector / kVectorsPerSegment].get().entries[vector % kVectorsPerSegment];
}

std::uint32_t MsixTable::read(std::uint64_t offset) const {
  if (offset / spec::kMsixEntrySize >= vectors_) return 0;
  const MsixEntry found = entry(static_cast<std::uint16_t>(offset / spec::kMsixEntrySize));
  switch (offset % spec::kMsixEntrySize / 4) {
    case 0: return found.address;
    case 1: return found.address_high;
    case 2: return found.data;
    default: return found.control;
  }
}

std::optional<std::uint16_t> MsixTable::write(std::uint64_t offset, std::uint32_t value) {
  if (offset / spec::kMsixEntrySize >= vectors_) return std::nullopt;
  const auto vector = static_cast<std::uint16_t>(offset / spec::kMsixEntrySize);
  MsixEntry changed = entry(vector);
  switch (offset % spec::kMsixEntrySize / 4) {
    case 0: changed.address = value; break;
    case 1: changed.address_high = value; break;
    case 2: changed.data = value; break;
    default: changed.control = value; break;
  }
  legalise(changed);
  if (changed == entry(vector)) return std::nullopt;
  segments_[vector / kVectorsPerSegment].mut().entries[vector % kVectorsPerSegment] = changed;
  return vector;
}

void MsixTable::reset() {
  for (auto& segment : segments_) segment.mut() = Segment{};
}

void MsixTable::restore() {
  for (auto& segment : segments_) {
    Segment legal = segment.get();
    for (MsixEntry& entry : legal.entries) legalise(entry);
    if (!(legal == segment.get())) segment.mut() = legal;
  }
}

}  // namespace bulkhead::devproc
