// Device processes that die and come back, driven as a user would: `bulkhead fault`, `events`, `upgrade`,
// `restore` and
// `--on-crash` on real VMs, whose guest must not notice, or must see what the rule says.
#include <gmock/gmock.h>
#include <signal.h>

#include <filesystem>
#include <sstream>

#include "tests/kvm/test_vm.h"

namespace bulkhead::kvmtest {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

constexpr int kHostError = 1;

class Recovery : public MonitorTest {
 protected:
  Ended on_vm(const std::string& command, std::vector<std::string> more) {
    std::vector<std::string> all = {command, vm().name()};
    all.insert(all.end(), more.begin(), more.end());
    return bulkhead(all);
  }
  void command(const std::string& command, const std::vector<std::string>& more) {
    const Ended ended = on_vm(command, more);
    EXPECT_EQ(ended.status, 0) << command << ": " << ended.err;
  }
  std::vector<nlohmann::json> events() {
    std::istringstream lines(on_vm("events", {"--json", "--no-follow"}).out);
    std::vector<nlohmann::json> all;
    for (std::string line; std::getline(lines, line);) all.push_back(nlohmann::json::parse(line));
    return all;
  }
  [[nodiscard]] unsigned count(const std::string& kind, const std::string& role) {
    unsigned found = 0;
    for (const nlohmann::json& event : events()) {
      if (event.at("kind") == kind && (role.empty() || event.at("device") == role)) ++found;
    }
    return found;
  }
  static std::string executable_of(pid_t pid) {
    return std::filesystem::read_symlink("/proc/" + std::to_string(pid) + "/exe");
  }
  void type(const char* letter, const char* answer) {
    vm().run().send(letter);
    EXPECT_TRUE(vm().run().wait_for_output(answer)) << letter << "\n" << vm().run().out() << vm().run().err();
  }
  // What the guest wrote to its devices before they died (guests/monitor.S, leave_marks).
  void expect_state_kept() {
    type("x", "config b41cbeef bar d0000000 scratch 11223344\n");
    const Ended inspect = on_vm("inspect", {"com1", "--json"});
    EXPECT_EQ(nlohmann::json::parse(inspect.out).at("com1").at("lcr"), 3) << inspect.out << inspect.err;
  }
  void expect_guest_goes_on() {
    type("p", "pong\n");
    type("c", "boot\n");
    vm().run().send("q");
    const Ended& ended = vm().run().wait();
    EXPECT_EQ(ended.status, kGuestPassed) << ended.out << ended.err;
  }
};

class Fault : public Recovery, public ::testing::WithParamInterface<std::tuple<const char*, const char*>> {};

TEST_P(Fault, GuestGoesOn) {
  const auto& [signal, role] = GetParam();
  ASSERT_NO_FATAL_FAILURE(start());
  command("fault", {role, "--signal", signal});
  const bool hang = std::string(signal) == "STOP";
  ASSERT_TRUE(wait_until([&] { return count("restored", role) == 1; })) << vm().run().err();
  for (const nlohmann::json& event : events()) {
    EXPECT_EQ(event.at("device"), role);
    if (event.at("number") != 1) continue;
    EXPECT_EQ(event.at("kind"), hang ? "hung" : "died") << event;
    EXPECT_EQ(event.at("signal"), hang ? "SIGKILL" : std::string("SIG") + signal) << event;
  }
  expect_state_kept();
  expect_guest_goes_on();
}

INSTANTIATE_TEST_SUITE_P(EveryRole, Fault,
                         ::testing::Combine(::testing::Values("KILL", "SEGV", "ABRT", "STOP"),
                                            ::testing::Values("pci", "platform", "pci_test0")),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param)) + "_" + std::get<1>(test.param);
                         });

// Both CPUs wait for these roles nearly all the time, and no deadline comes to their help.
TEST_F(Recovery, SuccessorWakesWhoeverWaits) {
  ASSERT_NO_FATAL_FAILURE(start({"--device-deadline", "3600s"}));
  for (const char* role : {"platform", "pci_test0"}) {
    for (std::size_t round = 1; round <= 8; ++round) {
      command("fault", {role});
      ASSERT_TRUE(wait_until([&] { return count("restored", role) == round; })) << vm().run().err();
      type("p", "pong\n");
    }
  }
  expect_guest_goes_on();
}

