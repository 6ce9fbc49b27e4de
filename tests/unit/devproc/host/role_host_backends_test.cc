// RoleHost's backends, with a disk: when they are asked, that nothing begins before its commit, and what becomes of an
// input of theirs that kills.
#include <gtest/gtest.h>

#include "devproc/models/virtio/transport_spec.h"
#include "devproc/models/virtio_blk/spec.h"
#include "ipc/roles/virtio_decl.h"
#include "tests/fakes/virtio_driver.h"
#include "tests/unit/devproc/host/role_rig.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio;
using namespace virtio_blk_spec;

constexpr GuestPhys kRing = 0x1000;
constexpr GuestPhys kBuffers = 0x8000;
constexpr GuestPhys kStatusAt = kBuffers + 0x100;
constexpr GuestPhys kDataAt = kBuffers + 0x200;
constexpr std::uint8_t kUntouched = 0xee;
constexpr std::uint8_t kAwake = kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk;

// Guest RAM as a backend sees it, with a note of the commit at each look.
class WatchedRanges final : public GuestRanges {
 public:
  explicit WatchedRanges(RoleRig& rig) : rig_(rig), memory_(rig.memory_bytes()) {}
  std::span<std::byte> host_range(GuestPhys address, std::uint64_t length) override {
    looks.push_back(reinterpret_cast<ipc::StateHeader*>(rig_.state_bytes().data())->commit_word.load());
    return memory_.host_range(address, length);
  }
  std::vector<std::uint64_t> looks;

 private:
  RoleRig& rig_;
  SpanMemory memory_;
};

RoleSetup disk_setup() {
  RoleSetup setup;
  setup.add("disk0", "virtio_blk", VirtioBlkConfig{.serial = "rig", .disk = {.bytes = kRigDisk}});
  return setup;
}

class RoleHostBackends : public ::testing::Test {
 protected:
  RoleHostBackends() : rig(disk_setup()), ranges(rig), memory(rig.memory_bytes()) {
    rig.ranges = &ranges;
    EXPECT_TRUE(rig.succeed(2, false));
    start_driver();
    rig.let_time_go();
    settle();
    ranges.looks.clear();
  }

