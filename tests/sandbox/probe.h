// Test harness: starts jail_probe (tests/sandbox/bad_programs) under a chosen stage of confinement and says
// how it ended. Header only, since the build takes *_test.cc files alone.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <string>
#include <vector>

#include "sandbox/child_process.h"
#include "sandbox/policies.h"
#include "sandbox/spawn.h"
#include "sandbox/tracer.h"
#include "tests/sandbox/bad_programs/deeds.h"

namespace bulkhead::sandbox::testing {

// The sanitizers' runtimes need more system calls, time and signal handlers of their own.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

// The value of a Result, or a test failure with its message and an abort of this test program.
template <class T>
T value_of(Result<T> result) {
  if (!result) {
    ADD_FAILURE() << result.error().message;
    std::abort();
  }
  return std::move(*result);
}
inline void must(const Status& status) { ASSERT_TRUE(status) << status.error().message; }

inline std::string directory_of_tests() {
  std::array<char, 4096> path{};
  const ssize_t length = ::readlink("/proc/self/exe", path.data(), path.size() - 1);
  const std::string self(path.data(), length > 0 ? static_cast<std::size_t>(length) : 0);
  return self.substr(0, self.rfind('/'));
}

inline const Executable& probe_program() {
  static const Executable program = value_of(Executable::open(directory_of_tests() + "/jail_probe"));
  return program;
}

// The two filters of a role that has no group beyond the base.
inline BorrowedFd standby_filter() {
  static const UniqueFd fd = value_of(export_filter(value_of(compile_standby_filter({}))));
  return fd.borrow();
}
inline BorrowedFd role_filter() {
  static const UniqueFd fd = value_of(export_filter(value_of(compile_role_filter({}))));
  return fd.borrow();
}

// What a probe is given (the numbers are in deeds.h).
struct ProbeFds {
  UniqueFd ours;  // our end of its control socket
  UniqueFd control;
  UniqueFd region;
  UniqueFd timer;
  UniqueFd epoll;
  UniqueFd output[2];  // its standard error, as a pipe
};

inline ProbeFds make_probe_fds() {
  ProbeFds fds;
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  fds.ours.reset(ends[0]);
  fds.control.reset(ends[1]);
  fds.region.reset(::memfd_create("region", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(::ftruncate(fds.region.get(), 4096), 0);
  EXPECT_EQ(::fcntl(fds.region.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
  fds.timer.reset(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  fds.epoll.reset(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{};
  event.events = EPOLLIN;
  EXPECT_EQ(::epoll_ctl(fds.epoll.get(), EPOLL_CTL_ADD, fds.timer.get(), &event), 0);
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  fds.output[0].reset(ends[0]);
  fds.output[1].reset(ends[1]);
  return fds;
}

inline SpawnOptions probe_options(const ProbeFds& fds, const std::string& deed, const std::string& stage) {
  SpawnOptions options;
  options.arguments = {"jail_probe", deed, stage};
  options.descriptors = {{fds.output[1].borrow(), 1},
                         {fds.output[1].borrow(), 2},
                         {fds.control.borrow(), probe::kControl},
                         {standby_filter(), probe::kStandbyFilter},
                         {role_filter(), probe::kRoleFilter},
                         {fds.region.borrow(), probe::kRegion},
                         {fds.timer.borrow(), probe::kTimer},
                         {fds.epoll.borrow(), probe::kEpoll}};
  return options;
}

inline std::string read_all(BorrowedFd fd) {
  std::string text;
  std::array<char, 4096> part{};
  for (;;) {
    const ssize_t got = ::read(fd.get(), part.data(), part.size());
    if (got <= 0) return text;
    text.append(part.data(), static_cast<std::size_t>(got));
  }
}

// A probe under way, traced by the test's thread.
class Probe {
 public:
  static constexpr std::chrono::seconds kPatience{20};

  Probe(const std::string& deed, const std::string& stage) : fds_(make_probe_fds()) {
    SpawnOptions options = probe_options(fds_, deed, stage);
    options.tracer = &tracer_;
    child_ = value_of(spawn(probe_program(), options));
    // Only the probe holds these from here on, so that its end can be read from them.
    fds_.control.reset();
    fds_.output[1].reset();
  }

  // Waits until it has entered its jail; false when it died before.
  bool ready() {
    std::array<char, 16> word{};
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (std::chrono::steady_clock::now() < deadline) {
      pollfd entry{fds_.ours.get(), POLLIN, 0};
      if (::poll(&entry, 1, 1) > 0) return ::recv(fds_.ours.get(), word.data(), word.size(), 0) == 5;
      collect();
    }
    return false;
  }

  // Polls the tracer until the end; the process is then gone and reaped.
  ExitReport end() {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!report_ && std::chrono::steady_clock::now() < deadline) {
      collect();
      ::usleep(200);
    }
    if (!report_) ADD_FAILURE() << "the probe does not end";
    if (report_ && report_->held) tracer_.release(child_.pid());
    child_.end();
    return report_.value_or(ExitReport{});
  }

  std::string output() { return read_all(fds_.output[0].borrow()); }
  ChildProcess& process() { return child_; }
  Tracer& tracer() { return tracer_; }
  ProbeFds& fds() { return fds_; }

 private:
  void collect() {
    for (ExitReport& report : tracer_.poll()) report_ = std::move(report);
  }
  ProbeFds fds_;
  Tracer tracer_;
  ChildProcess child_;
  std::optional<ExitReport> report_;
};

inline std::size_t open_descriptors() {
  std::size_t count = 0;
  for (int fd = 0; fd < 1024; ++fd) count += ::fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
  return count;
}

}  // namespace bulkhead::sandbox::testing
