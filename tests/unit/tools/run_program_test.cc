// `bulkhead run` on pipes, with a fake VMM: exit statuses, console bytes, refusals, signals, clean-up.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "tests/unit/tools/program.h"

namespace bulkhead::cli {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using test::Finished;
using test::run_program;
using test::Running;
using test::Scratch;

bool has_line(const std::string& text, const std::string& line) {
  return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

void expect_refused(const Finished& finished, int status, const std::string& sentence) {
  EXPECT_EQ(finished.status, status) << finished.err;
  EXPECT_EQ(finished.out, "");
  EXPECT_EQ(finished.err, "bulkhead: " + sentence + "\n");
}

// None, a full one, and a pipe whose reader is gone.
std::array<UniqueFd, 3> broken_outputs() {
  int ends[2];
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  ::close(ends[0]);
  return {UniqueFd(), UniqueFd::open("/dev/full", O_WRONLY).value(), UniqueFd(ends[1])};
}

std::string pattern(std::size_t count) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) out += static_cast<char>('a' + i % 26);
  return out;
}

TEST(RunProgram, exit_status_is_the_vms) {
  const Scratch scratch;
  for (const int status : {0, 10, 11, 12, 64, 127}) {
    const Finished finished = run_program(scratch.run("exit=" + std::to_string(status)));
    EXPECT_EQ(finished.status, status);
    EXPECT_EQ(finished.err, "");
  }
}

TEST(RunProgram, reports_are_shown) {
  const Scratch scratch;
  expect_refused(run_program(scratch.run("report=11")), 11, "the guest crashed: triple fault");
  expect_refused(run_program(scratch.run("fail")), 1, "there is no /dev/kvm on this host");
}

TEST(RunProgram, reports_cannot_drive_the_terminal) {
  const Scratch scratch;
  expect_refused(run_program(scratch.run("rude=11")), 11, "a ?[2J?\nb ???");
  expect_refused(run_program(scratch.run("rude-fail")), 1, "a ?[2J?\nb ???");
}

TEST(RunProgram, death_of_the_vmm_is_an_error_of_the_host) {
  const Scratch scratch;
  for (const char* how : {"crash", "vanish"}) {
    const Finished finished = run_program(scratch.run(how));
    EXPECT_EQ(finished.status, 1);
    EXPECT_EQ(finished.err, "bulkhead: the VMM was killed by signal 9 (Killed) before its VM had ended\n");
  }
}

TEST(RunProgram, malformed_report_ends_the_vm) {
  const Scratch scratch;
  const Finished finished = run_program(scratch.run("garbage"));
  EXPECT_EQ(finished.status, 12);
  EXPECT_NE(finished.err.find("bad control message"), std::string::npos) << finished.err;
}

TEST(RunProgram, console_output_is_exact_and_complete) {
  const Scratch scratch;
  const Finished finished = run_program(scratch.run("flood=3000001"));
  EXPECT_EQ(finished.status, 0);
  EXPECT_EQ(finished.out.size(), 3000001U);
  EXPECT_TRUE(finished.out == pattern(3000001));
}

TEST(RunProgram, process_left_behind_with_the_console_open_delays_nothing) {
  const Scratch scratch;
  Running program = Running::on_pipes(scratch.run("orphan"));
  EXPECT_TRUE(program.expect("last words"));
  EXPECT_EQ(program.wait(5s), 0);
}

TEST(RunProgram, slow_reader_holds_the_guest_back_and_loses_nothing) {
  const Scratch scratch;
  Running program = Running::on_pipes(scratch.run("flood=400000"));
  std::this_thread::sleep_for(100ms);
  std::string got;
  char buffer[8192];
  for (ssize_t count = 0; (count = ::read(program.output().get(), buffer, sizeof buffer)) > 0;) {
    got.append(buffer, static_cast<std::size_t>(count));
    std::this_thread::sleep_for(1ms);
  }
  EXPECT_EQ(program.wait(), 0);
  EXPECT_TRUE(got == pattern(400000));
}

