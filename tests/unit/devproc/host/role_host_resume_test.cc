// A successor whose predecessor was hostile: whatever bytes it finds, it serves every request that waits, keeps every
// index in its range, and comes to rest (DESIGN.md, section 4.4).
#include <gtest/gtest.h>

#include <random>

#include "devproc/models/pci_test/spec.h"
#include "devproc/models/uart16550/spec.h"
#include "tests/unit/devproc/host/role_rig.h"

namespace bulkhead::devproc {
namespace {

constexpr std::size_t kHeader = 4096;
constexpr std::size_t kBank = (kRigStateSize - kHeader) / 2 / 4096 * 4096;

// Serves as the event loop does, and stops where it would sleep. False: it never would.
bool comes_to_rest(RoleRig& rig) {
  for (int i = 0; i < 5'000; ++i) {
    if (rig.host->handle_request() || rig.host->handle_streams()) continue;
    if (rig.host->next_deadline() <= ipc::monotonic_ns()) {
      if (rig.host->handle_timers()) continue;
      // A deadline that has passed and that nobody takes would wake the loop at once, for ever.
      return rig.host->next_deadline() > ipc::monotonic_ns();
    }
    return true;
  }
  return false;
}

void expect_sound(RoleRig& rig, ipc::Ticket first_waiting) {
  ASSERT_TRUE(comes_to_rest(rig));
  for (ipc::Ticket ticket = first_waiting; ticket <= rig.submitted(); ++ticket)
    ASSERT_TRUE(rig.answered(ticket)) << "ticket " << ticket << " of " << rig.submitted() << " waits for ever";
  for (std::uint32_t i = 0; i < ipc::kStreams; ++i) {
    ASSERT_LE(rig.replies().output_produced[i].load() - rig.requests().output_consumed[i].load(), ipc::kOutputBytes);
    ASSERT_LE(rig.requests().input_produced[i].load() - rig.replies().input_consumed[i].load(), ipc::kInputBytes);
  }
  ASSERT_LE(rig.replies().outbound_produced.load() - rig.requests().outbound_consumed.load(), ipc::kOutboundEffects);
  // It works on: in the generation that it was told of.
  const Answer next = rig.ask(reads(0, 0, 5, 1));
  ASSERT_EQ(next.reply.generation, rig.generation);
  ASSERT_EQ(next.reply.status, ipc::ReplyStatus::kDone);
  ASSERT_LE(next.reply.effect_count, kMaxEffects);
}

RoleSetup setup_of(int which) {
  switch (which % 3) {
    case 0: return platform_setup();
    case 1: return pci_setup(2);
    default: return pci_test_setup();
  }
}

// A role that has served more than one round of slots, with some requests still in the ring.
std::unique_ptr<RoleRig> busy_rig(int which, int served, int waiting) {
  auto rig = std::make_unique<RoleRig>(setup_of(which));
  for (int i = 0; i < served; ++i) rig->ask(reads(0, 0, 5, 1));
  for (int i = 0; i < waiting; ++i) rig->submit(reads(0, 0, static_cast<std::uint64_t>(i % 6), 1));
  return rig;
}

void spoil(std::span<std::byte> bytes, std::mt19937_64& random) {
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
}

struct Spoiler {
  const char* name;
  void (*spoil)(std::span<std::byte> state, std::mt19937_64& random);
};

ipc::InputRecord& committed_record(std::span<std::byte> state) {
  const std::uint64_t number = reinterpret_cast<ipc::StateHeader*>(state.data())->commit_word.load();
  return *reinterpret_cast<ipc::InputRecord*>(state.data() + kHeader + (number & 1) * kBank);
}

class HostileState : public ::testing::TestWithParam<Spoiler> {};

TEST_P(HostileState, a_successor_serves_every_request_and_comes_to_rest) {
  std::mt19937_64 random(42);
  int resumed = 0;
  for (int round = 0; round < 60; ++round) {
    const int served = static_cast<int>(random() % 3) * 70 + round % 2;
    const int waiting = static_cast<int>(random() % 60);
    const std::unique_ptr<RoleRig> rig = busy_rig(round, served, waiting);
    const ipc::Ticket first_waiting = static_cast<ipc::Ticket>(served) + 1;
    if (random() % 2 == 0) rig->let_time_go();
    if (round % 3 == 0) rig->feed(0, "hello");
    RoleRig::Regions regions = rig->copy();
    GetParam().spoil({regions.state[0].bytes, kRigStateSize}, random);
    RoleSetup setup = setup_of(round);
    setup.role.blame = round % 2 == 0;
    const auto successor = RoleRig::take_over(std::move(setup), 2, std::move(regions), rig->submitted());
    if (successor == nullptr) continue;  // another layout: said so, and refused
    ++resumed;
    expect_sound(*successor, first_waiting);
    if (HasFatalFailure()) return;
    // And its own successor finds an honest state.
    const auto next = successor->take_over();
    ASSERT_NE(next, nullptr);
    ASSERT_TRUE(comes_to_rest(*next));
    ASSERT_EQ(next->ask(reads(0, 0, 5, 1)).reply.status, ipc::ReplyStatus::kDone);
  }
  // Where the layout was spoiled as well, every successor refuses; that is an answer, too.
  if (std::string_view(GetParam().name) != "everything") {
    EXPECT_GT(resumed, 0);
  }
}

const Spoiler kSpoilers[] = {
    {"both_banks", [](auto state, auto& random) { spoil(state.subspan(kHeader), random); }},
    {"input_records",
     [](auto state, auto& random) {
       spoil(state.subspan(kHeader, sizeof(ipc::InputRecord)), random);
       spoil(state.subspan(kHeader + kBank, sizeof(ipc::InputRecord)), random);
     }},
    {"a_few_bytes",
     [](auto state, auto& random) {
       for (int i = 0; i < 64; ++i) state[kHeader + random() % (2 * kBank)] = static_cast<std::byte>(random());
       for (int i = 0; i < 64; ++i) state[kHeader + random() % 1024] = static_cast<std::byte>(random());
     }},
    {"all_ones", [](auto state, auto&) { std::memset(state.data() + kHeader, 0xff, state.size() - kHeader); }},
    {"all_zeroes", [](auto state, auto&) { std::memset(state.data() + kHeader, 0, state.size() - kHeader); }},
    {"the_commit_number",
     [](auto state, auto& random) {
       reinterpret_cast<ipc::StateHeader*>(state.data())
           ->commit_word.store(random() % 2 == 0 ? random() : ~random() % 3);
     }},
    {"a_commit_number_of_zero",
     [](auto state, auto&) { reinterpret_cast<ipc::StateHeader*>(state.data())->commit_word.store(0); }},
    {"everything", [](auto state, auto& random) { spoil(state, random); }},
    {"the_notes_of_attempts",
     [](auto state, auto& random) {
       auto* const header = reinterpret_cast<ipc::StateHeader*>(state.data());
       const ipc::Ticket last = committed_record(state).last_ticket;
       const std::uint64_t words[] = {0, last, last + 1, last + 2, ~std::uint64_t{0}, random()};
       header->attempt.store(words[random() % 6]);
       header->suspect.store(words[random() % 6]);
       header->suspect_deaths.store(static_cast<std::uint32_t>(random() % 2 == 0 ? random() : random() % 5));
     }},
    {"the_header_and_both_banks_but_not_the_layout",
     [](auto state, auto& random) {
       spoil(state.subspan(offsetof(ipc::StateHeader, commit_word)), random);
       auto* const header = reinterpret_cast<ipc::StateHeader*>(state.data());
       if (header->commit_word.load() == 0) header->commit_word.store(1);
     }},
    {"the_last_ticket",
     [](auto state, auto& random) {
       ipc::InputRecord& record = committed_record(state);
       switch (random() % 4) {
         case 0: record.last_ticket += 1 + random() % 3; break;
         case 1: record.last_ticket -= 1 + random() % 3; break;
         case 2: record.last_ticket = ~std::uint64_t{0}; break;
         default: record.last_ticket = random();
       }
     }},
    {"the_generation",
     [](auto state, auto& random) { committed_record(state).generation = static_cast<std::uint32_t>(random()); }},
};

INSTANTIATE_TEST_SUITE_P(Bytes, HostileState, ::testing::ValuesIn(kSpoilers),
                         [](const ::testing::TestParamInfo<Spoiler>& spoiler) {
                           return std::string(spoiler.param.name);
                         });

// The reply area is the predecessor's as well.
TEST(HostileReplyArea, a_successor_publishes_over_anything) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 30; ++round) {
    const std::unique_ptr<RoleRig> rig = busy_rig(round, 100, 20);
    RoleRig::Regions regions = rig->copy();
    spoil({regions.replies[0].bytes, ipc::kReplyAreaSize}, random);
    const auto successor = RoleRig::take_over(setup_of(round), 2, std::move(regions), rig->submitted());
    ASSERT_NE(successor, nullptr);
    expect_sound(*successor, 121 - ipc::kSlots);
    if (HasFatalFailure()) return;
  }
}

