// Device processes of a running VM that die between any two instructions, led there by the supervisor's own tracer
// (sandbox/stepping.h), while two CPUs of the guest keep them at work. The guest `steps` checks every answer that it
// gets: an access that was lost, or took place twice, is seen.
#include <gmock/gmock.h>

#include <cstdlib>
#include <random>
#include <regex>

#include "tests/kvm/test_vm.h"

namespace bulkhead::kvmtest {
namespace {

unsigned kills_per_role() {
  const char* kills = std::getenv("FAULT_STEP_KILLS");
  return kills == nullptr ? 30 : static_cast<unsigned>(std::strtoul(kills, nullptr, 10));
}

std::string seed_of_this_run() {
  const char* given = std::getenv("FAULT_SEED");
  return given == nullptr ? std::to_string(std::random_device{}() >> 1) : given;
}

class Stepping : public KvmTest, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    KvmTest::SetUp();
    ::setenv("BULKHEAD_STEPPING_SEED", seed_.c_str(), 1);
  }
  void TearDown() override {
    ::unsetenv("BULKHEAD_STEPPING_SEED");
    KvmTest::TearDown();
  }
  [[nodiscard]] const std::string& seed() const { return seed_; }

 private:
  std::string seed_ = seed_of_this_run();
};

TEST_P(Stepping, DeathAtAnyInstruction) {
  const std::string role = GetParam();
  fmt::print("FAULT_SEED={}\n", seed());
  TestVm vm({.guest = "steps", .cpus = 2, .more = {"--vmm", KVMTEST_STEPPING_VMM, "--device-deadline", "30s"}});
  ASSERT_TRUE(vm.run().wait_for_output("@running\n")) << vm.run().err();
  const unsigned kills = kills_per_role();
  for (unsigned kill = 1; kill <= kills; ++kill) {
    const Ended fault = bulkhead({"fault", vm.name(), role, "--signal", "ABRT"});
    ASSERT_EQ(fault.status, 0) << fault.err;
    ASSERT_TRUE(wait_until([&] { return vm.devices_by_role().at(role).at("restarts") == kill; }))
        << vm.run().out() << vm.run().err();
    vm.run().take_output(Milliseconds(0));  // the VMM tells of each death on a pipe
  }
  const nlohmann::json device = vm.devices_by_role().at(role);
  vm.release();
  const Ended& ended = vm.run().wait();
  EXPECT_EQ(ended.status, kGuestPassed) << ended.out << ended.err;
  const std::regex died("stepping: process [0-9]+ dies after ([0-9]+) instructions");
  const std::string& told = ended.err;
  const auto deaths = std::distance(std::sregex_iterator(told.begin(), told.end(), died), std::sregex_iterator{});
  EXPECT_EQ(deaths, kills) << told;
  std::smatch rounds;
  ASSERT_TRUE(std::regex_search(ended.out, rounds, std::regex("rounds ([0-9]+) and ([0-9]+)"))) << ended.out;
  fmt::print("{}: {} deaths, {} requests done again, {} rounds of work on the first CPU and {} on the second\n", role,
             deaths, device.at("replayed").get<int>(), rounds.str(1), rounds.str(2));
}

INSTANTIATE_TEST_SUITE_P(EveryRole, Stepping, ::testing::Values("pci", "platform", "pci_test0"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace bulkhead::kvmtest
