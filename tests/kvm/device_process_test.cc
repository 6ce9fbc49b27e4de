// Device processes of a running VM, looked at and interfered with from outside: the jail as /proc shows it; stopped,
// hung and killed processes; and what is left when the VMM or its launcher is killed.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "tests/kvm/test_vm.h"

namespace bulkhead::kvmtest {
namespace {

using ::testing::ContainsRegex;
using ::testing::Each;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;

namespace fs = std::filesystem;

constexpr int kHostError = 1;

std::string proc(pid_t pid, const std::string& file) { return "/proc/" + std::to_string(pid) + "/" + file; }

std::vector<std::string> lines_of(const std::string& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

class DeviceProcesses : public MonitorTest {
 protected:
  void SetUp() override {
    MonitorTest::SetUp();
    if (IsSkipped()) return;
    ASSERT_NO_FATAL_FAILURE(start());
    for (const nlohmann::json& device : vm().devices()) pids_[device.at("role")] = device.at("pid");
    ASSERT_EQ(pids_.size(), 3U);
    vmm_ = vm().vmm_pid();
  }
  [[nodiscard]] pid_t pid_of(const std::string& role) const { return pids_.at(role); }
  [[nodiscard]] const std::map<std::string, pid_t>& pids() const { return pids_; }
  [[nodiscard]] pid_t vmm() const { return vmm_; }

  [[nodiscard]] bool all_gone() const {
    return !is_alive(vmm_) &&
           std::none_of(pids_.begin(), pids_.end(), [](const auto& entry) { return is_alive(entry.second); });
  }

 private:
  std::map<std::string, pid_t> pids_;
  pid_t vmm_ = -1;
};

// ---- The jail ----

class Jail : public DeviceProcesses {
 protected:
  void SetUp() override {
    DeviceProcesses::SetUp();
    if (!IsSkipped() && ::geteuid() != 0) GTEST_SKIP() << "only root sees all that /proc tells of another's jail";
  }
};

TEST_F(Jail, NoPrivilege) {
  std::set<std::string> uids;
  for (const auto& [role, pid] : pids()) {
    SCOPED_TRACE(role);
    EXPECT_EQ(status_field(pid, "Seccomp"), "2");
    EXPECT_EQ(status_field(pid, "NoNewPrivs"), "1");
    for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"})
      EXPECT_EQ(status_field(pid, set), "0000000000000000") << set;
    EXPECT_EQ(status_field(pid, "Threads"), "1");
    EXPECT_EQ(status_field(pid, "Groups"), "");
    EXPECT_TRUE(fs::exists(proc(vmm(), "task/" + status_field(pid, "TracerPid")))) << "the supervisor sees its end";
    EXPECT_NE(status_field(pid, "Uid"), status_field(vmm(), "Uid"));
    uids.insert(status_field(pid, "Uid"));
    EXPECT_EQ(slurp(proc(pid, "environ")), "");
  }
  EXPECT_EQ(uids.size(), pids().size()) << "each process has a user id of its own";
}

TEST_F(Jail, NamespacesOfItsOwn) {
  std::map<std::string, std::set<std::string>> seen;
  for (const auto& [role, pid] : pids()) {
    for (const char* name : {"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"}) {
      const std::string link = fs::read_symlink(proc(pid, std::string("ns/") + name));
      EXPECT_NE(link, fs::read_symlink(proc(vmm(), std::string("ns/") + name)).string()) << role;
      seen[name].insert(link);
    }
  }
  for (const auto& [name, links] : seen) EXPECT_EQ(links.size(), pids().size()) << name << " is shared";
}

TEST_F(Jail, EmptyReadOnlyRoot) {
  for (const auto& [role, pid] : pids()) {
    SCOPED_TRACE(role);
    EXPECT_TRUE(fs::is_empty(proc(pid, "root/")));
    const std::vector<std::string> mounts = lines_of(proc(pid, "mountinfo"));
    ASSERT_EQ(mounts.size(), 1U);
    EXPECT_THAT(mounts[0], MatchesRegex("[0-9]+ [0-9]+ [0-9]+:[0-9]+ / / ro,nosuid,nodev,noexec.* - tmpfs .*"));
    EXPECT_EQ(fs::read_symlink(proc(pid, "cwd")), "/");
    // No address, no interface but a loopback that is down.
    EXPECT_EQ(lines_of(proc(pid, "net/dev")).size(), 3U);
    EXPECT_LE(lines_of(proc(pid, "net/route")).size(), 1U);
  }
}

// Two doorbells, and what its devices declare: an eventfd for each edge line and each message vector, two for a level
// line.
TEST_F(Jail, OnlyDeclaredDescriptors) {
  const std::map<std::string, int> eventfds = {{"pci", 2},
                                               {"platform", 2 + 5 + 2},    // IRQ 4, 3, 8, 1, 12; SCI
                                               {"pci_test0", 2 + 2 + 8}};  // INTx; eight messages
  for (const auto& [role, pid] : pids()) {
    SCOPED_TRACE(role);
    std::map<std::string, int> held;
    for (const auto& entry : fs::directory_iterator(proc(pid, "fd"))) {
      std::string what = fs::read_symlink(entry.path());
      what = what.substr(
          0, what.find(':') == std::string::npos || what.starts_with("/memfd") ? what.find(' ') : what.find(":["));
      if (what == "anon_inode") what = fs::read_symlink(entry.path());
      ++held[what];
      if (what == "/memfd:bulkhead-requests") {
        // Neither a new mapping nor write(2) can change it.
        const UniqueFd area(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
        EXPECT_NE(::fcntl(area.get(), F_GET_SEALS) & F_SEAL_FUTURE_WRITE, 0) << "the request area can be written";
      }
    }
    std::map<std::string, int> declared = {{"/dev/null", 2},
                                           {"pipe", 1},    // the log
                                           {"socket", 1},  // the control channel
                                           {"anon_inode:[eventpoll]", 1},
                                           {"anon_inode:[timerfd]", 1},
                                           {"anon_inode:[eventfd]", eventfds.at(role)},
                                           {"/memfd:bulkhead-requests", 1},
                                           {"/memfd:bulkhead-replies", 1},
                                           {"/memfd:bulkhead-state", 1}};
    if (role == "pci_test0") declared["/memfd:bulkhead-ram"] = 1;
    EXPECT_EQ(held, declared);
  }
}

TEST_F(Jail, OnlyDeclaredMappings) {
  for (const auto& [role, pid] : pids()) {
    SCOPED_TRACE(role);
    std::map<std::string, std::string> shared;
    for (const std::string& line : lines_of(proc(pid, "maps"))) {
      std::istringstream fields(line);
      std::string range;
      std::string rights;
      std::string rest;
      std::string path;
      fields >> range >> rights >> rest >> rest >> rest >> path;
      EXPECT_FALSE(rights[1] == 'w' && rights[2] == 'x') << line;
      if (rights[3] == 's') {
        EXPECT_TRUE(shared.emplace(path, rights).second) << "mapped twice: " << line;
        continue;
      }
      const bool library = path.find(".so") != std::string::npos;  // a build with sanitizers is not static
      const bool own = path == fs::canonical(KVMTEST_DEVICE) || library;
      EXPECT_TRUE(own || path.empty() || path.starts_with("[")) << line;
      if (rights[2] == 'x') {
        EXPECT_TRUE(own || path == "[vdso]" || path == "[vsyscall]") << line;
      }
    }
    std::map<std::string, std::string> declared = {
        {"/memfd:bulkhead-requests", "r--s"}, {"/memfd:bulkhead-replies", "rw-s"}, {"/memfd:bulkhead-state", "rw-s"}};
    if (role == "pci_test0") declared["/memfd:bulkhead-ram"] = "rw-s";
    EXPECT_EQ(shared, declared);
  }
}

// The table that users see says the same.
TEST_F(Jail, IsShownToTheUser) {
  for (const nlohmann::json& device : vm().devices()) {
    const nlohmann::json& jail = device.at("jail");
    EXPECT_EQ(jail.at("seccomp_mode"), 2);
    EXPECT_EQ(jail.at("no_new_privs"), true);
    EXPECT_EQ(jail.at("cap_eff"), 0);
    EXPECT_EQ(jail.at("own_namespaces").size(), 7U);
    EXPECT_EQ(device.at("state"), "running");
  }
}

// ---- The VMM emulates nothing ----

std::string symbols_of(const std::string& program) {
  Child nm({"/usr/bin/nm", "-C", program}, true);
  return nm.wait().out;
}

TEST(Programs, VmmHoldsNoDeviceModel) {
  const std::string vmm = symbols_of(KVMTEST_VMM);
  EXPECT_NE(vmm.find("bulkhead::vmm::"), std::string::npos) << "it has no symbols: nothing is proved";
  EXPECT_EQ(vmm.find("bulkhead::devproc"), std::string::npos)
      << vmm.substr(vmm.find("bulkhead::devproc") - std::min<std::size_t>(vmm.find("bulkhead::devproc"), 100), 300);
  const std::string device = symbols_of(KVMTEST_DEVICE);
  EXPECT_NE(device.find("bulkhead::devproc::Uart16550"), std::string::npos);
  EXPECT_EQ(device.find("bulkhead::vmm::"), std::string::npos);
}

// With every device process stopped no register answers: each CPU's longest wait spans the stop. With them going on,
// each answers as if nothing had been.
TEST_F(KvmTest, NobodyAnswersForStoppedProcesses) {
  constexpr Milliseconds kStop{500};  // well below the deadline of a request
  constexpr unsigned kCpus = 4;
  TestVm vm({.guest = "stall", .cpus = kCpus});
  ASSERT_TRUE(vm.run().wait_for_output("@running\n"));
  const std::vector<pid_t> pids = vm.device_pids();
  ASSERT_EQ(pids.size(), 3U);
  const auto total = [](const nlohmann::json& devices, const char* what) {
    std::vector<std::uint64_t> counts;
    for (const nlohmann::json& device : devices) counts.push_back(device.at(what));
    return counts;
  };
  const nlohmann::json start = vm.devices();
  ASSERT_TRUE(wait_until([&] {
    const nlohmann::json now = vm.devices();
    for (std::size_t i = 0; i < now.size(); ++i) {
      if (now[i].at("requests") < start[i].value("requests", 0) + 50) return false;
    }
    return true;
  })) << "every process is busy";

  const auto stopped_at = std::chrono::steady_clock::now();
  for (const pid_t pid : pids) ::kill(pid, SIGSTOP);
  ASSERT_TRUE(wait_until([&] {
    return std::all_of(pids.begin(), pids.end(), [](pid_t pid) {
      const std::string state = status_field(pid, "State");
      return state[0] == 'T' || state[0] == 't';
    });
  }));
  const std::uint64_t all_stopped = __builtin_ia32_rdtsc();
  const nlohmann::json first = vm.devices();
  std::this_thread::sleep_until(stopped_at + kStop);
  const nlohmann::json second = vm.devices();
  const std::uint64_t still_stopped = __builtin_ia32_rdtsc();
  for (const pid_t pid : pids) ::kill(pid, SIGCONT);
  EXPECT_EQ(total(second, "commits"), total(first, "commits"));
  // Each CPU has one request that waits, at most.
  std::uint64_t more = 0;
  for (std::size_t i = 0; i < first.size(); ++i)
    more += second[i].value("requests", std::uint64_t{0}) - first[i].value("requests", std::uint64_t{0});
  EXPECT_LE(more, kCpus);

  ASSERT_TRUE(wait_until([&] {
    const nlohmann::json now = vm.devices();
    for (std::size_t i = 0; i < now.size(); ++i) {
      if (now[i].at("commits") < second[i].value("commits", 0) + 50) return false;
    }
    return true;
  })) << "every process goes on";
  vm.run().send("x");
  const Ended& ended = vm.run().wait();
  EXPECT_EQ(ended.status, kGuestPassed) << ended.out << ended.err;
  std::istringstream out(ended.out);
  std::string line;
  std::getline(out, line);  // @running
  for (unsigned cpu = 0; cpu < kCpus; ++cpu) {
    std::getline(out, line);
    unsigned number = 0;
    unsigned answers = 0;
    unsigned wrong = 0;
    unsigned longest = 0;
    ASSERT_EQ(std::sscanf(line.c_str(), "cpu %u answers %u wrong %u longest %u kilocycles", &number, &answers, &wrong,
                          &longest),
              4)
        << ended.out;
    EXPECT_EQ(number, cpu);
    EXPECT_GT(answers, 50U) << line;
    EXPECT_EQ(wrong, 0U) << line;
    // The guest's time stamp counter runs as fast as ours. A CPU may have been late to take the last answer, and so to
    // ask again.
    EXPECT_GE(longest, (still_stopped - all_stopped) / 1024 * 2 / 3)
        << "somebody answered CPU " << cpu << " for a stopped process";
  }
}

// ---- Death ----

class Death : public DeviceProcesses, public ::testing::WithParamInterface<const char*> {
 protected:
  nlohmann::json wait_for_successor() {
    nlohmann::json device;
    EXPECT_TRUE(wait_until([&] {
      device = vm().devices_by_role().at(GetParam());
      return device.at("state") == "running" && device.at("pid") != pid_of(GetParam());
    }));
    return device;
  }
  void expect_guest_goes_on();
};

// A command that needs the role: a reset goes through `pci`, and the guest checks every device as it starts again.
void Death::expect_guest_goes_on() {
  vm().run().send("x");
  EXPECT_TRUE(vm().run().wait_for_output("config b41cbeef bar d0000000 scratch 11223344\n"))
      << vm().run().out() << vm().run().err();
  vm().run().send("c");
  EXPECT_TRUE(vm().run().wait_for_output("boot\n")) << vm().run().err();
  vm().run().send("q");
  const Ended& ended = vm().run().wait();
  EXPECT_EQ(ended.status, kGuestPassed) << ended.out << ended.err;
  EXPECT_TRUE(wait_until([&] { return fs::is_empty(run_directory()); }));
}

TEST_P(Death, KilledProcessComesBack) {
  ::kill(pid_of(GetParam()), SIGKILL);
  const nlohmann::json device = wait_for_successor();
  EXPECT_EQ(device.at("restarts"), 1);
  EXPECT_EQ(device.at("incarnation"), 2);
  expect_guest_goes_on();
  EXPECT_THAT(vm().run().err(), ContainsRegex(std::string(GetParam()) + " \\(pid [0-9]+\\) was killed by SIGKILL"));
}

TEST_P(Death, HungProcessIsReplaced) {
  const auto began = std::chrono::steady_clock::now();
  ::kill(pid_of(GetParam()), SIGSTOP);
  if (std::string_view(GetParam()) == "pci") vm().run().send("c");  // nobody else asks it anything
  const nlohmann::json device = wait_for_successor();
  const auto took = std::chrono::steady_clock::now() - began;
  EXPECT_EQ(device.at("restarts"), 1);
  EXPECT_GE(took, Milliseconds(950)) << "a request has a second";
  if (std::string_view(GetParam()) == "pci") {
    EXPECT_TRUE(vm().run().wait_for_output("boot\n"));
  }
  expect_guest_goes_on();
  EXPECT_THAT(vm().run().err(), ContainsRegex("(was not answered in time|was stopped by a signal)"));
}

TEST_P(Death, ManyKillsInARowLeaveNothingBehind) {
  for (int i = 0; i < 8; ++i) {
    // 0 while there is no process; as an argument of kill(2) that would mean ourselves.
    if (const pid_t pid = vm().device_pid(GetParam()); pid > 0) ::kill(pid, SIGKILL);
    std::this_thread::sleep_for(Milliseconds(20));
  }
  ASSERT_TRUE(wait_until([&] { return vm().devices_by_role().at(GetParam()).at("state") == "running"; }));
  EXPECT_TRUE(wait_until([&] { return device_processes_of(vm().name()).size() == pids().size() + 1; }))
      << "one process for each role, and a standby";
  std::this_thread::sleep_for(Milliseconds(1'500));  // more than a tick
  EXPECT_EQ(device_processes_of(vm().name()).size(), pids().size() + 1) << "one standby is enough";
  expect_guest_goes_on();
}

INSTANTIATE_TEST_SUITE_P(Role, Death, ::testing::Values("pci", "platform", "pci_test0"),
                         [](const auto& test) { return std::string(test.param); });

// The user's own deadline holds: three seconds instead of one.
TEST_F(KvmTest, DeadlineOfADeviceProcessIsTheUsers) {
  TestVm vm({.guest = "monitor", .cpus = 2, .more = {"--device-deadline", "3s"}});
  ASSERT_TRUE(vm.run().wait_for_output("boot\n")) << vm.run().err();
  const pid_t pid = vm.device_pid("pci_test0");  // the guest's second CPU keeps it busy
  const auto began = std::chrono::steady_clock::now();
  ::kill(pid, SIGSTOP);
  ASSERT_TRUE(wait_until([&] { return vm.devices_by_role().at("pci_test0").at("restarts") == 1; }));
  EXPECT_GE(std::chrono::steady_clock::now() - began, Milliseconds(2'900));
  vm.run().send("q");
  EXPECT_EQ(vm.run().wait().status, kGuestPassed);
}

// A program in the place of bulkhead-device that says what would drive a terminal, and ends.
TEST_F(KvmTest, WhatADeviceProcessSaysCannotDriveTheTerminal) {
  TestVm vm({.guest = "monitor", .cpus = 2, .more = {"--device-program", KVMTEST_RUDE_DEVICE}});
  const Ended& ended = vm.run().wait(Milliseconds(20'000));
  EXPECT_EQ(ended.status, kHostError);
  EXPECT_NE(ended.err.find("] a [2J !\n"), std::string::npos) << ended.err;
  EXPECT_EQ(ended.err.find_first_of("\x1b\x07\r\x9b"), std::string::npos) << ended.err;
  EXPECT_NE(ended.err.find("bulkhead: a device process ended while the VM started: "), std::string::npos) << ended.err;
  EXPECT_TRUE(device_processes_of(vm.name()).empty());
  EXPECT_TRUE(fs::is_empty(run_directory()));
}

TEST_F(DeviceProcesses, NoneOutlivesItsVmm) {
  ::kill(vmm(), SIGKILL);
  const Ended& ended = vm().run().wait(Milliseconds(20'000));
  EXPECT_EQ(ended.status, kHostError);
  EXPECT_EQ(ended.err, "bulkhead: the VMM was killed by signal 9 (Killed) before its VM had ended\n");
  EXPECT_TRUE(wait_until([&] { return all_gone(); }, Milliseconds(5'000)));
}

// Killed at any moment of its start: while it spawns, while a process is on its way into its jail, before the tracer
// has seized it. The delays step through a start, which takes about 10 ms.
TEST_F(KvmTest, NoneOutlivesAVmmKilledWhileItStarts) {
  for (int delay_us = 0; delay_us < 20'000; delay_us += 500) {
    TestVm vm({.guest = "monitor", .cpus = 2});
    std::vector<pid_t> vmm;
    ASSERT_TRUE(wait_until([&] { return !(vmm = children_of(vm.run().pid())).empty(); }));
    std::this_thread::sleep_for(std::chrono::microseconds(delay_us));
    ::kill(vmm.front(), SIGKILL);
    EXPECT_NE(vm.run().wait(Milliseconds(20'000)).status, 0);
    EXPECT_TRUE(wait_until([&] { return device_processes_of(vm.name()).empty(); }, Milliseconds(5'000))) << delay_us;
  }
}

// Both are killed: nobody is left to clean up, so the next start does.
TEST_F(DeviceProcesses, NextStartSweepsWhatADeadVmmLeft) {
  vm().run().kill_now();
  ::kill(vmm(), SIGKILL);
  EXPECT_TRUE(wait_until([&] { return all_gone(); }, Milliseconds(5'000)));
  EXPECT_TRUE(fs::exists(run_directory() + "/" + vm().name() + ".sock")) << "the test did not reach its case";
  const Ended list = bulkhead({"ls", "--json"});
  EXPECT_EQ(list.out, "[]\n") << "a dead VM is listed";
  TestVm next({.guest = "monitor", .cpus = 2});
  ASSERT_TRUE(next.run().wait_for_output("boot\n"));
  EXPECT_FALSE(fs::exists(run_directory() + "/" + vm().name() + ".sock"));
  EXPECT_FALSE(fs::exists(run_directory() + "/" + vm().name() + ".lock"));
  next.run().send("q");
  EXPECT_EQ(next.run().wait().status, kGuestPassed);
}

TEST_F(DeviceProcesses, VmEndsWithItsLauncher) {
  vm().run().kill_now();
  EXPECT_TRUE(wait_until([&] { return all_gone(); }, Milliseconds(5'000)));
  EXPECT_TRUE(wait_until([&] { return fs::is_empty(run_directory()); }, Milliseconds(1'000)));
}

}  // namespace
}  // namespace bulkhead::kvmtest