// Some lies look honest (a ticket or two too many or too few): then requests are dropped or served again, and none
// waits.
TEST(HostileTicket, whatever_was_the_last_no_request_waits_for_ever) {
  for (std::int64_t lie = -200; lie <= 200; ++lie) {
    const std::unique_ptr<RoleRig> rig = busy_rig(2, 150, 5);
    RoleRig::Regions regions = rig->copy();
    committed_record({regions.state[0].bytes, kRigStateSize}).last_ticket += static_cast<std::uint64_t>(lie);
    const auto successor = RoleRig::take_over(setup_of(2), 2, std::move(regions), rig->submitted());
    ASSERT_NE(successor, nullptr);
    expect_sound(*successor, 151);
    if (HasFatalFailure()) return;
    const Answer answer = successor->ask(reads(0, 0, pci_test_spec::kId, 4));
    ASSERT_EQ(answer.value(), pci_test_spec::kIdValue) << lie;
  }
}

// --- what an honest state keeps ---

TEST(Resume, a_reset_that_waits_in_the_ring_is_carried_out) {
  RoleRig rig(pci_test_setup());
  rig.ask(reads(0, 0, pci_test_spec::kCounter, 4));
  // The VMM has begun generation 2; the reset request is in the ring, behind a posted write of generation 1.
  const ipc::Ticket old_write = rig.submit(posted(writes(0, 1, 0, 4, 7)));
  rig.generation = 2;
  ipc::Request reset;
  reset.kind = ipc::RequestKind::kReset;
  rig.submit(reset);
  const ipc::Ticket last = rig.submit(reads(0, 0, pci_test_spec::kCounter, 4));
  RoleSetup setup = pci_test_setup();
  setup.role.generation = 2;
  const auto successor = RoleRig::take_over(setup, 2, rig.copy(), rig.submitted());
  ASSERT_NE(successor, nullptr);
  ASSERT_TRUE(comes_to_rest(*successor));
  EXPECT_TRUE(successor->answered(old_write));
  EXPECT_EQ(successor->answer_of(last).value(), 0U);
  EXPECT_EQ(successor->answer_of(last).reply.generation, 2U);
}

