#include "vmm/memory/shadow_ram.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "ipc/state/effects.h"
#include "vmm/hypervisor/hypervisor.h"

namespace bulkhead::vmm {
namespace {

constexpr std::uint32_t kFirst = 16;

// A VM that keeps books of its memory slots as KVM does: what overlaps, or is removed but not there, is a mistake.
class SlotVm final : public Vm {
 public:
  Status set_memory_slot(const MemorySlot& slot) override {
    if (slot.size == 0) {
      if (slots.erase(slot.slot) == 0) ++mistakes;
      return ok();
    }
    if (refuse) return make_error("KVM refuses");
    for (const auto& [number, other] : slots) {
      const bool overlaps =
          slot.guest_address < other.guest_address + other.size && other.guest_address < slot.guest_address + slot.size;
      if (number == slot.slot || overlaps) ++mistakes;
    }
    if (slot.slot < kFirst || slot.slot >= kFirst + ShadowRam::kSlotCount) ++mistakes;
    slots[slot.slot] = slot;
    return ok();
  }
  [[nodiscard]] const MemorySlot* at(std::uint64_t address) const {
    for (const auto& [number, slot] : slots) {
      if (address >= slot.guest_address && address - slot.guest_address < slot.size) return &slot;
    }
    return nullptr;
  }
  Result<std::uint32_t> allocate_msi_gsi() override { return make_error("not asked for"); }
  void free_msi_gsi(std::uint32_t) override {}
  Status set_msi_routes(std::span<const MsiRoute>) override { return ok(); }
  Status assign_irqfd(BorrowedFd, std::uint32_t, BorrowedFd) override { return ok(); }
  Status deassign_irqfd(BorrowedFd, std::uint32_t) override { return ok(); }
  Status add_io_event(const IoEvent&) override { return ok(); }
  Status remove_io_event(const IoEvent&) override { return ok(); }
  Status add_coalesced(const CoalescedRange&) override { return ok(); }
  Status remove_coalesced(const CoalescedRange&) override { return ok(); }
  Result<bool> signal_msi(const MsiRoute::Message&) override { return true; }

  std::map<std::uint32_t, MemorySlot> slots;
  bool refuse = false;
  int mistakes = 0;
};

class ShadowRamTest : public ::testing::Test {
 protected:
  ShadowRamTest() {
    for (std::size_t i = 0; i < rom.size(); ++i) rom[i] = static_cast<std::byte>(i >> 8);
    ram.zero(kShadowWindow, kExtendedMemory - kShadowWindow);
  }
  SlotVm vm;
  GuestRam ram = *GuestRam::create(*plan_memory(16 * kMiB));
  std::vector<std::byte> rom = std::vector<std::byte>(kMirroredRom);
  ShadowRam shadow{vm, ram, rom, kFirst};

  // What a guest's access comes to: through a slot, or else the channel.
  std::byte read(std::uint64_t address) {
    if (const MemorySlot* slot = vm.at(address)) return slot->host[address - slot->guest_address];
    std::byte value{};
    shadow.read(0, {.size = 1, .count = 1, .offset = address - kShadowWindow}, {&value, 1});
    return value;
  }
  void write(std::uint64_t address, std::byte value) {
    const MemorySlot* slot = vm.at(address);
    if (slot != nullptr && !slot->read_only) {
      slot->host[address - slot->guest_address] = value;
      return;
    }
    shadow.write(0, {.size = 1, .count = 1, .offset = address - kShadowWindow}, {&value, 1});
  }
  static std::uint32_t segment(std::uint64_t address) {
    return address >= 0xF0000 ? 12 : static_cast<std::uint32_t>((address - kShadowWindow) / 0x4000);
  }
  std::byte rom_byte(std::uint64_t address) { return address >= 0xE0000 ? rom[address - 0xE0000] : std::byte{0xff}; }
};

TEST_F(ShadowRamTest, after_reset_the_rom_is_seen_at_the_top_and_nothing_below) {
  shadow.apply(0);
  EXPECT_EQ(shadow_runs(0, true), (std::vector<ShadowRun>{{0xE0000, 0x20000, ShadowKind::kRom}}));
  EXPECT_EQ(read(0xE0000), rom[0]);
  EXPECT_EQ(read(0xFFFFF), rom.back());
  EXPECT_EQ(read(0xC0000), std::byte{0xff});
}

TEST(ShadowRuns, without_a_firmware_all_of_it_is_one_slot_of_ram) {
  EXPECT_EQ(shadow_runs(kShadowAllRam, false),
            (std::vector<ShadowRun>{{kShadowWindow, kExtendedMemory - kShadowWindow, ShadowKind::kRam}}));
}

TEST(ShadowRuns, the_open_vga_window_is_a_slot_apart) {
  EXPECT_EQ(shadow_runs(kShadowAllRam | kShadowVgaOpen, false).front(),
            (ShadowRun{kVgaWindow, 0x20000, ShadowKind::kRam}));
  EXPECT_EQ(shadow_runs(kShadowAllRam | kShadowVgaOpen, false).size(), 2U);
}

TEST(ShadowRuns, need_no_more_slots_than_there_are) {
  std::mt19937 random(1);
  for (int i = 0; i < 10'000; ++i) {
    const auto runs = shadow_runs(random() & kShadowAll, (random() & 1) != 0);
    ASSERT_LE(runs.size(), ShadowRam::kSlotCount);
  }
}

// A model of the chip, segment by segment, against slots and channel together, through random settings.
TEST_F(ShadowRamTest, every_setting_reads_and_writes_as_the_registers_say) {
  std::mt19937 random(2);
  std::map<std::uint64_t, std::byte> model;  // RAM
  for (int round = 0; round < 2'000; ++round) {
    const std::uint32_t wanted = random() & kShadowAllRam;
    shadow.apply(wanted);
    for (int i = 0; i < 20; ++i) {
      const std::uint64_t address = kShadowWindow + random() % 0x40000;
      const std::uint32_t rights = wanted >> (2 * segment(address)) & 3;
      const auto value = static_cast<std::byte>(random());
      write(address, value);
      if ((rights & kShadowWrite) != 0) model[address] = value;
      const auto known = model.find(address);
      const std::byte in_ram = known != model.end() ? known->second : std::byte{0};
      ASSERT_EQ(read(address), (rights & kShadowRead) != 0 ? in_ram : rom_byte(address)) << std::hex << address;
    }
  }
  EXPECT_EQ(vm.mistakes, 0);
}

TEST_F(ShadowRamTest, what_stays_alike_keeps_its_slot) {
  shadow.apply(kShadowAllRam);
  vm.refuse = true;  // a slot that were made anew would be lost
  shadow.apply(kShadowAllRam);
  EXPECT_NE(vm.at(0xC0000), nullptr);
}

TEST_F(ShadowRamTest, a_slot_that_kvm_refuses_is_served_by_the_channel) {
  vm.refuse = true;
  shadow.apply(kShadowAllRam);
  EXPECT_TRUE(vm.slots.empty());
  write(0xD1234, std::byte{0x5a});
  EXPECT_EQ(read(0xD1234), std::byte{0x5a});
}

}  // namespace
}  // namespace bulkhead::vmm
