// Death and return without a process: what a kill between any two instructions of an input leaves behind, a successor
// carries on from, and the guest and the VMM cannot tell (DESIGN.md, section 4).
#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <sstream>

#include "devproc/models/acpi_pm/spec.h"
#include "devproc/models/i8042/spec.h"
#include "devproc/models/pci_test/spec.h"
#include "devproc/models/uart16550/spec.h"
#include "ipc/wire/input_event.h"
#include "tests/fakes/single_step.h"
#include "tests/unit/devproc/host/role_rig.h"

namespace bulkhead::devproc {
namespace {

namespace test_spec = pci_test_spec;
namespace pm_spec = acpi_pm;
using Regions = RoleRig::Regions;

// One input of one role: what leads up to it, what it is, and what can be seen afterwards.
struct Scenario {
  std::string name;
  RoleSetup (*setup)();
  std::vector<ipc::Request> before;
  std::vector<ipc::Request> input;            // requests that wait in the ring
  std::function<void(RoleRig&)> arrange = {};  // streams, time: right before the input
  std::vector<ipc::Request> after;            // what the guest does next
};

void PrintTo(const Scenario& scenario, std::ostream* out) { *out << scenario.name; }

// Serves whatever there is, as the event loop does.
void serve(RoleHost& host) {
  for (int i = 0; i < 10'000; ++i) {
    if (host.handle_request() || host.handle_streams() || host.handle_timers()) continue;
    return;
  }
  FAIL() << "the role never comes to rest";
}

struct Seen {
  std::vector<Answer> answers;
  std::vector<std::string> output;
  std::vector<std::uint64_t> consumed;
  std::vector<Effect> outbound;
  std::string inspect;
  std::vector<std::byte> memory;
  Outside outside;
};

// The RTC shows the host's clock, which goes on while the test runs.
std::string without_wall_clock(const std::string& inspected) {
  std::string kept;
  std::istringstream lines(inspected);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("rtc.seconds") && !line.starts_with("rtc.register_c")) kept += line + "\n";
  }
  return kept;
}

// What guest and VMM see of the input and of what the guest does next.
Seen observe(RoleRig& rig, ipc::Ticket first, const Scenario& scenario) {
  Seen seen;
  serve(*rig.host);
  for (ipc::Ticket ticket = first; ticket <= rig.submitted(); ++ticket) seen.answers.push_back(rig.answer_of(ticket));
  seen.outside = rig.look_outside();
  seen.inspect = without_wall_clock(rig.inspect());
  for (const ipc::Request& request : scenario.after) seen.answers.push_back(rig.ask(request));
  serve(*rig.host);
  for (std::uint32_t stream = 0; stream < ipc::kStreams; ++stream) {
    seen.output.push_back(rig.take(stream));
    seen.consumed.push_back(rig.replies().input_consumed[stream].load());
  }
  seen.outbound = rig.collect_outbound();
  seen.memory.assign(rig.memory_bytes().begin(), rig.memory_bytes().end());
  return seen;
}

void expect_same(const Seen& found, const Seen& wanted) {
  ASSERT_EQ(found.answers.size(), wanted.answers.size());
  for (std::size_t i = 0; i < found.answers.size(); ++i) ASSERT_EQ(found.answers[i], wanted.answers[i]) << "answer " << i;
  ASSERT_EQ(found.output, wanted.output);
  ASSERT_EQ(found.consumed, wanted.consumed);
  ASSERT_EQ(found.outbound, wanted.outbound);
  ASSERT_EQ(found.inspect, wanted.inspect);
  ASSERT_EQ(found.memory, wanted.memory);
  // Interrupts: every one of the undisturbed run, and perhaps some again.
  for (std::size_t i = 0; i < wanted.outside.lines.size(); ++i)
    ASSERT_GE(found.outside.lines[i], std::min<std::uint64_t>(wanted.outside.lines[i], 1)) << "line " << i;
  for (std::size_t i = 0; i < wanted.outside.messages.size(); ++i)
    ASSERT_EQ(found.outside.messages[i] != 0, wanted.outside.messages[i] != 0) << "message " << i;
}

std::unique_ptr<RoleRig> prepare(const Scenario& scenario) {
  auto rig = std::make_unique<RoleRig>(scenario.setup());
  for (const ipc::Request& request : scenario.before) rig->ask(request);
  serve(*rig->host);
  rig->look_outside();
  if (scenario.arrange) scenario.arrange(*rig);
  return rig;
}

class TakeOver : public ::testing::TestWithParam<Scenario> {};
class TakeOverTwice : public TakeOver {};

