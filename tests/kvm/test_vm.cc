#include "tests/kvm/test_vm.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

namespace bulkhead::kvmtest {
namespace {

using Clock = std::chrono::steady_clock;

std::string next_name(const std::string& label) {
  static int count = 0;
  return label + "-" + std::to_string(::getpid()) + "-" + std::to_string(++count);
}

std::set<std::string>& names_used() {
  static std::set<std::string> names;
  return names;
}

std::set<pid_t>& vmms_seen() {
  static std::set<pid_t> pids;
  return pids;
}

std::vector<std::string> run_arguments(const VmOptions& options, const std::string& name) {
  std::vector<std::string> arguments = {KVMTEST_BULKHEAD, "run",           "--name",   name,
                                        "--memory",       "64M",           "--cpus",   std::to_string(options.cpus),
                                        "--console",      options.console, "--device", "debug_exit"};
  arguments.emplace_back(options.guest.empty() ? "--firmware" : "--kernel");
  arguments.push_back(options.guest.empty() ? "seabios" : std::string(KVMTEST_GUESTS) + "/" + options.guest + ".elf");
  if (!options.command_line.empty()) {
    arguments.emplace_back("--cmdline");
    arguments.push_back(options.command_line);
  }
  for (const std::string& device : options.devices) {
    arguments.emplace_back("--device");
    arguments.push_back(device);
  }
  arguments.insert(arguments.end(), options.more.begin(), options.more.end());
  return arguments;
}

int milliseconds_left(Clock::time_point until) {
  const auto left = std::chrono::ceil<Milliseconds>(until - Clock::now()).count();
  return static_cast<int>(std::max<std::int64_t>(left, 0));
}

std::vector<pid_t> all_pids() {
  std::vector<pid_t> pids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isdigit(c) != 0; }))
      pids.push_back(std::stoi(name));
  }
  return pids;
}

}  // namespace

Child::Child(const std::vector<std::string>& arguments, bool inherit_no_input) {
  std::array<std::array<int, 2>, 3> pipes{};
  for (auto& ends : pipes) EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_ = ::fork();
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::dup2(pipes[0][0], 0);
    ::dup2(pipes[1][1], 1);
    ::dup2(pipes[2][1], 2);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  input_.reset(pipes[0][1]);
  output_.reset(pipes[1][0]);
  error_.reset(pipes[2][0]);
  ::close(pipes[0][0]);
  ::close(pipes[1][1]);
  ::close(pipes[2][1]);
  for (const int fd : {input_.get(), output_.get(), error_.get()}) ::fcntl(fd, F_SETFL, O_NONBLOCK);
  if (inherit_no_input) input_.reset();
}

Child::~Child() {
  if (pid_ < 0) return;
  kill_now();
  ::waitpid(pid_, nullptr, 0);
}

void Child::kill_now() {
  if (pid_ > 0) ::kill(pid_, SIGKILL);
}

bool Child::take_output(Milliseconds patience) {
  std::array<pollfd, 2> polls = {pollfd{output_.valid() ? output_.get() : -1, POLLIN, 0},
                                 pollfd{error_.valid() ? error_.get() : -1, POLLIN, 0}};
  if (!output_.valid() && !error_.valid()) return false;
  if (::poll(polls.data(), polls.size(), static_cast<int>(patience.count())) <= 0) return true;
  for (std::size_t i = 0; i < polls.size(); ++i) {
    if (polls[i].revents == 0) continue;
    std::array<char, 65536> buffer;
    const ssize_t n = ::read(polls[i].fd, buffer.data(), buffer.size());
    if (n > 0) (i == 0 ? out_ : err_).append(buffer.data(), static_cast<std::size_t>(n));
    if (n == 0) (i == 0 ? output_ : error_).reset();
  }
  return true;
}

bool Child::wait_for_output(std::string_view text, Milliseconds patience) {
  const Clock::time_point until = Clock::now() + patience;
  for (;;) {
    const std::size_t at = out_.find(text, seen_);
    if (at != std::string::npos) {
      seen_ = at + text.size();
      return true;
    }
    const int left = milliseconds_left(until);
    if (left == 0 || !output_.valid()) return false;
    take_output(Milliseconds(left));
  }
}

