// Real processes that really die: a child that inherited the role works on an input, is killed by SIGKILL
// after its k-th instruction, and a process of the next incarnation takes over the very same regions
// (DESIGN.md, section 4).
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
  kTracer,  // from outside, by PTRACE_SINGLESTEP
  kItself,  // by its own trap flag, and the process sends itself SIGKILL: less than half as long a step
};

class Killer {
 public:
  explicit Killer(const Scenario& scenario)
      : scenario_(scenario),
        rig_(prepare(scenario, SharedResource::instance())),
        first_(submit_input(*rig_, scenario)),
        submitted_(rig_->submitted()),
        start_(rig_->copy()),
        report_(report_page()),
        wanted_(undisturbed(scenario)) {}

  // Kills a process after `k` instructions of the input and has the next one carry on. False: the input was
  // shorter.
  bool kill_at(std::uint64_t k, Stepper stepper) {
    rig_->restore(start_, submitted_);
    rig_->look_outside();
    const bool killed = stepper == Stepper::kTracer ? trace_and_kill(k) : step_and_die(k);
    const std::string where = "killed after instruction " + std::to_string(k);
    EXPECT_EQ(stepper == Stepper::kTracer ? successor_process() : successor_here(), "") << where;
    return killed;
  }

  // Instructions from taking the slot to being done.
  std::uint64_t length() {
    std::uint64_t steps = 0;
    rig_->restore(start_, submitted_);
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

  // The next incarnation is a process of its own; it serves, and asks what the guest asks next.
  std::string successor_process() {
    write_text(report_, "nothing");
    const ChildEnd end = run_child([&] { write_text(report_, succeed()); });
    return end.exit_code == 0 ? read_text(report_) : "the successor died itself";
  }

  // The next incarnation is this process: that saves a fork. The host that children inherit stays as it
  // was.
  std::string successor_here() {
    std::unique_ptr<RoleHost> prepared = std::move(rig_->host);
    std::string found = succeed();
    rig_->host = std::move(prepared);
    return found;
  }

  std::string succeed() {
    if (!rig_->succeed(rig_->setup().role.incarnation + 1, false)) return "the state was refused";
    return difference(observe(*rig_, first_, scenario_), wanted_);
  }

  const Scenario& scenario_;
  std::unique_ptr<RoleRig> rig_;
  ipc::Ticket first_;
  ipc::Ticket submitted_;
  Regions start_;
  std::span<char> report_;
  Seen wanted_;
};

class FaultKillEverywhere : public ::testing::TestWithParam<Scenario> {};

TEST_P(FaultKillEverywhere, a_process_killed_at_any_instruction_is_not_missed) {
  if (!kCanSingleStep) GTEST_SKIP() << "not under a sanitizer";
  Killer killer(GetParam());
  std::uint64_t k = 1;
  while (killer.kill_at(k, Stepper::kItself) && !HasFailure()) ++k;
  std::printf("%lu kills\n", k - 1);
  RecordProperty("kills", static_cast<int>(k - 1));
  EXPECT_GT(k, 300U);
}

INSTANTIATE_TEST_SUITE_P(Inputs, FaultKillEverywhere,
                         ::testing::ValuesIn(scenarios_named({"uart_write_that_interrupts",
                                                              "dma_with_interrupt_and_message"})),
                         [](const ::testing::TestParamInfo<Scenario>& scenario) { return scenario.param.name; });

class FaultKill : public ::testing::TestWithParam<Scenario> {};

TEST_P(FaultKill, a_process_killed_by_its_tracer_is_not_missed) {
  if (!kCanSingleStep) GTEST_SKIP() << "not under a sanitizer";
  const std::uint64_t seed = number_from("FAULT_SEED", std::random_device{}());
  const std::uint64_t kills = number_from("FAULT_KILLS", 12);
  std::printf("FAULT_SEED=%lu\n", seed);
  SCOPED_TRACE("FAULT_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  Killer killer(GetParam());
  const std::uint64_t length = killer.length();
  std::uint64_t killed = 0;
  // No two runs are equally long: reading the clock takes some more instructions when it ticks meanwhile. A
  // process that was done before its k-th instruction is none that was killed.
  for (std::uint64_t i = 0; killed < kills && i < 2 * kills && !HasFailure(); ++i)
    killed += killer.kill_at(1 + random() % length, Stepper::kTracer) ? 1 : 0;
  std::printf("%lu kills within %lu instructions\n", killed, length);
  RecordProperty("kills", static_cast<int>(killed));
  EXPECT_EQ(killed, kills);
}

INSTANTIATE_TEST_SUITE_P(Inputs, FaultKill, ::testing::ValuesIn(scenarios()),
                         [](const ::testing::TestParamInfo<Scenario>& scenario) { return scenario.param.name; });

}  // namespace
}  // namespace bulkhead::devproc
