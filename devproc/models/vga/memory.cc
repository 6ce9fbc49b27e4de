// The video memory as the CPU sees it at A0000h: four planes behind latches.
#include <algorithm>
#include <bit>

#include "devproc/models/vga/spec.h"
#include "devproc/models/vga/vga.h"
#include "ipc/roles/vga_decl.h"

namespace bulkhead::devproc {

using namespace vga;
using screen::VgaRegisters;

namespace {

bool is_odd_even_write(const VgaRegisters& r) { return (r.sequencer[kMemoryMode] & kMemoryOddEvenOff) == 0; }
bool is_odd_even_read(const VgaRegisters& r) { return (r.graphics[kGraphicsMode] & kModeOddEven) != 0; }
bool is_chained(const VgaRegisters& r) { return (r.sequencer[kMemoryMode] & kMemoryChain4) != 0; }
unsigned map_of(const VgaRegisters& r) { return r.graphics[kMiscellaneous] >> kMemoryMapShift & 3U; }
std::uint32_t bank_of(const VgaRegisters& r) {
  return r.vbe_enabled() && map_of(r) < 2 ? r.vbe[screen::kVbeBank] * kVgaBank : 0;
}

// A bit for each plane, as bytes.
std::uint8_t spread(std::uint8_t bits, unsigned plane) { return (bits >> plane & 1) != 0 ? 0xff : 0x00; }

std::uint8_t combine(std::uint8_t data, std::uint8_t latch, unsigned function) {
  switch (function & 3) {
    case 1: return data & latch;
    case 2: return data | latch;
    case 3: return data ^ latch;
    default: return data;
  }
}

}  // namespace

// The address that the window's mapping makes of an offset from A0000h; nullopt: nothing is mapped there.
std::optional<std::uint32_t> Vga::plane_address(std::uint64_t offset) const {
  const VgaRegisters& r = state_->registers;
  if ((r.misc_output & kMiscRamEnable) == 0) return std::nullopt;
  std::uint64_t first = 0;
  std::uint64_t size = kVgaLegacySize;
  switch (map_of(r)) {
    case 0: break;
    case 1: size = 0x10000; break;
    case 2: first = 0x10000, size = 0x8000; break;
    default: first = 0x18000, size = 0x8000; break;
  }
  if (offset < first || offset >= first + size) return std::nullopt;
  return static_cast<std::uint32_t>(offset - first) + bank_of(r);
}

std::array<std::uint8_t, 4> Vga::word_at(std::uint32_t word) const {
  std::array<std::uint8_t, 4> bytes{};
  const std::uint64_t at = std::uint64_t{word} * 4;
  const auto memory = screen_.memory();
  for (std::size_t i = 0; at + 4 <= memory.size() && i < 4; ++i) bytes[i] = static_cast<std::uint8_t>(memory[at + i]);
  return bytes;
}

std::optional<std::uint8_t> Vga::read_planes(std::uint64_t offset) {
  const VgaRegisters& r = state_->registers;
  const auto address = plane_address(offset);
  if (!address) return std::nullopt;
  unsigned plane = r.graphics[kReadMapSelect];
  std::uint32_t word = *address;
  if (is_chained(r)) {
    plane = *address & 3;
    word = *address >> 2;
  } else if (is_odd_even_read(r)) {
    plane = (plane & 2) | (*address & 1);
    word = *address >> 1;
  }
  const std::array<std::uint8_t, 4> latch = word_at(word);
  if (latch != state_->latch) state_.mut().latch = latch;
  if ((r.graphics[kGraphicsMode] & kModeRead1) == 0) return latch[plane];
  // Bits where all planes that count have the colour that is looked for.
  std::uint8_t equal = 0xff;
  for (unsigned p = 0; p < 4; ++p) {
    if ((r.graphics[kColourDontCare] >> p & 1) != 0)
      equal &= static_cast<std::uint8_t>(~(latch[p] ^ spread(r.graphics[kColourCompare], p)));
  }
  return equal;
}

bool Vga::write_planes(std::uint64_t offset, std::uint8_t value) {
  const VgaRegisters& r = state_->registers;
  const auto address = plane_address(offset);
  if (!address) return false;
  std::uint8_t planes = r.sequencer[kMapMask];
  std::uint32_t word = *address;
  if (is_chained(r)) {
    planes &= static_cast<std::uint8_t>(1U << (*address & 3));
    word = *address >> 2;
  } else if (is_odd_even_write(r)) {
    planes &= (*address & 1) != 0 ? 0x0a : 0x05;
    word = *address >> 1;
  }
  const auto memory = screen_.memory();
  const std::uint64_t at = std::uint64_t{word} * 4;
  if (at + 4 > memory.size()) return false;
  for (unsigned plane = 0; plane < 4; ++plane) {
    if ((planes >> plane & 1) != 0) memory[at + plane] = static_cast<std::byte>(datapath(plane, value));
  }
  return true;
}

// What a plane gets of a byte that the CPU writes.
std::uint8_t Vga::datapath(unsigned plane, std::uint8_t value) const {
  const VgaRegisters& r = state_->registers;
  const std::uint8_t latch = state_->latch[plane];
  const std::uint8_t mode = r.graphics[kGraphicsMode] & 3;
  if (mode == 1) return latch;
  const std::uint8_t rotated = std::rotr(value, r.graphics[kDataRotate] & 7);
  std::uint8_t mask = r.graphics[kBitMask];
  std::uint8_t data = rotated;
  switch (mode) {
    case 0:
      if ((r.graphics[kEnableSetReset] >> plane & 1) != 0) data = spread(r.graphics[kSetReset], plane);
      break;
    case 2: data = spread(value, plane); break;
    default:
      mask &= rotated;
      data = spread(r.graphics[kSetReset], plane);
      break;
  }
  data = combine(data, latch, r.graphics[kDataRotate] >> 3);
  return static_cast<std::uint8_t>((data & mask) | (latch & ~mask));
}

// Where every byte that the CPU writes is a byte of the memory, and every byte that it reads, KVM does it alone.
void Vga::update_window() {
  const VgaRegisters& r = state_->registers;
  const auto& graphics = r.graphics;
  const bool linear = is_chained(r) && r.sequencer[kMapMask] == 0x0f && (r.misc_output & kMiscRamEnable) != 0 &&
                      map_of(r) < 2 && (graphics[kGraphicsMode] & (3 | kModeRead1)) == 0 &&
                      graphics[kEnableSetReset] == 0 && graphics[kDataRotate] == 0 && graphics[kBitMask] == 0xff;
  const std::uint32_t offset = linear ? bank_of(r) : 0;
  std::uint32_t size = !linear ? 0 : map_of(r) == 0 ? kVgaLegacySize : kVgaBank;
  if (offset + size > screen::kVideoMemory) size = 0;
  if (state_->window_size == size && (size == 0 || state_->window_offset == offset)) return;
  state_.mut().window_size = size;
  state_.mut().window_offset = size == 0 ? 0 : offset;
  effects_.emit(desired_effect(0));
}

}  // namespace bulkhead::devproc
