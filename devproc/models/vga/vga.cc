#include "devproc/models/vga/vga.h"

#include <algorithm>

#include "devproc/models/vga/spec.h"
#include "ipc/base/checked.h"
#include "ipc/roles/vga_decl.h"

namespace bulkhead::devproc {

using namespace vga;
using screen::VgaRegisters;

namespace {

constexpr std::array kRegions = {
    RegionSpec{"ports", AddressKind::kPort, kVgaPortsSize, kSize1},
    RegionSpec{"vbe ports", AddressKind::kPort, kVgaVbePortsSize, kSizeUpTo2},
    RegionSpec{"legacy memory", AddressKind::kMemory, kVgaLegacySize, kSizeUpTo8, true},
    RegionSpec{"video memory", AddressKind::kMemory, screen::kVideoMemory, kSizeUpTo8},
    RegionSpec{"registers", AddressKind::kMemory, kVgaRegisterBarSize, kSizeUpTo4},
};

// Bits that exist. What was written to the others reads as 0.
constexpr std::array<std::uint8_t, screen::kSequencerCount> kSequencerBits = {0x03, 0x3d, 0x0f, 0x3f, 0x0e};
constexpr std::array<std::uint8_t, screen::kGraphicsCount> kGraphicsBits = {0x0f, 0x0f, 0x0f, 0x1f, 0x03,
                                                                            0x7b, 0x0f, 0x0f, 0xff};
constexpr std::array<std::uint8_t, screen::kAttributeCount> kAttributeBits = {0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f,
                                                                              0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f,
                                                                              0x3f, 0x3f, 0xef, 0xff, 0x3f, 0x0f, 0x0f};

}  // namespace

Vga::Vga(Persistent<State> state, const VgaConfig& config, Screen& screen, Clock& clock, EffectSink& effects)
    : state_(state), screen_(screen), clock_(clock), effects_(effects), edid_(vga_edid(config.width, config.height)) {}

std::span<const RegionSpec> Vga::regions() const { return kRegions; }

void Vga::reset() {
  state_.mut() = State{};
  state_.mut().registers.pel_mask = 0xff;
  state_.mut().registers.misc_output = kMiscColour;
  state_.mut().vbe_id = kVbeIdLast;
  changed_ = true;
}

void Vga::restore() {
  State clean = state_.get();
  VgaRegisters& r = clean.registers;
  for (std::size_t i = 0; i < r.sequencer.size(); ++i) r.sequencer[i] &= kSequencerBits[i];
  for (std::size_t i = 0; i < r.graphics.size(); ++i) r.graphics[i] &= kGraphicsBits[i];
  for (std::size_t i = 0; i < r.attribute.size(); ++i) r.attribute[i] &= kAttributeBits[i];
  r.attribute_index &= 0x3f;
  clean.dac_component %= 3;
  clean.dac_reads &= 1;
  clean.attribute_data &= 1;
  clean.vbe_id = std::clamp(clean.vbe_id, kVbeIdFirst, kVbeIdLast);
  if (clean != state_.get()) state_.mut() = clean;
  if (r.vbe_enabled()) fit_vbe();
  update_window();
  changed_ = true;
}

bool Vga::show(bool again, MsiSender&) {
  if (again || changed_) screen_.show(state_->registers);
  changed_ = false;
  return false;
}

// ---- Accesses ----

std::optional<std::uint64_t> Vga::read(const Access& access) {
  switch (access.region) {
    case kVgaPorts: return read_port(static_cast<std::uint32_t>(access.offset));
    case kVgaVbePorts:
      if (access.offset == 0) return state_->vbe_index & all_ones(access.size);
      if (access.offset == 1 && access.size == 2) return read_vbe(state_->vbe_index);
      return std::nullopt;
    case kVgaLegacyMemory: {
      std::uint64_t value = 0;
      for (unsigned i = 0; i < access.size; ++i) {
        const auto byte = read_planes(access.offset + i);
        value |= std::uint64_t{byte.value_or(0xff)} << (8 * i);
      }
      return value;
    }
    case kVgaVideoMemory: {
      if (!fits(access.offset, access.size, screen_.memory().size())) return std::nullopt;
      std::uint64_t value = 0;
      for (unsigned i = 0; i < access.size; ++i)
        value |= std::uint64_t{static_cast<std::uint8_t>(screen_.memory()[access.offset + i])} << (8 * i);
      return value;
    }
    case kVgaRegisterBar: return read_register_bar(access);
    default: return std::nullopt;
  }
}

bool Vga::write(const Access& access, std::uint64_t value) {
  switch (access.region) {
    case kVgaPorts: return write_port(static_cast<std::uint32_t>(access.offset), static_cast<std::uint8_t>(value));
    case kVgaVbePorts:
      if (access.offset == 0) {
        state_.mut().vbe_index = static_cast<std::uint16_t>(value);
        return true;
      }
      if (access.offset != 1 || access.size != 2) return false;
      write_vbe(state_->vbe_index, static_cast<std::uint16_t>(value));
      return true;
    case kVgaLegacyMemory: {
      bool any = false;
      for (unsigned i = 0; i < access.size; ++i)
        any = write_planes(access.offset + i, static_cast<std::uint8_t>(value >> (8 * i))) || any;
      return any;
    }
    case kVgaVideoMemory:
      if (!fits(access.offset, access.size, screen_.memory().size())) return false;
      for (unsigned i = 0; i < access.size; ++i)
        screen_.memory()[access.offset + i] = static_cast<std::byte>(value >> (8 * i));
      return true;
    case kVgaRegisterBar: return write_register_bar(access, value);
    default: return false;
  }
}

// ---- Ports ----

bool Vga::crtc_is_at(std::uint32_t port) const {
  return ((state_->registers.misc_output & kMiscColour) != 0) == (port >= kColourCrtcIndex);
}

std::uint8_t Vga::status1() const {
  const std::int64_t line = clock_.now().ns % kFrameNs * kLines / kFrameNs;
  const std::int64_t dot = clock_.now().ns * kLines % kFrameNs;  // of kFrameNs in a line
  if (line >= kVisibleLines + 10 && line < kVisibleLines + 12) return kStatus1Blank | kStatus1Retrace;
  return line >= kVisibleLines || dot > kFrameNs * 4 / 5 ? kStatus1Blank : std::uint8_t{0};
}

std::optional<std::uint8_t> Vga::read_port(std::uint32_t port) {
  const State& s = state_.get();
  const VgaRegisters& r = s.registers;
  switch (port) {
    case kMonoCrtcIndex:
    case kMonoCrtcData:
    case kColourCrtcIndex:
    case kColourCrtcData: return read_crtc(port);
    case kMonoStatus1:
    case kColourStatus1:
      if (!crtc_is_at(port)) return std::nullopt;
      if (s.attribute_data != 0) state_.mut().attribute_data = 0;
      return status1();
    case kAttribute: return r.attribute_index;
    case kAttributeRead: {
      const std::size_t index = r.attribute_index & 0x1f;
      return index < r.attribute.size() ? r.attribute[index] : std::uint8_t{0};
    }
    case kMiscOutputWrite: return kStatus0Switch;
    case kSubsystemEnable: return s.subsystem_enable;
    case kSequencerIndex: return s.sequencer_index;
    case kSequencerData:
      return s.sequencer_index < r.sequencer.size() ? r.sequencer[s.sequencer_index] : std::uint8_t{0};
    case kPelMask: return r.pel_mask;
    case kDacReadIndex: return s.dac_reads != 0 ? std::uint8_t{3} : std::uint8_t{0};
    case kDacWriteIndex: return s.dac_write_index;
    case kDacData: return read_dac();
    case kFeatureControlRead: return r.feature_control;
    case kMiscOutputRead: return r.misc_output;
    case kGraphicsIndex: return s.graphics_index;
    case kGraphicsData: return s.graphics_index < r.graphics.size() ? r.graphics[s.graphics_index] : std::uint8_t{0};
    default: return std::nullopt;
  }
}

bool Vga::write_port(std::uint32_t port, std::uint8_t value) {
  State& s = state_.mut();
  VgaRegisters& r = s.registers;
  switch (port) {
    case kMonoCrtcIndex:
    case kMonoCrtcData:
    case kColourCrtcIndex:
    case kColourCrtcData: return write_crtc(port, value);
    case kMonoStatus1:
    case kColourStatus1:
      if (!crtc_is_at(port)) return false;
      r.feature_control = value & 0x10;
      return true;
    case kAttribute: write_attribute(value); break;
    case kMiscOutputWrite: r.misc_output = value & 0xef; break;
    case kSubsystemEnable: s.subsystem_enable = value & 1; return true;
    case kSequencerIndex: s.sequencer_index = value & 7; return true;
    case kSequencerData:
      if (s.sequencer_index >= r.sequencer.size()) return false;
      r.sequencer[s.sequencer_index] = value & kSequencerBits[s.sequencer_index];
      break;
    case kPelMask: r.pel_mask = value; break;
    case kDacReadIndex:
      s.dac_read_index = value;
      s.dac_component = 0;
      s.dac_reads = 1;
      return true;
    case kDacWriteIndex:
      s.dac_write_index = value;
      s.dac_component = 0;
      s.dac_reads = 0;
      return true;
    case kDacData: write_dac(value); break;
    case kGraphicsIndex: s.graphics_index = value & 0x0f; return true;
    case kGraphicsData:
      if (s.graphics_index >= r.graphics.size()) return false;
      r.graphics[s.graphics_index] = value & kGraphicsBits[s.graphics_index];
      break;
    default: return false;
  }
  changed_ = true;
  update_window();
  return true;
}

std::optional<std::uint8_t> Vga::read_crtc(std::uint32_t port) {
  const State& s = state_.get();
  if (!crtc_is_at(port)) return std::nullopt;
  if (port == kMonoCrtcIndex || port == kColourCrtcIndex) return s.crtc_index;
  if (s.crtc_index == kCrtcLatch) return s.latch[s.registers.graphics[kReadMapSelect]];
  if (s.crtc_index == kCrtcAttributeState)
    return static_cast<std::uint8_t>(s.attribute_data << 7 | s.registers.attribute_index);
  return s.crtc_index < screen::kCrtcCount ? s.registers.crtc[s.crtc_index] : std::uint8_t{0};
}

bool Vga::write_crtc(std::uint32_t port, std::uint8_t value) {
  if (!crtc_is_at(port)) return false;
  State& s = state_.mut();
  if (port == kMonoCrtcIndex || port == kColourCrtcIndex) {
    s.crtc_index = value;
    return true;
  }
  auto& crtc = s.registers.crtc;
  if (s.crtc_index >= crtc.size()) return false;
  if ((crtc[kVerticalRetraceEnd] & kCrtcProtect) != 0 && s.crtc_index <= 7) {
    if (s.crtc_index != 7) return true;
    value = static_cast<std::uint8_t>((crtc[7] & ~kLineCompare8) | (value & kLineCompare8));
  }
  crtc[s.crtc_index] = value;
  changed_ = true;
  return true;
}

void Vga::write_attribute(std::uint8_t value) {
  State& s = state_.mut();
  VgaRegisters& r = s.registers;
  if (s.attribute_data == 0) {
    r.attribute_index = value & 0x3f;
  } else {
    const std::size_t index = r.attribute_index & 0x1f;
    // The palette belongs to whoever bit 5 of the index says: the display or the CPU.
    const bool locked = index < 16 && (r.attribute_index & 0x20) != 0;
    if (index < r.attribute.size() && !locked) r.attribute[index] = value & kAttributeBits[index];
  }
  s.attribute_data ^= 1;
}

std::uint8_t Vga::read_dac() {
  State& s = state_.mut();
  const std::uint8_t value = s.registers.dac[s.dac_read_index * 3U + s.dac_component];
  if (++s.dac_component == 3) {
    s.dac_component = 0;
    ++s.dac_read_index;
  }
  return value;
}

void Vga::write_dac(std::uint8_t value) {
  State& s = state_.mut();
  const bool wide = s.registers.vbe_enabled() && (s.registers.vbe[screen::kVbeEnable] & screen::kVbe8BitDac) != 0;
  s.dac_written[s.dac_component] = wide ? value : value & 0x3f;
  if (++s.dac_component != 3) return;
  std::ranges::copy(s.dac_written, s.registers.dac.begin() + s.dac_write_index * 3);
  s.dac_component = 0;
  ++s.dac_write_index;
}

// ---- What others see ----

Effect Vga::desired_effect(std::size_t) const {
  Effect effect;
  effect.kind = static_cast<std::uint16_t>(EffectKind::kVgaWindow);
  if (state_->window_size == 0) return effect;
  effect.address = state_->window_offset;
  effect.size = state_->window_size;
  effect.flags = kEffectEnabled;
  return effect;
}

void Vga::inspect(Inspector& inspector) const {
  const screen::Geometry geometry = screen::geometry_of(state_->registers);
  inspector.field("mode", static_cast<std::uint64_t>(geometry.mode));
  inspector.field("width", geometry.width);
  inspector.field("height", geometry.height);
  inspector.field("start", geometry.start);
  inspector.field("pitch", geometry.pitch);
  inspector.field("misc_output", state_->registers.misc_output);
  inspector.field("vbe_enable", state_->registers.vbe[screen::kVbeEnable]);
  inspector.field("window_offset", state_->window_offset);
  inspector.field("window_size", state_->window_size);
}

}  // namespace bulkhead::devproc
