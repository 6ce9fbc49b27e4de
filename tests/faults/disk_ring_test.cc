// A disk on an io_uring whose process dies between any two instructions, and whose successor may die as well: each
// request is over exactly once and with the right status, disk and guest memory are as after an undisturbed run,
// nothing is under way twice, and nothing is under way that was not committed (devproc/backends/ring_block.h).
//
// What a death does to I/O that is under way is the kernel's affair (RigRing::Fate): every kill point is tried with
// each of them where there is any.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <set>

#include "devproc/models/virtio_blk/spec.h"
#include "tests/fakes/single_step.h"
#include "tests/fakes/store_step.h"
#include "tests/faults/inputs.h"
#include "tests/faults/snapshots.h"
#include "tests/faults/virtio_requests.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio;
using namespace virtio_blk_spec;

using Regions = RoleRig::Regions;
using Fate = RigRing::Fate;
using Plan = RigRing::Plan;

constexpr std::uint32_t kDead = 10;
constexpr std::array kAllFates = {Fate::kLater, Fate::kDone, Fate::kCancelled, Fate::kInterrupted, Fate::kShort};

struct DiskCase {
  Scenario scenario;
  Way way;
  std::vector<Fate> fates{kAllFates.begin(), kAllFates.end()};
  std::uint32_t flushes = 0;  // at least
};
void PrintTo(const DiskCase& one, std::ostream* out) { *out << one.scenario.name; }

constexpr std::uint64_t kFeatures = std::uint64_t{1} << kVirtioBlkFFlush | std::uint64_t{1} << kVirtioBlkFDiscard |
                                    std::uint64_t{1} << kVirtioBlkFWriteZeroes |
                                    std::uint64_t{1} << kVirtioFIndirectDesc;

RoleSetup disk_on_a_ring() {
  RoleSetup setup;
  setup.add("disk0", "virtio_blk",
            VirtioBlkConfig{
                .serial = "rig",
                .disk = {.bytes = kRigDisk, .memory_align = 512, .discard = true, .write_zeroes = true, .ring = true}});
  return setup;
}

const std::vector<ipc::Request>& after() {
  static const std::vector<ipc::Request> all{reads(0, kVirtioRegisters, kVirtioIsrOffset, 1),
                                             reads(0, kVirtioRegisters, kVirtioCommonOffset + kDeviceStatus, 1),
                                             reads(0, kVirtioRegisters, kVirtioIsrOffset, 1)};
  return all;
}

DiskCase disk_case(const std::string& name, const Way& way, const Plan& plan, const std::vector<DiskRequest>& requests,
                   std::uint64_t features = kFeatures) {
  return {.scenario = {.name = name,
                       .setup = disk_on_a_ring,
                       .before = driver_start(way, features),
                       .input = {},
                       .arrange =
                           [=](RoleRig& rig) {
                             rig.ring->set_plan(plan);
                             ask_the_disk(rig, way, requests);
                           },
                       .after = after(),
                       .did = [=](const Seen& seen) { return answered(seen, requests); }},
          .way = way};
}

constexpr Way kSplit{};
constexpr Way kPacked{.packed = true, .event_idx = true, .msix = true};
constexpr std::uint32_t kUnaligned = kDataAt + 4;

DiskRequest read_at(std::uint64_t sector, std::uint32_t bytes = 512, std::uint32_t data_at = kDataAt) {
  return {.type = kVirtioBlkTIn, .sector = sector, .bytes = bytes, .to_guest = true, .data_at = data_at};
}
DiskRequest write_at(std::uint64_t sector, std::uint32_t bytes = 512, std::uint32_t data_at = kDataAt) {
  return {.type = kVirtioBlkTOut, .sector = sector, .bytes = bytes, .data_at = data_at};
}
DiskRequest range(std::uint32_t type, std::uint64_t sector, std::uint32_t sectors, std::uint32_t flags = 0) {
  return {.type = type, .bytes = sizeof(VirtioBlkRange), .range = VirtioBlkRange{sector, sectors, flags}};
}
const DiskRequest kFlush{.type = kVirtioBlkTFlush};

// The driver resets the device while its write is under way. What has begun may end as it likes, but for its being
// forgotten: so here it is done in any case.
DiskCase reset_case() {
  DiskCase one = disk_case("reset_while_it_writes", kSplit, {}, {write_at(4)});
  one.scenario.input = {common(kDeviceStatus, 1, 0)};
  one.scenario.settle = [](RoleRig&) {};
  one.scenario.did = [](const Seen& seen) { return seen.answers[2].value() == 0; };
  one.fates = {Fate::kLater, Fate::kDone};
  return one;
}

