#include "devproc/models/debug_exit/debug_exit.h"

#include "devproc/models/debug_exit/spec.h"
#include "ipc/state/effects.h"

namespace bulkhead::devproc {

namespace {
constexpr RegionSpec kRegions[] = {{"debug-exit", AddressKind::kPort, debug_exit::kPorts, kSizeUpTo4}};
}  // namespace

std::span<const RegionSpec> DebugExit::regions() const { return kRegions; }

bool DebugExit::write(const Access& access, std::uint64_t value) {
  if (access.offset != debug_exit::kValue) return false;
  Effect effect;
  effect.kind = static_cast<std::uint16_t>(EffectKind::kPower);
  effect.data = static_cast<std::uint32_t>(PowerAction::kDebugExit);
  effect.address = value & all_ones(access.size);
  effects_.emit(effect);
  return true;
}

}  // namespace bulkhead::devproc