  void common(std::uint32_t offset, std::uint8_t size, std::uint64_t value) {
    rig.ask(writes(0, kVirtioRegisters, kVirtioCommonOffset + offset, size, value));
  }
  void start_driver() {
    ipc::Request control;
    control.kind = ipc::RequestKind::kFunctionControl;
    const std::uint32_t bits = kControlMemoryEnable | kControlBusMaster;
    std::memcpy(control.payload, &bits, sizeof bits);
    rig.ask(control);
    common(kDeviceStatus, 1, kStatusAcknowledge | kStatusDriver);
    common(kDriverFeatureSelect, 4, 1);
    common(kDriverFeature, 4, std::uint64_t{1} << (kVirtioFVersion1 - 32));
    common(kDeviceStatus, 1, kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
    common(kQueueSelect, 2, 0);
    common(kQueueSize, 2, 8);
    common(kQueueDesc, 4, driver->desc());
    common(kQueueDriver, 4, driver->driver());
    common(kQueueDevice, 4, driver->device());
    common(kQueueEnable, 2, 1);
    common(kDeviceStatus, 1, kAwake);
  }
  void settle() {
    for (int i = 0; i < 1000; ++i) {
      if (!rig.host->handle_backends() && !rig.host->handle_queues()) return;
    }
    ADD_FAILURE() << "it never comes to rest";
  }
  // A write of one sector.
  void add_write() {
    while (driver->take_used()) continue;
    memory.store(kBuffers, VirtioBlkHeader{.type = kVirtioBlkTOut, .sector = 3});
    memory.store(kStatusAt, kUntouched);
    for (GuestPhys i = 0; i < 512; ++i) memory.store(kDataAt + i, std::uint8_t{0x5a});
    EXPECT_TRUE(driver->add(std::vector<VirtioDriver::Buffer>{
        {kBuffers, sizeof(VirtioBlkHeader), false}, {kDataAt, 512, false}, {kStatusAt, 1, true}}));
  }
  void submit_write() {
    add_write();
    rig.host->kick(0);
  }
  std::uint8_t device_status() {
    return static_cast<std::uint8_t>(
        rig.ask(reads(0, kVirtioRegisters, kVirtioCommonOffset + kDeviceStatus, 1)).value());
  }
  [[nodiscard]] bool on_disk() const { return rig.disk_bytes()[3 * 512] == std::byte{0x5a}; }
  std::uint8_t status_byte() { return memory.load<std::uint8_t>(kStatusAt).value(); }

  // So many processes died of what the backend has, and their successor takes over.
  void die_of_backend(std::uint32_t deaths) {
    const Attempt attempt = Attempt::backend(0, rig.host->commits());
    auto* const header = reinterpret_cast<ipc::StateHeader*>(rig.state_bytes().data());
    header->attempt.store(attempt.word());
    header->suspect.store(attempt.key());
    header->suspect_deaths.store(deaths - 1);
    ASSERT_TRUE(rig.succeed(rig.setup().role.incarnation + 1));
  }

  RoleRig rig;
  WatchedRanges ranges;
  SpanMemory memory;
  std::optional<VirtioDriver> driver{std::in_place, memory, VirtioDriver::Layout{.at = kRing}};
};

TEST_F(RoleHostBackends, backend_that_has_nothing_is_not_asked_again) {
  EXPECT_FALSE(rig.host->backend_work_waiting());
  EXPECT_FALSE(rig.host->handle_backends());
  const std::uint64_t commits = rig.host->commits();
  // What its descriptor says may be wrong: one look, and no more.
  rig.host->backend_stirs(0);
  EXPECT_TRUE(rig.host->backend_work_waiting());
  EXPECT_TRUE(rig.host->handle_backends());
  EXPECT_EQ(rig.host->commits(), commits + 1);
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(rig.host->backend_work_waiting());
    EXPECT_FALSE(rig.host->handle_backends());
  }
  EXPECT_EQ(rig.host->commits(), commits + 1);
  // Nor is one asked that there is not.
  rig.host->backend_stirs(1);
  rig.host->backend_stirs(SIZE_MAX);
  EXPECT_FALSE(rig.host->handle_backends());
}

TEST_F(RoleHostBackends, backend_without_a_descriptor_of_news_is_in_its_place) {
  const std::vector<BorrowedFd> watched = rig.host->watched_backends();
  ASSERT_EQ(watched.size(), 1U);
  EXPECT_FALSE(watched[0].valid());
}

TEST_F(RoleHostBackends, what_is_submitted_begins_only_after_the_commit) {
  submit_write();
  const std::uint64_t commits = rig.host->commits();
  EXPECT_TRUE(rig.host->handle_queues());
  EXPECT_EQ(rig.host->commits(), commits + 1);
  ASSERT_FALSE(ranges.looks.empty());
  EXPECT_EQ(*std::min_element(ranges.looks.begin(), ranges.looks.end()), commits + 1);
  EXPECT_TRUE(on_disk());
  EXPECT_EQ(status_byte(), kUntouched) << "its end is an input of its own";
  EXPECT_TRUE(rig.host->backend_work_waiting());
  EXPECT_TRUE(rig.host->handle_backends());
  EXPECT_EQ(status_byte(), kVirtioBlkSOk);
  EXPECT_TRUE(driver->take_used());
}

TEST_F(RoleHostBackends, what_a_successor_submits_again_begins_only_after_its_commit) {
  submit_write();
  EXPECT_TRUE(rig.host->handle_queues());
  ranges.looks.clear();
  const std::uint64_t commits = rig.host->commits();
  ASSERT_TRUE(rig.succeed(3));
  EXPECT_TRUE(ranges.looks.empty()) << "whoever waits for a reply has it first";
  EXPECT_TRUE(rig.host->handle_backends());
  ASSERT_FALSE(ranges.looks.empty()) << "done again";
  EXPECT_GT(*std::min_element(ranges.looks.begin(), ranges.looks.end()), commits);
  settle();
  EXPECT_EQ(status_byte(), kVirtioBlkSOk);
  EXPECT_TRUE(driver->take_used());
  EXPECT_FALSE(driver->take_used()) << "told once";
  EXPECT_EQ(driver->complaint(), "");
}

