// Allowed: what ordinary C++ does without thinking of system calls. Each deed returns 0 when it also
// worked.
#include <execinfo.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "ipc/base/log.h"
#include "sandbox/filter.h"
#include "tests/sandbox/bad_programs/deeds.h"

namespace bulkhead::sandbox::probe {
namespace {

int when(bool worked) { return worked ? 0 : 1; }

int ask_terminal() { return when(::isatty(0) == 0 && errno == ENOTTY && ::isatty(2) == 0); }

int print() {
  const bool printed = std::printf("%s %d %f\n", "printf", 42, 0.5) > 0 && std::fflush(stdout) == 0;
  std::cout << "cout " << 42 << std::endl;
  std::cerr << "cerr " << 0.5 << '\n';
  std::fputs("puts\n", stderr);
  return when(printed && std::cout.good());
}

int write_log_line() {
  log(LogLevel::kError, "a line from a jail: {}", 42);
  return 0;
}

int read_stdin() { return when(std::getchar() == EOF); }

int tell_time() {
  const time_t now = ::time(nullptr);
  const tm* local = ::localtime(&now);
  tm again{};
  const bool told = local != nullptr && ::localtime_r(&now, &again) != nullptr && ::mktime(&again) == now;
  std::array<char, 64> text{};
  return when(told && std::strftime(text.data(), text.size(), "%Y-%m-%d %Z", &again) > 0);
}

int name_errors() { return when(std::strlen(std::strerror(EPERM)) > 0 && std::strlen(std::strerror(4242)) > 0); }

// Deep enough that the unwinder passes frames that it has not seen during the warm-up.
int throw_deep(int depth) {
  std::vector<std::string> cargo(3, std::string(40, 'x'));
  if (depth == 0) throw std::out_of_range("from the bottom");
  return throw_deep(depth - 1) + static_cast<int>(cargo.size());
}

int throw_exceptions() {
  int caught = 0;
  try {
    throw_deep(20);
  } catch (const std::out_of_range&) {
    ++caught;
  }
  try {
    std::vector<int>{}.at(1);
  } catch (const std::exception&) {
    ++caught;
  }
  try {
    std::function<void()>{}();
  } catch (const std::bad_function_call&) {
    ++caught;
  }
  return when(caught == 3);
}

int trace_back() {
  std::array<void*, 32> frames{};
  return when(::backtrace(frames.data(), static_cast<int>(frames.size())) > 1);
}

// Small blocks, blocks far above malloc's mmap threshold, and growth of those (mremap, were it not for the
// warm-up).
int allocate() {
  std::vector<std::vector<char>> blocks;
  for (std::size_t size = 16; size <= (8U << 20); size *= 2) blocks.emplace_back(size, 'x');
  std::vector<char> grown;
  for (int i = 0; i < (4 << 20); ++i) grown.push_back('y');
  void* block = std::malloc(1 << 20);
  block = std::realloc(block, 16 << 20);
  std::memset(block, 1, 16 << 20);
  std::free(block);
  blocks.clear();
  std::map<int, std::string> tree;
  for (int i = 0; i < 10000; ++i) tree[i] = std::to_string(i);
  return when(grown.size() == (4U << 20) && tree.size() == 10000);
}

int sort_and_format() {
  std::vector<int> numbers(100'000);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<int>(i * 7919 % numbers.size());
  std::qsort(numbers.data(), numbers.size(), sizeof(int),
             [](const void* a, const void* b) { return *static_cast<const int*>(a) - *static_cast<const int*>(b); });
  std::stable_sort(numbers.begin(), numbers.end(), std::greater<>{});
  std::ostringstream stream;
  stream << numbers.front() << ' ' << 1e300;
  return when(numbers.front() == 99'999 && !stream.str().empty() && std::stod("1.5") == 1.5);
}

// The event loop's calls, each as the kernel sees them without a vDSO.
int run_loop_calls() {
  timespec now{};
  for (const clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW}) {
    if (::syscall(SYS_clock_gettime, clock, &now) != 0) return 1;
  }
  std::uint32_t word = 0;
  const timespec soon{0, 1'000'000};
  if (::syscall(SYS_futex, &word, FUTEX_WAKE, 1, nullptr, nullptr, 0) != 0) return 2;
  if (::syscall(SYS_futex, &word, FUTEX_WAIT, 0, &soon, nullptr, 0) == 0 || errno != ETIMEDOUT) return 3;
  if (::syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0) != 0) return 4;
  if (::sched_yield() != 0) return 5;
  itimerspec deadline{};
  deadline.it_value.tv_nsec = 1'000'000;
  if (::timerfd_settime(kTimer, 0, &deadline, nullptr) != 0) return 6;
  epoll_event event{};
  if (::epoll_wait(kEpoll, &event, 1, 1000) != 1) return 7;  // the timer was put there by the test
  std::uint64_t expirations = 0;
  if (::read(kTimer, &expirations, sizeof expirations) != sizeof expirations || expirations != 1) return 8;
  pollfd room{kControl, POLLOUT, 0};
  if (::poll(&room, 1, 1000) != 1) return 9;
  return when(::sched_getcpu() >= 0);
}

// What taking over a role does; forbidden once the role runs.
int take_role() {
  struct stat status {};
  if (::fstat(kRegion, &status) != 0 || status.st_size != 4096) return 1;
  if (::fcntl(kRegion, F_GET_SEALS) < 0) return 2;
  void* const at = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, kRegion, 0);
  if (at == MAP_FAILED) return 3;
  static_cast<char*>(at)[0] = 'x';
  if (::munmap(at, 4096) != 0) return 4;
  epoll_event event{};
  event.events = EPOLLIN;
  if (::epoll_ctl(kEpoll, EPOLL_CTL_ADD, kControl, &event) != 0) return 5;
  if (::close(kRegion) != 0) return 6;
  const auto filter = import_filter(BorrowedFd(kRoleFilter));
  if (!filter) return 7;
  return when(load_filter(*filter, FilterScope::kProcess).has_value());
}

// A timed wait that is interrupted by SIGSTOP and SIGCONT goes on through restart_syscall.
int wait_a_while() {
  std::uint32_t word = 0;
  const timespec timeout{1, 0};
  while (::syscall(SYS_futex, &word, FUTEX_WAIT, 0, &timeout, nullptr, 0) != 0) {
    if (errno == ETIMEDOUT) return 0;
    if (errno != EINTR) return 1;
  }
  return 2;
}

constexpr std::array kDeeds = {
    Deed{"isatty", ask_terminal},       Deed{"print", print},
    Deed{"log", write_log_line},        Deed{"read-stdin", read_stdin},
    Deed{"localtime", tell_time},       Deed{"strerror", name_errors},
    Deed{"throw", throw_exceptions},    Deed{"backtrace", trace_back},
    Deed{"allocate", allocate},         Deed{"sort", sort_and_format},
    Deed{"loop-calls", run_loop_calls}, Deed{"take-role", take_role},
    Deed{"wait-a-while", wait_a_while},
};

}  // namespace

std::span<const Deed> everyday_deeds() { return kDeeds; }

}  // namespace bulkhead::sandbox::probe
