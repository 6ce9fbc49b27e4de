#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <thread>

#include "ipc/control/run_directory.h"

namespace bulkhead::control {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

class RunDirectoryTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/run-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
  }
  void TearDown() override { fs::remove_all(path_); }
  RunDirectory open() { return RunDirectory::open(path_).value(); }
  std::vector<std::string> files() {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(path_)) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

  // Runs `body` in a child process and returns its exit status.
  template <class Body>
  static pid_t fork_child(Body body) {
    const pid_t pid = ::fork();
    if (pid == 0) ::_exit(body());
    return pid;
  }
  static int wait_for(pid_t pid) {
    int status = 0;
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  // A VM that was killed: its files stay behind.
  void leave_dead_vm(const std::string& name) {
    const pid_t pid = fork_child([&] {
      auto claimed = RunDirectory::open(path_)->claim(name);
      const auto socket = claimed->listen();
      ::raise(SIGKILL);
      return 0;
    });
    ASSERT_EQ(wait_for(pid), -SIGKILL);
    ASSERT_TRUE(fs::exists(path_ + "/" + name + ".sock"));
  }

  std::string path_;
};

TEST_F(RunDirectoryTest, makes_a_private_directory) {
  const std::string inner = path_ + "/bulkhead";
  ASSERT_TRUE(RunDirectory::open(inner));
  struct stat info {};
  ASSERT_EQ(::stat(inner.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0700U);
}

TEST_F(RunDirectoryTest, directory_open_to_others_is_refused) {
  ASSERT_EQ(::chmod(path_.c_str(), 0755), 0);
  const auto directory = RunDirectory::open(path_);
  ASSERT_FALSE(directory);
  EXPECT_NE(directory.error().message.find("open to others"), std::string::npos);
}

TEST_F(RunDirectoryTest, directory_of_another_user_is_refused) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to give a directory away";
  ASSERT_EQ(::chown(path_.c_str(), 12345, 12345), 0);
  const auto directory = RunDirectory::open(path_);
  ASSERT_FALSE(directory);
  EXPECT_NE(directory.error().message.find("another user (uid 12345)"), std::string::npos);
}

TEST_F(RunDirectoryTest, symbolic_link_is_refused) {
  const std::string link = path_ + "/link";
  fs::create_directory_symlink(path_, link);
  EXPECT_FALSE(RunDirectory::open(link));
}

TEST_F(RunDirectoryTest, claimed_name_is_live_and_gone_afterwards) {
  RunDirectory directory = open();
  {
    auto claimed = directory.claim("alpha");
    ASSERT_TRUE(claimed);
    ASSERT_TRUE(claimed->listen());
    EXPECT_TRUE(directory.is_live("alpha"));
    const auto live = directory.live().value();
    ASSERT_EQ(live.size(), 1U);
    EXPECT_EQ(live[0].name, "alpha");
    EXPECT_EQ(live[0].pid, ::getpid());
    EXPECT_EQ(files(), (std::vector<std::string>{"alpha.lock", "alpha.sock"}));
  }
  EXPECT_FALSE(directory.is_live("alpha"));
  EXPECT_TRUE(files().empty());
}

TEST_F(RunDirectoryTest, second_vm_of_one_name_gets_one_sentence) {
  RunDirectory directory = open();
  const auto first = directory.claim("alpha");
  const auto second = directory.claim("alpha");
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().message, "a VM named alpha is already running");
  EXPECT_TRUE(directory.is_live("alpha"));
}

TEST_F(RunDirectoryTest, derived_name_steps_aside) {
  RunDirectory directory = open();
  const auto first = directory.claim("vm-1", true).value();
  const auto second = directory.claim("vm-1", true).value();
  const auto third = directory.claim("vm-1", true).value();
  EXPECT_EQ(first.name(), "vm-1");
  EXPECT_EQ(second.name(), "vm-1-2");
  EXPECT_EQ(third.name(), "vm-1-3");
}

TEST_F(RunDirectoryTest, bad_names_are_refused) {
  RunDirectory directory = open();
  for (const char* name : {"", "a/b", "..", ".hidden", "a b", "x\n"}) EXPECT_FALSE(directory.claim(name)) << name;
  EXPECT_FALSE(directory.claim(std::string(64, 'a')));
  EXPECT_TRUE(directory.claim(std::string(63, 'a')).value().listen());
}

