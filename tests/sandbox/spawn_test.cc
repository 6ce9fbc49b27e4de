// Starting a program: what it gets, what it does not get, and what is said when it cannot be started.
#include "sandbox/spawn.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <fstream>
#include <future>
#include <thread>
#include <vector>

#include "tests/sandbox/probe.h"

namespace bulkhead::sandbox {
namespace {

using testing::make_probe_fds;
using testing::open_descriptors;
using testing::probe_options;
using testing::probe_program;
using testing::ProbeFds;
using testing::value_of;

// Runs `body` in a forked process, for what would change this one; true when it returned true.
template <class Body>
bool in_child_process(Body body) {
  std::fflush(nullptr);
  const pid_t pid = ::fork();
  if (pid == 0) {
    const bool worked = body();
    std::fflush(nullptr);
    ::_exit(worked ? 0 : 1);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// The error of a spawn that must fail; it may leave neither process nor descriptor.
std::string error_of_spawn(const Executable& program, const SpawnOptions& options) {
  const std::size_t before = open_descriptors();
  const Result<ChildProcess> child = spawn(program, options);
  if (child) return "no error";
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
  return child.error().message;
}

std::string temporary_file(const char* content, unsigned mode) {
  std::string path = ::testing::TempDir() + "bulkhead-spawn-XXXXXX";  // tests run side by side
  EXPECT_TRUE(UniqueFd(::mkstemp(path.data())).valid());  // closed again: a file open for writing is not executed
  std::ofstream(path) << content;
  EXPECT_EQ(::chmod(path.c_str(), mode), 0);
  return path;
}

TEST(Executable, that_is_missing_is_named) {
  const Result<Executable> missing = Executable::open("/no/such/program");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().message, "cannot open the program /no/such/program: No such file or directory");
}

TEST(Spawn, says_that_a_file_is_no_program) {
  const std::string path = temporary_file("just text\n", 0755);
  EXPECT_EQ(error_of_spawn(value_of(Executable::open(path)), {.arguments = {"x"}}),
            "cannot start " + path + ": it could not execute: Exec format error");
  ::unlink(path.c_str());
}

TEST(Spawn, says_that_a_file_may_not_be_executed) {
  const std::string path = temporary_file("just text\n", 0644);
  EXPECT_EQ(error_of_spawn(value_of(Executable::open(path)), {.arguments = {"x"}}),
            "cannot start " + path + ": it could not execute: Permission denied");
  ::unlink(path.c_str());
}

TEST(Spawn, refuses_a_descriptor_number_listed_twice) {
  const ProbeFds fds = make_probe_fds();
  SpawnOptions options = probe_options(fds, "exit-0", "jail");
  options.descriptors.push_back({fds.timer.borrow(), probe::kControl});
  EXPECT_NE(error_of_spawn(probe_program(), options).find("descriptor number 3 is listed twice"), std::string::npos);
}

TEST(Spawn, refuses_descriptor_numbers_out_of_range) {
  const ProbeFds fds = make_probe_fds();
  for (const int target : {-1, kMaxFdTarget}) {
    SpawnOptions options;
    options.descriptors = {{fds.timer.borrow(), target}};
    EXPECT_NE(error_of_spawn(probe_program(), options).find("out of range"), std::string::npos);
  }
}

TEST(Spawn, refuses_to_hand_over_what_is_not_open) {
  SpawnOptions options;
  options.descriptors = {{BorrowedFd(), 3}};
  EXPECT_NE(error_of_spawn(probe_program(), options).find("nothing is open"), std::string::npos);
  options.descriptors = {{BorrowedFd(987), 3}};
  EXPECT_NE(error_of_spawn(probe_program(), options).find("descriptors in place: Bad file descriptor"),
            std::string::npos);
}

TEST(Spawn, says_that_there_are_too_few_descriptors) {
  EXPECT_TRUE(in_child_process([] {
    rlimit limit{200, 200};
    ::setrlimit(RLIMIT_NOFILE, &limit);
    const std::string error = error_of_spawn(probe_program(), {.arguments = {"x"}});
    EXPECT_NE(error.find("put its descriptors in place"), std::string::npos) << error;
    return !::testing::Test::HasFailure();
  }));
}

TEST(Spawn, says_that_user_namespaces_are_not_permitted) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs chroot";
  EXPECT_TRUE(in_child_process([] {
    const Executable& program = probe_program();
    // The kernel makes no user namespace for a process in a chroot.
    if (::chroot("/proc") != 0) return false;
    const std::string error = error_of_spawn(program, {.arguments = {"x"}});
    EXPECT_NE(error.find("does not let user 0 create user namespaces"), std::string::npos) << error;
    return !::testing::Test::HasFailure();
  }));
}

TEST(Spawn, says_that_the_limit_of_namespaces_is_reached) {
  if (testing::kSanitized) GTEST_SKIP() << "unshare needs a process of one thread";
  EXPECT_TRUE(in_child_process([] {
    const Executable& program = probe_program();
    // The limit of a user namespace of one's own, so that nobody else is concerned.
    if (::unshare(CLONE_NEWUSER) != 0) return false;
    std::ofstream("/proc/sys/user/max_user_namespaces") << "0";
    const std::string error = error_of_spawn(program, {.arguments = {"x"}});
    EXPECT_NE(error.find("limit of namespaces is reached"), std::string::npos) << error;
    return !::testing::Test::HasFailure();
  }));
}

TEST(Spawn, leaks_no_descriptor_and_no_zombie_in_1000_starts) {
  const ProbeFds fds = make_probe_fds();
  const SpawnOptions options = probe_options(fds, "exit-0", "jail");
  value_of(spawn(probe_program(), options)).end();
  const std::size_t before = open_descriptors();
  for (int i = 0; i < 1000; ++i) {
    char ready[8];
    while (::recv(fds.ours.get(), ready, sizeof ready, MSG_DONTWAIT) > 0) {
    }
    ChildProcess child = value_of(spawn(probe_program(), options));
    if (i % 2 != 0) continue;  // dropped alive
    ASSERT_EQ(value_of(child.wait()).kind, ExitKind::kClean);
  }
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST(Spawn, leaves_the_spawning_process_as_it_was) {
  ::prctl(PR_SET_DUMPABLE, 1);
  sigset_t before;
  sigset_t after;
  ::sigprocmask(SIG_BLOCK, nullptr, &before);
  const ProbeFds fds = make_probe_fds();
  value_of(spawn(probe_program(), probe_options(fds, "exit-0", "jail"))).end();
  ::sigprocmask(SIG_BLOCK, nullptr, &after);
  EXPECT_EQ(::prctl(PR_GET_DUMPABLE), 1);
  for (int signal = 1; signal < 65; ++signal)
    EXPECT_EQ(::sigismember(&before, signal), ::sigismember(&after, signal)) << signal;
}

TEST(Spawn, works_from_a_non_dumpable_process_and_leaves_it_so) {
  EXPECT_TRUE(in_child_process([] {
    ::prctl(PR_SET_DUMPABLE, 0);
    const ProbeFds fds = make_probe_fds();
    ChildProcess child = value_of(spawn(probe_program(), probe_options(fds, "exit-7", "jail")));
    EXPECT_EQ(value_of(child.wait()).exit_code, 7);
    EXPECT_EQ(::prctl(PR_GET_DUMPABLE), 0);
    return !::testing::Test::HasFailure();
  }));
}

// Signals that this process ignores or blocks must not be so in the child (check-settings looks).
TEST(Spawn, resets_signals_environment_and_session) {
  EXPECT_TRUE(in_child_process([] {
    ::signal(SIGPIPE, SIG_IGN);
    ::signal(SIGUSR1, [](int) {});
    sigset_t all;
    ::sigfillset(&all);
    ::sigprocmask(SIG_BLOCK, &all, nullptr);
    const ProbeFds fds = make_probe_fds();
    ChildProcess child = value_of(spawn(probe_program(), probe_options(fds, "check-settings", "jail")));
    const ExitReport report = value_of(child.wait());
    EXPECT_EQ(report.kind, ExitKind::kClean) << report.describe("check-settings");
    return !::testing::Test::HasFailure();
  }));
}

TEST(ChildProcess, dies_with_the_thread_that_spawned_it) {
  const ProbeFds fds = make_probe_fds();
  ChildProcess child;
  std::thread([&] { child = value_of(spawn(probe_program(), probe_options(fds, "wait", "role"))); }).join();
  EXPECT_EQ(value_of(child.wait()).signal, SIGKILL);
}

TEST(ChildProcess, dies_with_the_process_that_spawned_it) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const pid_t parent = ::fork();
  if (parent == 0) {
    const ProbeFds fds = make_probe_fds();
    const ChildProcess child = value_of(spawn(probe_program(), probe_options(fds, "wait", "role")));
    const pid_t pid = child.pid();
    [[maybe_unused]] const ssize_t written = ::write(writer.get(), &pid, sizeof pid);
    for (;;) ::pause();
  }
  pid_t pid = 0;
  ASSERT_EQ(::read(reader.get(), &pid, sizeof pid), static_cast<ssize_t>(sizeof pid));
  const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  ::kill(parent, SIGKILL);
  pollfd dead{pidfd.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&dead, 1, 5000), 1);
  ::waitpid(parent, nullptr, 0);
}

TEST(ChildProcess, is_killed_and_reaped_when_dropped) {
  const ProbeFds fds = make_probe_fds();
  pid_t pid = 0;
  {
    const ChildProcess child = value_of(spawn(probe_program(), probe_options(fds, "burn", "role")));
    pid = child.pid();
  }
  EXPECT_EQ(::kill(pid, 0), -1);
  EXPECT_EQ(errno, ESRCH);
}

// Killed, and held at its exit by a tracer that never lets it go: as one whose system call does not end.
pid_t seized_child() {
  const pid_t pid = ::fork();
  if (pid == 0) {
    for (;;) ::pause();
  }
  EXPECT_EQ(::ptrace(PTRACE_SEIZE, pid, nullptr, PTRACE_O_TRACEEXIT), 0);
  return pid;
}

TEST(ChildProcess, those_that_do_not_end_are_waited_for_together) {
  std::promise<std::array<pid_t, 2>> held;
  std::promise<void> over;
  std::thread tracer([&] {
    held.set_value({seized_child(), seized_child()});
    over.get_future().wait();
    for (int i = 0; i < 2; ++i) EXPECT_GT(::waitpid(-1, nullptr, __WALL), 0);  // they are traced no more
  });
  std::vector<ChildProcess> children;
  for (const pid_t pid : held.get_future().get())
    children.emplace_back(pid, UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))));
  const pid_t last = ::fork();
  if (last == 0) {
    for (;;) ::pause();
  }
  children.emplace_back(last, UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, last, 0))));
  std::vector<ChildProcess*> all;
  for (ChildProcess& child : children) all.push_back(&child);
  constexpr std::chrono::milliseconds kPatience{1'000};
  const auto start = std::chrono::steady_clock::now();
  ChildProcess::end_all(all, kPatience);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 2 * kPatience) << "one after the other";
  for (const ChildProcess& child : children) EXPECT_FALSE(child.valid());
  EXPECT_EQ(::kill(last, 0), -1) << "one that does end is reaped, though others do not";
  over.set_value();
  tracer.join();
}

