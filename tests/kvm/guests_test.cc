// Guests that test the machine from the inside. Each prints "ok STEP" for every step, and what was wrong otherwise.
#include "tests/kvm/test_vm.h"

namespace bulkhead::kvmtest {
namespace {

class Guests : public KvmTest {};

TEST_F(Guests, PortAndMemoryAccesses) {
  TestVm vm({.guest = "access"});
  ASSERT_TRUE(vm.at("before"));
  const std::uint64_t before = vm.status().at("unclaimed_accesses");
  // 1,004 at once, and 5 pieces of those that cross the end of a claim: nobody waited for these.
  EXPECT_EQ(vm.devices().back().at("posted"), 1009);
  vm.release();
  ASSERT_TRUE(vm.at("after"));
  const std::uint64_t after = vm.status().at("unclaimed_accesses");
  // Five ports and five addresses read, five addresses and a port written, one byte each; then wider ones, of which
  // KVM cuts the one over a page's end in two, and CMPXCHG8B reads and writes.
  EXPECT_EQ(after - before, 16U + 8U);
  vm.release();
  const Ended& ended = vm.run().wait();
  EXPECT_EQ(ended.status, kGuestPassed);
  EXPECT_EQ(ended.out,
            "ok placement\nok mmio widths\nok mmio strings\nok posted writes\nok ends of claims\nok port widths\n"
            "ok string input\nok REP OUTSB\nok string output\nok dma\n@before\n@after\nok nobody\npass\n");
}

TEST_F(Guests, LegacyInterrupts) {
  expect_steps({.guest = "intx", .devices = {"pci_test,slot=3", "pci_test,slot=4", "pci_test,slot=7"}},
               {"set-up", "one source", "shared", "insistent", "masked", "pic", "re-routing", "re-routing under fire"});
}

TEST_F(Guests, MessageInterrupts) {
  expect_steps({.guest = "msi", .cpus = 2}, {"msi", "msi masks", "msi targets", "msi off", "msi-x", "msi-x masks",
                                             "msi-x table", "other senders", "d3hot"});
}

TEST_F(Guests, BarsMoveAndOverlap) {
  expect_steps(
      {.guest = "bars", .cpus = 3, .devices = {"pci_test,slot=3", "pci_test,slot=7"}},
      {"set-up", "moves under traffic", "overlap under traffic", "sizing", "over RAM and interrupt controllers",
       "over fixed ports", "over the PM base", "over each other", "decoding off"});
}

TEST_F(Guests, BarsThroughConfigurationSpace) {
  expect_steps({.guest = "window"}, {"identity", "scratch", "in common", "other bars", "strings", "msi-x", "nowhere"});
}

// Requests of a queue pass the VMM by: KVM rings the device process and is rung by it.
TEST_F(Guests, VirtqueueWithoutTheVmm) {
  TestVm vm({.guest = "virtqueue", .devices = {"virtio_rng,slot=3"}});
  ASSERT_TRUE(vm.run().wait_for_output("ready\n")) << vm.run().err();
  const auto rng = [&] { return vm.devices_by_role().at("virtio_rng0"); };
  const auto before = rng();
  vm.run().send("r");
  ASSERT_TRUE(vm.run().wait_for_output("answered\n")) << vm.run().out() << vm.run().err();
  const auto after = rng();
  EXPECT_EQ(after.at("requests"), before.at("requests")) << "nothing travelled over the request ring";
  EXPECT_EQ(after.at("posted"), before.at("posted"));
  EXPECT_GE(after.at("commits").get<int>() - before.at("commits").get<int>(), 1000);
  vm.run().send("q");
  EXPECT_EQ(vm.run().wait().status, kGuestPassed);
}

class Processors : public Guests, public ::testing::WithParamInterface<unsigned> {};

TEST_P(Processors, Start) {
  expect_steps({.guest = "smp", .cpus = GetParam(), .command_line = std::to_string(GetParam())},
               {"start-up", "one by one", "everybody", "in common", "again"});
}

INSTANTIATE_TEST_SUITE_P(Smp, Processors, ::testing::Values(1, 2, 4, 8, 32), ::testing::PrintToStringParamName());

// The guest's value comes back as 64 + (value & 63); a guest may also just print and leave.
TEST_F(Guests, FailureIsSeen) {
  const Ended bare = [] {
    TestVm vm({.guest = "access", .devices = {}});  // no test function: the first step fails
    return vm.run().wait();
  }();
  EXPECT_EQ(bare.status, kGuestPassed + 1);
  EXPECT_EQ(bare.out, "FAIL firmware's place for BAR 0: got ffffffff, want e0000000\n");
}

}  // namespace
}  // namespace bulkhead::kvmtest