TEST(Resume, asserted_lines_are_raised_again_and_no_others) {
  RoleRig rig(platform_setup());
  rig.ask(writes(kCom2, 0, uart16550::kIer, 1, uart16550::kIerEtbei));
  const Outside before = rig.look_outside();
  ASSERT_EQ(before.lines[1], 1U);
  const auto successor = rig.take_over();
  const Outside after = successor->look_outside();
  for (std::size_t line = 0; line < after.lines.size(); ++line)
    EXPECT_EQ(after.lines[line], line == 1 ? 1U : 0U) << line;
}

TEST(Resume, the_last_inputs_messages_are_repeated_and_no_older_ones) {
  RoleRig rig(pci_test_setup());
  ipc::Request control;
  control.kind = ipc::RequestKind::kFunctionControl;
  const std::uint32_t bits = kControlBusMaster | kControlMsixEnable;
  std::memcpy(control.payload, &bits, sizeof bits);
  rig.ask(control);
  rig.ask(writes(0, 0, pci_test_spec::kMsiSend, 4, 2));
  rig.ask(writes(0, 0, pci_test_spec::kMsiSend, 4, 6));
  const auto successor = rig.take_over();
  const Outside seen = successor->look_outside();
  for (std::size_t vector = 0; vector < seen.messages.size(); ++vector)
    EXPECT_EQ(seen.messages[vector] != 0, vector == 6) << vector;
  // A take-over is an input of its own that sends nothing new, so a second one may repeat the message as well; an input
  // of the guest's ends that.
  successor->ask(reads(0, 0, 0, 4));
  const auto next = successor->take_over();
  for (const std::uint64_t count : next->look_outside().messages) EXPECT_EQ(count, 0U);
}

TEST(Resume, replies_that_were_not_taken_yet_carry_the_new_incarnation) {
  RoleRig rig(pci_test_setup());
  for (int i = 0; i < 70; ++i) rig.ask(reads(0, 0, pci_test_spec::kCounter, 4));
  const auto successor = rig.take_over();
  for (ipc::Ticket ticket = 7; ticket <= 70; ++ticket) {
    ASSERT_TRUE(successor->answered(ticket));
    ASSERT_EQ(successor->answer_of(ticket).value(), ticket - 1);
  }
}

TEST(Resume, waiters_are_woken_whether_or_not_they_say_that_they_sleep) {
  RoleRig rig(pci_test_setup());
  rig.ask(reads(0, 0, pci_test_spec::kCounter, 4));
  const std::uint32_t before = rig.replies().slots[1].wake.load();
  const auto successor = rig.take_over();
  EXPECT_NE(successor->replies().slots[1].wake.load(), before);
}

}  // namespace
}  // namespace bulkhead::devproc