bool Child::send(std::string_view bytes, Milliseconds patience) {
  const Clock::time_point until = Clock::now() + patience;
  while (!bytes.empty()) {
    const int left = milliseconds_left(until);
    if (left == 0 || !input_.valid()) return false;
    std::array<pollfd, 2> polls = {pollfd{input_.get(), POLLOUT, 0}, pollfd{output_.get(), POLLIN, 0}};
    ::poll(polls.data(), polls.size(), left);
    if (polls[1].revents != 0) take_output(Milliseconds(0));
    if (polls[0].revents == 0) continue;
    if ((polls[0].revents & POLLERR) != 0) return false;  // nobody is left to read it
    const ssize_t n = ::write(input_.get(), bytes.data(), bytes.size());
    if (n < 0 && errno != EAGAIN) return false;
    if (n > 0) bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

const Ended& Child::wait(Milliseconds patience) {
  if (pid_ < 0) return ended_;
  const Clock::time_point until = Clock::now() + patience;
  while (take_output(Milliseconds(milliseconds_left(until))) && milliseconds_left(until) != 0) {
  }
  if (!wait_until([this] { return has_ended(); }, Milliseconds(milliseconds_left(until)))) {
    ADD_FAILURE() << "still running after " << patience.count() << " ms; its output:\n" << out_ << err_;
    kill_now();
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
  }
  ended_.out = out_;
  ended_.err = err_;
  return ended_;
}

bool Child::has_ended() {
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) != pid_) return false;
  ended_.status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  pid_ = -1;
  return true;
}

Ended bulkhead(const std::vector<std::string>& arguments, Milliseconds patience) {
  std::vector<std::string> all = {KVMTEST_BULKHEAD};
  all.insert(all.end(), arguments.begin(), arguments.end());
  Child child(all, true);
  return child.wait(patience);
}

TestVm::TestVm(const VmOptions& options) : name_(next_name(options.label)), run_(run_arguments(options, name_)) {
  names_used().insert(name_);
}

TestVm::~TestVm() {
  // Without its launcher a VMM ends; TearDown() makes sure of it.
  run_.kill_now();
}

::testing::AssertionResult TestVm::at(const std::string& place) {
  if (run_.wait_for_output("@" + place + "\n")) {
    vmms_seen().insert(vmm_pid());
    return ::testing::AssertionSuccess();
  }
  run_.take_output(Milliseconds(100));
  return ::testing::AssertionFailure() << "the guest did not get to " << place << "; console:\n"
                                       << run_.out() << "\nstandard error:\n"
                                       << run_.err();
}

nlohmann::json TestVm::status() {
  const Ended list = bulkhead({"ls", "--json"});
  EXPECT_EQ(list.status, 0) << list.err;
  for (const nlohmann::json& vm : nlohmann::json::parse(list.out, nullptr, false)) {
    if (vm.value("name", "") == name_) return vm;
  }
  ADD_FAILURE() << name_ << " is not in the list: " << list.out;
  return {};
}

nlohmann::json TestVm::devices() {
  const Ended list = bulkhead({"devices", name_, "--json"});
  EXPECT_EQ(list.status, 0) << list.err;
  return nlohmann::json::parse(list.out, nullptr, false);
}

std::map<std::string, nlohmann::json> TestVm::devices_by_role() {
  std::map<std::string, nlohmann::json> all;
  for (const nlohmann::json& device : devices()) all[device.at("role")] = device;
  return all;
}

std::vector<pid_t> TestVm::device_pids() {
  std::vector<pid_t> pids;
  for (const nlohmann::json& device : devices()) pids.push_back(device.at("pid"));
  return pids;
}

pid_t TestVm::device_pid(const std::string& role) {
  for (const nlohmann::json& device : devices()) {
    if (device.at("role") == role) return device.at("pid");
  }
  ADD_FAILURE() << "no device process plays " << role;
  return -1;
}

pid_t TestVm::vmm_pid() {
  for (const pid_t pid : all_pids()) {
    if (status_field(pid, "PPid") == std::to_string(run_.pid())) return pid;
  }
  ADD_FAILURE() << "`bulkhead run` has no child";
  return -1;
}