std::vector<DiskCase> cases() {
  std::vector<DiskCase> all;
  const auto add = [&](DiskCase one) -> DiskCase& { return all.emplace_back(std::move(one)); };
  const std::vector<DiskRequest> batch{write_at(4), kFlush, read_at(8)};
  add(disk_case("read", kSplit, {}, {read_at(2, 1024)}));
  add(disk_case("read_packed_prompt", kPacked, {.prompt = 1}, {read_at(2, 1024)}));
  add(disk_case("write", kSplit, {.prompt = 1}, {write_at(4, 1024)}));
  add(disk_case("write_packed", kPacked, {}, {write_at(4, 1024)}));
  add(disk_case("flush", kSplit, {}, {kFlush})).flushes = 1;
  DiskRequest lost = kFlush;
  lost.status = kVirtioBlkSIoErr;
  add(disk_case("flush_that_fails", kPacked, {.flush_errors = 1}, {lost}));
  add(disk_case("write_through", kSplit, {}, {write_at(4)}, 0));
  add(disk_case("discard", kPacked, {}, {range(kVirtioBlkTDiscard, 8, 4)}));
  add(disk_case("write_zeroes", kSplit, {}, {range(kVirtioBlkTWriteZeroes, 16, 2, kVirtioBlkRangeUnmap)}));
  add(disk_case("write_zeroes_by_writing", kPacked, {.no_allocation = 1}, {range(kVirtioBlkTWriteZeroes, 16, 2)}));
  add(disk_case("batch_one_by_one", kSplit, {}, batch)).flushes = 1;
  add(disk_case("batch_together", kPacked, {.together = 1}, batch)).flushes = 1;
  add(disk_case("batch_last_first", kSplit, {.last_first = 1}, batch)).flushes = 1;
  add(disk_case("batch_last_first_packed", kPacked, {.last_first = 1}, batch)).flushes = 1;
  add(disk_case("batch_taken_one_at_a_time", kSplit, {.prompt = 1, .at_once = 1, .busy = 1}, batch)).flushes = 1;
  add(disk_case("read_bounced", kSplit, {}, {read_at(2, 1024, kUnaligned)}));
  add(disk_case("write_bounced", kPacked, {}, {write_at(4, 1024, kUnaligned)}));
  add(disk_case("both_bounced", kSplit, {}, {write_at(4, 512, kUnaligned), read_at(2, 512, kUnaligned)}));
  add(disk_case("read_in_two_parts", kPacked, {.shorts = 1}, {read_at(2, 1024)}));
  add(disk_case("kernel_without_room", kSplit, {.busy = 2}, {write_at(4)}));
  add(disk_case("results_without_room", kSplit, {.strangers = RigRing::kResults + 2}, {read_at(2), write_at(4)}));
  add(reset_case());
  return all;
}

// A split ring has used elements in the order in which the disk answered, which a death may change.
void sort_used_elements(Seen& seen, const Way& way) {
  if (way.packed) return;
  std::vector<std::byte> scratch(kRigMemory);
  SpanMemory memory(scratch);
  const VirtioDriver driver(memory, layout(way));
  auto* const first = reinterpret_cast<VirtqUsedElem*>(seen.memory.data() + driver.device() + kVirtqRing);
  std::uint16_t count = 0;
  std::memcpy(&count, seen.memory.data() + driver.device() + kVirtqIdx, sizeof count);
  const auto older = [](const VirtqUsedElem& a, const VirtqUsedElem& b) { return a.id < b.id; };
  std::sort(first, first + std::min<std::uint16_t>(count, driver.layout().size), older);
}

Seen undisturbed_disk(const DiskCase& one) {
  Seen seen = undisturbed(one.scenario);
  sort_used_elements(seen, one.way);
  return seen;
}

std::uint64_t in_flight(const RoleRig& rig) {
  const std::string inspected = rig.inspect();
  const std::string field = ".queue0_in_flight=";
  return std::stoull(inspected.substr(inspected.find(field) + field.size()));
}

RigRing ring_of(Regions& regions) {
  return {{regions.ring[0].bytes, RigRing::kPages * 4096}, {regions.memory[0].bytes, kRigMemory}, regions.disk};
}

// What is wrong with what the successor of a process that left `regions` makes of it; empty: nothing.
std::string carried_on(const DiskCase& one, const Seen& wanted, Regions regions, std::uint32_t incarnation,
                       ipc::Ticket first, ipc::Ticket submitted, Fate fate) {
  RigRing left = ring_of(regions);
  const std::uint32_t under_way = left.under_way();
  left.bury();
  left.end_all(fate);
  regions.died_at = regions.commit();
  const auto successor = RoleRig::take_over(one.scenario.setup(), incarnation, regions, submitted);
  if (successor == nullptr) return "the successor refuses the state";
  if (in_flight(*successor) < under_way) return "something was begun that nobody has committed";
  if (const std::string taken = taken_back(regions, *successor); !taken.empty()) return taken;
  Seen found = observe(*successor, first, one.scenario);
  sort_used_elements(found, one.way);
  if (const std::string what = successor->ring->complaint(); !what.empty()) return what;
  if (successor->ring->flushes() < one.flushes) return "a flush is over that never was";
  return difference(found, wanted);
}

