// StreamPump: consoles byte for byte, effects of a device's own, and devices that lie about their indexes.
#include "vmm/process/stream_pump.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <termios.h>

#include <mutex>

#include "tests/unit/vmm/process/pump_rig.h"

namespace bulkhead::vmm {
namespace {

std::string numbered_bytes(std::size_t count) {
  std::string bytes(count, '\0');
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<char>(i * 131 + i / 251);
  return bytes;
}

struct Pipe {
  Pipe() {
    int fds[2];
    EXPECT_EQ(::pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
    reader.reset(fds[0]);
    writer.reset(fds[1]);
  }
  // What is there within the time that any host needs.
  std::string read_some(int milliseconds = 20'000) const {
    pollfd poll{reader.get(), POLLIN, 0};
    if (::poll(&poll, 1, milliseconds) != 1) return {};
    char buffer[8192];
    const ssize_t n = ::read(reader.get(), buffer, sizeof buffer);
    return n > 0 ? std::string(buffer, static_cast<std::size_t>(n)) : std::string();
  }
  UniqueFd reader;
  UniqueFd writer;
};

std::string content(BorrowedFd file) {
  std::string bytes(256, '\0');
  bytes.resize(static_cast<std::size_t>(std::max<ssize_t>(::pread(file.get(), bytes.data(), bytes.size(), 0), 0)));
  return bytes;
}

class StreamPumpTest : public ::testing::Test {
 protected:
  StreamPumpTest() { ::signal(SIGPIPE, SIG_IGN); }
  ~StreamPumpTest() override { stop(); }
  void start(control::ConsoleKind kind = control::ConsoleKind::kStdio) {
    std::vector<StreamPump::Console> consoles;  // of the only role of this pump
    consoles.push_back({StreamRef{0, console}, {kind, std::move(input.reader), std::move(output.writer)}});
    if (two_consoles)
      consoles.push_back(
          {StreamRef{0, second}, {kind, std::move(second_input.reader), std::move(second_output.writer)}});
    auto pump_or =
        StreamPump::start({{rig.process.get(), &rig.effects}}, std::move(consoles), StreamRef{0, rig.plan.debug.stream},
                          [this](DeviceProcess& process, const char* what, std::uint32_t) {
                            EXPECT_EQ(&process, rig.process.get());
                            const std::lock_guard lock(violations_lock);
                            violations.emplace_back(what);
                            violation_count.fetch_add(1);
                          });
    ASSERT_TRUE(pump_or);
    pump = std::move(*pump_or);
  }
  void stop() { pump.reset(); }
  void wait_for_violation() const {
    while (violation_count.load() == 0) ::sched_yield();
  }