std::vector<pid_t> device_processes_of(const std::string& vm) {
  std::vector<pid_t> found;
  std::string wanted = "bulkhead-device --vm " + vm + " ";
  std::replace(wanted.begin(), wanted.end(), ' ', '\0');
  for (const pid_t pid : all_pids()) {
    if (slurp("/proc/" + std::to_string(pid) + "/cmdline").starts_with(wanted) && is_alive(pid)) found.push_back(pid);
  }
  return found;
}

std::vector<pid_t> children_of(pid_t pid) {
  std::vector<pid_t> found;
  for (const pid_t child : all_pids()) {
    if (status_field(child, "PPid") == std::to_string(pid)) found.push_back(child);
  }
  return found;
}

bool is_alive(pid_t pid) {
  const std::string state = status_field(pid, "State");
  return !state.empty() && state[0] != 'Z' && state[0] != 'X';
}

std::string slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream all;
  all << file.rdbuf();
  return all.str();
}

std::string status_field(pid_t pid, const std::string& field) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(field + ":")) continue;
    const std::size_t at = line.find_first_not_of(" \t", field.size() + 1);
    return at == std::string::npos ? "" : line.substr(at);
  }
  return "";
}

bool wait_until(const std::function<bool()>& condition, Milliseconds patience) {
  const Clock::time_point until = Clock::now() + patience;
  while (!condition()) {
    if (Clock::now() > until) return false;
    std::this_thread::sleep_for(Milliseconds(2));
  }
  return true;
}

std::string all_ok(const std::vector<std::string>& steps) {
  std::string text;
  for (const std::string& step : steps) text += "ok " + step + "\n";
  return text + "pass\n";
}

void KvmTest::SetUp() {
  const int kvm = ::open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (kvm < 0) GTEST_SKIP() << "this test runs a guest, and /dev/kvm cannot be opened: " << std::strerror(errno);
  ::close(kvm);
  std::string path = std::filesystem::temp_directory_path() / "bulkhead-kvmtest-XXXXXX";
  ASSERT_NE(::mkdtemp(path.data()), nullptr);
  run_directory_ = path;
  ::setenv("BULKHEAD_RUN_DIR", path.c_str(), 1);
}

void KvmTest::TearDown() {
  if (run_directory_.empty()) return;
  const auto left = [] {
    std::vector<pid_t> pids;
    for (const std::string& name : names_used()) {
      const std::vector<pid_t> of_vm = device_processes_of(name);
      pids.insert(pids.end(), of_vm.begin(), of_vm.end());
    }
    for (const pid_t pid : vmms_seen()) {
      if (is_alive(pid)) pids.push_back(pid);
    }
    return pids;
  };
  if (!wait_until([&] { return left().empty(); }, Milliseconds(5'000))) {
    for (const pid_t pid : left()) {
      ADD_FAILURE() << "process " << pid << " (" << status_field(pid, "Name") << ") outlived its VM";
      ::kill(pid, SIGKILL);
    }
  }
  names_used().clear();
  vmms_seen().clear();
  std::filesystem::remove_all(run_directory_);
}

void KvmTest::expect_steps(const VmOptions& options, const std::vector<std::string>& steps) {
  TestVm vm(options);
  const Ended& ended = vm.run().wait();
  EXPECT_EQ(ended.out, all_ok(steps)) << ended.err;
  EXPECT_EQ(ended.status, kGuestPassed);
  EXPECT_EQ(ended.err, "");
  EXPECT_TRUE(device_processes_of(vm.name()).empty());
  EXPECT_TRUE(std::filesystem::is_empty(run_directory())) << "a file of the VM is left";
}

void MonitorTest::start(const std::vector<std::string>& more) {
  vm_.emplace(VmOptions{.guest = "monitor", .cpus = 2, .more = more});
  ASSERT_TRUE(vm_->run().wait_for_output("boot\n")) << vm_->run().err();
}

void MonitorTest::TearDown() {
  vm_.reset();
  KvmTest::TearDown();
}

}  // namespace bulkhead::kvmtest