TEST_F(Recovery, StandbyMayDieToo) {
  ASSERT_NO_FATAL_FAILURE(start());
  for (const char* signal : {"KILL", "SEGV", "ABRT"}) command("fault", {"standby", "--signal", signal});
  EXPECT_EQ(on_vm("events", {"--no-follow"}).out, "") << "the standby is no device";
  command("fault", {"pci_test0"});
  ASSERT_TRUE(wait_until([&] { return count("restored", "pci_test0") == 1; }));
  // One that is stopped does not get the role: it would hang there.
  command("fault", {"standby", "--signal", "STOP"});
  command("fault", {"pci_test0"});
  ASSERT_TRUE(wait_until([&] { return count("restored", "pci_test0") == 2; }));
  EXPECT_EQ(count("died", "pci_test0"), 2U);
  EXPECT_EQ(count("hung", ""), 0U);
  expect_state_kept();
  expect_guest_goes_on();
}

TEST_F(Recovery, FiftyFaultsDoNotUseUpTheBudget) {
  ASSERT_NO_FATAL_FAILURE(start());
  command("fault", {"com1", "--count", "50"});
  ASSERT_TRUE(wait_until([&] { return count("restored", "platform") == 50; })) << count("restored", "platform");
  EXPECT_EQ(count("died", "platform"), 50U);
  const nlohmann::json device = vm().devices_by_role().at("platform");
  EXPECT_EQ(device.at("restarts"), 50);
  EXPECT_GT(device.at("longest_stall_ns"), 0);
  expect_state_kept();
  expect_guest_goes_on();
}

TEST_F(Recovery, RandomFaults) {
  ASSERT_NO_FATAL_FAILURE(start());
  const Ended ended = on_vm("fault", {"any", "--count", "30", "--random-seed", "7", "--every", "20ms"});
  EXPECT_EQ(ended.status, 0) << ended.err;
  EXPECT_TRUE(ended.out.starts_with("random seed 7\n"));
  ASSERT_TRUE(wait_until([&] { return count("restored", "") == 30; })) << count("restored", "");
  for (const char* role : {"pci", "platform", "pci_test0"}) EXPECT_GT(count("died", role), 0U) << role;
  expect_state_kept();
  expect_guest_goes_on();
}

TEST_F(Recovery, EventsEndWithTheVm) {
  ASSERT_NO_FATAL_FAILURE(start());
  Child events({KVMTEST_BULKHEAD, "events", vm().name(), "--json"}, true);
  command("fault", {"pci_test0"});
  EXPECT_TRUE(events.wait_for_output("\"restored\""));
  vm().run().send("q");
  EXPECT_EQ(vm().run().wait().status, kGuestPassed);
  EXPECT_EQ(events.wait().status, 0) << events.err();
}

// ---- --on-crash ----

TEST_F(Recovery, StopEndsTheVm) {
  ASSERT_NO_FATAL_FAILURE(start({"--on-crash", "pci_test0=stop"}));
  const pid_t pid = vm().device_pid("pci_test0");
  ASSERT_GT(pid, 0);
  ::kill(pid, SIGKILL);
  const Ended& ended = vm().run().wait();
  EXPECT_EQ(ended.status, kHostError);
  EXPECT_THAT(ended.err, ContainsRegex("bulkhead: a device process died: pci_test0 \\(pid [0-9]+\\) was killed by "
                                       "SIGKILL[^\n]*\n$"));
}

