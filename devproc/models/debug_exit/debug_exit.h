// DebugExit: a guest that writes here ends its VM, and the value is the VM's exit status.
//
// Chip:        none (see spec.h)
// Implemented: a write of 1, 2 or 4 bytes at offset 0 asks the VMM to end the VM with that value
// Missing:     nothing; reads and the other offsets answer as if nobody was there
// Wires:       none but effects; the device has no state
// Threading:   single-threaded
// Trust:       guest: any access. In a machine only when it was asked for: any guest program with port
//              access can end the VM
// Config:      {"debug_exit", DebugExitConfig{}} at port F4h
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "devproc/core/device.h"
#include "devproc/core/wires.h"

namespace bulkhead::devproc {

class DebugExit final : public Device {
 public:
  static constexpr std::uint32_t kStateVersion = 1;
  static constexpr std::uint16_t kLines = 0;
  static constexpr std::uint16_t kStreams = 0;
  static constexpr std::uint16_t kTimers = 0;

  explicit DebugExit(EffectSink& effects) : effects_(effects) {}

  [[nodiscard]] std::string_view name() const override { return "debug_exit"; }
  [[nodiscard]] std::span<const RegionSpec> regions() const override;
  std::optional<std::uint64_t> read(const Access&) override { return std::nullopt; }
  bool write(const Access& access, std::uint64_t value) override;
  void reset() override {}
  void restore() override {}

 private:
  EffectSink& effects_;
};

}  // namespace bulkhead::devproc