void step_through(const Scenario& scenario, const std::function<void(RoleRig&)>& stepped,
                  const std::function<void(Regions, ipc::Ticket first, ipc::Ticket submitted)>& on_kill) {
  const std::unique_ptr<RoleRig> rig = prepare(scenario);
  const ipc::Ticket first = rig->submitted() + 1;
  for (const ipc::Request& request : scenario.input) rig->submit(request);
  const Regions start = rig->copy();
  SnapshotLog log({rig->state_bytes(), rig->reply_bytes(), rig->memory_bytes()});
  single_step([&] { stepped(*rig); }, [&] { log.look(); });
  ::testing::Test::RecordProperty("instructions", static_cast<int>(log.looks()));
  ::testing::Test::RecordProperty("kill_points", static_cast<int>(log.snapshots()));
  EXPECT_GT(log.snapshots(), 3U);
  log.for_each([&](const std::vector<std::vector<std::byte>>& copies) {
    if (::testing::Test::HasFatalFailure()) return;
    Regions regions = start;
    std::memcpy(regions.state[0].bytes, copies[0].data(), copies[0].size());
    std::memcpy(regions.replies[0].bytes, copies[1].data(), copies[1].size());
    regions.memory = copies[2];
    on_kill(std::move(regions), first, rig->submitted());
  });
}

void run_once(RoleRig& rig) {
  while (rig.host->handle_request()) {
  }
  rig.host->handle_streams();
  rig.host->handle_timers();
}

Seen undisturbed(const Scenario& scenario) {
  const std::unique_ptr<RoleRig> rig = prepare(scenario);
  const ipc::Ticket first = rig->submitted() + 1;
  for (const ipc::Request& request : scenario.input) rig->submit(request);
  return observe(*rig, first, scenario);
}

TEST_P(TakeOver, at_every_instruction_the_successor_carries_on_unnoticed) {
  if (!kCanSingleStep) GTEST_SKIP() << "not under a sanitizer";
  const Scenario& scenario = GetParam();
  const Seen wanted = undisturbed(scenario);
  std::size_t kill = 0;
  step_through(scenario, run_once, [&](Regions regions, ipc::Ticket first, ipc::Ticket submitted) {
    SCOPED_TRACE("kill point " + std::to_string(kill++));
    const auto successor = RoleRig::take_over(scenario.setup(), 2, std::move(regions), submitted);
    ASSERT_NE(successor, nullptr);
    expect_same(observe(*successor, first, scenario), wanted);
  });
}

