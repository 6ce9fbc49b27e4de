// The filter of a VMM thread, loaded into a real thread: everyday work passes, the rest kills the whole
// process. Threadsafe death tests start this program anew, so that malloc is as fresh as in a VMM.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <thread>
#include <vector>

#include "ipc/base/futex.h"
#include "sandbox/enter.h"
#include "sandbox/policies.h"
#include "tests/sandbox/probe.h"

namespace bulkhead::sandbox {
namespace {

// Runs `body` in a filtered thread that is kicked by a signal, then ends this process: 0 if all went well.
template <class Body>
[[noreturn]] void run_filtered(Body body) {
  warm_libc();
  const CompiledFilter filter = *compile_vcpu_filter({});
  struct sigaction action {};
  action.sa_handler = [](int) {};
  ::sigaction(SIGUSR1, &action, nullptr);
  std::thread thread([&] {
    if (!forbid_new_privileges() || !load_filter(filter, FilterScope::kThread)) ::_exit(98);
    body();
  });
  ::pthread_kill(thread.native_handle(), SIGUSR1);
  thread.join();
  // This thread is not filtered.
  ::_exit(::open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0 ? 0 : 97);
}

void work() {
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
}

void open_a_file() { ::syscall(SYS_openat, -1, "/etc/passwd", O_RDONLY); }

class ThreadFilterDeathTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (testing::kSanitized) GTEST_SKIP() << "the runtime needs more";
    GTEST_FLAG_SET(death_test_style, "threadsafe");
  }
};

TEST_F(ThreadFilterDeathTest, lets_a_thread_work_be_kicked_and_end) {
  EXPECT_EXIT(run_filtered(work), ::testing::ExitedWithCode(0), "");
}

TEST_F(ThreadFilterDeathTest, kills_the_whole_process_for_the_rest) {
  EXPECT_EXIT(run_filtered(open_a_file), ::testing::KilledBySignal(SIGSYS), "");
}

[[noreturn]] void filter_all_threads() {
  std::mutex lock;
  lock.lock();
  std::thread thread([&] {
    lock.lock();
    open_a_file();
    ::_exit(0);
  });
  if (!forbid_new_privileges() || !load_filter(*compile_vcpu_filter({}), FilterScope::kProcess)) ::_exit(98);
  lock.unlock();
  thread.join();
  ::_exit(0);
}

TEST_F(ThreadFilterDeathTest, of_the_process_reaches_every_thread) {
  EXPECT_EXIT(filter_all_threads(), ::testing::KilledBySignal(SIGSYS), "");
}

}  // namespace
}  // namespace bulkhead::sandbox
