// Death and return without a process: what a kill between any two instructions of an input leaves behind, a
// successor carries on from, and the guest and the VMM cannot tell (DESIGN.md, section 4).
#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "tests/fakes/single_step.h"
#include "tests/faults/inputs.h"
#include "tests/faults/snapshots.h"

namespace bulkhead::devproc {
namespace {

using Regions = RoleRig::Regions;

class FaultAtEveryInstruction : public ::testing::TestWithParam<Scenario> {};
class FaultTwice : public FaultAtEveryInstruction {};

// Incarnations before this one may be used up by what led to the input.
constexpr std::uint32_t kDead = 10;

std::unique_ptr<RoleRig> successor_on(Regions regions, const Scenario& scenario, std::uint32_t incarnation,
                                      ipc::Ticket submitted) {
  return RoleRig::take_over(scenario.setup(), incarnation, std::move(regions), submitted);
}

void step_through(const Scenario& scenario, const std::function<void(RoleRig&)>& stepped,
                  const std::function<void(const Regions&, ipc::Ticket first, ipc::Ticket submitted)>& on_kill) {
  const std::unique_ptr<RoleRig> rig = prepare(scenario);
  const ipc::Ticket first = submit_input(*rig, scenario);
  const Regions start = rig->copy();
  SnapshotLog log(watched(*rig));
  rig->wire.look();
  single_step([&] { stepped(*rig); },
              [&] {
                rig->wire.look();
                log.look();
              });
  report(log);
  EXPECT_GT(log.snapshots(), 3U);
  log.for_each([&](const std::vector<std::vector<std::byte>>& copies) {
    if (::testing::Test::HasFatalFailure()) return;
    on_kill(with(start, copies), first, rig->submitted());
  });
}

TEST_P(FaultAtEveryInstruction, at_every_instruction_the_successor_carries_on_unnoticed) {
  if (!kCanSingleStep) GTEST_SKIP() << "not under a sanitizer";
  const Scenario& scenario = GetParam();
  const Seen wanted = undisturbed(scenario);
  std::size_t kill = 0;
  step_through(scenario, run_input, [&](const Regions& regions, ipc::Ticket first, ipc::Ticket submitted) {
    SCOPED_TRACE("kill point " + std::to_string(kill++));
    const auto successor = successor_on(regions, scenario, kDead + 1, submitted);
    ASSERT_NE(successor, nullptr);
    ASSERT_EQ(taken_back(regions, *successor), "");
    ASSERT_EQ(difference(observe(*successor, first, scenario), wanted), "");
  });
}

// Makes `regions`, taken after an input, what they were right after its commit: nothing of it was published
// yet. Bytes of streams were written before; replies of earlier requests were out before the last one was
// taken.
void take_back_last_publication(Regions& regions, const RoleRig::Pages& replies_before, ipc::Ticket last,
                                const Scenario& scenario) {
  auto* const now = reinterpret_cast<ipc::ReplyArea*>(regions.replies[0].bytes);
  const auto* const before = reinterpret_cast<const ipc::ReplyArea*>(replies_before[0].bytes);
  if (!scenario.input.empty()) {
    now->slots[ipc::slot_of(last)].ticket.store(before->slots[ipc::slot_of(last)].ticket.load());
    now->slots[ipc::slot_of(last)].reply = before->slots[ipc::slot_of(last)].reply;
    now->effects[ipc::slot_of(last)] = before->effects[ipc::slot_of(last)];
  }
  if (scenario.input.size() > 1) return;
  for (std::uint32_t i = 0; i < ipc::kStreams; ++i) {
    now->output_produced[i].store(before->output_produced[i].load());
    now->input_consumed[i].store(before->input_consumed[i].load());
  }
  now->outbound_produced.store(before->outbound_produced.load());
}

TEST_P(FaultTwice, at_every_instruction_of_the_take_over_the_next_successor_carries_on_unnoticed) {
  if (!kCanSingleStep) GTEST_SKIP() << "not under a sanitizer";
  const Scenario& scenario = GetParam();
  const Seen wanted = undisturbed(scenario);
  // The first death: the input was committed and nobody has heard of it; the hardest place to come back to.
  const std::unique_ptr<RoleRig> first_rig = prepare(scenario);
  const ipc::Ticket first = submit_input(*first_rig, scenario);
  const RoleRig::Pages unheard = first_rig->copy().replies;
  run_input(*first_rig);
  Regions dead = first_rig->copy();
  take_back_last_publication(dead, unheard, first_rig->submitted(), scenario);
  dead.died_at = dead.commit();
  const auto second = successor_on(dead, scenario, kDead + 1, first_rig->submitted());
  ASSERT_NE(second, nullptr);
  second->forget_host();
  second->restore(dead, first_rig->submitted());
  SnapshotLog log(watched(*second));
  single_step([&] { second->start(); }, [&] { log.look(); });
  report(log);
  std::size_t kill = 0;
  log.for_each([&](const std::vector<std::vector<std::byte>>& copies) {
    if (HasFatalFailure()) return;
    SCOPED_TRACE("kill point " + std::to_string(kill++));
    const Regions regions = with(dead, copies);
    const auto third = successor_on(regions, scenario, kDead + 2, first_rig->submitted());
    ASSERT_NE(third, nullptr);
    ASSERT_EQ(taken_back(regions, *third), "");
    ASSERT_EQ(difference(observe(*third, first, scenario), wanted), "");
  });
}

// The same at the points that differ in kind, for sanitizers: before the commit with a half-worked spare
// bank, after the commit with the reply still to come, after the reply with the spare bank half synced.
TEST_P(FaultAtEveryInstruction, with_a_spare_bank_full_of_anything_the_successor_carries_on_unnoticed) {
  const Scenario& scenario = GetParam();
  const Seen wanted = undisturbed(scenario);
  std::mt19937_64 random(1);
  const auto spoil_spare_bank = [&](Regions& regions) {
    auto* const bytes = regions.state[0].bytes;
    const std::uint64_t number = reinterpret_cast<ipc::StateHeader*>(bytes)->commit_word.load();
    const std::size_t bank = (kRigStateSize - 4096) / 2 / 4096 * 4096;
    std::byte* const spare = bytes + 4096 + ((number + 1) & 1) * bank;
    for (std::size_t i = 0; i < bank; ++i) spare[i] = static_cast<std::byte>(random());
  };
  const std::unique_ptr<RoleRig> rig = prepare(scenario);
  const ipc::Ticket first = submit_input(*rig, scenario);
  Regions before = rig->copy();
  run_input(*rig);
  Regions after = rig->copy();
  Regions unheard = rig->copy();
  take_back_last_publication(unheard, before.replies, rig->submitted(), scenario);
  for (Regions* regions : {&before, &unheard, &after}) {
    spoil_spare_bank(*regions);
    const auto successor = successor_on(*regions, scenario, kDead + 1, rig->submitted());
    ASSERT_NE(successor, nullptr);
    ASSERT_EQ(difference(observe(*successor, first, scenario), wanted), "");
  }
}

INSTANTIATE_TEST_SUITE_P(Inputs, FaultAtEveryInstruction, ::testing::ValuesIn(scenarios()),
                         [](const ::testing::TestParamInfo<Scenario>& scenario) { return scenario.param.name; });

// The take-over itself is the same for all inputs but for what it publishes again: one of each kind.
INSTANTIATE_TEST_SUITE_P(Inputs, FaultTwice,
                         ::testing::ValuesIn(scenarios_named(
                             {"uart_write_that_interrupts", "rtc_read_with_side_effects",
                              "power_off_on_its_own_account", "read_that_is_poisoned",
                              "command_register_that_moves_every_window", "posted_doorbells_before_a_read",
                              "dma_with_interrupt_and_message", "timer_that_interrupts", "console_byte_in"})),
                         [](const ::testing::TestParamInfo<Scenario>& scenario) { return scenario.param.name; });

}  // namespace
}  // namespace bulkhead::devproc
