// Vga: an IBM VGA with the Bochs VBE extension, as a PCI function and at its ISA ports.
//
// Chip:        IBM VGA; Bochs display adapter, 32 MiB
// Document:    spec.h names them
// Implemented: sequencer, CRTC, graphics and attribute controllers, DAC with PEL mask, Input Status 0 and 1 by VM time;
//              video memory as 4 planes with all write and read modes, latches, logical operations, odd/even and chain
//              4; VBE up to 4096 pixels a line in 4, 8, 15, 16, 24 and 32 bits, banked and linear, with panning; BAR 2
//              with EDID, ports and VBE registers. What a picture of it looks like: ipc/screen/renderer.h
// Missing:     interrupts (no software uses IRQ 2), light pen, DMA, hardware cursor
// Ignored:     CRTC timings but for the visible part, the sequencer's reset and dot clock, 3C3h
// Wires:       the screen; one effect: where the window at A0000h is linear, it is a memory slot
// Threading:   single-threaded
// Trust:       guest: any access, and all of the video memory
// Config:      {"vga", VgaConfig{}}; ports at 3B0h and 1CEh, memory at A0000h, BARs 0 and 2
//
// A write to planes depends on the latches, which are committed state, and not on what is there; a death in the middle
// of one is followed by the same write.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

#include "devproc/core/device.h"
#include "devproc/core/persistent.h"
#include "devproc/core/screen.h"
#include "devproc/core/wires.h"
#include "ipc/screen/vga_registers.h"

namespace bulkhead::devproc {

struct VgaState {
  screen::VgaRegisters registers{};
  std::array<std::uint8_t, 4> latch{};
  std::array<std::uint8_t, 3> dac_written{};  // of a colour that is not whole yet
  std::uint8_t dac_write_index = 0;
  std::uint8_t dac_read_index = 0;
  std::uint8_t dac_component = 0;   // 0-2
  std::uint8_t dac_reads = 0;       // 1: the last index was one to read from
  std::uint8_t attribute_data = 0;  // 1: 3C0h expects data
  std::uint8_t sequencer_index = 0;
  std::uint8_t crtc_index = 0;
  std::uint8_t graphics_index = 0;
  std::uint8_t subsystem_enable = 0;
  std::uint16_t vbe_index = 0;
  std::uint16_t vbe_id = 0;
  // The memory slot at A0000h that was asked for last; size 0: none.
  std::uint32_t window_offset = 0;
  std::uint32_t window_size = 0;

  bool operator==(const VgaState&) const = default;
};
static_assert(std::has_unique_object_representations_v<VgaState>, "no hidden padding");

class Vga final : public Device {
 public:
  using State = VgaState;
  static constexpr std::uint32_t kStateVersion = 1;
  static constexpr std::size_t kEdidBytes = 128;

  Vga(Persistent<State> state, const VgaConfig& config, Screen& screen, Clock& clock, EffectSink& effects);

  [[nodiscard]] std::string_view name() const override { return "vga"; }
  [[nodiscard]] std::span<const RegionSpec> regions() const override;
  std::optional<std::uint64_t> read(const Access& access) override;
  bool write(const Access& access, std::uint64_t value) override;
  void reset() override;
  void restore() override;
  bool show(bool again, MsiSender& interrupts) override;
  [[nodiscard]] std::size_t desired_effect_count() const override { return 1; }
  [[nodiscard]] Effect desired_effect(std::size_t index) const override;
  void inspect(Inspector& inspector) const override;

 private:
  // Registers, by port (offsets from 3B0h).
  std::optional<std::uint8_t> read_port(std::uint32_t port);
  bool write_port(std::uint32_t port, std::uint8_t value);
  [[nodiscard]] bool crtc_is_at(std::uint32_t port) const;
  std::optional<std::uint8_t> read_crtc(std::uint32_t port);
  bool write_crtc(std::uint32_t port, std::uint8_t value);
  void write_attribute(std::uint8_t value);
  std::uint8_t read_dac();
  void write_dac(std::uint8_t value);
  [[nodiscard]] std::uint8_t status1() const;

  // Bochs VBE (vbe.cc).
  [[nodiscard]] std::uint16_t read_vbe(std::uint16_t index) const;
  void write_vbe(std::uint16_t index, std::uint16_t value);
  void enable_vbe(std::uint16_t value);
  void fit_vbe();
  void clear_screen();
  std::optional<std::uint64_t> read_register_bar(const Access& access);
  bool write_register_bar(const Access& access, std::uint64_t value);

  // The window at A0000h (memory.cc). Offsets from there.
  [[nodiscard]] std::optional<std::uint32_t> plane_address(std::uint64_t offset) const;
  std::optional<std::uint8_t> read_planes(std::uint64_t offset);
  bool write_planes(std::uint64_t offset, std::uint8_t value);
  [[nodiscard]] std::array<std::uint8_t, 4> word_at(std::uint32_t word) const;
  [[nodiscard]] std::uint8_t datapath(unsigned plane, std::uint8_t value) const;
  void update_window();

  Persistent<State> state_;
  Screen& screen_;
  Clock& clock_;
  EffectSink& effects_;
  std::array<std::uint8_t, kEdidBytes> edid_;
  bool changed_ = true;  // the registers, since they were shown last
};

// VESA Enhanced EDID standard, release A, revision 2: a monitor whose preferred mode is `width` x `height` at 60 Hz.
[[nodiscard]] std::array<std::uint8_t, Vga::kEdidBytes> vga_edid(std::uint16_t width, std::uint16_t height);

}  // namespace bulkhead::devproc
