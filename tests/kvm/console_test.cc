// The console, byte by byte: through pipes, a file and a pseudoterminal, all 256 values.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <random>

#include "tests/kvm/test_vm.h"

namespace bulkhead::kvmtest {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kGuestDone = 64;
constexpr std::string_view kReady = "@ready\n";

std::string random_bytes(std::size_t count) {
  std::mt19937 generator(12345);
  std::string bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>(generator());
  return bytes;
}

// What echo.S sends, and what it wants to get.
std::string pattern(std::size_t count) {
  std::string bytes(count, '\0');
  std::uint32_t x = 1;
  for (char& byte : bytes) {
    x = x * 1664525U + 1013904223U;
    byte = static_cast<char>(x >> 24);
  }
  return bytes;
}

VmOptions echo(const std::string& what, const std::string& console = "stdio") {
  return {.guest = "echo", .command_line = what, .devices = {}, .console = console};
}

class Console : public KvmTest {};

TEST_F(Console, PipesCarryEachByteBothWays) {
  const std::string bytes = random_bytes(64 * 1024);
  TestVm vm(echo("e64"));
  ASSERT_TRUE(vm.run().wait_for_output(kReady));
  ASSERT_TRUE(vm.run().send(bytes));
  const Ended& ended = vm.run().wait();
  EXPECT_EQ(ended.status, kGuestDone);
  EXPECT_EQ(ended.out.size(), kReady.size() + bytes.size());
  EXPECT_TRUE(ended.out == std::string(kReady) + bytes) << "not what was sent";
}

// A reader that takes nothing for a while holds the guest up; nothing is dropped.
TEST_F(Console, SlowReaderGetsEverything) {
  TestVm vm(echo("s96"));  // more than the pipes and rings between them hold
  ASSERT_TRUE(vm.run().wait_for_output(kReady));
  std::this_thread::sleep_for(Milliseconds(2'000));
  EXPECT_TRUE(is_alive(vm.run().pid()));
  const Ended& ended = vm.run().wait();
  EXPECT_EQ(ended.status, kGuestDone);
  EXPECT_TRUE(ended.out == std::string(kReady) + pattern(96 * 1024)) << ended.out.size() << " bytes came";
}

// All input there is comes at once, and its end right behind it.
TEST_F(Console, InputIsTakenToItsEnd) {
  TestVm vm(echo("r32"));
  ASSERT_TRUE(vm.run().wait_for_output(kReady));
  ASSERT_TRUE(vm.run().send(pattern(32 * 1024)));
  vm.run().close_input();
  const Ended& ended = vm.run().wait();
  EXPECT_EQ(ended.out, std::string(kReady) + "pass\n");
  EXPECT_EQ(ended.status, kGuestDone);
}

TEST_F(Console, File) {
  const std::string path = run_directory() + "-console";
  TestVm vm(echo("s16", "file:" + path));
  const Ended& ended = vm.run().wait();
  EXPECT_EQ(ended.status, kGuestDone);
  EXPECT_EQ(ended.out, "");
  const std::string written = slurp(path);
  ::unlink(path.c_str());
  EXPECT_TRUE(written == std::string(kReady) + pattern(16 * 1024)) << written.size() << " bytes came";
}

// The guest goes on, and the user hears once why nothing comes any more.
TEST_F(Console, FileOnAFullDisk) {
  TestVm vm(echo("s96", "file:/dev/full"));
  const Ended& ended = vm.run().wait();
  EXPECT_EQ(ended.status, kGuestDone);
  EXPECT_EQ(ended.err, "bulkhead-vmm: warning: the console can no longer be written: No space left on device\n");
}

TEST_F(Console, DebugTextIsLoggedAndDrivesNoTerminal) {
  TestVm vm(echo("d", "none"));
  const Ended& ended = vm.run().wait();
  EXPECT_EQ(ended.status, kGuestDone);
  EXPECT_EQ(ended.err, "bulkhead-vmm: info: [guest debug] a [2J b\n");
}

TEST_F(Console, None) {
  TestVm vm(echo("s1", "none"));
  const Ended& ended = vm.run().wait();
  EXPECT_EQ(ended.status, kGuestDone);
  EXPECT_EQ(ended.out, "");
}

// What is shown to nobody is dropped: the guest is not held up.
TEST_F(Console, PseudoterminalThatNobodyReads) {
  TestVm vm(echo("s96", "pty"));
  const Ended& ended = vm.run().wait();
  EXPECT_EQ(ended.status, kGuestDone);
  EXPECT_TRUE(ended.out.starts_with("console: /dev/pts/")) << ended.out;
  EXPECT_EQ(ended.err, "");
}

TEST_F(Console, Pseudoterminal) {
  const std::string bytes = random_bytes(16 * 1024);
  TestVm vm(echo("e16", "pty"));
  ASSERT_TRUE(vm.run().wait_for_output("console: "));
  ASSERT_TRUE(vm.run().wait_for_output("\n"));
  const std::string& out = vm.run().out();
  const std::string path = out.substr(9, out.find('\n') - 9);
  const UniqueFd terminal(::open(path.c_str(), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
  ASSERT_TRUE(terminal.valid()) << path;

  std::string got;
  std::string_view left;
  const Clock::time_point until = Clock::now() + kPatience;
  while (got.size() < kReady.size() + bytes.size() && Clock::now() < until) {
    pollfd poll{terminal.get(), static_cast<short>(left.empty() ? POLLIN : POLLIN | POLLOUT), 0};
    ::poll(&poll, 1, 1000);
    if ((poll.revents & POLLIN) != 0) {
      std::array<char, 4096> buffer;
      const ssize_t n = ::read(terminal.get(), buffer.data(), buffer.size());
      if (n <= 0) break;
      const bool was_ready = got.size() >= kReady.size();
      got.append(buffer.data(), static_cast<std::size_t>(n));
      if (!was_ready && got.size() >= kReady.size()) left = bytes;
    }
    if ((poll.revents & POLLOUT) != 0 && !left.empty()) {
      const ssize_t n = ::write(terminal.get(), left.data(), std::min<std::size_t>(left.size(), 1024));
      if (n > 0) left.remove_prefix(static_cast<std::size_t>(n));
    }
  }
  EXPECT_TRUE(got == std::string(kReady) + bytes) << got.size() << " bytes came";
  EXPECT_EQ(vm.run().wait().status, kGuestDone);
}

}  // namespace
}  // namespace bulkhead::kvmtest
