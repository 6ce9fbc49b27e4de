// How long a jail takes, against what is started or made without one in the same moments: a machine that is busy is so
// for both. The bars are far above the usual figures: they catch a change of kind, not noise.
#include <gtest/gtest.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "tests/sandbox/probe.h"

namespace bulkhead::sandbox {
namespace {

using testing::value_of;
using Clock = std::chrono::steady_clock;

double us_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

void show(const char* what, double us) {
  std::printf("  %-44s %8.0f us p50\n", what, us);
  ::testing::Test::RecordProperty(what, static_cast<int>(us));
}

// The same program without any jail, which ends at once for want of arguments.
double time_of_bare_start() {
  static const std::string program = testing::directory_of_tests() + "/jail_probe";
  const auto begin = Clock::now();
  const pid_t pid = ::fork();
  if (pid == 0) {
    const UniqueFd null(::open("/dev/null", O_WRONLY));
    ::dup2(null.get(), STDERR_FILENO);
    ::execl(program.c_str(), program.c_str(), static_cast<char*>(nullptr));
    ::_exit(1);
  }
  ::waitpid(pid, nullptr, 0);
  return us_since(begin);
}

TEST(Timing, of_a_jailed_start) {
  std::vector<double> bare;
  std::vector<double> spawned;
  std::vector<double> ready;
  std::vector<double> ended;
  Tracer tracer;
  for (int i = 0; i < 100; ++i) {
    bare.push_back(time_of_bare_start());
    const testing::ProbeFds fds = testing::make_probe_fds();
    SpawnOptions options = testing::probe_options(fds, "wait", "role");
    options.tracer = &tracer;
    const auto begin = Clock::now();
    ChildProcess child = value_of(spawn(testing::probe_program(), options));
    spawned.push_back(us_since(begin));
    char word[8];
    ASSERT_EQ(::recv(fds.ours.get(), word, sizeof word, 0), 5);
    ready.push_back(us_since(begin));
    const auto end = Clock::now();
    ASSERT_TRUE(child.kill());
    std::vector<ExitReport> reports;
    while (reports.empty()) reports = tracer.poll();
    tracer.release(child.pid());
    ASSERT_TRUE(child.wait());
    ended.push_back(us_since(end));
  }
  show("started and ended without a jail", median(bare));
  show("spawn() returns", median(spawned));
  show("jailed, both filters loaded, ready said", median(ready));
  show("SIGKILL to reaped", median(ended));
  EXPECT_LT(median(ready) / median(bare), 25);
}

// In processes of their own, since a filter stays.
template <class Load>
double time_of_load(Load load) {
  auto* const us =
      static_cast<double*>(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  const pid_t pid = ::fork();
  if (pid == 0) {
    const auto begin = Clock::now();
    load();
    *us = us_since(begin);
    ::_exit(0);
  }
  ::waitpid(pid, nullptr, 0);
  const double result = *us;
  ::munmap(us, 4096);
  return result;
}

TEST(Timing, of_a_filter) {
  const CompiledFilter filter = value_of(compile_role_filter({}));
  std::vector<double> compiled;
  std::vector<double> loaded;
  for (int i = 0; i < 100; ++i) {
    compiled.push_back(time_of_load([] { (void)compile_role_filter({}); }));
    loaded.push_back(time_of_load([&] {
      (void)forbid_new_privileges();
      (void)load_filter(filter, FilterScope::kProcess);
    }));
  }
  show("policy compiled by libseccomp", median(compiled));
  show("compiled filter loaded", median(loaded));
  std::printf("  %-44s %8zu\n", "instructions of the base filter", filter.program().size());
  EXPECT_LT(median(loaded) / median(compiled), 2);
}

}  // namespace
}  // namespace bulkhead::sandbox
