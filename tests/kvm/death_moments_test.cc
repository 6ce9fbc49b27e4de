// Device processes that die at awkward moments: all at once, while the VM starts, is paused, is reset, shuts down.
#include <signal.h>

#include <filesystem>
#include <sstream>
#include <thread>

#include "tests/kvm/test_vm.h"

namespace bulkhead::kvmtest {
namespace {

constexpr const char* kRoles[] = {"pci", "platform", "pci_test0"};

void sleep_us(int us) { std::this_thread::sleep_for(std::chrono::microseconds(us)); }

// The device processes of a VMM, without a look at everybody else's: a start takes a few milliseconds.
std::vector<pid_t> started_by(pid_t vmm) {
  std::vector<pid_t> found;
  std::error_code gone;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/" + std::to_string(vmm) + "/task", gone)) {
    std::istringstream children(slurp(thread.path() / "children"));
    for (pid_t pid = 0; children >> pid;) {
      if (slurp("/proc/" + std::to_string(pid) + "/cmdline").starts_with("bulkhead-device")) found.push_back(pid);
    }
  }
  return found;
}

// Killed only if it is there: 0 would mean our own process group.
void kill_process(pid_t pid) {
  if (pid > 0) ::kill(pid, SIGKILL);
}

class DeathMoments : public KvmTest {
 protected:
  static bool all_serve(TestVm& vm) {
    return wait_until([&] {
      const auto devices = vm.devices_by_role();
      return devices.size() == std::size(kRoles) && std::all_of(devices.begin(), devices.end(), [](const auto& device) {
               return device.second.at("state") == "running";
             });
    });
  }
  static void expect_goes_on(TestVm& vm) {
    vm.run().send("x");  // its marks (guests/monitor.S) are where it left them
    ASSERT_TRUE(vm.run().wait_for_output("config b41cbeef bar d0000000 scratch 11223344\n"))
        << vm.run().out() << vm.run().err();
  }
  static void expect_ends_well(TestVm& vm) {
    vm.run().send("q");
    const Ended& ended = vm.run().wait();
    EXPECT_EQ(ended.status, kGuestPassed) << ended.out << ended.err;
  }
};

TEST_F(DeathMoments, AllAtOnceTheStandbyIncluded) {
  TestVm vm({.guest = "monitor", .cpus = 2});
  ASSERT_TRUE(vm.run().wait_for_output("boot\n"));
  for (int round = 0; round < 6; ++round) {  // well within the budget
    for (const pid_t pid : device_processes_of(vm.name())) kill_process(pid);
    expect_goes_on(vm);
    ASSERT_TRUE(all_serve(vm));
  }
  vm.run().send("c");
  ASSERT_TRUE(vm.run().wait_for_output("boot\n")) << vm.run().err();
  expect_ends_well(vm);
}

TEST_F(DeathMoments, WhileTheVmStarts) {
  int died_before_they_served = 0;
  for (int delay_us = 0; delay_us < 6'000; delay_us += 500) {
    TestVm vm({.guest = "monitor", .cpus = 2});
    std::vector<pid_t> vmm;
    while (vmm.empty()) vmm = children_of(vm.run().pid());
    const auto until = std::chrono::steady_clock::now() + kPatience;
    while (started_by(vmm.front()).empty()) ASSERT_LT(std::chrono::steady_clock::now(), until);
    sleep_us(delay_us);
    for (const pid_t pid : started_by(vmm.front())) kill_process(pid);
    ASSERT_TRUE(vm.run().wait_for_output("boot\n")) << "killed after " << delay_us << " us: " << vm.run().err();
    ASSERT_TRUE(all_serve(vm));
    // Only what has served is restarted.
    for (const auto& [role, device] : vm.devices_by_role())
      died_before_they_served += device.at("incarnation").get<int>() - 1 - device.at("restarts").get<int>();
    expect_ends_well(vm);
  }
  EXPECT_GT(died_before_they_served, 0) << "the test did not reach its case";
}

TEST_F(DeathMoments, WhilePaused) {
  TestVm vm({.guest = "monitor", .cpus = 2});
  ASSERT_TRUE(vm.run().wait_for_output("boot\n"));
  for (const char* role : kRoles) {
    ASSERT_EQ(bulkhead({"pause", vm.name()}).status, 0);
    const pid_t pid = vm.device_pid(role);
    kill_process(pid);
    ASSERT_TRUE(wait_until([&] {
      const nlohmann::json device = vm.devices_by_role().at(role);
      return device.at("state") == "running" && device.at("pid") != pid;
    }));
    ASSERT_EQ(bulkhead({"resume", vm.name()}).status, 0);
    expect_goes_on(vm);
  }
  expect_ends_well(vm);
}

TEST_F(DeathMoments, WhileTheMachineIsReset) {
  for (const char* role : kRoles) {
    TestVm vm({.guest = "monitor", .cpus = 2});
    ASSERT_TRUE(vm.run().wait_for_output("boot\n"));
    for (int round = 0; round < 8; ++round) {
      const pid_t pid = vm.device_pid(role);
      vm.run().send(round % 2 == 0 ? "c" : "k");
      sleep_us(round * 300);
      kill_process(pid);
      // The guest checks every device as it starts.
      ASSERT_TRUE(vm.run().wait_for_output("boot\n")) << role << " in round " << round << ": " << vm.run().err();
      ASSERT_TRUE(all_serve(vm));
    }
    expect_ends_well(vm);
  }
}

TEST_F(DeathMoments, WhileTheVmShutsDown) {
  for (int round = 0; round < 9; ++round) {
    TestVm vm({.guest = "monitor", .cpus = 2});
    ASSERT_TRUE(vm.run().wait_for_output("boot\n"));
    const pid_t pid = vm.device_pid(kRoles[round % 3]);
    vm.run().send("o");
    sleep_us(round * 200);
    kill_process(pid);
    const Ended& ended = vm.run().wait();
    EXPECT_EQ(ended.status, 0) << kRoles[round % 3] << " in round " << round << ": " << ended.err;
    EXPECT_TRUE(wait_until([&] { return device_processes_of(vm.name()).empty(); }));
  }
}

}  // namespace
}  // namespace bulkhead::kvmtest
