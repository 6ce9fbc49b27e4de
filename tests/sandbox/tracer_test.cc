// The reports of a traced process's end: at its exit stop, with registers, whatever it died of.
#include "sandbox/tracer.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <fstream>
#include <random>
#include <thread>

#include "tests/sandbox/probe.h"

namespace bulkhead::sandbox {
namespace {

using testing::make_probe_fds;
using testing::Probe;
using testing::probe_options;
using testing::probe_program;
using testing::ProbeFds;
using testing::value_of;

TEST(Tracer, reports_exit_codes) {
  Probe clean("exit-0", "role");
  EXPECT_EQ(clean.end().kind, ExitKind::kClean);
  Probe seven("exit-7", "role");
  const ExitReport report = seven.end();
  EXPECT_EQ(report.kind, ExitKind::kExitCode);
  EXPECT_EQ(report.exit_code, 7);
}

TEST(Tracer, reports_a_fault_with_its_address) {
  Probe probe("segv", "role");
  const ExitReport report = probe.end();
  EXPECT_EQ(report.kind, ExitKind::kSignal);
  EXPECT_EQ(report.signal, SIGSEGV);
  EXPECT_EQ(report.fault_address, 0x10U);
  ASSERT_TRUE(report.registers);
}

TEST(Tracer, reports_a_trap) {
  Probe probe("trap", "role");
  EXPECT_EQ(probe.end().signal, SIGILL);
}

// A fault's signal, sent by somebody, is no fault: it goes to the process, which as the first of its pid
// namespace is immune.
TEST(Tracer, passes_on_signals_that_others_send) {
  if (testing::kSanitized) GTEST_SKIP() << "the runtime handles signals";
  Probe probe("wait", "role");
  ASSERT_TRUE(probe.ready());
  for (const int signal : {SIGSEGV, SIGSYS, SIGTERM, SIGUSR1}) ::kill(probe.process().pid(), signal);
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(50);
  while (std::chrono::steady_clock::now() < until) ASSERT_TRUE(probe.tracer().poll().empty());
  probe.fds().ours.reset();
  EXPECT_EQ(probe.end().kind, ExitKind::kClean);
}

TEST(Tracer, reports_a_kill_with_the_registers_of_the_moment) {
  Probe probe("burn", "role");
  ASSERT_TRUE(probe.ready());
  ASSERT_TRUE(probe.process().kill());
  const ExitReport report = probe.end();
  EXPECT_EQ(report.kind, ExitKind::kSignal);
  EXPECT_EQ(report.signal, SIGKILL);
  EXPECT_FALSE(report.fault_address);
  ASSERT_TRUE(report.registers);
  EXPECT_TRUE(report.held);
}

// Waits until a process stands in this system call.
void wait_for_syscall(pid_t pid, long number) {
  const std::string path = "/proc/" + std::to_string(pid) + "/syscall";
  long current = -1;
  while (!(std::ifstream(path) >> current) || current != number) std::this_thread::yield();
}

TEST(Tracer, reports_a_kill_in_a_system_call) {
  Probe probe("wait", "role");
  ASSERT_TRUE(probe.ready());
  wait_for_syscall(probe.process().pid(), SYS_recvmsg);
  ASSERT_TRUE(probe.process().kill());
  const ExitReport report = probe.end();
  EXPECT_EQ(report.signal, SIGKILL);
  ASSERT_TRUE(report.registers);
  EXPECT_EQ(report.registers->orig_rax, static_cast<unsigned long long>(SYS_recvmsg));
}

TEST(Tracer, reports_the_kill_of_a_stopped_process) {
  Probe probe("wait", "role");
  ASSERT_TRUE(probe.ready());
  ::kill(probe.process().pid(), SIGSTOP);
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(20);
  while (std::chrono::steady_clock::now() < until) ASSERT_TRUE(probe.tracer().poll().empty());
  ASSERT_TRUE(probe.process().kill());
  EXPECT_EQ(probe.end().signal, SIGKILL);
}

// From clone3's return to a running role: a kill at any point gives exactly one report, and that one says
// SIGKILL.
TEST(Tracer, reports_a_kill_at_any_moment_of_a_start) {
  std::mt19937 random(1);  // NOLINT: the same moments each time, as far as a clock can
  int held = 0;
  for (int i = 0; i < 300; ++i) {
    const ProbeFds fds = make_probe_fds();
    Tracer tracer;
    SpawnOptions options = probe_options(fds, "burn", "role");
    options.tracer = &tracer;
    ChildProcess child = value_of(spawn(probe_program(), options));
    const auto moment = std::chrono::steady_clock::now() + std::chrono::microseconds(random() % 2500);
    while (std::chrono::steady_clock::now() < moment) {
    }
    ASSERT_TRUE(child.kill());
    std::vector<ExitReport> reports;
    while (reports.empty()) reports = tracer.poll();
    ASSERT_EQ(reports.size(), 1U);
    EXPECT_EQ(reports[0].kind, ExitKind::kSignal);
    EXPECT_EQ(reports[0].signal, SIGKILL);
    EXPECT_EQ(reports[0].pid, child.pid());
    if (reports[0].held) {
      ++held;
      EXPECT_TRUE(reports[0].registers);
      tracer.release(child.pid());
    }
    child.end();
    EXPECT_TRUE(tracer.poll().empty());
    EXPECT_FALSE(tracer.traces(reports[0].pid));
  }
  EXPECT_EQ(held, 300);
}

TEST(Tracer, is_told_through_the_child_signal_descriptor) {
  const UniqueFd signals = value_of(child_signal_fd());
  Probe probe("wait", "role");
  ASSERT_TRUE(probe.ready());
  signalfd_siginfo info{};
  while (::read(signals.get(), &info, sizeof info) > 0) {
  }
  ASSERT_TRUE(probe.process().kill());
  pollfd entry{signals.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&entry, 1, 5000), 1);
  EXPECT_EQ(::read(signals.get(), &info, sizeof info), static_cast<ssize_t>(sizeof info));
  const std::vector<ExitReport> reports = probe.tracer().poll();
  ASSERT_EQ(reports.size(), 1U);
  EXPECT_EQ(reports[0].signal, SIGKILL);
  sigset_t child;
  ::sigemptyset(&child);
  ::sigaddset(&child, SIGCHLD);
  ::sigprocmask(SIG_UNBLOCK, &child, nullptr);
}

TEST(Tracer, leaves_the_reaping_to_the_owner_on_any_thread) {
  Probe probe("exit-7", "role");
  std::vector<ExitReport> reports;
  while (reports.empty()) reports = probe.tracer().poll();
  probe.tracer().release(probe.process().pid());
  std::thread([&] { EXPECT_EQ(value_of(probe.process().wait()).exit_code, 7); }).join();
  EXPECT_TRUE(probe.tracer().poll().empty());
}

TEST(Tracer, makes_a_released_corpse_yield_to_everything) {
  Probe probe("exit-0", "role");
  std::vector<ExitReport> reports;
  while (reports.empty()) reports = probe.tracer().poll();
  probe.tracer().release(probe.process().pid());
  EXPECT_EQ(::sched_getscheduler(probe.process().pid()), SCHED_IDLE);
}

TEST(Tracer, handles_several_processes) {
  const ProbeFds fds = make_probe_fds();
  Tracer tracer;
  std::vector<ChildProcess> children;
  for (int i = 0; i < 5; ++i) {
    SpawnOptions options = probe_options(fds, "burn", "role");
    options.tracer = &tracer;
    children.push_back(value_of(spawn(probe_program(), options)));
  }
  ASSERT_TRUE(children[3].kill());
  std::vector<ExitReport> reports;
  while (reports.empty()) reports = tracer.poll();
  ASSERT_EQ(reports.size(), 1U);
  EXPECT_EQ(reports[0].pid, children[3].pid());
  EXPECT_TRUE(tracer.traces(children[0].pid()));
}

TEST(Tracer, kills_what_it_traces_when_its_thread_ends) {
  const ProbeFds fds = make_probe_fds();
  ChildProcess child = value_of(spawn(probe_program(), probe_options(fds, "burn", "jail")));
  std::thread([&] {
    Tracer tracer;
    ASSERT_TRUE(tracer.seize(child.pid()));
  }).join();
  EXPECT_EQ(value_of(child.wait()).signal, SIGKILL);
}

// Its owner drops it on the tracer's thread, without a word to the tracer.
TEST(Tracer, does_not_mind_that_a_traced_process_is_dropped) {
  const ProbeFds fds = make_probe_fds();
  Tracer tracer;
  SpawnOptions options = probe_options(fds, "burn", "role");
  options.tracer = &tracer;
  const auto begin = std::chrono::steady_clock::now();
  value_of(spawn(probe_program(), options)).end();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  EXPECT_TRUE(tracer.poll().empty());
}

TEST(Tracer, cannot_seize_what_is_gone) {
  Tracer tracer;
  const Status seized = tracer.seize(0x3fffff);
  ASSERT_FALSE(seized);
  EXPECT_NE(seized.error().message.find("cannot trace process 4194303"), std::string::npos);
}

TEST(Untraced, violation_is_reported_without_the_call) {
  const ProbeFds fds = make_probe_fds();
  ChildProcess child = value_of(spawn(probe_program(), probe_options(fds, "openat", "role")));
  const ExitReport report = value_of(child.wait());
  EXPECT_EQ(report.kind, ExitKind::kSeccompViolation);
  EXPECT_FALSE(report.syscall);
}

}  // namespace
}  // namespace bulkhead::sandbox