TEST(ChildProcess, says_nothing_of_its_end_while_it_lives) {
  const ProbeFds fds = make_probe_fds();
  ChildProcess child = value_of(spawn(probe_program(), probe_options(fds, "wait", "role")));
  EXPECT_FALSE(value_of(child.try_wait()).has_value());
  EXPECT_TRUE(child.kill());
  EXPECT_EQ(value_of(child.wait()).signal, SIGKILL);
  EXPECT_FALSE(child.valid());
}

TEST(ChildProcess, moved_over_another_ends_that_one) {
  const ProbeFds fds = make_probe_fds();
  ChildProcess child = value_of(spawn(probe_program(), probe_options(fds, "burn", "role")));
  const pid_t first = child.pid();
  child = value_of(spawn(probe_program(), probe_options(fds, "burn", "role")));
  EXPECT_EQ(::kill(first, 0), -1);
  EXPECT_TRUE(child.valid());
}

// Somebody kills the child while spawn() is still at work on it: an error or a dead child, never a hang.
TEST(Spawn, survives_the_childs_death_at_any_moment) {
  const std::string children = "/proc/self/task/" + std::to_string(::gettid()) + "/children";
  if (::access(children.c_str(), R_OK) != 0) GTEST_SKIP() << "this kernel does not list children";
  const ProbeFds fds = make_probe_fds();
  std::atomic<bool> stop{false};
  std::atomic<int> kills{0};
  std::thread killer([&] {
    while (!stop) {
      pid_t pid = 0;
      if (std::ifstream(children) >> pid && ::kill(pid, SIGKILL) == 0) ++kills;
    }
  });
  int errors = 0;
  for (int i = 0; i < 300; ++i) {
    Tracer tracer;
    SpawnOptions options = probe_options(fds, "burn", "role");
    if (i % 2 == 0) options.tracer = &tracer;
    Result<ChildProcess> child = spawn(probe_program(), options);
    if (!child) ++errors;
  }
  stop = true;
  killer.join();
  EXPECT_GT(kills, 0);
  ::testing::Test::RecordProperty("spawn_errors", errors);
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG | __WALL), -1);
}

TEST(HostIdentity, differs_for_each_vmm_and_each_of_64_processes) {
  EXPECT_EQ(host_identity(1, 0).uid, 0x4000'0040U);
  EXPECT_EQ(host_identity(1, 63).uid + 1, host_identity(2, 0).uid);
  EXPECT_EQ(host_identity(1, 64).uid, host_identity(1, 0).uid);
  EXPECT_EQ(host_identity(4'194'303, 63).uid, 0x4fff'ffffU);
  EXPECT_EQ(host_identity(7, 3).gid, host_identity(7, 3).uid);
}

}  // namespace
}  // namespace bulkhead::sandbox