// What concerns the disk.
std::vector<std::byte> disk_state(const Regions& regions) {
  std::vector<std::byte> all = regions.disk;
  for (const RoleRig::Pages* pages : {&regions.ring, &regions.memory})
    all.insert(all.end(), (*pages)[0].bytes, (*pages)[0].bytes + pages->size() * sizeof(RoleRig::Page));
  const std::uint64_t commit = regions.commit();
  const auto* const bytes = reinterpret_cast<const std::byte*>(&commit);
  all.insert(all.end(), bytes, bytes + sizeof commit);
  return all;
}

// `wanted` with what a successor on `dead`, whom nobody disturbs, signals up to each of its commits: what comes after
// it need not be signalled again by the next one.
Seen with_signals_of_successor(const DiskCase& one, Seen wanted, const Regions& dead, ipc::Ticket first,
                               ipc::Ticket submitted) {
  std::erase_if(wanted.signalled, [&](const Seen::Signalled& by) { return by.commit >= dead.commit(); });
  Outside so_far = wanted.signalled.empty() ? Outside{} : wanted.signalled.back().all;
  const auto successor = RoleRig::take_over(one.scenario.setup(), kDead + 1, dead, submitted);
  so_far += successor->look_outside();
  wanted.signalled.push_back({successor->commit(), so_far});
  for (Seen::Signalled& by : observe(*successor, first, one.scenario).signalled) {
    by.all += so_far;
    wanted.signalled.push_back(by);
  }
  return wanted;
}

std::vector<Fate> fates_at(const DiskCase& one, Regions& regions) {
  if (ring_of(regions).under_way() == 0) return {Fate::kLater};
  return one.fates;
}

// Every state that an input goes through, with what was submitted by then.
struct Deaths {
  SnapshotLog log;
  Regions start;
  ipc::Ticket first = 0;
  ipc::Ticket submitted = 0;
};
Deaths step_through(const Scenario& scenario) {
  const std::unique_ptr<RoleRig> rig = prepare(scenario);
  const ipc::Ticket first = submit_input(*rig, scenario);
  Deaths deaths{SnapshotLog(watched(*rig)), rig->copy(), first, rig->submitted()};
  step_stores(
      watched(*rig), [&] { run_input(*rig); }, [&] { deaths.log.look(); });
  report(deaths.log);
  EXPECT_GT(deaths.log.snapshots(), 3U);
  return deaths;
}

// Looking after stores is as good as looking after instructions.
TEST(FaultDiskRingSteps, states_are_the_same_as_after_single_steps) {
  if (!kCanSingleStep) GTEST_SKIP() << "not under a sanitizer";
  const Scenario scenario = disk_case("read", kSplit, {}, {read_at(2, 1024)}).scenario;
  const std::unique_ptr<RoleRig> rig = prepare(scenario);
  SnapshotLog log(watched(*rig));
  single_step([&] { run_input(*rig); }, [&] { log.look(); });
  const Deaths deaths = step_through(scenario);
  EXPECT_EQ(deaths.log.snapshots(), log.snapshots());
  EXPECT_LT(deaths.log.looks(), log.looks() / 10);
}

class FaultDiskRing : public ::testing::TestWithParam<DiskCase> {};
class FaultDiskRingTwice : public FaultDiskRing {};

TEST_P(FaultDiskRing, at_every_instruction_the_successor_carries_on_unnoticed) {
  if (!kCanSingleStep) GTEST_SKIP() << "not under a sanitizer";
  const DiskCase& one = GetParam();
  const Seen wanted = undisturbed_disk(one);
  const Deaths deaths = step_through(one.scenario);
  std::size_t kill = 0;
  deaths.log.for_each([&](const std::vector<std::vector<std::byte>>& copies) {
    if (HasFatalFailure()) return;
    Regions regions = with(deaths.start, copies);
    ++kill;
    for (const Fate fate : fates_at(one, regions)) {
      ASSERT_EQ(carried_on(one, wanted, regions, kDead + 1, deaths.first, deaths.submitted, fate), "")
          << "kill point " << kill << ", fate " << static_cast<int>(fate);
    }
  });
}

