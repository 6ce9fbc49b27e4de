// SystemPorts: port 92h, the POST code port, and the debug consoles of Bochs and of firmware.
//
// Chip:        part of the south bridge (port 92h); a POST card; debug devices of virtual machines
// Document:    82371AB data sheet, port 92 register; see spec.h for the others
// Implemented: 92h fast reset (bit 0, on its rising edge) and A20 (bit 1); 80h as a latch that reads
//              back; E9h and 402h: bytes written go to stream 0, both read as E9h
// Missing:     an A20 gate: KVM masks no address line, so bit 1 is only remembered
// Ignored:     92h bits 2-7 (reserved: read as 0); debug bytes that the stream has no room for are
//              dropped and counted, since these ports have no way to say "wait"
// Wires:       no line; stream 0: debug output; no timer
// Threading:   single-threaded
// Trust:       guest: any access
// Config:      {"system_ports", SystemPortsConfig{}}; regions at 92h, 80h, E9h and 402h
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

#include "devproc/core/device.h"
#include "devproc/core/persistent.h"
#include "devproc/core/wires.h"
#include "devproc/models/system_ports/spec.h"

namespace bulkhead::devproc {

struct SystemPortsState {
  std::uint8_t port92 = system_ports::kFastA20;  // as firmware leaves it
  std::uint8_t post_code = 0;
  std::uint16_t unused = 0;
  std::uint32_t debug_dropped = 0;

  bool operator==(const SystemPortsState&) const = default;
};
static_assert(std::has_unique_object_representations_v<SystemPortsState>, "no hidden padding");

class SystemPorts final : public Device {
 public:
  using State = SystemPortsState;
  static constexpr std::uint32_t kStateVersion = 1;
  static constexpr std::uint16_t kLines = 0;
  static constexpr std::uint16_t kStreams = 1;  // debug output
  static constexpr std::uint16_t kTimers = 0;

  enum Region : RegionIndex { kPort92, kPost, kDebugConsole, kFirmwareDebug };

  SystemPorts(Persistent<State> state, CharBackend& debug, EffectSink& effects)
      : state_(state), debug_(debug), effects_(effects) {}

  [[nodiscard]] std::string_view name() const override { return "system_ports"; }
  [[nodiscard]] std::span<const RegionSpec> regions() const override;
  std::optional<std::uint64_t> read(const Access& access) override;
  bool write(const Access& access, std::uint64_t value) override;
  void reset() override;
  void restore() override;
  void inspect(Inspector& inspector) const override;

 private:
  void write_port92(std::uint8_t value);

  Persistent<State> state_;
  CharBackend& debug_;
  EffectSink& effects_;
};

}  // namespace bulkhead::devproc
