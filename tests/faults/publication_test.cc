// A guest that consumes and recycles at once: a driver that polls its descriptors, and uses each for something else the
// very moment it sees it written back, while the card's process is killed after any instruction. Every completion is
// seen once (ipc/state/publication.h; DESIGN.md, section 4, "Exactly once").
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "tests/fakes/single_step.h"
#include "tests/faults/e1000_driver.h"
#include "tests/faults/inputs.h"

extern "C" const char bulkhead_publish_mark[];

namespace bulkhead::devproc {
namespace {

using namespace e1000_spec;

constexpr GuestPhys kReceiveBuffers = 0x4000;
constexpr GuestPhys kTransmitBuffers = 0x8000;
constexpr std::uint32_t kBuffer = 0x200;
constexpr unsigned kFirst = 3;   // frames of the input that is killed
constexpr unsigned kLater = 10;  // those after it, which come round the ring
constexpr std::uint64_t kDone = std::uint64_t{1} << 32;

// What supervisors might do. The last two are wrong, and are to be seen to be.
enum class Recipe { kExact, kNobodySettles, kMarkedWhenAllIsOut };

// The driver's own memory: what it has seen. Whole cache lines, as SnapshotLog wants.
struct alignas(64) Driver {
  std::uint64_t instruction = 0;  // where the process stood
  std::uint32_t next = 0;         // descriptor that it polls
  std::uint32_t count = 0;        // completions
  std::uint32_t lengths[44] = {};
};
static_assert(sizeof(Driver) == 192);

std::uint64_t* rest_of(std::span<std::byte> memory, GuestPhys ring, std::uint32_t index) {
  return reinterpret_cast<std::uint64_t*>(memory.data() + ring + 16 * index + 8);
}

// Called after each instruction, in a signal handler.
void poll(Driver& driver, std::span<std::byte> memory, GuestPhys ring, std::uint64_t recycled) {
  for (;;) {
    std::uint64_t* const rest = rest_of(memory, ring, driver.next);
    if ((*rest & kDone) == 0) return;
    driver.lengths[driver.count++ % 44] = static_cast<std::uint32_t>(*rest & 0xffff);
    *rest = recycled;
    driver.next = (driver.next + 1) % kE1000Ring;
  }
}

RoleSetup card() {
  RoleSetup setup;
  setup.wires = true;
  setup.add("nic0", "e1000", E1000Config{.nic = {.mac = {2, 0, 0, 0, 0, 1}}});
  return setup;
}

void bring_up(RoleRig& rig) {
  SpanMemory memory(rig.memory_bytes());
  for (std::uint32_t i = 0; i < kE1000Ring; ++i) {
    memory.store(kE1000ReceiveRing + 16 * i, Descriptor{kReceiveBuffers + kBuffer * i, 0});
    memory.store(kE1000TransmitRing + 16 * i, Descriptor{kTransmitBuffers + kBuffer * i, 0});
  }
  for (const ipc::Request& one : e1000_driver_start()) rig.ask(one);
  rig.ask(e1000_register(kRdt, kE1000Ring - 1));
  EXPECT_TRUE(serve(*rig.host));
}

void arrive(RoleRig& rig, unsigned size) {
  std::vector<std::byte> frame(12 + size, std::byte{0});
  frame[12] = std::byte{2};
  EXPECT_EQ(::send(rig.wires[0].get(), frame.data(), frame.size(), 0), static_cast<ssize_t>(frame.size()));
  rig.host->backend_stirs(0);
}

// One way through the card: what the driver puts in and gets back.
struct Direction {
  std::string name;
  GuestPhys ring;
  bool may_lose;           // frames that a dead process had taken off the wire
  std::uint64_t recycled;  // what the driver writes where it has seen a completion
};
const Direction kReceive{"receive", kE1000ReceiveRing, true, 0};
// A packet that is not posted yet, of 777 bytes.
const Direction kTransmit{"transmit", kE1000TransmitRing, false, 777};

std::uint64_t packet(unsigned size) { return size | std::uint64_t{kTxCmdEop | kTxCmdIfcs | kTxCmdRs} << kTxCmdShift; }
unsigned size_of(unsigned number) { return 100 + number; }

// The input that is killed: three frames at once.
void submit(RoleRig& rig, const Direction& direction) {
  for (unsigned i = 0; i < kFirst; ++i) {
    if (direction.ring == kE1000ReceiveRing)
      arrive(rig, size_of(i));
    else
      *rest_of(rig.memory_bytes(), kE1000TransmitRing, i) = packet(size_of(i));
  }
  rig.let_time_go();
  if (direction.ring == kE1000TransmitRing) rig.submit(e1000_register(kTdt, kFirst));
}

// Afterwards, one by one: the driver posts what it has recycled, and more comes. Empty when all is as it should be.
std::string go_on(RoleRig& rig, const Direction& direction, Driver driver) {
  const auto look = [&] { poll(driver, rig.memory_bytes(), direction.ring, direction.recycled); };
  if (!serve(*rig.host)) return "it never rests";
  look();
  const unsigned before = driver.count;
  if (before > kFirst) return "completions that nobody asked for: " + std::to_string(before);
  if (before != kFirst && !(direction.may_lose && before == 0))
    return "only " + std::to_string(before) + " completions";
  for (unsigned i = 0; i < kLater; ++i) {
    if (direction.ring == kE1000ReceiveRing) {
      rig.ask(e1000_register(kRdt, (driver.next + kE1000Ring - 1) % kE1000Ring));
      arrive(rig, size_of(kFirst + i));
    } else {
      *rest_of(rig.memory_bytes(), kE1000TransmitRing, driver.next) = packet(size_of(kFirst + i));
      rig.submit(e1000_register(kTdt, (driver.next + 1) % kE1000Ring));
    }
    if (!serve(*rig.host)) return "it never rests";
    look();
    if (driver.count != before + i + 1)
      return std::to_string(driver.count) + " completions instead of " + std::to_string(before + i + 1);
  }
  const unsigned first = before == 0 ? kFirst : 0;  // the first that it heard of
  for (unsigned i = 0; i < driver.count; ++i) {
    if (driver.lengths[i] != size_of(first + i)) return "completion " + std::to_string(i) + " is of another frame";
  }
  return "";
}

// How many of the kill points a guest notices; each is printed if it should not.
std::size_t noticed(const Direction& direction, Recipe recipe) {
  const std::unique_ptr<RoleRig> rig = RoleRig::on(card(), std::pmr::get_default_resource());
  EXPECT_TRUE(rig->start());
  bring_up(*rig);
  submit(*rig, direction);
  const auto header = [](std::byte* state) { return reinterpret_cast<ipc::StateHeader*>(state); };
  const std::uint64_t published_before = header(rig->state_bytes().data())->publication.published.load();
  const RoleRig::Regions start = rig->copy();
  Driver driver;
  SnapshotLog log({rig->state_bytes(), rig->reply_bytes(), rig->memory_bytes(), std::as_bytes(std::span(&driver, 1))});
  single_step([&] { run_input(*rig); },
              [&] {
                // Of all places it matters whether it is this one.
                const bool at_mark = stepped_to() == reinterpret_cast<std::uintptr_t>(bulkhead_publish_mark);
                driver.instruction = at_mark ? stepped_to() : 0;
                poll(driver, rig->memory_bytes(), direction.ring, direction.recycled);
                log.look();
              });
  std::printf("%s: %zu kill points, %zu distinct states\n", direction.name.c_str(), log.looks(), log.snapshots());
  EXPECT_EQ(driver.count, kFirst) << "the undisturbed input";
  std::size_t failures = 0;
  std::size_t kill = 0;
  std::size_t marks = 0;
  log.for_each([&](const std::vector<std::vector<std::byte>>& copies) {
    RoleRig::Regions regions = start;
    std::memcpy(regions.state[0].bytes, copies[0].data(), copies[0].size());
    std::memcpy(regions.replies[0].bytes, copies[1].data(), copies[1].size());
    std::memcpy(regions.memory[0].bytes, copies[2].data(), copies[2].size());
    Driver seen;
    std::memcpy(&seen, copies[3].data(), sizeof seen);
    marks += seen.instruction != 0 ? 1 : 0;
    ipc::PublicationWords& words = header(regions.state[0].bytes)->publication;
    const ipc::SettledPublication settled =
        ipc::settle_publication(words.published.load(), words.publish_mark.load(), seen.instruction);
    if (recipe == Recipe::kExact) words.published.store(settled.published);
    if (recipe == Recipe::kMarkedWhenAllIsOut && words.published.load() < published_before + kFirst)
      words.published.store(published_before);
    words.publish_mark.store(settled.publish_mark);
    const auto successor = RoleRig::take_over(card(), 10, std::move(regions), rig->submitted());
    if (successor == nullptr) {
      ADD_FAILURE() << "no successor at kill point " << kill;
      return;
    }
    const std::string what = go_on(*successor, direction, seen);
    if (!what.empty() && ++failures != 0 && recipe == Recipe::kExact)
      ADD_FAILURE() << direction.name << ", kill point " << kill << ": " << what;
    ++kill;
  });
  EXPECT_EQ(marks, kFirst) << "the place between a store and its mark was not met for each";
  return failures;
}

class FaultPublication : public ::testing::TestWithParam<Direction> {
 protected:
  void SetUp() override {
    if (!kCanSingleStep) GTEST_SKIP() << "not under a sanitizer";
  }
};

TEST_P(FaultPublication, a_guest_that_recycles_at_once_sees_each_completion_once_whenever_its_card_dies) {
  EXPECT_EQ(noticed(GetParam(), Recipe::kExact), 0U);
}

// The test can tell.
TEST_P(FaultPublication, without_the_supervisor_it_sees_some_twice) {
  EXPECT_EQ(noticed(GetParam(), Recipe::kNobodySettles), kFirst) << "once for each store that was not marked";
}

TEST_P(FaultPublication, with_one_mark_behind_all_stores_it_sees_many_twice) {
  EXPECT_GT(noticed(GetParam(), Recipe::kMarkedWhenAllIsOut), std::size_t{kFirst});
}

INSTANTIATE_TEST_SUITE_P(Ways, FaultPublication, ::testing::Values(kReceive, kTransmit),
                         [](const ::testing::TestParamInfo<Direction>& one) { return one.param.name; });

// What the successor does when it dies as well, after each of its instructions.
TEST_P(FaultPublication, the_next_successor_carries_on) {
  const Direction& direction = GetParam();
  const std::unique_ptr<RoleRig> first = RoleRig::on(card(), std::pmr::get_default_resource());
  ASSERT_TRUE(first->start());
  bring_up(*first);
  submit(*first, direction);
  const RoleRig::Regions before = first->copy();
  auto* const words = &reinterpret_cast<ipc::StateHeader*>(first->state_bytes().data())->publication;
  const std::uint64_t published = words->published.load();
  run_input(*first);
  // Committed, and nothing shown.
  RoleRig::Regions dead = first->copy();
  std::memcpy(dead.memory[0].bytes, before.memory[0].bytes, kRigMemory);
  for (unsigned i = 0; direction.ring == kE1000ReceiveRing && i < kFirst; ++i)
    std::memcpy(dead.memory[0].bytes + kReceiveBuffers + kBuffer * i,
                first->memory_bytes().data() + kReceiveBuffers + kBuffer * i, kBuffer);
  reinterpret_cast<ipc::StateHeader*>(dead.state[0].bytes)->publication.published.store(published);
  const auto second = RoleRig::take_over(card(), 10, dead, first->submitted());
  ASSERT_NE(second, nullptr);
  second->forget_host();
  second->restore(dead, first->submitted());
  Driver driver;
  SnapshotLog log(
      {second->state_bytes(), second->reply_bytes(), second->memory_bytes(), std::as_bytes(std::span(&driver, 1))});
  // A process's whole start is many instructions: only those are kill points here that changed what the guest sees, the
  // commit word or the count of stores.
  std::array<std::byte, 16 * kE1000Ring + 24> last{};
  const auto moved = [&] {
    std::array<std::byte, 16 * kE1000Ring + 24> now;
    const auto* const state = reinterpret_cast<ipc::StateHeader*>(second->state_bytes().data());
    std::memcpy(now.data(), second->memory_bytes().data() + direction.ring, 16 * kE1000Ring);
    const std::uint64_t words_now[] = {state->commit_word.load(), state->publication.published.load(),
                                       state->publication.publish_mark.load()};
    std::memcpy(now.data() + 16 * kE1000Ring, words_now, sizeof words_now);
    return std::exchange(last, now) != now;
  };
  single_step([&] { second->start(); },
              [&] {
                if (!moved()) return;
                const bool at_mark = stepped_to() == reinterpret_cast<std::uintptr_t>(bulkhead_publish_mark);
                driver.instruction = at_mark ? stepped_to() : 0;
                poll(driver, second->memory_bytes(), direction.ring, direction.recycled);
                log.look();
              });
  EXPECT_EQ(driver.count, kFirst);
  std::printf("%s: %zu kill points, %zu distinct states\n", direction.name.c_str(), log.looks(), log.snapshots());
  log.for_each([&](const std::vector<std::vector<std::byte>>& copies) {
    RoleRig::Regions regions = dead;
    std::memcpy(regions.state[0].bytes, copies[0].data(), copies[0].size());
    std::memcpy(regions.replies[0].bytes, copies[1].data(), copies[1].size());
    std::memcpy(regions.memory[0].bytes, copies[2].data(), copies[2].size());
    Driver seen;
    std::memcpy(&seen, copies[3].data(), sizeof seen);
    ipc::PublicationWords& now = reinterpret_cast<ipc::StateHeader*>(regions.state[0].bytes)->publication;
    const ipc::SettledPublication settled =
        ipc::settle_publication(now.published.load(), now.publish_mark.load(), seen.instruction);
    now.published.store(settled.published);
    now.publish_mark.store(settled.publish_mark);
    const auto third = RoleRig::take_over(card(), 11, std::move(regions), first->submitted());
    ASSERT_NE(third, nullptr);
    EXPECT_EQ(go_on(*third, direction, seen), "");
  });
}

}  // namespace
}  // namespace bulkhead::devproc
