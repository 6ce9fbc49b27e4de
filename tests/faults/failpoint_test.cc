// Death at every named step, of every input of every device, and a second death at every step of the
// take-over that follows (DESIGN.md, section 4: crash points). The first death is a process that exits
// there; for the second, the regions are copied there, and a third incarnation runs on each copy.
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "tests/faults/child.h"
#include "tests/faults/inputs.h"
#include "tests/faults/passes.h"

namespace bulkhead::devproc {
namespace {

using Regions = RoleRig::Regions;

constexpr int kDiedThere = 77;
constexpr std::uint32_t kDead = 10;  // what led to the input may have used up a few incarnations

// A copy of the regions at each failpoint that `body` comes by. Of those that leave the same, the first one.
struct Stop {
  std::string name;
  Regions regions;
};
std::vector<Stop> stops_of(RoleRig& rig, const std::function<void()>& body) {
  std::vector<Stop> stops;
  const Passes passes([&](std::string_view name) {
    Regions regions = rig.copy();
    if (stops.empty() || stops.back().regions != regions) stops.push_back({std::string(name), std::move(regions)});
  });
  body();
  return stops;
}

class FaultPoints : public ::testing::TestWithParam<Scenario> {
 protected:
  // The process that works on the input exits at the `n`th failpoint. False: there are not that many.
  bool die_at(RoleRig& rig, std::size_t n) {
    const ChildEnd end = run_child([&] {
      std::size_t count = 0;
      const Passes passes([&](std::string_view name) {
        if (++count != n) return;
        write_text(report_, std::string(name));
        ::_exit(kDiedThere);
      });
      run_input(rig);
    });
    EXPECT_TRUE(end.exit_code == 0 || end.exit_code == kDiedThere) << "the process ended in another way";
    return end.exit_code == kDiedThere;
  }

  // Two successors of what `dead` holds: one that lives, and one after a death at each step of the first
  // one's start.
  void expect_return(const Regions& dead, ipc::Ticket first, ipc::Ticket submitted) {
    const Scenario& scenario = GetParam();
    const auto second = RoleRig::take_over(scenario.setup(), kDead + 1, dead, submitted);
    ASSERT_NE(second, nullptr);
    ASSERT_EQ(taken_back(dead, *second), "");
    ASSERT_EQ(difference(observe(*second, first, scenario), wanted_), "");
    second->forget_host();
    second->restore(dead, submitted);
    for (const Stop& stop : stops_of(*second, [&] { ASSERT_TRUE(second->start()); })) {
      SCOPED_TRACE("and then at \"" + stop.name + '"');
      const auto third = RoleRig::take_over(scenario.setup(), kDead + 2, stop.regions, submitted);
      ASSERT_NE(third, nullptr);
      ASSERT_EQ(taken_back(stop.regions, *third), "");
      ASSERT_EQ(difference(observe(*third, first, scenario), wanted_), "");
      ++second_deaths_;
    }
  }

  std::span<char> report_ = report_page();
  Seen wanted_ = undisturbed(GetParam());
  std::size_t second_deaths_ = 0;
};

TEST_P(FaultPoints, a_death_at_any_step_and_at_any_step_of_the_return_is_not_noticed) {
  const std::unique_ptr<RoleRig> rig = prepare(GetParam(), SharedResource::instance());
  const ipc::Ticket first = submit_input(*rig, GetParam());
  const ipc::Ticket submitted = rig->submitted();
  const Regions start = rig->copy();
  std::size_t deaths = 0;
  std::size_t states = 0;
  std::optional<Regions> last;
  while (die_at(*rig, deaths + 1) && !HasFailure()) {
    ++deaths;
    SCOPED_TRACE("death " + std::to_string(deaths) + ", at \"" + read_text(report_) + '"');
    Regions dead = rig->copy();
    if (!last || *last != dead) {
      ++states;
      expect_return(dead, first, submitted);
      last = std::move(dead);
    }
    rig->restore(start, submitted);
  }
  std::printf("%zu deaths that leave %zu states, %zu second deaths\n", deaths, states, second_deaths_);
  RecordProperty("deaths", static_cast<int>(deaths));
  RecordProperty("second_deaths", static_cast<int>(second_deaths_));
  EXPECT_GT(deaths, 8U);
}

INSTANTIATE_TEST_SUITE_P(Inputs, FaultPoints, ::testing::ValuesIn(scenarios()),
                         [](const ::testing::TestParamInfo<Scenario>& scenario) { return scenario.param.name; });

// A role that dies while it starts for the first time.
TEST(FaultPointsOfStart, a_start_that_dies_at_any_step_is_a_start_in_the_end) {
  for (RoleSetup (*setup)() : {platform_setup, +[] { return pci_setup(2); }, pci_test_setup}) {
    const RoleRig whole(setup());
    const std::unique_ptr<RoleRig> rig = RoleRig::on(setup(), std::pmr::get_default_resource());
    const std::vector<Stop> stops = stops_of(*rig, [&] { ASSERT_TRUE(rig->start()); });
    EXPECT_GT(stops.size(), 4U);
    for (const Stop& stop : stops) {
      SCOPED_TRACE("death at \"" + stop.name + '"');
      const auto successor = RoleRig::take_over(setup(), 2, stop.regions, 0);
      ASSERT_NE(successor, nullptr);
      ASSERT_TRUE(serve(*successor->host));
      // The clock that the RTC shows goes on.
      if (setup != platform_setup) {
        ASSERT_EQ(successor->inspect(), whole.inspect());
      }
      ASSERT_EQ(successor->ask(reads(0, 0, 0, 1)).reply.status, ipc::ReplyStatus::kDone);
    }
  }
}

std::set<std::string> failpoints_in_the_source() {
  std::set<std::string> names;
  const std::regex use("FAILPOINT\\(\"([^\"]+)\"\\)");
  for (const auto& file : std::filesystem::recursive_directory_iterator(FAULT_SOURCE_DIR "/devproc")) {
    // A disk's ring needs a kernel: it is not among these inputs.
    if (!file.is_regular_file() || file.path().stem() == "ring_block") continue;
    std::stringstream text;
    text << std::ifstream(file.path()).rdbuf();
    const std::string all = text.str();
    for (std::sregex_iterator it(all.begin(), all.end(), use); it != std::sregex_iterator(); ++it)
      names.insert((*it)[1].str());
  }
  return names;
}

TEST(FaultPointsInAll, every_failpoint_of_the_runtime_is_one_that_these_inputs_die_at) {
  std::set<std::string> seen;
  {
    const Passes passes([&](std::string_view name) { seen.insert(std::string(name)); });
    for (const Scenario& scenario : scenarios()) {
      const std::unique_ptr<RoleRig> rig = prepare(scenario);
      submit_input(*rig, scenario);
      run_input(*rig);
      EXPECT_NE(rig->take_over(), nullptr);
    }
  }
  EXPECT_EQ(seen, failpoints_in_the_source());
  EXPECT_GT(seen.size(), 30U);
}

}  // namespace
}  // namespace bulkhead::devproc
