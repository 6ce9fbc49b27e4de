// A disk whose host never ends a request: its reset waits and shows it, to the guest and to the VMM, while the role's
// process sleeps, serves everything else and may die.
#include <gtest/gtest.h>

#include "devproc/models/uart16550/spec.h"
#include "tests/faults/virtio_requests.h"
#include "tests/unit/devproc/host/role_rig.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio_blk_spec;

class RoleHostDrain : public ::testing::Test {
 protected:
  static RoleSetup setup() {
    RoleSetup all;
    all.add("disk0", "virtio_blk", VirtioBlkConfig{.serial = "rig", .disk = {.bytes = kRigDisk, .ring = true}});
    all.add("com1", "uart16550", Uart16550Config{});
    return all;
  }
  RoleHostDrain() : rig(setup()) {
    for (const ipc::Request& request : driver_start({}, 0)) rig.ask(request);
    ask_the_disk(rig, {}, {{.type = kVirtioBlkTIn, .sector = 2, .bytes = 512, .to_guest = true}});
    work();
  }
  void work() {
    while (rig.host->handle_queues() || rig.host->handle_backends()) {
    }
  }
  std::uint64_t status() { return rig.ask(reads(0, kVirtioRegisters, kVirtioCommonOffset + kDeviceStatus, 1)).value(); }
  [[nodiscard]] bool drains() const { return rig.replies().counters.draining.load() != 0; }
  void expect_waiting() {
    EXPECT_TRUE(drains());
    EXPECT_NE(status(), 0U) << "the driver waits: its buffers may still be written to";
    EXPECT_FALSE(rig.host->backend_work_waiting()) << "the process would not sleep";
    EXPECT_FALSE(rig.host->queue_work_waiting());
    rig.ask(writes(1, 0, uart16550::kScr, 1, 0x5a));
    EXPECT_EQ(rig.ask(reads(1, 0, uart16550::kScr, 1)).value(), 0x5aU) << "others go on";
  }

  RoleRig rig;
};

TEST_F(RoleHostDrain, reset_waits_for_what_never_ends) {
  ASSERT_EQ(rig.ring->under_way(), 1U);
  EXPECT_FALSE(drains());
  rig.ask(common(kDeviceStatus, 1, 0));
  expect_waiting();
  // Its process dies; then it is asked again, and dies again.
  ASSERT_TRUE(rig.succeed(2));
  work();
  expect_waiting();
  rig.ask(common(kDeviceStatus, 1, 0));
  ASSERT_TRUE(rig.succeed(3));
  work();
  expect_waiting();
  // The host is back.
  ASSERT_TRUE(rig.disk_works());
  work();
  EXPECT_FALSE(drains());
  EXPECT_EQ(status(), 0U);
}

TEST_F(RoleHostDrain, reset_of_the_machine_says_that_it_waits) {
  ipc::Request reset;
  reset.kind = ipc::RequestKind::kReset;
  rig.generation = 2;
  rig.ask(reset);
  ipc::Request question;
  question.kind = ipc::RequestKind::kDraining;
  EXPECT_EQ(int{rig.ask(question).reply.payload[0]}, 1);
  expect_waiting();
  ASSERT_TRUE(rig.disk_works());
  work();
  EXPECT_EQ(int{rig.ask(question).reply.payload[0]}, 0);
  EXPECT_FALSE(drains());
}

}  // namespace
}  // namespace bulkhead::devproc
