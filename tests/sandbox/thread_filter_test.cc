// The filter of a VMM thread, loaded into a real thread: everyday work passes, the rest kills the whole process.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "ipc/base/futex.h"
#include "sandbox/enter.h"
#include "sandbox/exit_report.h"
#include "sandbox/policies.h"

namespace bulkhead::sandbox {
namespace {

#if defined(__SANITIZE_THREAD__)
constexpr bool kThreadSanitizer = true;
#else
constexpr bool kThreadSanitizer = false;
#endif

// Runs `body` in a filtered thread of a forked process.
template <class Body>
ExitReport run_filtered(Body body) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    warm_libc();
    const CompiledFilter filter = *compile_vcpu_filter({});
    struct sigaction action {};
    action.sa_handler = [](int) {};
    ::sigaction(SIGUSR1, &action, nullptr);
    std::thread thread([&] {
      if (!forbid_new_privileges() || !load_filter(filter, FilterScope::kThread)) ::_exit(98);
      body();
    });
    std::thread other([&] { ::pthread_kill(thread.native_handle(), SIGUSR1); });
    other.join();
    thread.join();
    // This thread is not filtered.
    ::_exit(::open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0 ? 0 : 97);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return report_of_status(pid, status);
}

TEST(ThreadFilter, lets_a_thread_work_be_kicked_and_end) {
  if (kThreadSanitizer) GTEST_SKIP() << "the sanitizer's own threads need more";
  const ExitReport report = run_filtered([] {
    std::vector<std::vector<char>> blocks;
    for (int i = 0; i < 2000; ++i) blocks.emplace_back(static_cast<std::size_t>(i) * 97);
    blocks.clear();
    std::mutex lock;
    std::condition_variable never;
    std::unique_lock guard(lock);
    never.wait_for(guard, std::chrono::milliseconds(2));
    const std::atomic<std::uint32_t> word{0};
    futex_wait_until(&word, 0, 1);
    std::this_thread::yield();
    [[maybe_unused]] const ssize_t written = ::write(2, "", 0);
  });
  EXPECT_EQ(report.kind, ExitKind::kClean) << report.describe("thread");
}

TEST(ThreadFilter, kills_the_whole_process_for_the_rest) {
  const ExitReport report = run_filtered([] { ::syscall(SYS_openat, -1, "/etc/passwd", O_RDONLY); });
  EXPECT_EQ(report.kind, ExitKind::kSeccompViolation) << report.describe("thread");
}

TEST(ProcessFilter, reaches_every_thread) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    std::mutex lock;
    lock.lock();
    std::thread thread([&] {
      lock.lock();
      ::syscall(SYS_openat, -1, "/etc/passwd", O_RDONLY);
      ::_exit(0);
    });
    if (!forbid_new_privileges() || !load_filter(*compile_vcpu_filter({}), FilterScope::kProcess)) ::_exit(98);
    lock.unlock();
    thread.join();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  EXPECT_EQ(report_of_status(pid, status).kind, ExitKind::kSeccompViolation);
}

}  // namespace
}  // namespace bulkhead::sandbox
