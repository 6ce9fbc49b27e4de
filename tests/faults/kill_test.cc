// Real processes that really die: a child that inherited the role works on an input, is killed by SIGKILL after its k-th
// instruction, and a process of the next incarnation takes over the very same regions (DESIGN.md, section 4).
//
// FAULT_SEED=N repeats a run's choices, FAULT_KILLS=N kills that often on each input where k is drawn.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <random>

#include "tests/fakes/single_step.h"
#include "tests/faults/child.h"
#include "tests/faults/inputs.h"

namespace bulkhead::devproc {
namespace {

using Regions = RoleRig::Regions;

enum class Stepper {
  kTracer,  // from outside, by PTRACE_SINGLESTEP: 7 us a step
  kItself,  // by its own trap flag, and the process sends itself SIGKILL: 1 us a step
};

class Killer {
 public:
  explicit Killer(const Scenario& scenario)
      : scenario_(scenario),
        rig_(prepare(scenario, SharedResource::instance())),
        first_(submit_input(*rig_, scenario)),
        start_(rig_->copy()),
        report_(report_page()),
        wanted_(undisturbed(scenario)) {}

  // Kills a process after `k` instructions of the input and has the next one carry on. False: the input was shorter.
  bool kill_at(std::uint64_t k, Stepper stepper) {
    rig_->restore(start_);
    rig_->look_outside();
    const bool killed = stepper == Stepper::kTracer ? trace_and_kill(k) : step_and_die(k);
    expect_unnoticed("killed after instruction " + std::to_string(k));
    return killed;
  }

  // Instructions from taking the slot to being done.
  std::uint64_t length() {
    std::uint64_t steps = 0;
    rig_->restore(start_);
    const ChildEnd end = run_child([&] {
      single_step([&] { run_input(*rig_); }, [&] { ++steps; });
      std::memcpy(report_.data(), &steps, sizeof steps);
    });
    EXPECT_EQ(end.exit_code, 0);
    std::memcpy(&steps, report_.data(), sizeof steps);
    return steps;
  }

 private:
  bool step_and_die(std::uint64_t k) {
    const ChildEnd end = run_child([&] {
      std::uint64_t steps = 0;
      single_step([&] { run_input(*rig_); },
                  [&] {
                    if (++steps == k) ::kill(::getpid(), SIGKILL);
                  });
    });
    EXPECT_TRUE(end.signal == SIGKILL || end.exit_code == 0) << "the process ended by itself";
    return end.signal == SIGKILL;
  }

  bool trace_and_kill(std::uint64_t k) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
      ::raise(SIGSTOP);
      run_input(*rig_);
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSTOPPED(status));
    for (std::uint64_t step = 0; step < k && WIFSTOPPED(status); ++step) {
      if (::ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr) != 0) break;
      ::waitpid(child, &status, 0);
    }
    if (!WIFSTOPPED(status)) return false;
    ::kill(child, SIGKILL);
    ::waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    return true;
  }

  // The next incarnation is a process, too; it serves, and asks what the guest asks next.
  void expect_unnoticed(const std::string& where) {
    const ChildEnd end = run_child([&] {
      std::string found = "the state was refused";
      if (rig_->succeed(rig_->setup().role.incarnation + 1, false))
        found = difference(observe(*rig_, first_, scenario_), wanted_);
      write_text(report_, found);
    });
    ASSERT_EQ(end.exit_code, 0) << "the successor died itself: " << where;
    ASSERT_EQ(read_text(report_), "") << where;
  }

  const Scenario& scenario_;
  std::unique_ptr<RoleRig> rig_;
  ipc::Ticket first_;
  Regions start_;
  std::span<char> report_;
  Seen wanted_;
};

Scenario scenario_named(std::string_view name) {
  for (Scenario& scenario : scenarios()) {
    if (scenario.name == name) return scenario;
  }
  ADD_FAILURE() << "no input is called " << name;
  return {};
}

class FaultKillEverywhere : public ::testing::TestWithParam<const char*> {};

TEST_P(FaultKillEverywhere, a_process_killed_at_any_instruction_is_not_missed) {
  if (!kCanSingleStep) GTEST_SKIP() << "not under a sanitizer";
  const Scenario scenario = scenario_named(GetParam());
  Killer killer(scenario);
  std::uint64_t k = 1;
  while (killer.kill_at(k, Stepper::kItself) && !HasFatalFailure()) ++k;
  std::printf("%lu kills\n", k - 1);
  RecordProperty("kills", static_cast<int>(k - 1));
  EXPECT_GT(k, 300U);
}

INSTANTIATE_TEST_SUITE_P(Inputs, FaultKillEverywhere,
                         ::testing::Values("uart_write_that_interrupts", "posted_doorbells_before_a_read"),
                         [](const auto& name) { return std::string(name.param); });

class FaultKill : public ::testing::TestWithParam<Scenario> {};

TEST_P(FaultKill, a_process_killed_by_its_tracer_is_not_missed) {
  if (!kCanSingleStep) GTEST_SKIP() << "not under a sanitizer";
  const std::uint64_t seed = number_from("FAULT_SEED", std::random_device{}());
  const std::uint64_t kills = number_from("FAULT_KILLS", 30);
  std::printf("FAULT_SEED=%lu\n", seed);
  SCOPED_TRACE("FAULT_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  Killer killer(GetParam());
  const std::uint64_t length = killer.length();
  std::uint64_t killed = 0;
  for (std::uint64_t i = 0; i < kills && !HasFatalFailure(); ++i)
    killed += killer.kill_at(1 + random() % length, Stepper::kTracer) ? 1 : 0;
  std::printf("%lu kills within %lu instructions\n", killed, length);
  RecordProperty("kills", static_cast<int>(killed));
  EXPECT_EQ(killed, kills);
}

INSTANTIATE_TEST_SUITE_P(Inputs, FaultKill, ::testing::ValuesIn(scenarios()),
                         [](const ::testing::TestParamInfo<Scenario>& scenario) { return scenario.param.name; });

}  // namespace
}  // namespace bulkhead::devproc
