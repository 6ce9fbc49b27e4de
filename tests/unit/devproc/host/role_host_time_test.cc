// Timers in VM time, which stops with the VM; and resampled lines.
#include <gtest/gtest.h>

#include "devproc/models/pci_test/spec.h"
#include "tests/unit/devproc/host/role_rig.h"

namespace bulkhead::devproc {
namespace {

namespace test_spec = pci_test_spec;

constexpr std::int64_t kHour = 3'600'000'000'000;

void arm(RoleRig& rig, std::uint32_t delay_ns) { rig.ask(writes(0, 0, test_spec::kTimerDelay, 4, delay_ns)); }
std::uint64_t fired(RoleRig& rig) { return rig.ask(reads(0, 0, test_spec::kTimerFired, 4)).value(); }
std::uint64_t deadline(RoleRig& rig) { return rig.ask(reads(0, 0, test_spec::kTimerDeadline, 8)).value(); }

TEST(RoleHostTime, a_role_without_armed_timers_never_wakes_up) {
  RoleRig rig(pci_test_setup());
  rig.let_time_go();
  EXPECT_EQ(rig.host->next_deadline(), kTimerOff);
  EXPECT_FALSE(rig.host->handle_timers());
}

TEST(RoleHostTime, a_timer_fires_once_when_it_is_due_and_not_before) {
  RoleRig rig(pci_test_setup());
  rig.let_time_go();
  arm(rig, 4'000'000'000);  // four seconds, which no test takes
  EXPECT_FALSE(rig.host->handle_timers());
  EXPECT_GT(rig.host->next_deadline(), ipc::monotonic_ns());
  rig.pass_time(4'000'000'000);
  EXPECT_LE(rig.host->next_deadline(), ipc::monotonic_ns());
  EXPECT_TRUE(rig.host->handle_timers());
  EXPECT_EQ(rig.look_outside().lines[0], 1U);
  EXPECT_FALSE(rig.host->handle_timers());
  EXPECT_EQ(fired(rig), 1U);
  EXPECT_EQ(rig.host->next_deadline(), kTimerOff);
}

TEST(RoleHostTime, the_next_deadline_is_the_timers_own_on_the_hosts_clock) {
  RoleRig rig(pci_test_setup());
  rig.let_time_go();
  arm(rig, 4'000'000'000);
  EXPECT_EQ(rig.host->next_deadline(), static_cast<std::int64_t>(deadline(rig)) + rig.requests().time.base_ns.load());
}

TEST(RoleHostTime, nothing_fires_while_the_vm_is_paused) {
  RoleRig rig(pci_test_setup());
  rig.let_time_go();
  arm(rig, 1'000'000);
  rig.freeze_at(kRigTime + kHour);  // even if the moment of the pause lies behind the deadline
  EXPECT_EQ(rig.host->next_deadline(), kTimerOff);
  EXPECT_FALSE(rig.host->handle_timers());
  rig.let_time_go();
  EXPECT_TRUE(rig.host->handle_timers());
}

TEST(RoleHostTime, a_pause_of_any_length_takes_no_vm_time) {
  RoleRig rig(pci_test_setup());
  arm(rig, 4'000'000'000);
  // Frozen since it was built; let go much later on the host's clock.
  rig.requests().time.base_ns.store(ipc::monotonic_ns() - kRigTime);
  rig.requests().time.frozen_at.store(ipc::kVmTimeRuns);
  EXPECT_FALSE(rig.host->handle_timers());
  const std::int64_t in = rig.host->next_deadline() - ipc::monotonic_ns();
  EXPECT_LE(in, 4'000'000'000);
  EXPECT_GT(in, 0);
}

// clock.h: VM time never goes back. The moment that the VMM chooses for a pause can lie just before our last look.
TEST(RoleHostTime, vm_time_never_goes_back_over_a_pause) {
  RoleRig rig(pci_test_setup());
  rig.let_time_go();
  const std::uint64_t before = rig.ask(reads(0, 0, test_spec::kTime, 8)).value();
  rig.freeze_at(static_cast<std::int64_t>(before) - 5'000);
  const std::uint64_t during = rig.ask(reads(0, 0, test_spec::kTime, 8)).value();
  EXPECT_GE(during, before);
}

TEST(RoleHostTime, time_stands_still_within_one_input) {
  RoleRig rig(pci_test_setup());
  rig.let_time_go();
  const Answer answer = rig.ask(reads(0, 0, test_spec::kTime, 8, 4));
  std::uint64_t times[4];
  std::memcpy(times, answer.reply.payload, sizeof times);
  for (const std::uint64_t time : times) EXPECT_EQ(time, times[0]);
}

TEST(RoleHostTime, deadlines_survive_the_process) {
  RoleRig rig(pci_test_setup());
  rig.let_time_go();
  arm(rig, 4'000'000'000);
  const std::int64_t due = rig.host->next_deadline();
  const auto successor = rig.take_over();
  EXPECT_EQ(successor->host->next_deadline(), due);
  successor->pass_time(5'000'000'000);
  EXPECT_TRUE(successor->host->handle_timers());
  EXPECT_EQ(fired(*successor), 1U);
}

TEST(RoleHostTime, a_timer_that_became_due_while_nobody_was_there_fires_at_once) {
  RoleRig rig(pci_test_setup());
  rig.let_time_go();
  arm(rig, 1'000'000);
  rig.pass_time(kHour);
  const auto successor = rig.take_over();
  EXPECT_LE(successor->host->next_deadline(), ipc::monotonic_ns());
  EXPECT_TRUE(successor->host->handle_timers());
  EXPECT_EQ(fired(*successor), 1U);
}

TEST(RoleHostTime, a_reset_disarms_what_was_armed) {
  RoleRig rig(pci_test_setup());
  rig.let_time_go();
  arm(rig, 1'000'000);
  ipc::Request reset;
  reset.kind = ipc::RequestKind::kReset;
  rig.ask(reset);
  rig.pass_time(kHour);
  EXPECT_FALSE(rig.host->handle_timers());
}

// --- level lines ---

TEST(RoleHostLines, a_rise_is_signalled_once_until_the_line_has_been_down) {
  RoleRig rig(pci_test_setup());
  rig.ask(writes(0, 0, test_spec::kIntRaise, 4, 1));
  rig.ask(writes(0, 0, test_spec::kIntRaise, 4, 2));
  EXPECT_EQ(rig.look_outside().lines[0], 1U);
  rig.ask(writes(0, 0, test_spec::kIntStatus, 4, 3));
  rig.ask(writes(0, 0, test_spec::kIntRaise, 4, 1));
  EXPECT_EQ(rig.look_outside().lines[0], 1U);
}

TEST(RoleHostLines, an_eoi_raises_a_line_again_that_is_still_asserted) {
  RoleRig rig(pci_test_setup());
  rig.host->handle_resample(0);
  EXPECT_EQ(rig.look_outside().lines[0], 0U);
  rig.ask(writes(0, 0, test_spec::kIntRaise, 4, 1));
  rig.look_outside();
  rig.host->handle_resample(0);
  EXPECT_EQ(rig.look_outside().lines[0], 1U);
  rig.ask(writes(0, 0, test_spec::kIntStatus, 4, 1));
  rig.host->handle_resample(0);
  EXPECT_EQ(rig.look_outside().lines[0], 0U);
}

TEST(RoleHostLines, a_line_that_does_not_exist_is_not_resampled) {
  RoleRig rig(pci_test_setup());
  for (const std::uint32_t line : {1U, 63U, 64U, 1000U, ~0U}) rig.host->handle_resample(line);
  EXPECT_EQ(rig.look_outside().lines[0], 0U);
}

}  // namespace
}  // namespace bulkhead::devproc