TEST_F(RoleHostBackends, backends_stand_still_while_the_vm_is_paused) {
  submit_write();
  EXPECT_TRUE(rig.host->handle_queues());
  rig.freeze_at(kRigTime * 2);
  EXPECT_FALSE(rig.host->backend_work_waiting());
  EXPECT_FALSE(rig.host->handle_backends());
  EXPECT_EQ(status_byte(), kUntouched);
  rig.let_time_go();
  EXPECT_TRUE(rig.host->backend_work_waiting());
  EXPECT_TRUE(rig.host->handle_backends());
  EXPECT_EQ(status_byte(), kVirtioBlkSOk);
}

TEST_F(RoleHostBackends, successor_asks_each_backend_once) {
  ASSERT_TRUE(rig.succeed(3));
  EXPECT_TRUE(rig.host->backend_work_waiting());
  EXPECT_TRUE(rig.host->handle_backends());
  EXPECT_FALSE(rig.host->handle_backends());
}

TEST_F(RoleHostBackends, input_that_killed_three_processes_is_not_given_to_the_device) {
  submit_write();
  EXPECT_TRUE(rig.host->handle_queues());
  die_of_backend(AttemptLog::kDeaths);
  EXPECT_EQ(device_status() & kStatusNeedsReset, 0) << "not before it is met again";
  EXPECT_TRUE(rig.host->handle_backends());
  EXPECT_EQ(rig.replies().counters.poisoned.load(), 1U);
  EXPECT_EQ(device_status(), kAwake | kStatusNeedsReset);
  EXPECT_EQ(status_byte(), kUntouched) << "what the backend has was not looked at";
  settle();
  EXPECT_EQ(rig.replies().counters.poisoned.load(), 1U) << "once";
  // A driver that resets its device has it back.
  common(kDeviceStatus, 1, 0);
  EXPECT_EQ(device_status(), 0);
  driver.emplace(memory, VirtioDriver::Layout{.at = kRing});
  start_driver();
  EXPECT_EQ(device_status(), kAwake);
  submit_write();
  settle();
  EXPECT_EQ(status_byte(), kVirtioBlkSOk);
  EXPECT_EQ(rig.replies().counters.poisoned.load(), 1U);
}

TEST_F(RoleHostBackends, input_that_killed_two_is_given_to_the_device_once_more) {
  submit_write();
  EXPECT_TRUE(rig.host->handle_queues());
  die_of_backend(AttemptLog::kDeaths - 1);
  settle();
  EXPECT_EQ(rig.replies().counters.poisoned.load(), 0U);
  EXPECT_EQ(device_status(), kAwake);
  EXPECT_EQ(status_byte(), kVirtioBlkSOk);
}

TEST_F(RoleHostBackends, a_queue_without_kicks_is_looked_at_until_kicks_are_asked_for) {
  rig.host->let_kicks_wait();
  submit_write();
  settle();
  EXPECT_FALSE(rig.host->queues_stir());
  add_write();
  EXPECT_TRUE(rig.host->queues_stir());
  EXPECT_TRUE(rig.host->queue_work_waiting());
  settle();
  EXPECT_EQ(status_byte(), kVirtioBlkSOk);
  EXPECT_FALSE(rig.host->hold_kicks()) << "nobody has asked for them";
  EXPECT_FALSE(rig.host->ask_for_kicks());
  add_write();
  EXPECT_FALSE(rig.host->queues_stir()) << "the driver kicks";
  EXPECT_TRUE(rig.host->hold_kicks());
  EXPECT_TRUE(rig.host->queues_stir());
  EXPECT_FALSE(rig.host->hold_kicks());
}

TEST_F(RoleHostBackends, what_came_before_kicks_were_asked_for_is_work) {
  rig.host->let_kicks_wait();
  submit_write();
  settle();
  add_write();
  EXPECT_TRUE(rig.host->ask_for_kicks());
  EXPECT_TRUE(rig.host->queue_work_waiting());
}

TEST_F(RoleHostBackends, a_queue_without_kicks_is_not_looked_at_while_the_vm_is_paused) {
  rig.host->let_kicks_wait();
  submit_write();
  settle();
  add_write();
  rig.freeze_at(kRigTime);
  EXPECT_FALSE(rig.host->queues_stir());
}

}  // namespace
}  // namespace bulkhead::devproc
