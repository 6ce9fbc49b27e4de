// MachineEffects: carries out what device processes ask for, after checking it against what they were granted.
//
// Threading: any vCPU thread and the stream thread; each role's effects come in commit order (RequestProducer
// holds that role's lock). Errors: a refused effect is the device's loss. Trust: records come from hostile
// processes; parse_effect() and the plan bound everything in them.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "ipc/ring/request_producer.h"
#include "vmm/bus/address_space.h"
#include "vmm/bus/remote_channel.h"
#include "vmm/memory/rom.h"
#include "vmm/memory/shadow_ram.h"
#include "vmm/pci/doorbells.h"
#include "vmm/pci/interrupt_router.h"
#include "vmm/pci/window_map.h"

namespace bulkhead::vmm {

// Memory slots: RAM has the first ones, then the firmware, shadow RAM, and what windows decode to from here on.
inline constexpr std::uint32_t kBiosSlot = 8;
inline constexpr std::uint32_t kFirstShadowSlot = 16;
inline constexpr std::uint32_t kFirstWindowSlot = kFirstShadowSlot + ShadowRam::kSlotCount;

class MachineEffects {
 public:
  // `power` must not block: it is called on vCPU threads. `debug_value` is for PowerAction::kDebugExit.
  using PowerSink = std::function<void(PowerAction action, std::uint64_t debug_value)>;
  // Nor this one; a device may ask as often as it likes.
  using PauseSink = std::function<void(std::size_t role, PauseReason reason)>;

  // Runs its argument with every vCPU out of KVM_RUN. Called on vCPU threads too.
  using Exclusively = std::function<void(const std::function<void()>& change)>;

  MachineEffects(
      AddressSpace& space, InterruptRouter& router, Vm& vm, PowerSink power, PauseSink pause = {},
      Exclusively exclusively = [](const std::function<void()>& change) { change(); })
      : space_(space),
        router_(router),
        doorbells_(vm),
        window_slots_(vm, kFirstWindowSlot),
        power_(std::move(power)),
        pause_(std::move(pause)),
        exclusively_(std::move(exclusively)) {}

  // The receiver for the next role (0, 1 ...), which may ask for `granted` (effect_bit()s) and nothing else.
  ipc::EffectReceiver& add_role(std::uint32_t granted);

  // A queue's doorbell, which KVM rings wherever its window is in force.
  void add_doorbell(const Doorbells::Place& place, BorrowedFd event) { doorbells_.add(place, event); }
  // What kShadow effects change; before any effect comes. Without it they are refused.
  void set_shadow_ram(ShadowRam& shadow) { shadow_ = &shadow; }
  // What kVgaWindow effects map at A0000h; before any effect comes. Without it they are refused.
  void set_video_memory(std::span<std::byte> memory) { video_memory_ = memory; }
  // Once all channels exist, before any effect comes.
  Status set_windows(WindowMap windows);
  // Who must hear of a function's FunctionControl bits.
  void add_function_owner(std::uint8_t devfn, RemoteChannel& channel, std::uint16_t instance);

  // A function whose device is isolated has no windows and no interrupts.
  void set_present(std::uint8_t devfn, bool present);

  // Everything off, as after a reset of the machine.
  void reset();

 private:
  class Role final : public ipc::EffectReceiver {
   public:
    Role(MachineEffects& machine, std::size_t number, std::uint32_t granted)
        : machine_(machine), number_(number), granted_(granted) {}
    bool apply_effect(const Effect& untrusted) override;

   private:
    MachineEffects& machine_;
    std::size_t number_;
    std::uint32_t granted_;
  };
  struct Owner {
    std::uint8_t devfn;
    RemoteChannel* channel;
    std::uint16_t instance;
  };

  bool apply(std::size_t role, const Effect& effect);
  bool apply_window(const Effect& effect);
  bool apply_shadow(std::uint32_t wanted);
  bool apply_vga_window(const Effect& effect);
  Status publish_windows();
  void republish_windows();
  bool apply_function_control(const Effect& effect);

  AddressSpace& space_;
  InterruptRouter& router_;
  Doorbells doorbells_;       // under windows_lock_
  WindowSlots window_slots_;  // under windows_lock_
  PowerSink power_;
  PauseSink pause_;
  Exclusively exclusively_;
  ShadowRam* shadow_ = nullptr;
  std::mutex shadow_lock_;
  std::mutex windows_lock_;
  std::unique_ptr<WindowMap> windows_;
  std::span<std::byte> video_memory_;
  std::span<std::byte> vga_window_;  // of it, at A0000h; under windows_lock_
  std::vector<Owner> owners_;
  std::vector<std::unique_ptr<Role>> roles_;
};

}  // namespace bulkhead::vmm
