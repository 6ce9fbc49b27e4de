#include "devproc/models/system_ports/system_ports.h"

#include "ipc/state/effects.h"

namespace bulkhead::devproc {

using namespace system_ports;

namespace {
constexpr RegionSpec kRegions[] = {
    {"port 92", AddressKind::kPort, 1, kSize1},
    {"post code", AddressKind::kPort, 1, kSize1},
    {"debug console", AddressKind::kPort, 1, kSize1},
    {"firmware debug", AddressKind::kPort, 1, kSize1},
};
}  // namespace

std::span<const RegionSpec> SystemPorts::regions() const { return kRegions; }

std::optional<std::uint64_t> SystemPorts::read(const Access& access) {
  switch (access.region) {
    case kPort92: return state_->port92;
    case kPost: return state_->post_code;
    case kDebugConsole:
    case kFirmwareDebug: return kDebugPresent;
    default: return std::nullopt;
  }
}

bool SystemPorts::write(const Access& access, std::uint64_t value) {
  const auto byte = static_cast<std::uint8_t>(value);
  switch (access.region) {
    case kPort92: write_port92(byte); return true;
    case kPost:
      // Linux writes here for a short delay, always the same value.
      if (state_->post_code != byte) state_.mut().post_code = byte;
      return true;
    case kDebugConsole:
    case kFirmwareDebug:
      if (!debug_.put(byte)) ++state_.mut().debug_dropped;
      return true;
    default: return false;
  }
}

void SystemPorts::write_port92(std::uint8_t value) {
  const std::uint8_t kept = value & kPort92Mask;
  const bool reset_edge = (kept & ~state_->port92 & kFastInit) != 0;
  if (state_->port92 != kept) state_.mut().port92 = kept;
  if (!reset_edge) return;
  Effect effect;
  effect.kind = static_cast<std::uint16_t>(EffectKind::kPower);
  effect.data = static_cast<std::uint32_t>(PowerAction::kReset);
  effects_.emit(effect);
}

void SystemPorts::reset() { state_.mut() = State{}; }

void SystemPorts::restore() {
  State clean = state_.get();
  clean.port92 &= kPort92Mask;
  clean.unused = 0;
  if (clean != state_.get()) state_.mut() = clean;
}

void SystemPorts::inspect(Inspector& inspector) const {
  inspector.field("port92", state_->port92);
  inspector.field("post_code", state_->post_code);
  inspector.field("debug_dropped", state_->debug_dropped);
}

}  // namespace bulkhead::devproc
