// FakeEffectSink and FakeRedirect: what a model asked of the VMM.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "devproc/core/wires.h"
#include "ipc/state/effects.h"

namespace bulkhead::devproc {

class FakeEffectSink final : public EffectSink {
 public:
  void emit(const Effect& effect) override {
    if (!parse_effect(effect)) ++refused;
    if (++in_this_input > kMaxEffects) ++overflows;
    emitted.push_back(effect);
  }
  // Effects are bounded per input; a test that cares says where one begins.
  void next_input() { in_this_input = 0; }
  void clear() {
    emitted.clear();
    in_this_input = 0;
  }
  // How many kPower effects ask for `action`.
  [[nodiscard]] std::size_t count(PowerAction action) const {
    std::size_t n = 0;
    for (const Effect& effect : emitted) {
      if (effect.kind == static_cast<std::uint16_t>(EffectKind::kPower) &&
          effect.data == static_cast<std::uint32_t>(action))
        ++n;
    }
    return n;
  }

  std::vector<Effect> emitted;
  int refused = 0;  // parse_effect() turned it down: no honest model does that
  std::size_t in_this_input = 0;
  int overflows = 0;  // effects beyond kMaxEffects of one input
};

class FakeRedirect final : public Redirect {
 public:
  struct PendingBits {
    std::uint8_t devfn;
    std::uint16_t first_vector;
    std::uint8_t byte_offset;
    bool operator==(const PendingBits&) const = default;
  };

  void pending_bits(std::uint8_t devfn, std::uint16_t first_vector, std::uint8_t byte_offset) override {
    asked.push_back({devfn, first_vector, byte_offset});
  }

  void bar_access(const BarAccess& access) override { bar_accesses.push_back(access); }

  void fw_cfg_transfer(const FwCfgTransfer& transfer) override { transfers.push_back(transfer); }

  std::vector<PendingBits> asked;
  std::vector<FwCfgTransfer> transfers;
  std::vector<BarAccess> bar_accesses;
};

}  // namespace bulkhead::devproc
