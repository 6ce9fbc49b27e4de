// Start, reset, pause, power button and end of a VM, from the guest's side and from the manager's. The guest,
// monitor.S, checks on every start that all is as after power-on.
#include <filesystem>

#include "tests/kvm/test_vm.h"

namespace bulkhead::kvmtest {
namespace {

constexpr int kPowerOff = 0;
constexpr int kGuestReset = 10;
constexpr int kKilled = 12;

VmOptions monitor() { return {.guest = "monitor", .cpus = 2}; }

class Lifecycle : public KvmTest {
 protected:
  // The guest is at its command loop.
  static ::testing::AssertionResult booted(TestVm& vm) {
    if (vm.run().wait_for_output("boot\n")) return ::testing::AssertionSuccess();
    vm.run().take_output(Milliseconds(100));
    return ::testing::AssertionFailure() << "the guest did not start; console:\n" << vm.run().out() << vm.run().err();
  }
};

class ResetBy : public Lifecycle, public ::testing::WithParamInterface<std::pair<const char*, const char*>> {};

TEST_P(ResetBy, StartsTheGuestAnew) {
  TestVm vm(monitor());
  ASSERT_TRUE(booted(vm));
  for (int i = 0; i < 3; ++i) {
    vm.run().send(GetParam().second);
    ASSERT_TRUE(booted(vm)) << "reset " << i;
  }
  EXPECT_EQ(vm.status().at("generation"), 4);
  vm.run().send("q");
  EXPECT_EQ(vm.run().wait().status, kGuestPassed);
  EXPECT_EQ(vm.run().out(), "boot\nboot\nboot\nboot\npass\n");
}

TEST_P(ResetBy, EndsTheVmOnRequest) {
  VmOptions options = monitor();
  options.more = {"--on-reset", "exit"};
  TestVm vm(options);
  ASSERT_TRUE(booted(vm));
  vm.run().send(GetParam().second);
  const Ended& ended = vm.run().wait();
  EXPECT_EQ(ended.status, kGuestReset);
  EXPECT_EQ(ended.err, "bulkhead: the guest reset its machine\n");
  EXPECT_EQ(ended.out, "boot\n");
}

INSTANTIATE_TEST_SUITE_P(Guest, ResetBy,
                         ::testing::Values(std::pair("Cf9", "c"), std::pair("Keyboard", "k"), std::pair("Port92", "9"),
                                           std::pair("TurboControl", "T")),
                         [](const auto& test) { return std::string(test.param.first); });

TEST_F(Lifecycle, ManagerResets) {
  TestVm vm(monitor());
  ASSERT_TRUE(booted(vm));
  const Ended reset = bulkhead({"reset", vm.name()});
  EXPECT_EQ(reset.status, 0) << reset.err;
  ASSERT_TRUE(booted(vm));
  vm.run().send("q");
  EXPECT_EQ(vm.run().wait().out, "boot\nboot\npass\n");
}

// Twenty resets, by turns in each way: the VMM has the descriptors and threads that it had after the first.
TEST_F(Lifecycle, ResetsLeaveNothingBehind) {
  TestVm vm(monitor());
  ASSERT_TRUE(booted(vm));
  const auto reset = [&](int i) {
    const char* const how[] = {"c", "k", "9", "T"};
    if (i % 5 == 4) {
      EXPECT_EQ(bulkhead({"reset", vm.name()}).status, 0);
    } else {
      vm.run().send(how[i % 5]);
    }
    return booted(vm);
  };
  const pid_t vmm = vm.vmm_pid();
  const auto holds = [vmm] {
    std::vector<std::string> all = {"threads " + status_field(vmm, "Threads")};
    for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(vmm) + "/fd")) {
      const std::string what = std::filesystem::read_symlink(entry.path());
      all.push_back(what.substr(0, what.find('[')));
    }
    std::sort(all.begin(), all.end());
    return all;
  };
  ASSERT_TRUE(reset(0));
  // By a manager as well: its calls have a thread that starts with the first one. Its connection is closed by the VMM a
  // moment after its client has gone.
  ASSERT_TRUE(reset(4));
  const std::vector<std::string> first = holds();
  const std::vector<pid_t> pids = vm.device_pids();
  for (int i = 1; i <= 20; ++i) ASSERT_TRUE(reset(i)) << "reset " << i;
  EXPECT_TRUE(wait_until([&] { return holds() == first; }, Milliseconds(3'000)));
  EXPECT_EQ(holds(), first);
  EXPECT_EQ(vm.device_pids(), pids) << "a reset is no reason for a new process";
  vm.run().send("q");
  EXPECT_EQ(vm.run().wait().status, kGuestPassed);
}

TEST_F(Lifecycle, PowerButtonIsSeenByTheGuest) {
  TestVm vm(monitor());
  ASSERT_TRUE(booted(vm));
  vm.run().send("b");
  ASSERT_TRUE(vm.run().wait_for_output("waiting\n"));
  EXPECT_EQ(bulkhead({"stop", vm.name()}).status, 0);
  const Ended& ended = vm.run().wait();
  EXPECT_EQ(ended.status, kPowerOff);
  EXPECT_EQ(ended.out, "boot\nwaiting\nbutton\n");
  EXPECT_EQ(ended.err, "");
}

// The button raises the SCI, and only once: the guest clears its cause.
TEST_F(Lifecycle, PowerButtonInterrupts) {
  TestVm vm(monitor());
  ASSERT_TRUE(booted(vm));
  vm.run().send("i");
  ASSERT_TRUE(vm.run().wait_for_output("waiting\n"));
  EXPECT_EQ(bulkhead({"stop", vm.name()}).status, 0);
  ASSERT_TRUE(vm.run().wait_for_output("SCI\n"));
  vm.run().send("q");
  EXPECT_EQ(vm.run().wait().out, "boot\nwaiting\nSCI\npass\n");
}

// A reset while the SCI is asserted and nobody listens: the line falls, and works again afterwards.
TEST_F(Lifecycle, PowerButtonInterruptsAfterReset) {
  TestVm vm(monitor());
  ASSERT_TRUE(booted(vm));
  EXPECT_EQ(bulkhead({"stop", vm.name()}).status, 0);
  vm.run().send("c");
  ASSERT_TRUE(booted(vm));
  vm.run().send("i");
  ASSERT_TRUE(vm.run().wait_for_output("waiting\n"));
  EXPECT_FALSE(vm.run().wait_for_output("SCI\n", Milliseconds(200))) << "the button was pressed before the reset";
  EXPECT_EQ(bulkhead({"stop", vm.name()}).status, 0);
  ASSERT_TRUE(vm.run().wait_for_output("SCI\n"));
  vm.run().send("q");
  EXPECT_EQ(vm.run().wait().status, kGuestPassed);
}

TEST_F(Lifecycle, TerminationSignalPressesThePowerButton) {
  TestVm vm(monitor());
  ASSERT_TRUE(booted(vm));
  vm.run().send("b");
  ASSERT_TRUE(vm.run().wait_for_output("waiting\n"));
  ::kill(vm.run().pid(), SIGTERM);
  const Ended& ended = vm.run().wait();
  EXPECT_EQ(ended.status, kPowerOff);
  EXPECT_EQ(ended.out, "boot\nwaiting\nbutton\n");
}

TEST_F(Lifecycle, SecondTerminationSignalEndsTheVm) {
  TestVm vm(monitor());
  ASSERT_TRUE(booted(vm));
  ::kill(vm.run().pid(), SIGTERM);
  vm.run().send("p");
  ASSERT_TRUE(vm.run().wait_for_output("pong\n")) << "the guest ignores its power button";
  ::kill(vm.run().pid(), SIGTERM);
  EXPECT_EQ(vm.run().wait().status, kKilled);
}

TEST_F(Lifecycle, SoftOff) {
  TestVm vm(monitor());
  ASSERT_TRUE(booted(vm));
  vm.run().send("o");
  EXPECT_EQ(vm.run().wait().status, kPowerOff);
  EXPECT_EQ(vm.run().out(), "boot\n");
}

TEST_F(Lifecycle, Kill) {
  TestVm vm(monitor());
  ASSERT_TRUE(booted(vm));
  const std::vector<pid_t> pids = vm.device_pids();
  const Ended killed = bulkhead({"kill", vm.name()});
  EXPECT_EQ(killed.status, 0) << killed.err;
  EXPECT_TRUE(device_processes_of(vm.name()).empty()) << "`kill` returns when all is gone";
  const Ended& ended = vm.run().wait();
  EXPECT_EQ(ended.status, kKilled);
  EXPECT_EQ(ended.err, "bulkhead: the VM was ended by its manager\n");
  EXPECT_TRUE(std::filesystem::is_empty(run_directory()));
}

// A paused VM does nothing, and its time stands: the guest sees a step that is far shorter than the pause.
TEST_F(Lifecycle, PauseAndResume) {
  constexpr Milliseconds kPause{1'500};
  TestVm vm(monitor());
  ASSERT_TRUE(booted(vm));
  vm.run().send("v");
  ASSERT_TRUE(vm.run().wait_for_output("ticking\n"));
  EXPECT_EQ(vm.status().at("state"), "running");
  EXPECT_EQ(bulkhead({"pause", vm.name()}).status, 0);
  EXPECT_EQ(vm.status().at("state"), "paused");
  const std::uint64_t exits = vm.status().at("exits");
  const nlohmann::json devices = vm.devices();
  std::this_thread::sleep_for(kPause);
  EXPECT_EQ(vm.status().at("exits"), exits);
  const nlohmann::json later = vm.devices();
  for (std::size_t i = 0; i < devices.size(); ++i) {
    EXPECT_EQ(later[i].at("requests"), devices[i].at("requests")) << devices[i].at("role");
    EXPECT_EQ(later[i].at("commits"), devices[i].at("commits")) << devices[i].at("role");
  }
  EXPECT_EQ(bulkhead({"pause", vm.name()}).status, 0) << "pausing twice is no error";
  EXPECT_EQ(bulkhead({"resume", vm.name()}).status, 0);
  EXPECT_EQ(vm.status().at("state"), "running");
  EXPECT_TRUE(wait_until([&] { return vm.status().at("exits") > exits; }));
  vm.run().send("x");
  ASSERT_TRUE(vm.run().wait_for_output("longest "));
  vm.run().send("q");
  EXPECT_EQ(vm.run().wait().status, kGuestPassed);
  unsigned longest_us = 0;
  unsigned turns = 0;
  const std::string& out = vm.run().out();
  ASSERT_EQ(std::sscanf(out.c_str() + out.find("longest"), "longest %u of %u", &longest_us, &turns), 2) << out;
  EXPECT_GT(turns, 10U);
  EXPECT_LT(longest_us, std::chrono::microseconds(kPause).count() / 2);
}

// What a manager may do to a paused VM.
TEST_F(Lifecycle, ResetAndKillWhilePaused) {
  TestVm vm(monitor());
  ASSERT_TRUE(booted(vm));
  EXPECT_EQ(bulkhead({"pause", vm.name()}).status, 0);
  EXPECT_EQ(bulkhead({"reset", vm.name()}).status, 0);
  EXPECT_EQ(vm.status().at("state"), "paused");
  EXPECT_FALSE(vm.run().wait_for_output("boot\n", Milliseconds(300))) << "a paused VM ran";
  EXPECT_EQ(bulkhead({"resume", vm.name()}).status, 0);
  ASSERT_TRUE(booted(vm));
  EXPECT_EQ(bulkhead({"pause", vm.name()}).status, 0);
  EXPECT_EQ(bulkhead({"kill", vm.name()}).status, 0);
  EXPECT_EQ(vm.run().wait().status, kKilled);
}

TEST_F(Lifecycle, NameIsTakenOnce) {
  TestVm vm(monitor());
  ASSERT_TRUE(booted(vm));
  const Ended second = bulkhead(
      {"run", "--kernel", std::string(KVMTEST_GUESTS) + "/monitor.elf", "--name", vm.name(), "--console", "none"});
  EXPECT_EQ(second.status, 1);
  EXPECT_NE(second.err.find(vm.name()), std::string::npos) << second.err;
  EXPECT_EQ(std::count(second.err.begin(), second.err.end(), '\n'), 1) << second.err;
  vm.run().send("q");
  EXPECT_EQ(vm.run().wait().status, kGuestPassed);
}

}  // namespace
}  // namespace bulkhead::kvmtest