TEST(RunProgram, console_input_reaches_the_guest_exactly) {
  const Scratch scratch;
  std::string input;
  for (int i = 0; i < 200000; ++i) input += static_cast<char>(i * 7);  // every byte value, Ctrl-A among them
  input += "quit\n";
  const Finished finished = run_program(scratch.run("echo"), input);
  EXPECT_EQ(finished.status, 0) << finished.err;
  EXPECT_TRUE(finished.out == input);
}

TEST(RunProgram, end_of_input_is_not_the_end_of_the_vm) {
  const Scratch scratch;
  Running program = Running::on_pipes(scratch.run("echo"));
  program.type("hello");
  program.close_input();
  ASSERT_TRUE(program.expect("hello"));
  EXPECT_EQ(program.wait(1s), -1000);
  program.signal(SIGTERM);
  EXPECT_EQ(program.wait(), 0);
}

TEST(RunProgram, closed_output_does_not_end_the_vm) {
  const Scratch scratch;
  Running program = Running::on_pipes(scratch.run("echo"));
  program.type("first");
  ASSERT_TRUE(program.expect("first"));
  program.hang_up();
  EXPECT_EQ(program.wait(1s), -1000);
  program.signal(SIGTERM);
  EXPECT_EQ(program.wait(), 0);
}

// Closed, full, or a pipe that nobody reads: the guest's output is dropped, once said, and the VM ends as
// it would.
TEST(RunProgram, output_that_cannot_be_written_is_dropped) {
  const Scratch scratch;
  for (const UniqueFd& output : broken_outputs()) {
    const Finished finished = test::run_program_onto(output.borrow(), scratch.run("echo"), "first\nquit\n");
    EXPECT_EQ(finished.status, 0);
    EXPECT_EQ(finished.err, "bulkhead: standard output takes no more; the console's output is dropped from here on\n");
  }
}

TEST(RunProgram, what_is_asked_for_and_cannot_be_printed_is_a_failure) {
  const Scratch scratch;
  const char* const reasons[] = {"Bad file descriptor", "No space left on device", "Broken pipe"};
  const auto outputs = broken_outputs();
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    for (const std::vector<std::string>& arguments :
         {std::vector<std::string>{"ls"}, {"ls", "--json"}, {"--help"}, {"run", "--help"}, {"--version"}}) {
      const Finished finished = test::run_program_onto(outputs[i].borrow(), arguments);
      EXPECT_EQ(finished.status, 1);
      EXPECT_EQ(finished.err, std::string("bulkhead: cannot write to standard output: ") + reasons[i] + "\n");
    }
  }
}

TEST(RunProgram, waiting_costs_no_cpu) {
  const Scratch scratch;
  Running program = Running::on_pipes(scratch.run("echo"));
  program.type("x");
  program.close_input();
  ASSERT_TRUE(program.expect("x"));
  const auto ticks = [&] {
    std::ifstream file("/proc/" + std::to_string(program.pid()) + "/stat");
    std::string text((std::istreambuf_iterator<char>(file)), {});
    std::istringstream fields(text.substr(text.rfind(')') + 2));
    std::string skip;
    for (int i = 0; i < 11; ++i) fields >> skip;
    long user = 0;
    long system = 0;
    fields >> user >> system;
    return user + system;
  };
  const long before = ticks();
  std::this_thread::sleep_for(500ms);
  EXPECT_LE(ticks() - before, 2);
}

TEST(RunProgram, first_signal_presses_the_power_button) {
  const Scratch scratch;
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    Running program = Running::on_pipes(scratch.run("echo"));
    program.type("up");
    ASSERT_TRUE(program.expect("up"));
    program.signal(number);
    EXPECT_EQ(program.wait(), 0);
    EXPECT_NE(program.errors().find("pressing the power button"), std::string::npos);
  }
}