// Makes `regions`, taken after an input, what they were right after its commit: nothing of it was published yet. Bytes
// of streams were written before; replies of earlier requests were out before the last one was taken.
void take_back_last_publication(Regions& regions, const std::vector<RoleRig::Page>& replies_before, ipc::Ticket last,
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

TEST_P(TakeOverTwice, at_every_instruction_of_the_take_over_the_next_successor_carries_on_unnoticed) {
  if (!kCanSingleStep) GTEST_SKIP() << "not under a sanitizer";
  const Scenario& scenario = GetParam();
  const Seen wanted = undisturbed(scenario);
  // The first death: the input was committed and nobody has heard of it; the hardest place to come back to.
  const std::unique_ptr<RoleRig> first_rig = prepare(scenario);
  const ipc::Ticket first = first_rig->submitted() + 1;
  for (const ipc::Request& request : scenario.input) first_rig->submit(request);
  const std::vector<RoleRig::Page> unheard = first_rig->copy().replies;
  run_once(*first_rig);
  Regions dead = first_rig->copy();
  take_back_last_publication(dead, unheard, first_rig->submitted(), scenario);
  RoleSetup setup = scenario.setup();
  const auto second = RoleRig::take_over(setup, 2, dead, first_rig->submitted());
  ASSERT_NE(second, nullptr);
  second->forget_host();
  std::memcpy(second->state_bytes().data(), dead.state[0].bytes, kRigStateSize);
  std::memcpy(second->reply_bytes().data(), dead.replies[0].bytes, ipc::kReplyAreaSize);
  std::memcpy(second->memory_bytes().data(), dead.memory.data(), dead.memory.size());
  SnapshotLog log({second->state_bytes(), second->reply_bytes(), second->memory_bytes()});
  single_step([&] { second->start(); }, [&] { log.look(); });
  RecordProperty("instructions", static_cast<int>(log.looks()));
  RecordProperty("kill_points", static_cast<int>(log.snapshots()));
  std::size_t kill = 0;
  log.for_each([&](const std::vector<std::vector<std::byte>>& copies) {
    if (HasFatalFailure()) return;
    SCOPED_TRACE("kill point " + std::to_string(kill++));
    Regions regions = dead;
    std::memcpy(regions.state[0].bytes, copies[0].data(), copies[0].size());
    std::memcpy(regions.replies[0].bytes, copies[1].data(), copies[1].size());
    regions.memory = copies[2];
    const auto third = RoleRig::take_over(scenario.setup(), 3, std::move(regions), first_rig->submitted());
    ASSERT_NE(third, nullptr);
    expect_same(observe(*third, first, scenario), wanted);
  });
}

// The same at the points that differ in kind, for sanitizers: before the commit with a half-worked spare bank, after the
// commit with the reply still to come, after the reply with the spare bank half synced.
TEST_P(TakeOver, with_a_spare_bank_full_of_anything_the_successor_carries_on_unnoticed) {
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
  const ipc::Ticket first = rig->submitted() + 1;
  for (const ipc::Request& request : scenario.input) rig->submit(request);
  Regions before = rig->copy();
  run_once(*rig);
  Regions after = rig->copy();
  Regions unheard = rig->copy();
  take_back_last_publication(unheard, before.replies, rig->submitted(), scenario);
  for (Regions* regions : {&before, &unheard, &after}) {
    spoil_spare_bank(*regions);
    const auto successor = RoleRig::take_over(scenario.setup(), 2, *regions, rig->submitted());
    ASSERT_NE(successor, nullptr);
    expect_same(observe(*successor, first, scenario), wanted);
  }
}

constexpr std::uint64_t kConfigAddress = 0;
constexpr std::uint64_t kConfigData = 4;

ipc::Request select_register(std::uint8_t devfn, std::uint8_t offset) {
  return writes(0, 0, kConfigAddress, 4, 0x80000000U | (std::uint32_t{devfn} << 8) | offset);
}

std::vector<Scenario> scenarios() {
  std::vector<Scenario> all;
  const auto add = [&](Scenario scenario) { all.push_back(std::move(scenario)); };

  // --- platform ---
  const ipc::Request uart_status = reads(kCom1, 0, uart16550::kLsr, 1);
  const ipc::Request uart_cause = reads(kCom1, 0, uart16550::kIir, 1);
  add({.name = "uart_write_that_interrupts",
       .setup = platform_setup,
       .before = {writes(kCom1, 0, uart16550::kIer, 1, uart16550::kIerEtbei), uart_cause},
       .input = {writes(kCom1, 0, uart16550::kThr, 1, 'x')},
       .after = {uart_cause, uart_status, writes(kCom1, 0, uart16550::kThr, 1, 'y'), uart_cause}});
  add({.name = "uart_string_output",
       .setup = platform_setup,
       .before = {writes(kCom2, 0, uart16550::kFcr, 1, 1)},
       .input = {access_request(ipc::RequestKind::kWrite, kCom2, 0, uart16550::kThr, 1, 0x6867666564636261, 8),
                 reads(kCom2, 0, uart16550::kLsr, 1)},
       .after = {reads(kCom2, 0, uart16550::kLsr, 1)}});
  add({.name = "console_byte_in",
       .setup = platform_setup,
       .before = {writes(kCom1, 0, uart16550::kIer, 1, uart16550::kIerErbfi)},
       .input = {},
       .arrange = [](RoleRig& rig) { rig.feed(0, "ab"); },
       .after = {uart_cause, reads(kCom1, 0, uart16550::kRbr, 1), uart_status}});
  add({.name = "rtc_read_with_side_effects",
       .setup = platform_setup,
       .before = {writes(kRtc, 0, 0, 1, 0x0b), writes(kRtc, 0, 1, 1, 0xc2), writes(kRtc, 0, 0, 1, 0x0c)},
       .input = {reads(kRtc, 0, 1, 1)},
       .arrange =
           [](RoleRig& rig) {
             rig.let_time_go();
             rig.pass_time(50'000'000);
             rig.host->handle_timers();
             rig.freeze_at(kRigTime + 100'000'000);
             rig.look_outside();
           },
       .after = {reads(kRtc, 0, 1, 1)}});
  add({.name = "cmos_write",
       .setup = platform_setup,
       .before = {writes(kRtc, 0, 0, 1, 0x40)},
       .input = {writes(kRtc, 0, 1, 1, 0xa5), reads(kRtc, 0, 1, 1)},
       .after = {writes(kRtc, 0, 0, 1, 0x40), reads(kRtc, 0, 1, 1)}});
  add({.name = "i8042_command_of_two_bytes",
       .setup = platform_setup,
       .before = {},
       .input = {writes(kI8042, 1, 0, 1, i8042::kWriteRam), writes(kI8042, 0, 0, 1, 0x47),
                 writes(kI8042, 1, 0, 1, i8042::kReadRam)},
       .after = {reads(kI8042, 1, 0, 1), reads(kI8042, 0, 0, 1), reads(kI8042, 1, 0, 1)}});
  add({.name = "i8042_key_that_interrupts",
       .setup = platform_setup,
       .before = {writes(kI8042, 1, 0, 1, i8042::kWriteRam), writes(kI8042, 0, 0, 1, 0x47)},
       .input = {},
       .arrange =
           [](RoleRig& rig) {
             const InputEvent key{.type = 1, .flags = kKeyPressed, .code = 30};
             rig.feed(2, {reinterpret_cast<const char*>(&key), sizeof key});
           },
       .after = {reads(kI8042, 1, 0, 1), reads(kI8042, 0, 0, 1), reads(kI8042, 1, 0, 1)}});
  add({.name = "i8042_reset_of_the_machine",
       .setup = platform_setup,
       .before = {},
       .input = {writes(kI8042, 1, 0, 1, 0xfe)},
       .after = {reads(kI8042, 1, 0, 1)}});
  add({.name = "pm_register_write_that_interrupts",
       .setup = platform_setup,
       .before = {[] {
         ipc::Request button;
         button.kind = ipc::RequestKind::kPowerButton;
         button.instance = kPm;
         return button;
       }()},
       .input = {writes(kPm, 0, pm_spec::kPm1En, 2, pm_spec::kPwrbtnSts)},
       .after = {reads(kPm, 0, pm_spec::kPm1Sts, 2), writes(kPm, 0, pm_spec::kPm1Sts, 2, pm_spec::kPwrbtnSts), reads(kPm, 0, pm_spec::kPm1Sts, 2)}});
  add({.name = "power_off",
       .setup = platform_setup,
       .before = {},
       .input = {writes(kPm, 0, pm_spec::kPm1Cnt, 2, pm_spec::kSciEn | pm_spec::kSlpEn)},
       .after = {reads(kPm, 0, pm_spec::kPm1Cnt, 2)}});
  add({.name = "power_off_on_its_own_account",
       .setup = platform_setup,
       .before = {},
       .input = {posted(writes(kDebugExit, 0, 0, 4, 0x21)), posted(writes(kDebugExit, 0, 0, 4, 0x22))},
       .after = {reads(kPm, 0, pm_spec::kPm1Cnt, 2)}});
  add({.name = "reset_request",
       .setup = platform_setup,
       .before = {writes(kCom1, 0, uart16550::kScr, 1, 0x5a), writes(kCom1, 0, uart16550::kIer, 1, uart16550::kIerEtbei)},
       .input = {[] {
         ipc::Request reset;
         reset.kind = ipc::RequestKind::kReset;
         return reset;
       }()},
       .after = {reads(kCom1, 0, uart16550::kScr, 1), uart_cause}});

  // --- pci ---
  const std::uint8_t bar0 = 0x10;
  const std::uint8_t command = 0x04;
  add({.name = "bar_move",
       .setup = [] { return pci_setup(); },
       .before = {select_register(kRigFunction, command), writes(0, 0, kConfigData, 2, 0x7), select_register(kRigFunction, bar0)},
       .input = {writes(0, 0, kConfigData, 4, 0xe1000000)},
       .after = {reads(0, 0, kConfigData, 4), reads(0, 0, kConfigAddress, 4)}});
  add({.name = "command_register_that_moves_every_window",
       .setup = [] { return pci_setup(); },
       .before = {select_register(kRigFunction, command)},
       .input = {writes(0, 0, kConfigData, 2, 0x0), writes(0, 0, kConfigData, 2, 0x7)},
       .after = {reads(0, 0, kConfigData, 4)}});
  add({.name = "msix_table_write",
       .setup = [] { return pci_setup(); },
       .before = {writes(0, 1, 0, 4, 0xfee00000), writes(0, 1, 8, 4, 0x41)},
       .input = {writes(0, 1, 12, 4, 0)},
       .after = {reads(0, 1, 0, 8), reads(0, 1, 8, 8)}});
  add({.name = "pirq_route",
       .setup = [] { return pci_setup(); },
       .before = {select_register(kIsaBridgeDevfn, 0x60)},
       .input = {writes(0, 0, kConfigData, 4, 0x0b800a05)},
       .after = {reads(0, 0, kConfigData, 4)}});
  add({.name = "reset_control_register",
       .setup = [] { return pci_setup(); },
       .before = {writes(0, 0, 1, 1, 2)},
       .input = {writes(0, 0, 1, 1, 6)},
       .after = {reads(0, 0, 1, 1)}});

  // --- a PCI device with DMA, messages and posted registers ---
  const auto control = [](std::uint32_t bits) {
    ipc::Request request;
    request.kind = ipc::RequestKind::kFunctionControl;
    std::memcpy(request.payload, &bits, sizeof bits);
    return request;
  };
  const ipc::Request log_count = reads(0, 0, test_spec::kLogCount, 4);
  const ipc::Request int_status = reads(0, 0, test_spec::kIntStatus, 4);
  add({.name = "intx",
       .setup = pci_test_setup,
       .before = {},
       .input = {writes(0, 0, test_spec::kIntRaise, 4, 8)},
       .after = {int_status, log_count, writes(0, 0, test_spec::kIntStatus, 4, 8), int_status}});
  add({.name = "msi",
       .setup = pci_test_setup,
       .before = {control(kControlBusMaster | kControlMsixEnable)},
       .input = {writes(0, 0, test_spec::kMsiSend, 4, 5)},
       .after = {reads(0, 0, test_spec::kMessagesSent, 4)}});
  add({.name = "read_that_counts",
       .setup = pci_test_setup,
       .before = {},
       .input = {reads(0, 0, test_spec::kCounter, 4), reads(0, 0, test_spec::kCounter, 4), reads(0, 0, test_spec::kCounter, 4)},
       .after = {reads(0, 0, test_spec::kCounter, 4), log_count}});
  add({.name = "posted_doorbells_before_a_read",
       .setup = pci_test_setup,
       .before = {},
       .input = {posted(writes(0, 1, 0x10, 8, 111)), posted(writes(0, 1, test_spec::kDoorbellRaise, 4, 2)),
                 reads(0, 0, test_spec::kPostedCount, 4)},
       .after = {reads(0, 0, test_spec::kLastPosted, 8), int_status}});
  add({.name = "dma_with_interrupt_and_message",
       .setup = pci_test_setup,
       .before = {control(kControlBusMaster), writes(0, 0, test_spec::kDmaSource, 8, 0x100),
                  writes(0, 0, test_spec::kDmaTarget, 8, 0x2000), writes(0, 0, test_spec::kDmaLength, 4, 100)},
       .input = {writes(0, 0, test_spec::kDmaCommand, 4,
                        test_spec::kDmaCopy | test_spec::kDmaThenInterrupt | test_spec::kDmaThenMessage)},
       .arrange =
           [](RoleRig& rig) {
             for (std::size_t i = 0; i < 100; ++i) rig.memory_bytes()[0x100 + i] = static_cast<std::byte>(i);
           },
       .after = {reads(0, 0, test_spec::kDmaStatus, 4), reads(0, 0, test_spec::kDmaCount, 4), int_status}});
  add({.name = "timer_that_interrupts",
       .setup = pci_test_setup,
       .before = {writes(0, 0, test_spec::kTimerDelay, 4, 1'000'000)},
       .input = {},
       .arrange =
           [](RoleRig& rig) {
             rig.let_time_go();
             rig.pass_time(2'000'000);
           },
       .after = {reads(0, 0, test_spec::kTimerFired, 4), int_status, reads(0, 0, test_spec::kTimerDeadline, 8)}});
  add({.name = "string_input",
       .setup = pci_test_setup,
       .before = {},
       .input = {reads(0, 2, test_spec::kPortStream, 1, 32), reads(0, 2, test_spec::kPortStream, 4, 8)},
       .after = {reads(0, 2, test_spec::kPortStreamIn, 4)}});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Inputs, TakeOver, ::testing::ValuesIn(scenarios()),
                         [](const ::testing::TestParamInfo<Scenario>& scenario) { return scenario.param.name; });

// The take-over itself is the same for all inputs but for what it publishes again: one of each kind.
INSTANTIATE_TEST_SUITE_P(Inputs, TakeOverTwice, ::testing::ValuesIn([] {
                           std::vector<Scenario> chosen;
                           for (Scenario& scenario : scenarios()) {
                             for (const char* name : {"uart_write_that_interrupts", "power_off_on_its_own_account",
                                                      "command_register_that_moves_every_window",
                                                      "posted_doorbells_before_a_read", "dma_with_interrupt_and_message",
                                                      "timer_that_interrupts"}) {
                               if (scenario.name == name) chosen.push_back(scenario);
                             }
                           }
                           return chosen;
                         }()),
                         [](const ::testing::TestParamInfo<Scenario>& scenario) { return scenario.param.name; });

}  // namespace
}  // namespace bulkhead::devproc
