#include "tests/unit/tools/program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

namespace bulkhead::cli::test {
namespace {

using namespace std::chrono_literals;

std::vector<char*> argument_vector(std::string& program, std::vector<std::string>& arguments) {
  std::vector<char*> out = {program.data()};
  for (std::string& argument : arguments) out.push_back(argument.data());
  out.push_back(nullptr);
  return out;
}

[[noreturn]] void execute(std::vector<std::string> arguments) {
  ::signal(SIGPIPE, SIG_DFL);  // as a shell starts it; type() ignores it here
  std::string program = BULKHEAD_PROGRAM;
  const auto vector = argument_vector(program, arguments);
  ::execv(BULKHEAD_PROGRAM, vector.data());
  ::_exit(126);
}

std::array<UniqueFd, 2> make_pipe() {
  int ends[2];
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::string read_all(int fd) {
  std::string out;
  char buffer[65536];
  for (ssize_t got = 0; (got = ::read(fd, buffer, sizeof buffer)) > 0;)
    out.append(buffer, static_cast<std::size_t>(got));
  return out;
}

Finished finish(Running program, const std::string& input) {
  Finished finished;
  std::jthread writer([&] {
    program.type(input);
    program.close_input();
  });
  std::jthread errors([&] { finished.err = program.errors(); });
  std::jthread watchdog([&](const std::stop_token& stop) {
    std::mutex lock;
    std::unique_lock held(lock);
    std::condition_variable_any never;
    never.wait_for(held, stop, 30s, [] { return false; });
    if (!stop.stop_requested()) program.signal(SIGKILL);
  });
  if (program.output().valid()) finished.out = read_all(program.output().get());
  errors.join();
  finished.status = program.wait(30s);
  return finished;
}

int decode(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status); }

}  // namespace

Finished run_program(const std::vector<std::string>& arguments, const std::string& input) {
  return finish(Running::on_pipes(arguments), input);
}

Finished run_program_onto(BorrowedFd output, const std::vector<std::string>& arguments, const std::string& input) {
  return finish(Running::onto(output, arguments), input);
}

Scratch::Scratch() {
  std::string pattern = testing::TempDir() + "/bulkhead-XXXXXX";
  EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
  path_ = pattern;
  write("kernel", "kernel");
  std::filesystem::create_directory(path_ + "/run");
  std::filesystem::permissions(path_ + "/run", std::filesystem::perms::owner_all);
  ::setenv("BULKHEAD_RUN_DIR", (path_ + "/run").c_str(), 1);
}

Scratch::~Scratch() {
  ::unsetenv("BULKHEAD_RUN_DIR");
  std::filesystem::remove_all(path_);
}

std::string Scratch::write(const std::string& name, const std::string& content) const {
  std::ofstream(path(name), std::ios::binary) << content;
  return path(name);
}

std::vector<std::string> Scratch::run(const std::string& what, const std::vector<std::string>& more) const {
  std::vector<std::string> arguments = {
      "run", "--kernel", path("kernel"), "--vmm", FAKE_VMM, "--device-program", "/dev/null", "--cmdline", what};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

Running Running::on_pipes(const std::vector<std::string>& arguments) {
  auto out = make_pipe();
  Running program = onto(out[1].borrow(), arguments);
  program.output_ = std::move(out[0]);
  return program;
}

Running Running::onto(BorrowedFd output, const std::vector<std::string>& arguments) {
  auto in = make_pipe();
  auto err = make_pipe();
  Running program;
  program.pid_ = ::fork();
  if (program.pid_ == 0) {
    ::dup2(in[0].get(), 0);
    if (output.valid())
      ::dup2(output.get(), 1);
    else
      ::close(1);
    ::dup2(err[1].get(), 2);
    execute(arguments);
  }
  program.input_ = std::move(in[1]);
  program.errors_ = std::move(err[0]);
  return program;
}

Running Running::on_terminal(const std::vector<std::string>& arguments) {
  Running program;
  int controller = -1;
  program.pid_ = ::forkpty(&controller, nullptr, nullptr, nullptr);
  if (program.pid_ == 0) execute(arguments);
  EXPECT_GE(controller, 0);
  ::fcntl(controller, F_SETFD, FD_CLOEXEC);
  program.input_.reset(controller);
  program.output_ = UniqueFd::duplicate(BorrowedFd(controller)).value();
  return program;
}

Running::Running(Running&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      input_(std::move(other.input_)),
      output_(std::move(other.output_)),
      errors_(std::move(other.errors_)),
      seen_(std::move(other.seen_)) {}

Running::~Running() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  ::kill(pid_, SIGCONT);
  ::waitpid(pid_, nullptr, 0);
}

void Running::type(const std::string& text) const {
  ::signal(SIGPIPE, SIG_IGN);
  for (std::size_t sent = 0; sent < text.size();) {
    const ssize_t written = ::write(input_.get(), text.data() + sent, text.size() - sent);
    if (written <= 0) return;
    sent += static_cast<std::size_t>(written);
  }
}

bool Running::expect(const std::string& text) {
  const auto give_up = std::chrono::steady_clock::now() + 10s;
  while (seen_.find(text) == std::string::npos) {
    pollfd entry{.fd = output_.get(), .events = POLLIN, .revents = 0};
    if (std::chrono::steady_clock::now() > give_up) return false;
    if (::poll(&entry, 1, 100) <= 0) continue;
    char buffer[4096];
    const ssize_t got = ::read(output_.get(), buffer, sizeof buffer);
    if (got <= 0) return seen_.find(text) != std::string::npos;
    seen_.append(buffer, static_cast<std::size_t>(got));
  }
  return true;
}

void Running::signal(int number) const { ::kill(pid_, number); }

int Running::wait(std::chrono::seconds patience) {
  const auto give_up = std::chrono::steady_clock::now() + patience;
  int status = 0;
  while (::waitpid(pid_, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > give_up) return -1000;
    std::this_thread::sleep_for(1ms);
  }
  pid_ = -1;
  return decode(status);
}

bool Running::terminal_is_raw() const {
  termios settings{};
  EXPECT_EQ(::tcgetattr(output_.get(), &settings), 0);
  return (settings.c_lflag & (ICANON | ECHO | ISIG)) == 0 && (settings.c_oflag & OPOST) == 0;
}

bool Running::expect_raw(bool raw) const {
  for (int i = 0; i < 10000; ++i) {
    if (terminal_is_raw() == raw) return true;
    std::this_thread::sleep_for(1ms);
  }
  return false;
}

std::string Running::errors() const { return read_all(errors_.get()); }

}  // namespace bulkhead::cli::test
