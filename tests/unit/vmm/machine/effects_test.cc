// MachineEffects: what each role is granted, and that the rest is refused and does nothing.
#include "vmm/machine/effects.h"

#include <gtest/gtest.h>

#include "ipc/roles/device_types.h"
#include "tests/fakes/fake_vm.h"
#include "tests/unit/ipc/ring_fixture.h"

namespace bulkhead::vmm {
namespace {

constexpr std::uint8_t kFunction = 3 << 3;
constexpr EffectKind kKinds[] = {EffectKind::kWindow,   EffectKind::kIntxRoute, EffectKind::kFunctionControl,
                                 EffectKind::kMsiRoute, EffectKind::kPower,     EffectKind::kPause,
                                 EffectKind::kShadow,   EffectKind::kVgaWindow};

class SilentChannel final : public DeviceChannel {
 public:
  void read(std::uint32_t, const BusAccess&, std::span<std::byte> out) override {
    std::fill(out.begin(), out.end(), std::byte{0x11});
  }
  void write(std::uint32_t, const BusAccess&, std::span<const std::byte>) override {}
};

Effect well_formed(EffectKind kind) {
  Effect effect{.kind = static_cast<std::uint16_t>(kind), .function = kFunction};
  switch (kind) {
    case EffectKind::kWindow:
      effect.size = 0x1000;
      effect.address = 0xe0000000;
      effect.flags = kEffectEnabled;
      break;
    case EffectKind::kIntxRoute:
      effect.function = 0;
      effect.index = pirq_of(kFunction, 1);
      effect.data = 10;
      effect.flags = kEffectEnabled;
      break;
    case EffectKind::kFunctionControl: effect.flags = kControlBusMaster | kControlMsixEnable; break;
    case EffectKind::kMsiRoute:
      effect.address = 0xfee00000;
      effect.data = 0x40;
      effect.flags = kEffectEnabled | kEffectMsix;
      break;
    case EffectKind::kPower:
      effect.data = static_cast<std::uint32_t>(PowerAction::kDebugExit);
      effect.address = 33;
      break;
    case EffectKind::kPause:
      effect.function = 0;
      effect.data = static_cast<std::uint32_t>(PauseReason::kDiskFull);
      break;
    case EffectKind::kShadow:
      effect.function = 0;
      effect.data = kShadowAllRam;
      break;
    case EffectKind::kVgaWindow:
      effect.function = 0;
      effect.address = 0x10000;
      effect.size = 0x10000;
      effect.flags = kEffectEnabled;
      break;
    case EffectKind::kNone: break;
  }
  return effect;
}

class MachineEffectsTest : public ::testing::Test {
 protected:
  MachineEffectsTest() {
    machine.set_shadow_ram(shadow);
    machine.set_video_memory(video_memory);
    router.add_intx_line(kFunction, 1, line.borrow(), resample.borrow());
    router.add_messages(kFunction, {vector.borrow()});
    EXPECT_TRUE(machine.set_windows(WindowMap(
        {{.devfn = kFunction, .index = 0, .space = Space::kMemory, .size = 0x1000, .channel = &channel, .owner = "bar"},
         {.devfn = kFunction,
          .index = kRomBar,
          .space = Space::kMemory,
          .size = 0x1000,
          .channel = &rom,
          .owner = "rom",
          .memory = rom.bytes()}},
        {}, {})));
  }
  // What has happened to the machine so far.
  [[nodiscard]] std::string deeds() const {
    return "windows " + std::to_string(space.claims().size()) + ", irqfds " + std::to_string(vm.irqfds.size()) +
           ", power " + std::to_string(power.size()) + ", pauses " + std::to_string(pauses.size());
  }