TEST_F(Recovery, IsolatedDeviceReadsAllOnesUntilItIsRestored) {
  ASSERT_NO_FATAL_FAILURE(start({"--on-crash", "pci_test0=isolate"}));
  type("x", "config b41cbeef bar d0000000 scratch 11223344\n");
  const pid_t pid = vm().device_pid("pci_test0");
  ASSERT_GT(pid, 0);
  ::kill(pid, SIGKILL);
  ASSERT_TRUE(wait_until([&] { return count("isolated", "pci_test0") == 1; }));
  // Who has seen the event finds no trace of the device.
  type("x", "config ffffffff bar ffffffff scratch ffffffff\n");
  EXPECT_EQ(vm().devices_by_role().at("pci_test0").at("state"), "isolated");
  EXPECT_THAT(on_vm("fault", {"pci_test0"}).err, HasSubstr("pci_test0 is isolated; `bulkhead restore "));
  command("restore", {"pci_test0"});
  EXPECT_EQ(count("returned", "pci_test0"), 1U);
  EXPECT_EQ(count("restored", "pci_test0"), 0U) << "it does not go on from where it died";
  const nlohmann::json fields = nlohmann::json::parse(on_vm("inspect", {"pci_test0", "--json"}).out).at("pci_test0");
  EXPECT_EQ(fields.at("messages_sent"), 0) << fields;
  EXPECT_EQ(fields.at("int_status"), 0) << fields;
  // Where the firmware puts it at reset, memory decoding on the old place gone.
  type("x", "config b41cbeef bar e0000000 scratch ffffffff\n");
  type("p", "pong\n");
  EXPECT_THAT(on_vm("restore", {"pci_test0"}).err, HasSubstr("pci_test0 is not isolated"));
  expect_guest_goes_on();
}

TEST_F(Recovery, EssentialDevicesAreNotIsolated) {
  for (const char* role : {"pci", "platform"}) {
    TestVm one({.guest = "monitor", .cpus = 2, .more = {"--on-crash", "isolate"}});
    ASSERT_TRUE(one.run().wait_for_output("boot\n"));
    const pid_t pid = one.device_pid(role);
    ASSERT_GT(pid, 0);
    ::kill(pid, SIGKILL);
    EXPECT_EQ(one.run().wait().status, kHostError) << role;
    EXPECT_THAT(one.run().err(), HasSubstr(std::string("bulkhead: a device process died: ") + role));
  }
}

TEST_F(Recovery, RuleForARoleThatIsNotThereIsRefused) {
  TestVm one({.guest = "monitor", .more = {"--on-crash", "ghost=stop"}});
  EXPECT_EQ(one.run().wait().status, kHostError);
  EXPECT_EQ(one.run().err(), "bulkhead: --on-crash: this VM has no device process named ghost\n");
}

// ---- Poison ----

// Three deaths on one request: the fourth process answers it without the model.
TEST_F(Recovery, RequestThatKillsIsAnsweredWithOnes) {
  ASSERT_NO_FATAL_FAILURE(start({"--device-program", KVMTEST_FRAIL_DEVICE}));
  const auto device = [&] { return vm().devices_by_role().at("pci_test0"); };
  type("d", "read ffffffff\n");
  EXPECT_EQ(device().at("poisoned"), 1);
  EXPECT_EQ(count("died", "pci_test0"), 3U);
  // What the model did before it died is nowhere to be seen.
  type("w", "written\n");
  EXPECT_EQ(device().at("poisoned"), 2);
  EXPECT_EQ(count("died", "pci_test0"), 6U);
  type("x", "config b41cbeef bar d0000000 scratch 11223344\n");
  // Nobody waits for a posted write, and what stood behind it in the ring is not lost.
  type("e", "posted\n");
  EXPECT_EQ(device().at("poisoned"), 3);
  EXPECT_EQ(count("died", "pci_test0"), 9U);
  EXPECT_EQ(count("restored", "pci_test0"), 9U);
  EXPECT_EQ(count("isolated", ""), 0U);
  expect_guest_goes_on();
}

