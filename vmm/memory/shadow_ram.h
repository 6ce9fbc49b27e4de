// ShadowRam: what the guest sees at C0000h-FFFFFh, and whether the VGA window is RAM, as the host bridge's PAM and
// SMRAM registers say (82441FX, section 3.2).
//
// A segment that is read from RAM is a memory slot, read-only where writes do not go to RAM; one that is read from ROM
// is a read-only slot of the firmware's last 128 KiB; what is read from the PCI bus is no slot, and nothing answers
// there. Neighbours that are alike share a slot. Accesses that no slot serves come here as to a device (DeviceChannel):
// writes to RAM that is not read, and writes that are dropped. Units: guest-physical bytes. Errors: a slot that KVM
// refuses leaves its range to the channel, which answers the same, slowly. Threading: apply() with no vCPU inside of
// KVM_RUN, one call at a time; read and write from any thread. Trust: what is wanted comes from the guest by way of a
// hostile process; any value of it is one that a guest may choose.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vmm/bus/device_channel.h"
#include "vmm/hypervisor/hypervisor.h"
#include "vmm/memory/guest_ram.h"

namespace bulkhead::vmm {

inline constexpr std::uint64_t kMirroredRom = 0x20000;  // E0000h-FFFFFh
inline constexpr std::uint32_t kShadowAllRam = (1U << (2 * 13)) - 1;

enum class ShadowKind : std::uint8_t { kNothing, kRam, kRamReadOnly, kRom };

struct ShadowRun {
  std::uint64_t address = 0;
  std::uint64_t size = 0;
  ShadowKind kind = ShadowKind::kNothing;
  bool operator==(const ShadowRun&) const = default;
};

// The slots that `wanted` (Effect::data of kShadow) comes to, in order of address. `rom`: there is a ROM to read.
[[nodiscard]] std::vector<ShadowRun> shadow_runs(std::uint32_t wanted, bool rom);

class ShadowRam final : public DeviceChannel {
 public:
  static constexpr std::uint32_t kSlotCount = 16;  // more than there can be runs

  // `rom`: kMirroredRom bytes, or none. Slots first_slot ... first_slot + kSlotCount - 1 are this object's.
  ShadowRam(Vm& vm, GuestRam& ram, std::span<std::byte> rom, std::uint32_t first_slot);

  [[nodiscard]] std::uint32_t wanted() const { return wanted_.load(std::memory_order_relaxed); }
  void apply(std::uint32_t wanted);

  // Offsets from C0000h.
  void read(std::uint32_t vcpu, const BusAccess& access, std::span<std::byte> out) override;
  void write(std::uint32_t vcpu, const BusAccess& access, std::span<const std::byte> in) override;

 private:
  [[nodiscard]] Status set(std::uint32_t slot, const ShadowRun& run, bool there);

  Vm& vm_;
  GuestRam& ram_;
  std::span<std::byte> rom_;
  std::uint32_t first_slot_;
  std::atomic<std::uint32_t> wanted_{0};
  ShadowRun slots_[kSlotCount]{};  // kNothing: free
};

}  // namespace bulkhead::vmm
