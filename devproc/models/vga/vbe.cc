// Bochs VBE: modes beyond the VGA's own, and BAR 2, where they are reached without ports.
#include <algorithm>

#include "devproc/models/vga/spec.h"
#include "devproc/models/vga/vga.h"
#include "ipc/roles/vga_decl.h"

namespace bulkhead::devproc {

using namespace vga;
using screen::VgaRegisters;

namespace {

// Of a pixel; 15 bits take 16.
std::uint32_t bits_of(std::uint16_t bpp) { return bpp == 15 ? 16 : bpp; }

bool is_depth(std::uint16_t bpp) { return bpp == 4 || bpp == 8 || bpp == 15 || bpp == 16 || bpp == 24 || bpp == 32; }

std::uint16_t narrow(std::uint64_t value) { return static_cast<std::uint16_t>(std::min<std::uint64_t>(value, 0xffff)); }

}  // namespace

std::uint16_t Vga::read_vbe(std::uint16_t index) const {
  const auto& vbe = state_->registers.vbe;
  if (index == screen::kVbeId) return state_->vbe_id;
  if (index == screen::kVbeVideoMemory64k) return screen::kVideoMemory / 65536;
  if (index >= vbe.size()) return 0;
  if ((vbe[screen::kVbeEnable] & screen::kVbeGetCaps) != 0) {
    if (index == screen::kVbeXres) return screen::kMostColumns;
    if (index == screen::kVbeYres) return screen::kMostRows;
    if (index == screen::kVbeBpp) return 32;
  }
  return vbe[index];
}

void Vga::write_vbe(std::uint16_t index, std::uint16_t value) {
  State& s = state_.mut();
  VgaRegisters& r = s.registers;
  switch (index) {
    case screen::kVbeId:
      if (value >= kVbeIdFirst && value <= kVbeIdLast) s.vbe_id = value;
      return;
    case screen::kVbeXres:
    case screen::kVbeYres:
    case screen::kVbeBpp:
    case screen::kVbeVirtWidth:
    case screen::kVbeXOffset:
    case screen::kVbeYOffset: r.vbe[index] = value; break;
    case screen::kVbeBank: r.vbe[index] = value % (screen::kVideoMemory / kVgaBank); break;
    case screen::kVbeEnable: enable_vbe(value); break;
    default: return;  // read-only, or none
  }
  if (r.vbe_enabled()) fit_vbe();
  changed_ = true;
  update_window();
}

void Vga::enable_vbe(std::uint16_t value) {
  VgaRegisters& r = state_.mut().registers;
  const bool was = r.vbe_enabled();
  r.vbe[screen::kVbeEnable] = value;
  r.vbe[screen::kVbeBank] = 0;
  if (!r.vbe_enabled() || was) return;
  for (const auto index : {screen::kVbeVirtWidth, screen::kVbeXOffset, screen::kVbeYOffset}) r.vbe[index] = 0;
  fit_vbe();
  // The window at A0000h as the mode needs it, whatever the VGA did before.
  r.graphics[kMiscellaneous] = kMiscellaneousGraphics | 1U << kMemoryMapShift;
  r.graphics[kGraphicsMode] = 0;
  r.sequencer[kMapMask] = 0x0f;
  r.sequencer[kMemoryMode] = kMemoryOddEvenOff | 0x02;
  if (r.vbe[screen::kVbeBpp] != 4) r.sequencer[kMemoryMode] |= kMemoryChain4;
  if ((value & screen::kVbeNoClear) == 0) clear_screen();
}

// Brings sizes and offsets into what the memory holds, as drivers find out by reading them back.
void Vga::fit_vbe() {
  auto vbe = state_->registers.vbe;
  if (!is_depth(vbe[screen::kVbeBpp])) vbe[screen::kVbeBpp] = 8;
  const std::uint32_t bits = bits_of(vbe[screen::kVbeBpp]);
  const auto whole = [](std::uint16_t n) {  // a line is whole bytes of four planes
    return static_cast<std::uint16_t>(std::clamp<std::uint32_t>(n & ~7U, 8, screen::kMostColumns));
  };
  vbe[screen::kVbeXres] = whole(vbe[screen::kVbeXres]);
  vbe[screen::kVbeVirtWidth] = std::max(whole(vbe[screen::kVbeVirtWidth]), vbe[screen::kVbeXres]);
  const std::uint64_t line = std::uint64_t{vbe[screen::kVbeVirtWidth]} * bits / 8;
  const std::uint64_t lines = screen::kVideoMemory / line;  // at least 2048
  vbe[screen::kVbeYres] =
      narrow(std::clamp<std::uint64_t>(vbe[screen::kVbeYres], 1, std::min<std::uint64_t>(lines, screen::kMostRows)));
  vbe[screen::kVbeVirtHeight] = narrow(lines);
  vbe[screen::kVbeXOffset] = std::min(vbe[screen::kVbeXOffset],
                                      static_cast<std::uint16_t>(vbe[screen::kVbeVirtWidth] - vbe[screen::kVbeXres]));
  vbe[screen::kVbeYOffset] = narrow(std::min<std::uint64_t>(vbe[screen::kVbeYOffset], lines - vbe[screen::kVbeYres]));
  vbe[screen::kVbeBank] %= screen::kVideoMemory / kVgaBank;
  if (vbe != state_->registers.vbe) state_.mut().registers.vbe = vbe;
}

void Vga::clear_screen() {
  const auto& vbe = state_->registers.vbe;
  const std::uint64_t bytes =
      std::uint64_t{vbe[screen::kVbeVirtWidth]} * bits_of(vbe[screen::kVbeBpp]) / 8 * vbe[screen::kVbeYres];
  const auto memory = screen_.memory();
  std::fill_n(memory.begin(), std::min<std::uint64_t>(bytes, memory.size()), std::byte{0});
}

// ---- BAR 2 ----

std::optional<std::uint64_t> Vga::read_register_bar(const Access& access) {
  std::uint64_t value = 0;
  for (std::uint32_t i = 0; i < access.size; ++i) {
    const auto at = static_cast<std::uint32_t>(access.offset) + i;
    std::uint8_t byte = 0;
    if (at < kEdidSize) {
      byte = at < edid_.size() ? edid_[at] : std::uint8_t{0};
    } else if (at < kPortsOffset + kPortsSize) {
      byte = read_port(at - kPortsOffset + kAttribute).value_or(0xff);
    } else if (at >= kVbeOffset && at < kVbeOffset + kVbeSize) {
      const std::uint32_t which = at - kVbeOffset;
      byte = static_cast<std::uint8_t>(read_vbe(static_cast<std::uint16_t>(which / 2)) >> (8 * (which % 2)));
    } else if (at >= kExtensionOffset && at < kExtensionOffset + kExtensionSize) {
      const std::uint32_t which = at - kExtensionOffset;
      byte = static_cast<std::uint8_t>((which < 4 ? kExtensionSize : kLittleEndian) >> (8 * (which % 4)));
    } else {
      return std::nullopt;
    }
    value |= std::uint64_t{byte} << (8 * i);
  }
  return value;
}

bool Vga::write_register_bar(const Access& access, std::uint64_t value) {
  const auto at = static_cast<std::uint32_t>(access.offset);
  if (at >= kPortsOffset && at + access.size <= kPortsOffset + kPortsSize) {
    bool any = false;
    for (std::uint32_t i = 0; i < access.size; ++i)
      any = write_port(at + i - kPortsOffset + kAttribute, static_cast<std::uint8_t>(value >> (8 * i))) || any;
    return any;
  }
  if (at % 2 == 0 && access.size >= 2 && at >= kVbeOffset && at + access.size <= kVbeOffset + kVbeSize) {
    for (std::uint32_t i = 0; i < access.size; i += 2)
      write_vbe(static_cast<std::uint16_t>((at + i - kVbeOffset) / 2), static_cast<std::uint16_t>(value >> (8 * i)));
    return true;
  }
  // The byte order, of which there is one.
  return at >= kExtensionOffset && at + access.size <= kExtensionOffset + kExtensionSize;
}

}  // namespace bulkhead::devproc