// Nobody waits for a kick: a queue that is not worked on is found by it. Three processes hang on the same chain.
TEST_F(Recovery, QueueThatHangsItsDeviceIsGivenUp) {
  TestVm one(
      {.guest = "virtqueue", .devices = {"virtio_rng,slot=3"}, .more = {"--device-program", KVMTEST_FRAIL_DEVICE}});
  ASSERT_TRUE(one.run().wait_for_output("ready\n")) << one.run().err();
  one.run().send("r");
  ASSERT_TRUE(one.run().wait_for_output("answered\n")) << one.run().err();
  one.run().send("s");
  ASSERT_TRUE(one.run().wait_for_output("works\n")) << one.run().err();
  one.run().send("h");
  ASSERT_TRUE(one.run().wait_for_output("kicked\n")) << one.run().err();
  const auto rng = [&] { return one.devices_by_role().at("virtio_rng0"); };
  ASSERT_TRUE(wait_until([&] { return rng().at("restarts") == 3 && rng().at("state") == "running"; }))
      << one.run().err();
  EXPECT_THAT(bulkhead({"events", one.name(), "--no-follow"}).out,
              HasSubstr("a kick of one of its queues was not taken in time"));
  ASSERT_TRUE(wait_until([&] { return rng().at("poisoned") == 1; })) << rng();
  one.run().send("s");
  ASSERT_TRUE(one.run().wait_for_output("needs reset\n")) << one.run().out() << one.run().err();
  one.run().send("q");
  EXPECT_EQ(one.run().wait().status, kGuestPassed);
}

// A guest that goes on finding the bug loses the device, not its VM.
TEST_F(Recovery, GuestThatKillsItsDeviceAgainAndAgainLosesIt) {
  ASSERT_NO_FATAL_FAILURE(start({"--device-program", KVMTEST_FRAIL_DEVICE}));
  for (int poisoned = 1; poisoned <= 4; ++poisoned) type("d", "read ffffffff\n");
  EXPECT_EQ(count("died", "pci_test0"), 11U);
  EXPECT_EQ(count("isolated", "pci_test0"), 1U);
  type("x", "config ffffffff bar ffffffff scratch ffffffff\n");
  type("p", "pong\n");
  // Once it is brought back its deaths are forgotten.
  command("restore", {"pci_test0"});
  ::kill(vm().device_pid("pci_test0"), SIGKILL);
  ASSERT_TRUE(wait_until([&] { return count("died", "pci_test0") == 12; }));
  EXPECT_TRUE(wait_until([&] { return vm().devices_by_role().at("pci_test0").at("state") != "replacing"; }));
  EXPECT_EQ(count("isolated", "pci_test0"), 1U);
  vm().run().send("q");
  EXPECT_EQ(vm().run().wait().status, kGuestPassed);
}

// ---- Planned replacement ----

TEST_F(Recovery, UpgradeUnderLoad) {
  ASSERT_NO_FATAL_FAILURE(start());
  for (const char* role : {"pci_test0", "platform", "pci", "pci_test0"}) {
    const pid_t before = vm().device_pid(role);
    command("upgrade", {role});
    EXPECT_NE(vm().device_pid(role), before);
    type("p", "pong\n");
  }
  EXPECT_EQ(count("upgraded", ""), 4U);
  EXPECT_EQ(count("died", ""), 0U);
  // A successor of the new executable's process runs it as well.
  const std::string newer = run_directory() + "/newer-device";
  std::filesystem::copy_file(KVMTEST_DEVICE, newer);
  command("upgrade", {"pci_test0", "--executable", newer});
  command("fault", {"pci_test0"});
  ASSERT_TRUE(wait_until([&] { return count("restored", "pci_test0") == 1; }));
  EXPECT_EQ(executable_of(vm().device_pid("pci_test0")), newer);
  expect_state_kept();
  expect_guest_goes_on();
}

TEST_F(Recovery, ExecutableOfAnotherStateVersionIsRefused) {
  ASSERT_NO_FATAL_FAILURE(start());
  const pid_t before = vm().device_pid("pci_test0");
  const Ended refused = on_vm("upgrade", {"pci_test0", "--executable", KVMTEST_OTHER_DEVICE});
  EXPECT_EQ(refused.status, kHostError);
  EXPECT_THAT(refused.err, HasSubstr("state version"));
  EXPECT_EQ(vm().device_pid("pci_test0"), before);
  EXPECT_EQ(count("upgraded", ""), 0U);
  EXPECT_EQ(on_vm("upgrade", {"pci_test0", "--executable", "/nowhere"}).status, kHostError);
  type("p", "pong\n");
  expect_guest_goes_on();
}

}  // namespace
}  // namespace bulkhead::kvmtest