TEST_F(RunDirectoryTest, socket_is_private_and_accepts) {
  RunDirectory directory = open();
  auto claimed = directory.claim("alpha").value();
  const UniqueFd listener = claimed.listen().value();
  struct stat info {};
  ASSERT_EQ(::stat((path_ + "/alpha.sock").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600U);
  ASSERT_TRUE(directory.connect("alpha"));
  EXPECT_GE(::accept(listener.get(), nullptr, nullptr), 0);
}

TEST_F(RunDirectoryTest, connecting_to_no_vm_gets_one_sentence) {
  const auto socket = open().connect("ghost");
  ASSERT_FALSE(socket);
  EXPECT_EQ(socket.error().message, "no VM named ghost is running");
}

TEST_F(RunDirectoryTest, sweep_takes_the_dead_and_leaves_the_living) {
  leave_dead_vm("dead1");
  leave_dead_vm("dead2");
  fs::copy_file(path_ + "/dead1.lock", path_ + "/only-lock.lock");
  RunDirectory directory = open();
  auto living = directory.claim("living").value();
  const auto listener = living.listen().value();
  EXPECT_EQ(directory.live()->size(), 1U);
  EXPECT_EQ(directory.sweep().value(), 3U);
  EXPECT_EQ(files(), (std::vector<std::string>{"living.lock", "living.sock"}));
  EXPECT_TRUE(directory.connect("living"));
}

TEST_F(RunDirectoryTest, sweep_of_one_name_leaves_a_living_vm) {
  RunDirectory directory = open();
  const auto living = directory.claim("living").value();
  ASSERT_TRUE(directory.sweep("living"));
  EXPECT_TRUE(directory.is_live("living"));
}

TEST_F(RunDirectoryTest, name_of_a_dead_vm_can_be_claimed_at_once) {
  leave_dead_vm("alpha");
  RunDirectory directory = open();
  auto claimed = directory.claim("alpha");
  ASSERT_TRUE(claimed);
  EXPECT_TRUE(claimed->listen());
}

// Children race for one name, again and again, while another process sweeps: at most one may ever hold it.
TEST_F(RunDirectoryTest, racing_claims_have_one_winner_at_a_time) {
  constexpr int kChildren = 4;
  constexpr int kRounds = 200;
  auto* shared =
      static_cast<std::atomic<int>*>(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(shared, MAP_FAILED);
  std::atomic<int>& holders = shared[0];
  std::atomic<int>& wins = shared[1];
  std::atomic<int>& errors = shared[2];
  std::vector<pid_t> children;
  for (int i = 0; i < kChildren; ++i) {
    children.push_back(fork_child([&] {
      auto directory = RunDirectory::open(path_);
      // As often as it takes: whoever holds the name may be off its CPU while the others try.
      for (int won = 0; won < kRounds / kChildren;) {
        auto claimed = directory->claim("alpha");
        if (!claimed) {
          if (claimed.error().message != "a VM named alpha is already running") errors.fetch_add(1);
          continue;
        }
        ++won;
        if (holders.fetch_add(1) != 0) errors.fetch_add(1);
        if (!claimed->listen()) errors.fetch_add(1);
        if (!directory->is_live("alpha")) errors.fetch_add(1);
        if (!fs::exists(path_ + "/alpha.sock")) errors.fetch_add(1);
        wins.fetch_add(1);
        holders.fetch_sub(1);
      }
      return 0;
    }));
  }
  RunDirectory directory = open();
  for (int i = 0; i < kRounds; ++i) ASSERT_TRUE(directory.sweep());
  for (const pid_t pid : children) EXPECT_EQ(wait_for(pid), 0);
  EXPECT_EQ(errors.load(), 0);
  EXPECT_EQ(wins.load(), kRounds);
  EXPECT_TRUE(files().empty());
  ::munmap(shared, 4096);
}

// A claim must never be turned away by somebody who only looks.
TEST_F(RunDirectoryTest, listing_and_sweeping_never_make_a_claim_fail) {
  const auto bother = [&](const std::stop_token& stop) {
    auto directory = RunDirectory::open(path_).value();
    while (!stop.stop_requested()) {
      EXPECT_TRUE(directory.live());
      EXPECT_TRUE(directory.sweep());
    }
  };
  std::jthread one(bother);
  std::jthread two(bother);
  RunDirectory directory = open();
  for (int i = 0; i < 500; ++i) {
    const auto claimed = directory.claim("alpha");
    ASSERT_TRUE(claimed) << claimed.error().message;
    ASSERT_TRUE(directory.is_live("alpha"));
  }
}

TEST(RunDirectoryDefault, environment_overrides) {
  ::setenv("BULKHEAD_RUN_DIR", "/somewhere", 1);
  EXPECT_EQ(default_run_directory(), "/somewhere");
  ::unsetenv("BULKHEAD_RUN_DIR");
  if (::geteuid() == 0) {
    EXPECT_EQ(default_run_directory(), "/run/bulkhead");
  }
}

}  // namespace
}  // namespace bulkhead::control
