// Who is waited for, and for how long: late answers, frozen hosts, managers that ask for two things at once.
#include <signal.h>

#include <thread>

#include "tests/kvm/test_vm.h"

namespace bulkhead::kvmtest {
namespace {

class Patience : public KvmTest {
 protected:
  void SetUp() override {
    KvmTest::SetUp();
    if (IsSkipped()) return;
    vm_.emplace(VmOptions{.guest = "monitor", .cpus = 2});
    ASSERT_TRUE(vm_->run().wait_for_output("boot\n")) << vm_->run().err();
  }
  void TearDown() override {
    vm_.reset();
    KvmTest::TearDown();
  }
  [[nodiscard]] TestVm& vm() { return *vm_; }
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

 private:
  std::optional<TestVm> vm_;
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
  for (const int ms : {700, 1100, 1300, 2500}) {
    const std::vector<pid_t> devices = device_processes_of(vm().name());
    for (const pid_t pid : devices) ::kill(pid, SIGSTOP);
    ::kill(vmm, SIGSTOP);
    std::this_thread::sleep_for(Milliseconds(ms));
    ::kill(vmm, SIGCONT);
    for (const pid_t pid : devices) ::kill(pid, SIGCONT);
    vm().run().send("p");
    ASSERT_TRUE(vm().run().wait_for_output("pong\n")) << vm().run().err();
    EXPECT_EQ(restarts(), 0) << "after " << ms << " ms: " << vm().run().err();
  }
  expect_ends_well();
}

// The end of a VM waits for no pause.
TEST_F(Patience, KillBesidePauseEndsTheVmAtOnce) {
  std::thread pause([&] { (void)bulkhead({"pause", vm().name()}); });
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(bulkhead({"kill", vm().name()}).status, 0);
  vm().run().wait();
  EXPECT_LT(std::chrono::steady_clock::now() - began, Milliseconds(5'000));
  pause.join();
}

}  // namespace
}  // namespace bulkhead::kvmtest