TEST(RunProgram, deaf_vmm_is_killed_in_the_end) {
  const Scratch scratch;
  Running program = Running::on_pipes(scratch.run("deaf"));
  std::this_thread::sleep_for(300ms);
  for (int i = 0; i < 3; ++i) {
    program.signal(SIGTERM);
    std::this_thread::sleep_for(50ms);
  }
  EXPECT_EQ(program.wait(2s), 12);
}

TEST(RunProgram, quit_signal_ends_the_vm_at_once) {
  const Scratch scratch;
  Running program = Running::on_pipes(scratch.run("echo"));
  program.type("up");
  ASSERT_TRUE(program.expect("up"));
  program.signal(SIGQUIT);
  EXPECT_EQ(program.wait(), 12);
}

TEST(RunProgram, vm_ends_when_this_program_is_killed) {
  const Scratch scratch;
  Running program = Running::on_pipes(scratch.run("echo"));
  program.type("up");
  ASSERT_TRUE(program.expect("up"));
  std::string children;
  std::ifstream("/proc/" + std::to_string(program.pid()) + "/task/" + std::to_string(program.pid()) + "/children") >>
      children;
  const pid_t vmm = std::stoi(children);
  ASSERT_EQ(::kill(vmm, 0), 0);
  program.signal(SIGKILL);
  EXPECT_EQ(program.wait(), -SIGKILL);
  const auto gone = [&] {
    // An orphan may stay a zombie for a while where nobody reaps.
    std::ifstream file("/proc/" + std::to_string(vmm) + "/stat");
    std::string text((std::istreambuf_iterator<char>(file)), {});
    return text.empty() || text[text.rfind(')') + 2] == 'Z';
  };
  for (int i = 0; i < 5000 && !gone(); ++i) std::this_thread::sleep_for(1ms);
  EXPECT_TRUE(gone());
}

TEST(RunProgram, vmm_gets_its_files_and_nothing_else) {
  const Scratch scratch;
  scratch.write("initrd", "initrd");
  const Finished finished = run_program(scratch.run("facts", {"--initrd",
                                                              scratch.path("initrd"),
                                                              "--log",
                                                              scratch.path("log"),
                                                              "--memory",
                                                              "1G",
                                                              "--cpus",
                                                              "4",
                                                              "--device-deadline",
                                                              "250ms",
                                                              "--topology",
                                                              "1:2:2",
                                                              "--on-reset",
                                                              "exit",
                                                              "--device",
                                                              "pci-test,vectors=8",
                                                              "--device",
                                                              "x",
                                                              "--name",
                                                              "alpha"}));
  ASSERT_EQ(finished.status, 0) << finished.err;
  EXPECT_TRUE(has_line(finished.out, "fd 0 /dev/null")) << finished.out;
  EXPECT_TRUE(has_line(finished.out, "fd 1 /dev/null")) << finished.out;
  EXPECT_TRUE(has_line(finished.out, "leader true")) << finished.out;
  EXPECT_TRUE(has_line(finished.out, "sigterm blocked 0"));
  EXPECT_TRUE(has_line(finished.out, "sigpipe ignored false"));
  EXPECT_TRUE(has_line(finished.out, "memory 1073741824 cpus 4 on_reset 1"));
  EXPECT_TRUE(has_line(finished.out, "device deadline 250000000"));
  EXPECT_TRUE(has_line(finished.out, "topology 1:2:2"));
  EXPECT_TRUE(has_line(finished.out, "device pci-test [vectors]=[8]"));
  EXPECT_TRUE(has_line(finished.out, "device x"));
  EXPECT_TRUE(has_line(finished.out, "name alpha derived false"));
  EXPECT_TRUE(has_line(finished.out, "initrd true log true"));
  // 0, 1, 2, the socket, kernel, initrd, two console pipes, log, device program, and the listing's own.
  EXPECT_EQ(std::count(finished.out.begin(),
                       finished.out.begin() + static_cast<std::ptrdiff_t>(finished.out.find("leader")), '\n'),
            11)
      << finished.out;
}