// First deaths: one at each place in the life of the requests. Second ones: between any two instructions of the
// take-over and of what follows it, until all is over; of their states, those that differ in what concerns the disk
// (ring, notes, commits, guest memory and disk), as the others are FaultTwice's. The fates take turns.
TEST_P(FaultDiskRingTwice, at_every_instruction_of_the_take_over_the_next_successor_carries_on_unnoticed) {
  if (!kCanSingleStep) GTEST_SKIP() << "not under a sanitizer";
  const DiskCase& one = GetParam();
  const Seen wanted = undisturbed_disk(one);
  const Deaths deaths = step_through(one.scenario);
  std::vector<Regions> first_deaths;
  std::set<std::string> places;
  deaths.log.for_each([&](const std::vector<std::vector<std::byte>>& copies) {
    Regions regions = with(deaths.start, copies);
    if (places.insert(ring_of(regions).place() + std::to_string(regions.commit())).second)
      first_deaths.push_back(std::move(regions));
  });
  std::size_t turn = 0;
  for (std::size_t death = 0; death < first_deaths.size(); ++death) {
    Regions& dead = first_deaths[death];
    const std::vector<Fate> fates = fates_at(one, dead);
    RigRing left = ring_of(dead);
    left.bury();
    left.end_all(fates[death % fates.size()]);
    dead.died_at = dead.commit();
    const Seen now_wanted = with_signals_of_successor(one, wanted, dead, deaths.first, deaths.submitted);
    const auto second = RoleRig::take_over(one.scenario.setup(), kDead + 1, dead, deaths.submitted);
    ASSERT_NE(second, nullptr);
    second->forget_host();
    second->restore(dead, deaths.submitted);
    SnapshotLog log(watched(*second));
    step_stores(
        {std::span(second->state_bytes()).first(4096), second->reply_bytes(), second->memory_bytes(),
         second->disk_bytes(), second->ring_bytes()},
        [&] {
          second->start();
          run_input(*second);
        },
        [&] { log.look(); });
    report(log);
    std::vector<std::byte> before;
    log.for_each([&](const std::vector<std::vector<std::byte>>& copies) {
      if (HasFatalFailure()) return;
      Regions regions = with(dead, copies);
      std::vector<std::byte> state = disk_state(regions);
      if (state == before) return;
      before = std::move(state);
      const std::vector<Fate> now = fates_at(one, regions);
      const Fate fate = now[turn++ % now.size()];
      ASSERT_EQ(carried_on(one, now_wanted, regions, kDead + 2, deaths.first, deaths.submitted, fate), "")
          << "first death " << death << ", second death " << turn << ", fate " << static_cast<int>(fate);
    });
  }
}

// A guest's reset that finds no state (it was erased, or its device was isolated) has its driver start anew while
// writes of the process before may still be under way: the new ones come after them.
TEST(FaultDiskRingAfresh, nothing_lands_on_what_is_written_after_the_state_was_erased) {
  if (!kCanSingleStep) GTEST_SKIP() << "not under a sanitizer";
  const DiskCase old = disk_case("write", kSplit, {.last_first = 1}, {write_at(4)});
  DiskRequest write = write_at(4);
  write.first_byte = 0x77;
  write.data_at = 2 * kDataAt;
  const Deaths deaths = step_through(old.scenario);
  std::set<std::string> places;
  deaths.log.for_each([&](const std::vector<std::vector<std::byte>>& copies) {
    Regions regions = with(deaths.start, copies);
    if (HasFatalFailure() || !places.insert(ring_of(regions).place()).second) return;
    std::fill(regions.state.begin(), regions.state.end(), RoleRig::Page{});
    RoleSetup setup = old.scenario.setup();
    setup.role.generation = 2;  // nobody asks for what was asked for before
    const auto afresh = RoleRig::take_over(setup, kDead + 1, regions, deaths.submitted);
    ASSERT_NE(afresh, nullptr);
    ASSERT_TRUE(serve(*afresh->host));
    for (const ipc::Request& request : old.scenario.before) afresh->ask(request);
    ask_the_disk(*afresh, kSplit, {write}, false);
    ASSERT_TRUE(serve_with_disk(*afresh));
    EXPECT_EQ(afresh->memory_bytes()[kBuffers + kStatusAt], std::byte{0});
    EXPECT_EQ(afresh->disk_bytes()[4 * kSectorBytes], std::byte{0x77});
    EXPECT_EQ(afresh->ring->complaint(), "");
  });
  EXPECT_GT(places.size(), 5U);
}

INSTANTIATE_TEST_SUITE_P(Inputs, FaultDiskRing, ::testing::ValuesIn(cases()),
                         [](const ::testing::TestParamInfo<DiskCase>& one) { return one.param.scenario.name; });
INSTANTIATE_TEST_SUITE_P(Inputs, FaultDiskRingTwice, ::testing::ValuesIn(cases()),
                         [](const ::testing::TestParamInfo<DiskCase>& one) { return one.param.scenario.name; });

}  // namespace
}  // namespace bulkhead::devproc
