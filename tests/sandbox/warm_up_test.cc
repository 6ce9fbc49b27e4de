// Everyday C++ under the filters: nothing that libc or the C++ runtime do lazily may kill a device process.
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>

#include "tests/sandbox/probe.h"

namespace bulkhead::sandbox {
namespace {

using testing::Probe;

// Test names may hold letters, digits and underscores alone.
std::string deed_name(const ::testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
}

class Everyday : public ::testing::TestWithParam<const char*> {};

void expect_well(const char* deed, const char* stage) {
  Probe probe(deed, stage);
  ASSERT_TRUE(probe.ready()) << probe.output();
  const ExitReport report = probe.end();
  EXPECT_EQ(report.kind, ExitKind::kClean) << report.describe("probe") << "\n" << probe.output();
}

TEST_P(Everyday, works_in_a_role) { expect_well(GetParam(), "role"); }
TEST_P(Everyday, works_in_a_standby) { expect_well(GetParam(), "standby"); }

INSTANTIATE_TEST_SUITE_P(Deeds, Everyday,
                         ::testing::Values("isatty", "print", "log", "read-stdin", "localtime", "strerror", "throw",
                                           "backtrace", "allocate", "sort", "loop-calls"),
                         deed_name);

TEST(TakeRole, maps_watches_closes_and_loads_the_role_filter) { expect_well("take-role", "standby"); }

TEST(Output, of_a_jailed_process_arrives) {
  Probe probe("print", "role");
  ASSERT_TRUE(probe.ready());
  EXPECT_EQ(probe.end().kind, ExitKind::kClean);
  EXPECT_EQ(probe.output(), "printf 42 0.500000\ncout 42\ncerr 0.5\nputs\n");
}

char state_of(pid_t pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(stat, text);
  return text.at(text.rfind(')') + 2);
}

TEST(TimedWait, survives_stop_and_continue) {
  Probe probe("wait-a-while", "role");
  ASSERT_TRUE(probe.ready());
  ::kill(probe.process().pid(), SIGSTOP);
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(200);
  while (std::chrono::steady_clock::now() < until) {
    for (const ExitReport& report : probe.tracer().poll()) FAIL() << report.describe("probe");
  }
  EXPECT_EQ(state_of(probe.process().pid()), 't');
  ::kill(probe.process().pid(), SIGCONT);
  const ExitReport report = probe.end();
  EXPECT_EQ(report.kind, ExitKind::kClean) << report.describe("probe");
}

}  // namespace
}  // namespace bulkhead::sandbox