TEST(RunProgram, parents_descriptors_do_not_leak_into_the_vmm) {
  const Scratch scratch;
  const int leak = ::open("/etc/passwd", O_RDONLY);  // no O_CLOEXEC
  const Finished finished = run_program(scratch.run("facts"));
  ::close(leak);
  ASSERT_EQ(finished.status, 0);
  EXPECT_EQ(finished.out.find("/etc/passwd"), std::string::npos) << finished.out;
}

TEST(RunProgram, name_is_derived_when_none_is_given) {
  const Scratch scratch;
  const Finished finished = run_program(scratch.run("facts"));
  EXPECT_NE(finished.out.find("name vm-"), std::string::npos);
  EXPECT_NE(finished.out.find("derived true"), std::string::npos);
}

std::string content(const std::string& path) {
  std::ifstream file(path);
  return {(std::istreambuf_iterator<char>(file)), {}};
}

// The VMM empties one that is there.
TEST(RunProgram, console_file_is_created) {
  const Scratch scratch;
  const Finished finished = run_program(scratch.run("flood=50", {"--console", "file:" + scratch.path("new")}));
  EXPECT_EQ(finished.status, 0) << finished.err;
  EXPECT_EQ(finished.out, "");
  EXPECT_EQ(content(scratch.path("new")), pattern(50));
  struct stat info {};
  ASSERT_EQ(::stat(scratch.path("new").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
}

TEST(RunProgram, a_vm_that_does_not_start_leaves_nothing_behind_and_empties_nothing) {
  const Scratch scratch;
  const std::string old = scratch.write("old", "of an earlier VM");
  for (const std::vector<std::string>& more :
       {std::vector<std::string>{"--console", "file:" + scratch.path("new")},
        {"--virtio-console", "file:" + scratch.path("new")},
        {"--net", "ring=" + scratch.path("new")},
        {"--net", "ring=" + scratch.path("new"), "--initrd", scratch.path("kernel"), "--log", "/nowhere/log"},
        {"--console", "file:" + old}}) {
    EXPECT_EQ(run_program(scratch.run("fail", more)).status, 1);
    EXPECT_FALSE(fs::exists(scratch.path("new"))) << more[1];
  }
  EXPECT_EQ(content(old), "of an earlier VM");
}

TEST(RunProgram, no_console_leaves_stdin_alone) {
  const Scratch scratch;
  const Finished finished = run_program(scratch.run("facts", {"--console", "none"}), "never read");
  EXPECT_EQ(finished.status, 0);
  EXPECT_EQ(finished.out, "");
  EXPECT_NE(finished.err.find("name vm-"), std::string::npos);
}

TEST(RunProgram, pty_is_announced_once_and_works_both_ways) {
  const Scratch scratch;
  Running program = Running::on_pipes(scratch.run("echo", {"--console", "pty"}));
  ASSERT_TRUE(program.expect("console: /dev/pts/"));
  ASSERT_TRUE(program.expect("\n"));
  const std::string path = program.seen().substr(9, program.seen().find('\n') - 9);
  {
    const auto terminal = UniqueFd::open(path, O_RDWR | O_NOCTTY).value();
    ASSERT_EQ(::write(terminal.get(), "ping\n", 5), 5);
    char buffer[16];
    pollfd entry{.fd = terminal.get(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(::poll(&entry, 1, 5000), 1);
    EXPECT_EQ(::read(terminal.get(), buffer, sizeof buffer), 5);
  }
  // Nobody holds the terminal now; the next one finds it as it was.
  const auto terminal = UniqueFd::open(path, O_RDWR | O_NOCTTY).value();
  ASSERT_EQ(::write(terminal.get(), "quit\n", 5), 5);
  EXPECT_EQ(program.wait(), 0);
}

TEST(RunProgram, log_gets_a_first_line) {
  const Scratch scratch;
  scratch.write("log", "before\n");
  EXPECT_EQ(run_program(scratch.run("exit=0", {"--log", scratch.path("log"), "--name", "alpha"})).status, 0);
  std::ifstream file(scratch.path("log"));
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  EXPECT_TRUE(text.starts_with("before\nbulkhead: info: ")) << text;
  EXPECT_TRUE(text.ends_with(" VM alpha starts\n")) << text;
}

TEST(RunProgram, what_cannot_work_is_refused_in_one_sentence) {
  const Scratch scratch;
  const auto kernel = [&](const std::string& path) { return run_program({"run", "--kernel", path}); };
  expect_refused(kernel(scratch.path("none")), 1, "--kernel " + scratch.path("none") + ": No such file or directory");
  expect_refused(kernel("/tmp"), 1, "--kernel /tmp: is a directory");
  expect_refused(kernel(scratch.write("empty", "")), 1, "--kernel " + scratch.path("empty") + ": is empty");
  expect_refused(kernel("/dev/null"), 1, "--kernel /dev/null: is not a regular file");
  ASSERT_EQ(::mkfifo(scratch.path("fifo").c_str(), 0600), 0);
  expect_refused(kernel(scratch.path("fifo")), 1, "--kernel " + scratch.path("fifo") + ": is not a regular file");
  expect_refused(kernel("/dev/zero"), 1, "--kernel /dev/zero: is not a regular file");
  // Nobody reads it, and nobody is waited for.
  const std::string unread = ": is a FIFO that nobody reads, or a device that is not there";
  expect_refused(run_program(scratch.run("x", {"--console", "file:" + scratch.path("fifo")})), 1,
                 "--console file:" + scratch.path("fifo") + unread);
  expect_refused(run_program(scratch.run("x", {"--log", scratch.path("fifo")})), 1,
                 "--log " + scratch.path("fifo") + unread);
  expect_refused(run_program(scratch.run("x", {"--console", "file:/tmp"})), 1, "--console file:/tmp: Is a directory");
  expect_refused(kernel("a\x1b[2J\n"), 1, "--kernel a?[2J?: No such file or directory");
  expect_refused(run_program(scratch.run("x", {"--initrd", "/nowhere/x"})), 1,
                 "--initrd /nowhere/x: No such file or directory");
  expect_refused(run_program(scratch.run("x", {"--log", "/dev/full"})), 1,
                 "--log /dev/full: cannot write: No space left on device");
  expect_refused(run_program(scratch.run("x", {"--log", "/nowhere/log"})), 1,
                 "--log /nowhere/log: No such file or directory");
  expect_refused(run_program(scratch.run("x", {"--console", "file:/nowhere/c"})), 1,
                 "--console file:/nowhere/c: No such file or directory");
  expect_refused(run_program({"run", "--kernel", scratch.path("kernel"), "--device-program", "/nowhere/d"}), 1,
                 "cannot open /nowhere/d: No such file or directory");
  expect_refused(
      run_program({"run", "--kernel", scratch.path("kernel"), "--device-program", "/dev/null", "--vmm", "/nowhere/v"}),
      1, "cannot start /nowhere/v: No such file or directory");
}

TEST(RunProgram, run_directory_that_is_none_is_refused_before_anything_is_made) {
  const Scratch scratch;
  ASSERT_EQ(::chmod(scratch.path("run").c_str(), 0750), 0);
  const std::pair<std::string, std::string> directories[] = {
      {"/nowhere/run", "cannot make the run directory /nowhere/run: No such file or directory"},
      {"/proc/run", "cannot make the run directory /proc/run: No such file or directory"},
      {scratch.path("kernel"), "cannot open the run directory " + scratch.path("kernel") + ": Not a directory"},
      {scratch.path("run"),
       "the run directory " + scratch.path("run") + " is open to others (mode 0750, should be 0700)"}};
  for (const auto& [directory, sentence] : directories) {
    ::setenv("BULKHEAD_RUN_DIR", directory.c_str(), 1);
    expect_refused(run_program(scratch.run("x", {"--log", scratch.path("log")})), 1, sentence);
    EXPECT_FALSE(fs::exists(scratch.path("log")));
    for (const std::vector<std::string>& arguments :
         {std::vector<std::string>{"ls"}, {"devices", "a"}, {"stop", "a"}, {"kill", "a"}})
      expect_refused(run_program(arguments), 1, sentence);
  }
}

TEST(RunProgram, unreadable_kernel_is_refused) {
  if (::geteuid() == 0) GTEST_SKIP() << "root reads everything";
  const Scratch scratch;
  ASSERT_EQ(::chmod(scratch.path("kernel").c_str(), 0), 0);
  expect_refused(run_program(scratch.run("x")), 1, "--kernel " + scratch.path("kernel") + ": Permission denied");
}

TEST(RunProgram, refusal_leaves_no_log_and_no_console_file) {
  const Scratch scratch;
  run_program(scratch.run(
      "x", {"--initrd", "/nowhere", "--log", scratch.path("log"), "--console", "file:" + scratch.path("c")}));
  EXPECT_FALSE(fs::exists(scratch.path("log")));
  EXPECT_FALSE(fs::exists(scratch.path("c")));
}

TEST(RunProgram, bad_usage_is_refused_in_one_sentence) {
  const Scratch scratch;
  const auto with = [&](const std::vector<std::string>& more) { return run_program(scratch.run("x", more)); };
  constexpr const char* kSize = "must be a whole number with K, M, G or T, such as 512M";
  for (const char* memory : {"lots", "-5", "1.5G", "12Q"})
    expect_refused(with({"--memory", memory}), 2, std::string("--memory ") + memory + ": " + kSize);
  for (const char* memory : {"0", "1K", "15M", "17T"})
    expect_refused(with({"--memory", memory}), 2, std::string("--memory ") + memory + ": must be from 16M to 16T");
  expect_refused(with({"--memory", "16777217T"}), 2, "--memory 16777217T: is larger than any machine");
  expect_refused(with({"--memory", "16388K"}), 2, "--memory 16388K: must be a multiple of 1M");
  for (const char* deadline : {"9ms", "3601s", "0s", "1", "soon", "-1s"})
    expect_refused(with({"--device-deadline", deadline}), 2,
                   std::string("--device-deadline ") + deadline +
                       ": must be a whole number with ms or s, such as 500ms, from 10ms to 3600s");
  for (const char* cpus : {"0", "65", "-1", "two", "1.5", "", "4294967297"})
    expect_refused(with({"--cpus", cpus}), 2, std::string("--cpus ") + cpus + ": must be a whole number from 1 to 64");
  expect_refused(with({"--cpus", "4", "--topology", "1:2:1"}), 2, "--topology 1:2:1: makes 2 CPUs, but --cpus says 4");
  expect_refused(with({"--topology", "1:2"}), 2, "--topology 1:2: must be three whole numbers, SOCKETS:CORES:THREADS");
  expect_refused(with({"--console", "tty"}), 2, "--console tty: must be stdio, pty, file:PATH or none");
  expect_refused(with({"--console", "file:"}), 2, "--console file:: must be stdio, pty, file:PATH or none");
  expect_refused(with({"--on-reset", "stop"}), 2, "--on-reset stop: must be reboot or exit");
  const std::pair<std::string, std::string> names[] = {
      {"", ""},        {"a/b", "a/b"},        {"a b", "a b"},
      {".a", ".a"},    {"-a", "-a"},          {"..", ".."},
      {"a\nb", "a?b"}, {"a\x1b[2J", "a?[2J"}, {std::string(64, 'x'), std::string(64, 'x')}};
  for (const auto& [name, shown] : names)
    expect_refused(
        with({"--name", name}), 2,
        "--name " + shown + ": must be 1 to 63 letters, digits, '_', '.' or '-', the first a letter or digit");
  for (const char* option : {"--kernel", "--initrd", "--log", "--vmm", "--device-program"}) {
    const Finished finished = run_program({"run", option, ""});
    EXPECT_EQ(finished.status, 2);
    EXPECT_TRUE(finished.err.starts_with("bulkhead: " + std::string(option) + ": no file is named")) << finished.err;
  }
  expect_refused(
      run_program({"frobnicate", "--help"}), 2,
      "there is no command 'frobnicate'; the commands are run, ls, status, balloon, devices, inspect, console, "
      "screenshot, sendkeys, stop, kill, pause, resume, reset, limit, events, fault, upgrade, restore");
  expect_refused(run_program({"--fast", "ls"}), 2,
                 "there is no option '--fast' before a command; `bulkhead --help` says more");
  expect_refused(with({"--device", "x,y"}), 2, "--device x,y: 'y' is not KEY=VALUE");
  expect_refused(run_program({"stop", "a/b"}), 2, "'a/b' is not the name of a VM");
  expect_refused(run_program({"run", "--kernel", scratch.path("kernel"), "--cmdline", std::string(2048, 'x')}), 2,
                 "--cmdline: has 2048 bytes, a kernel takes at most 2047");
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{},
                                                    {"run"},
                                                    {"fly"},
                                                    {"run", "--kernel", "x", "--fast"},
                                                    {"run", "--kernel"},
                                                    {"stop"},
                                                    {"ls", "x"},
                                                    {"stop", "a", "b"}}) {
    const Finished finished = run_program(arguments);
    EXPECT_EQ(finished.status, 2);
    EXPECT_EQ(std::count(finished.err.begin(), finished.err.end(), '\n'), 1) << finished.err;
    EXPECT_TRUE(finished.err.starts_with("bulkhead: ")) << finished.err;
  }
}

TEST(RunProgram, help_tells_the_keys_signals_and_statuses) {
  const Finished help = run_program({"run", "--help"});
  EXPECT_EQ(help.status, 0);
  for (const char* text : {"Ctrl-A x", "Ctrl-A a", "SIGTERM", "10 the guest reset", "64+V", "--kernel", "--device",
                           "--device-deadline TIME=1s"})
    EXPECT_NE(help.out.find(text), std::string::npos) << text;
  const Finished commands = run_program({"--help"});
  EXPECT_EQ(commands.status, 0);
  for (const char* command : {"run", "ls", "devices", "inspect", "stop", "kill", "pause", "resume", "reset"}) {
    EXPECT_NE(commands.out.find("\n  " + std::string(command) + "  "), std::string::npos) << command;
    EXPECT_EQ(run_program({command, "--help"}).status, 0) << command;
  }
  const Finished version = run_program({"--version"});
  EXPECT_EQ(version.status, 0);
  EXPECT_TRUE(version.out.starts_with("bulkhead 0.")) << version.out;
}

TEST(RunProgram, second_vm_of_one_name_is_refused) {
  const Scratch scratch;
  Running first = Running::on_pipes(scratch.run("serve", {"--name", "alpha"}));
  for (int i = 0; i < 5000 && !fs::exists(scratch.path("run/alpha.sock")); ++i) std::this_thread::sleep_for(1ms);
  scratch.write("console", "of the first");
  expect_refused(run_program(scratch.run("serve", {"--name", "alpha", "--console", "file:" + scratch.path("console"),
                                                   "--log", scratch.path("log")})),
                 1, "a VM named alpha is already running");
  EXPECT_EQ(fs::file_size(scratch.path("console")), 12U);
  EXPECT_FALSE(fs::exists(scratch.path("log")));
  first.signal(SIGTERM);
  EXPECT_EQ(first.wait(), 0);
  EXPECT_FALSE(fs::exists(scratch.path("run/alpha.sock")));
}

TEST(RunProgram, name_of_a_vmm_that_died_is_swept) {
  const Scratch scratch;
  std::ofstream(scratch.path("run/alpha.lock")) << "1\n";
  EXPECT_EQ(run_program(scratch.run("crash", {"--name", "alpha"})).status, 1);
  EXPECT_FALSE(fs::exists(scratch.path("run/alpha.lock")));
}

}  // namespace
}  // namespace bulkhead::cli
