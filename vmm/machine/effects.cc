#include "vmm/machine/effects.h"

#include "ipc/base/checked.h"
#include "ipc/base/log.h"
#include "ipc/roles/device_types.h"
#include "ipc/roles/vga_decl.h"

namespace bulkhead::vmm {

bool MachineEffects::Role::apply_effect(const Effect& untrusted) {
  const std::optional<Effect> effect = parse_effect(untrusted);
  if (!effect) return false;
  if ((granted_ & effect_bit(static_cast<EffectKind>(effect->kind))) == 0) return false;
  return machine_.apply(number_, *effect);
}

ipc::EffectReceiver& MachineEffects::add_role(std::uint32_t granted) {
  roles_.push_back(std::make_unique<Role>(*this, roles_.size(), granted));
  return *roles_.back();
}

Status MachineEffects::set_windows(WindowMap windows) {
  const std::lock_guard lock(windows_lock_);
  windows_ = std::make_unique<WindowMap>(std::move(windows));
  return publish_windows();
}

void MachineEffects::add_function_owner(std::uint8_t devfn, RemoteChannel& channel, std::uint16_t instance) {
  owners_.push_back({devfn, &channel, instance});
}

bool MachineEffects::apply(std::size_t role, const Effect& effect) {
  switch (static_cast<EffectKind>(effect.kind)) {
    case EffectKind::kWindow: return apply_window(effect);
    case EffectKind::kIntxRoute:
    case EffectKind::kMsiRoute: return router_.apply(effect);
    case EffectKind::kFunctionControl: return apply_function_control(effect);
    case EffectKind::kPower: power_(static_cast<PowerAction>(effect.data), effect.address); return true;
    case EffectKind::kPause:
      if (pause_) pause_(role, static_cast<PauseReason>(effect.data));
      return true;
    case EffectKind::kVgaWindow: return apply_vga_window(effect);
    case EffectKind::kShadow: return apply_shadow(effect.data);
    case EffectKind::kNone: break;
  }
  return false;
}

bool MachineEffects::apply_shadow(std::uint32_t wanted) {
  if (shadow_ == nullptr) return false;
  const std::lock_guard lock(shadow_lock_);
  if (shadow_->wanted() != wanted) exclusively_([&] { shadow_->apply(wanted); });
  return true;
}

bool MachineEffects::apply_vga_window(const Effect& effect) {
  std::span<std::byte> wanted;
  if ((effect.flags & kEffectEnabled) != 0) {
    if (!fits(effect.address, effect.size, video_memory_.size())) return false;
    wanted = video_memory_.subspan(effect.address, effect.size);
  }
  const std::lock_guard lock(windows_lock_);
  if (windows_ == nullptr) return false;
  vga_window_ = wanted;
  republish_windows();
  return true;
}

bool MachineEffects::apply_window(const Effect& effect) {
  const std::lock_guard lock(windows_lock_);
  if (windows_ == nullptr || !windows_->want(effect)) return false;
  republish_windows();
  return true;
}

Status MachineEffects::publish_windows() {
  const std::vector<Claim> claims = windows_->claims();
  RETURN_IF_ERROR(space_.publish(claims));
  doorbells_.publish(claims);
  std::vector<PlacedMemory> placed;
  for (const Claim& claim : claims) {
    if (!claim.memory.empty()) placed.push_back({claim.base, claim.memory, claim.writable});
  }
  if (!vga_window_.empty()) placed.push_back({kVgaLegacyBase, vga_window_, true});
  if (!window_slots_.is(placed)) exclusively_([&] { window_slots_.apply(placed); });
  return ok();
}

void MachineEffects::republish_windows() {
  static constinit LogLimiter limiter{4};  // a guest can move its windows as often as it likes
  const Status status = publish_windows();
  if (!status && limiter.allow()) log(LogLevel::kError, "windows cannot be placed: {}", status.error().message);
}

void MachineEffects::set_present(std::uint8_t devfn, bool present) {
  router_.set_present(devfn, present);
  const std::lock_guard lock(windows_lock_);
  if (windows_ == nullptr) return;
  windows_->set_present(devfn, present);
  republish_windows();
}

bool MachineEffects::apply_function_control(const Effect& effect) {
  // First the owner, then the interrupts: a device that was just enabled must not miss its own vectors, and one
  // that was disabled hears of it before the vCPU goes on.
  for (const Owner& owner : owners_) {
    if (owner.devfn == effect.function)
      owner.channel->request(ipc::RequestKind::kFunctionControl, owner.instance, effect.flags);
  }
  return router_.apply(effect);
}

void MachineEffects::reset() {
  router_.reset();
  const std::lock_guard lock(windows_lock_);
  if (windows_ == nullptr) return;
  windows_->reset();
  vga_window_ = {};
  republish_windows();
}

}  // namespace bulkhead::vmm