  FakeVm vm;
  AddressSpace space;
  SilentChannel channel;
  InterruptRouter router{vm};
  UniqueFd line = UniqueFd::create_eventfd().value();
  UniqueFd resample = UniqueFd::create_eventfd().value();
  UniqueFd vector = UniqueFd::create_eventfd().value();
  std::vector<std::pair<PowerAction, std::uint64_t>> power;
  std::vector<std::size_t> pauses;  // roles
  GuestRam ram = *GuestRam::create(*plan_memory(16 * kMiB));
  ShadowRam shadow{vm, ram, {}, kFirstShadowSlot};
  Rom rom = *Rom::create(std::vector<std::byte>(3, std::byte{0x55}), 0x1000);
  std::vector<std::byte> video_memory = std::vector<std::byte>(0x40000);
  int exclusive = 0;  // changes made with every vCPU out of the guest
  MachineEffects machine{space,
                         router,
                         vm,
                         [this](PowerAction action, std::uint64_t value) { power.emplace_back(action, value); },
                         [this](std::size_t role, PauseReason) { pauses.push_back(role); },
                         [this](const std::function<void()>& change) {
                           ++exclusive;
                           change();
                         }};
};

TEST_F(MachineEffectsTest, each_kind_is_carried_out_for_a_role_that_has_it) {
  ipc::EffectReceiver& all = machine.add_role(~0U);
  for (const EffectKind kind : kKinds) EXPECT_TRUE(all.apply_effect(well_formed(kind))) << static_cast<int>(kind);
  EXPECT_EQ(deeds(), "windows 1, irqfds 2, power 1, pauses 1");
  EXPECT_EQ(power[0].second, 33U);
  std::byte byte{};
  space.read(0, Space::kMemory, 0xe0000000, 1, 1, std::span(&byte, 1));
  EXPECT_EQ(byte, std::byte{0x11});
}

TEST_F(MachineEffectsTest, a_kind_that_was_not_granted_is_refused_and_does_nothing) {
  for (const EffectKind kind : kKinds) {
    ipc::EffectReceiver& all_but_this = machine.add_role(~effect_bit(kind));
    EXPECT_FALSE(all_but_this.apply_effect(well_formed(kind))) << static_cast<int>(kind);
  }
  ipc::EffectReceiver& nothing = machine.add_role(0);
  for (const EffectKind kind : kKinds) EXPECT_FALSE(nothing.apply_effect(well_formed(kind)));
  EXPECT_EQ(deeds(), "windows 0, irqfds 0, power 0, pauses 0");
}

TEST_F(MachineEffectsTest, who_asks_for_a_pause_is_known) {
  for (int i = 0; i < 3; ++i) machine.add_role(0);
  EXPECT_TRUE(machine.add_role(~0U).apply_effect(well_formed(EffectKind::kPause)));
  EXPECT_EQ(pauses, std::vector<std::size_t>{3});
}

TEST_F(MachineEffectsTest, a_grant_is_for_one_kind_alone) {
  for (const EffectKind granted : kKinds) {
    ipc::EffectReceiver& role = machine.add_role(effect_bit(granted));
    for (const EffectKind kind : kKinds) EXPECT_EQ(role.apply_effect(well_formed(kind)), kind == granted);
  }
}

TEST_F(MachineEffectsTest, what_no_honest_device_sends_is_refused_whatever_was_granted) {
  ipc::EffectReceiver& all = machine.add_role(~0U);
  for (const EffectKind kind : kKinds) {
    Effect effect = well_formed(kind);
    effect.function = 0x1234;
    EXPECT_FALSE(all.apply_effect(effect)) << static_cast<int>(kind);
  }
  EXPECT_FALSE(all.apply_effect({}));
  EXPECT_FALSE(all.apply_effect({.kind = 99}));
  Effect timer = well_formed(EffectKind::kIntxRoute);
  timer.data = 0;
  EXPECT_FALSE(all.apply_effect(timer)) << "IRQ 0 is the timer's";
  EXPECT_EQ(deeds(), "windows 0, irqfds 0, power 0, pauses 0");
}

TEST_F(MachineEffectsTest, shadow_ram_changes_with_every_vcpu_out_of_the_guest_and_only_when_it_does) {
  ipc::EffectReceiver& all = machine.add_role(~0U);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(all.apply_effect(well_formed(EffectKind::kShadow)));
  EXPECT_EQ(shadow.wanted(), kShadowAllRam);
  EXPECT_EQ(exclusive, 1);
  Effect unknown = well_formed(EffectKind::kShadow);
  unknown.data = kShadowAll + 1;
  EXPECT_FALSE(all.apply_effect(unknown));
}

TEST_F(MachineEffectsTest, an_expansion_rom_is_a_memory_slot_while_it_decodes) {
  ipc::EffectReceiver& all = machine.add_role(~0U);
  Effect window = well_formed(EffectKind::kWindow);
  EXPECT_TRUE(all.apply_effect(window));
  EXPECT_EQ(exclusive, 0) << "a BAR is none";
  window.index = kRomBar;
  window.address = 0xe0010000;
  EXPECT_TRUE(all.apply_effect(window));
  EXPECT_TRUE(all.apply_effect(window));
  EXPECT_EQ(exclusive, 1);
  ASSERT_EQ(vm.slots.size(), 1U);
  EXPECT_EQ(vm.slots.begin()->second.guest_address, 0xe0010000U);
  EXPECT_TRUE(vm.slots.begin()->second.read_only);
  std::uint16_t bytes = 0;
  space.read(0, Space::kMemory, 0xe0010002, 2, 1, std::as_writable_bytes(std::span(&bytes, 1)));
  EXPECT_EQ(bytes, 0xff55U) << "what the slot does not serve, the ROM does";
  machine.set_present(kFunction, false);
  EXPECT_TRUE(vm.slots.empty());
}

TEST_F(MachineEffectsTest, the_window_at_a0000h_is_a_slot_of_video_memory_while_it_is_wanted) {
  ipc::EffectReceiver& all = machine.add_role(~0U);
  Effect window = well_formed(EffectKind::kVgaWindow);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(all.apply_effect(window));
  EXPECT_EQ(exclusive, 1);
  ASSERT_EQ(vm.slots.size(), 1U);
  EXPECT_EQ(vm.slots.begin()->second.guest_address, 0xa0000U);
  EXPECT_EQ(vm.slots.begin()->second.host, video_memory.data() + 0x10000);
  EXPECT_FALSE(vm.slots.begin()->second.read_only);
  window.address = 0x40000;
  EXPECT_FALSE(all.apply_effect(window)) << "behind the memory's end";
  window.address = 0x30000;
  window.size = 0x20000;
  EXPECT_FALSE(all.apply_effect(window)) << "across it";
  window.size = 0x8000;
  EXPECT_FALSE(all.apply_effect(window));
  EXPECT_EQ(vm.slots.begin()->second.host, video_memory.data() + 0x10000) << "as it was";
  EXPECT_TRUE(all.apply_effect({.kind = window.kind}));
  EXPECT_TRUE(vm.slots.empty());
  EXPECT_TRUE(all.apply_effect(well_formed(EffectKind::kVgaWindow)));
  machine.reset();
  EXPECT_TRUE(vm.slots.empty());
}

TEST_F(MachineEffectsTest, a_window_or_vector_outside_the_plan_is_refused) {
  ipc::EffectReceiver& all = machine.add_role(~0U);
  Effect window = well_formed(EffectKind::kWindow);
  window.index = 3;
  EXPECT_FALSE(all.apply_effect(window));
  window = well_formed(EffectKind::kWindow);
  window.size = 0x2000;
  EXPECT_FALSE(all.apply_effect(window));
  Effect message = well_formed(EffectKind::kMsiRoute);
  message.index = 1;
  EXPECT_FALSE(all.apply_effect(message));
}

TEST_F(MachineEffectsTest, windows_before_there_is_a_plan_are_refused) {
  AddressSpace other_space;
  MachineEffects early(other_space, router, vm, [](PowerAction, std::uint64_t) {});
  EXPECT_FALSE(early.add_role(~0U).apply_effect(well_formed(EffectKind::kWindow)));
  early.reset();
}

TEST_F(MachineEffectsTest, an_effect_applied_twice_is_harmless) {
  ipc::EffectReceiver& all = machine.add_role(~0U);
  for (int i = 0; i < 2; ++i) {
    for (const EffectKind kind :
         {EffectKind::kWindow, EffectKind::kIntxRoute, EffectKind::kFunctionControl, EffectKind::kMsiRoute})
      EXPECT_TRUE(all.apply_effect(well_formed(kind)));
  }
  EXPECT_EQ(deeds(), "windows 1, irqfds 2, power 0, pauses 0");
  EXPECT_EQ(vm.mistakes, 0);
}

TEST_F(MachineEffectsTest, a_reset_takes_windows_and_routes_away) {
  ipc::EffectReceiver& all = machine.add_role(~0U);
  for (const EffectKind kind : kKinds) all.apply_effect(well_formed(kind));
  machine.reset();
  EXPECT_EQ(deeds(), "windows 0, irqfds 0, power 1, pauses 1");
}

// The function's owner knows its new bits before the vCPU goes on, and before any vector of its can fire.
TEST_F(MachineEffectsTest, a_functions_owner_hears_of_its_control_bits_first) {
  ipc::Areas areas;
  ipc::RecordingReceiver none;
  ipc::RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), none, {});
  RemoteChannel owner(ring, router);
  std::vector<std::pair<ipc::Request, std::size_t>> heard;
  ipc::TinyDevice device(areas, [&](ipc::Ticket, const ipc::Request& request, ipc::Reply&, std::vector<Effect>&) {
    heard.emplace_back(request, vm.irqfds.size());
  });
  machine.add_function_owner(kFunction, owner, 6);
  ipc::EffectReceiver& all = machine.add_role(~0U);
  all.apply_effect(well_formed(EffectKind::kMsiRoute));
  Effect other = well_formed(EffectKind::kFunctionControl);
  other.function = 0x40;
  EXPECT_TRUE(all.apply_effect(other));
  EXPECT_TRUE(heard.empty()) << "another function's owner";
  EXPECT_TRUE(all.apply_effect(well_formed(EffectKind::kFunctionControl)));
  ASSERT_EQ(heard.size(), 1U);
  EXPECT_EQ(heard[0].first.kind, ipc::RequestKind::kFunctionControl);
  EXPECT_EQ(heard[0].first.instance, 6);
  EXPECT_EQ(ipc::value_of(heard[0].first), std::uint64_t{kControlBusMaster | kControlMsixEnable});
  EXPECT_EQ(heard[0].second, 0U) << "no vector was delivered yet";
  EXPECT_EQ(vm.irqfds.size(), 1U);
}

TEST_F(MachineEffectsTest, an_owner_that_is_gone_holds_nobody_up) {
  ipc::Areas areas;
  ipc::RecordingReceiver none;
  ipc::RequestProducer ring(areas.requests, areas.replies, areas.doorbell.borrow(), none, {});
  RemoteChannel owner(ring, router);
  machine.add_function_owner(kFunction, owner, 0);
  ring.close();
  EXPECT_TRUE(machine.add_role(~0U).apply_effect(well_formed(EffectKind::kFunctionControl)));
}

}  // namespace
}  // namespace bulkhead::vmm