  // Installed until the end: the pump logs what the guest says on the debug ports.
  ProcessRig rig;
  std::uint32_t console = rig.plan.console.stream;
  Pipe input;
  Pipe output;
  // Of another console, in the tests that have one: the second serial port.
  std::uint32_t second = console + 1;
  bool two_consoles = false;
  Pipe second_input;
  Pipe second_output;
  std::mutex violations_lock;
  std::vector<std::string> violations;
  std::atomic<int> violation_count{0};
  std::unique_ptr<StreamPump> pump;
};

TEST_F(StreamPumpTest, console_output_arrives_byte_for_byte) {
  start();
  const std::string sent = numbered_bytes(300'000);
  std::string received;
  std::size_t at = 0;
  while (received.size() < sent.size()) {
    at += rig.device_writes(console, std::string_view(sent).substr(at, 1 + at % 7000));
    received += output.read_some(at == sent.size() ? 20'000 : 1);
  }
  EXPECT_EQ(received, sent);
  EXPECT_EQ(violation_count, 0);
}

TEST_F(StreamPumpTest, a_file_that_was_there_begins_anew) {
  const UniqueFd file(::memfd_create("console", MFD_CLOEXEC));
  ASSERT_EQ(::write(file.get(), "of an earlier VM", 16), 16);
  output.writer =
      UniqueFd::open("/proc/self/fd/" + std::to_string(file.get()), O_WRONLY).value();  // at the file's beginning
  start(control::ConsoleKind::kFile);
  rig.device_writes(console, "new");
  stop();
  EXPECT_EQ(content(file.borrow()), "new");
}

TEST_F(StreamPumpTest, two_consoles_have_bytes_of_their_own) {
  two_consoles = true;
  start();
  rig.device_writes(console, "to the first");
  rig.device_writes(second, "to the second");
  EXPECT_EQ(output.read_some(), "to the first");
  EXPECT_EQ(second_output.read_some(), "to the second");
  ASSERT_EQ(::write(second_input.writer.get(), "typed", 5), 5);
  std::string typed;
  while (typed.size() < 5) typed += rig.device_reads(second);
  EXPECT_EQ(typed, "typed");
  EXPECT_EQ(rig.device_reads(console), "");
}

TEST_F(StreamPumpTest, a_console_that_nobody_reads_holds_up_no_other) {
  two_consoles = true;
  start();
  const std::string sent = numbered_bytes(100'000);
  std::size_t at = 0;
  for (int idle = 0; idle < 200; ++idle) {
    const std::size_t n = rig.device_writes(console, std::string_view(sent).substr(at));
    if (n != 0) idle = 0;
    at += n;
    ::sched_yield();
  }
  rig.device_writes(second, "to the second");
  EXPECT_EQ(second_output.read_some(), "to the second");
}

TEST_F(StreamPumpTest, a_reader_that_is_slow_holds_the_device_up_and_loses_nothing) {
  start();
  const std::string sent = numbered_bytes(200'000);
  // Until pipe and stream are full: 64 KiB and 16 KiB, and one piece on its way.
  std::size_t at = 0;
  for (int idle = 0; idle < 200; ++idle) {
    const std::size_t n = rig.device_writes(console, std::string_view(sent).substr(at));
    if (n != 0) idle = 0;
    at += n;
    ::sched_yield();
  }
  ASSERT_LT(at, sent.size());
  std::string received;
  while (received.size() < sent.size()) {
    received += output.read_some();
    at += rig.device_writes(console, std::string_view(sent).substr(at));
  }
  EXPECT_EQ(received, sent);
}

TEST_F(StreamPumpTest, a_device_that_sleeps_over_a_full_stream_hears_of_room) {
  rig.device_writes(console, numbered_bytes(ipc::kOutputBytes));
  rig.replies().asleep.store(1);
  start();
  std::string received;
  while (received.size() < ipc::kOutputBytes) received += output.read_some();
  stop();
  bool rung = false;
  for (std::size_t i = 0; i < rig.message.fds.size(); ++i) {
    if (rig.message.fds[i].purpose == control::FdPurpose::kRequestDoorbell)
      rung = drain_eventfd(rig.handover.fds[i]) != 0;
  }
  EXPECT_TRUE(rung);
}

TEST_F(StreamPumpTest, a_reader_that_goes_away_does_not_stop_the_guest) {
  start();
  output.reader.reset();
  const std::string sent = numbered_bytes(100'000);
  for (std::size_t at = 0; at < sent.size();) at += rig.device_writes(console, std::string_view(sent).substr(at));
  stop();
  EXPECT_EQ(rig.process->requests().output_consumed[console].load(), sent.size());
}

TEST_F(StreamPumpTest, what_the_guest_said_last_is_shown_before_the_end) {
  start();
  rig.device_writes(console, "goodbye");
  pump->finish();
  EXPECT_EQ(output.read_some(0), "goodbye");
  pump->finish();  // twice is once
}

TEST_F(StreamPumpTest, input_arrives_byte_for_byte_however_slowly_the_guest_reads) {
  start();
  const std::string sent = numbered_bytes(100'000);
  std::string received;
  std::size_t at = 0;
  while (received.size() < sent.size()) {
    if (at < sent.size()) {
      const ssize_t n = ::write(input.writer.get(), sent.data() + at, sent.size() - at);
      if (n > 0) at += static_cast<std::size_t>(n);
    }
    received += rig.device_reads(console);
    ::sched_yield();
  }
  EXPECT_EQ(received, sent);
  EXPECT_EQ(violation_count, 0);
}

TEST_F(StreamPumpTest, the_end_of_the_input_is_not_the_end_of_the_output) {
  start();
  input.writer.reset();
  rig.device_writes(console, "still here");
  std::string received;
  while (received.size() < 10) received += output.read_some();
  EXPECT_EQ(received, "still here");
}

TEST_F(StreamPumpTest, a_console_that_nobody_has_is_drained_all_the_same) {
  output.writer.reset();
  input.reader.reset();
  start(control::ConsoleKind::kNone);
  const std::string sent = numbered_bytes(100'000);
  for (std::size_t at = 0; at < sent.size();) at += rig.device_writes(console, std::string_view(sent).substr(at));
  for (std::size_t at = 0; at < sent.size();) at += rig.device_writes(console + 1, std::string_view(sent).substr(at));
}

TEST_F(StreamPumpTest, a_terminal_that_nobody_has_opened_drops_what_it_cannot_hold) {
  UniqueFd terminal(::posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
  ASSERT_TRUE(terminal.valid());
  ASSERT_EQ(::grantpt(terminal.get()), 0);
  ASSERT_EQ(::unlockpt(terminal.get()), 0);
  input.reader = UniqueFd::duplicate(terminal.borrow()).value();
  output.writer = UniqueFd::duplicate(terminal.borrow()).value();
  start(control::ConsoleKind::kPty);
  const std::string sent = numbered_bytes(200'000);
  for (std::size_t at = 0; at < sent.size();) at += rig.device_writes(console, std::string_view(sent).substr(at));
  stop();
  EXPECT_EQ(violation_count, 0);
}

// --- effects on a device's own account ---

TEST_F(StreamPumpTest, effects_of_the_outbound_queue_are_applied_in_order_and_once) {
  start();
  for (std::uint64_t i = 0; i < 100; ++i) {
    while (rig.replies().outbound_produced.load() - rig.process->requests().outbound_consumed.load() >=
           ipc::kOutboundEffects)
      ::sched_yield();
    rig.device_asks({.kind = 5, .address = i});
  }
  while (rig.effects.count() < 100) ::sched_yield();
  stop();
  const std::vector<Effect> all = rig.effects.all();
  ASSERT_EQ(all.size(), 100U);
  for (std::uint64_t i = 0; i < 100; ++i) EXPECT_EQ(all[i].address, i);
  EXPECT_EQ(rig.process->requests().outbound_consumed.load(), 100U);
  EXPECT_EQ(violation_count, 0);
}

TEST_F(StreamPumpTest, an_effect_that_was_not_granted_is_a_violation) {
  rig.effects.refuse = true;
  start();
  rig.device_asks({.kind = 1});
  wait_for_violation();
}

// --- liars ---

TEST_F(StreamPumpTest, an_output_index_that_cannot_be_is_a_violation_and_the_stream_is_left_alone) {
  start();
  rig.replies().output_produced[console].store(ipc::kOutputBytes + 1);
  rig.tell_pump();
  wait_for_violation();
  // Others go on.
  rig.device_asks({.kind = 5});
  while (rig.effects.count() == 0) ::sched_yield();
  stop();
  EXPECT_EQ(violation_count, 1) << "said once";
}

TEST_F(StreamPumpTest, an_input_index_that_cannot_be_is_a_violation) {
  start();
  rig.replies().input_consumed[console].store(1);
  ASSERT_EQ(::write(input.writer.get(), "x", 1), 1);
  wait_for_violation();
}

TEST_F(StreamPumpTest, an_effect_index_that_cannot_be_is_a_violation_and_applies_nothing) {
  start();
  rig.replies().outbound_produced.store(ipc::kOutboundEffects + 1);
  rig.tell_pump();
  wait_for_violation();
  stop();
  EXPECT_EQ(rig.effects.count(), 0U);
}

// Indexes that change as fast as they can be written. The pump neither hangs nor reads outside of a ring (ASan), and it
// can be stopped.
TEST_F(StreamPumpTest, indexes_that_never_hold_still_do_no_harm) {
  start();
  std::uint64_t random = 88172645463325252;
  for (int i = 0; i < 200'000; ++i) {
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    switch (random >> 60) {
      case 0: rig.replies().output_produced[random % ipc::kStreams].store(random >> 8); break;
      case 1: rig.replies().input_consumed[random % ipc::kStreams].store(random >> 8); break;
      case 2: rig.replies().outbound_produced.store(random >> 40); break;
      default: rig.replies().output_produced[random % ipc::kStreams].fetch_add(random % 20000); break;
    }
    if (i % 64 == 0) rig.tell_pump();
  }
  stop();
  EXPECT_GT(violation_count, 0);
}

}  // namespace
}  // namespace bulkhead::vmm
