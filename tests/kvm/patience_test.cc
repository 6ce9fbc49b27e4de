// Who is waited for, and for how long: late answers, frozen hosts, managers that ask for two things at once.
#include <signal.h>

#include <thread>

#include "tests/kvm/test_vm.h"

namespace bulkhead::kvmtest {
namespace {

class Patience : public MonitorTest {
 protected:
  void SetUp() override {
    MonitorTest::SetUp();
    if (!IsSkipped()) start();
  }
  int restarts() {
    int sum = 0;
    for (const auto& [role, device] : vm().devices_by_role()) sum += device.at("restarts").get<int>();
    return sum;
  }
  void expect_ends_well() {
    vm().run().send("q");
    const Ended& ended = vm().run().wait();
    EXPECT_EQ(ended.status, kGuestPassed) << ended.out << ended.err;
  }
};

// The answer comes after nobody waits for it any more: that is no reason to kill who gives it.
TEST_F(Patience, LateAnswerToAQuestionIsDropped) {
  const pid_t pid = vm().device_pid("pci");
  ::kill(pid, SIGSTOP);
  EXPECT_NE(bulkhead({"inspect", vm().name(), "pci"}).status, 0);
  ::kill(pid, SIGCONT);
  ASSERT_TRUE(wait_until([&] { return bulkhead({"inspect", vm().name(), "pci"}).status == 0; }));
  EXPECT_EQ(vm().device_pid("pci"), pid);
  EXPECT_EQ(restarts(), 0);
  expect_ends_well();
}

// A suspended host: nobody ran, so nobody is late, however long it was.
TEST_F(Patience, TimeInWhichNobodyRanDoesNotCount) {
  const pid_t vmm = vm().vmm_pid();
  for (const int ms : {700, 1000, 1300, 1600, 2500}) {
    const std::vector<pid_t> devices = device_processes_of(vm().name());
    for (const pid_t pid : devices) ::kill(pid, SIGSTOP);
    // A manager's question, too, is on its way meanwhile.
    std::thread question([&] {
      const Ended answer = bulkhead({"inspect", vm().name(), "pci"});
      EXPECT_EQ(answer.status, 0) << "after " << ms << " ms: " << answer.err;
    });
    std::this_thread::sleep_for(Milliseconds(100));
    ::kill(vmm, SIGSTOP);
    std::this_thread::sleep_for(Milliseconds(ms));
    ::kill(vmm, SIGCONT);
    for (const pid_t pid : devices) ::kill(pid, SIGCONT);
    question.join();
    vm().run().send("p");
    ASSERT_TRUE(vm().run().wait_for_output("pong\n")) << vm().run().err();
    EXPECT_EQ(restarts(), 0) << "after " << ms << " ms: " << vm().run().err();
  }
  expect_ends_well();
}

// The end of a VM waits for no pause, not even for one that waits for a device which does not answer.
TEST_F(Patience, KillBesidePauseEndsTheVmAtOnce) {
  TestVm slow({.guest = "monitor", .cpus = 2, .more = {"--device-deadline", "20s"}});
  ASSERT_TRUE(slow.run().wait_for_output("boot\n")) << slow.run().err();
  ::kill(slow.device_pid("pci_test0"), SIGSTOP);  // the guest's second CPU keeps it busy
  std::thread pause([&] { EXPECT_NE(bulkhead({"pause", slow.name()}).status, 0); });
  std::this_thread::sleep_for(Milliseconds(300));
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(bulkhead({"kill", slow.name()}).status, 0);
  slow.run().wait();
  // Two seconds are the CPUs' that wait for the device.
  EXPECT_LT(std::chrono::steady_clock::now() - began, Milliseconds(4'000));
  pause.join();
  expect_ends_well();
}

}  // namespace
}  // namespace bulkhead::kvmtest
