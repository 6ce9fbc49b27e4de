// TestVm: one VM of the real product, run by `bulkhead run` as a child, for the tests that need /dev/kvm.
//
// Each test has a run directory of its own and VM names that no other VM has. A fixture's end kills what a failed
// test left running, and fails the test when a process or a file of a VM outlives it.
// Guests are those of tests/guests. Threading: the test's thread alone.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ipc/base/unique_fd.h"

namespace bulkhead::kvmtest {

using Milliseconds = std::chrono::milliseconds;

// Far more than anything takes: these machines are shared.
inline constexpr Milliseconds kPatience{60'000};

struct Ended {
  int status = -1;  // exit status; 128 + signal
  std::string out;
  std::string err;
};

// A child with its three standard streams on pipes.
class Child {
 public:
  Child(const std::vector<std::string>& arguments, bool inherit_no_input = false);
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] const std::string& out() const { return out_; }
  [[nodiscard]] const std::string& err() const { return err_; }
  [[nodiscard]] const Ended& ended() const { return ended_; }

  // True once standard output holds `text` behind what earlier calls found; false at its end or the deadline.
  bool wait_for_output(std::string_view text, Milliseconds patience = kPatience);
  // Writes all of it, taking output meanwhile.
  bool send(std::string_view bytes, Milliseconds patience = kPatience);
  void close_input() { input_.reset(); }
  // Takes what has come, waits `patience` at most for more. False: both streams have ended.
  bool take_output(Milliseconds patience);
  // The end of the process and of its output. At the deadline it is killed and the test fails.
  const Ended& wait(Milliseconds patience = kPatience);
  void kill_now();

 private:
  bool has_ended();

  pid_t pid_ = -1;
  UniqueFd input_;
  UniqueFd output_;
  UniqueFd error_;
  std::string out_;
  std::string err_;
  std::size_t seen_ = 0;
  Ended ended_;
};

// Runs `bulkhead ARGUMENTS` to its end.
Ended bulkhead(const std::vector<std::string>& arguments, Milliseconds patience = kPatience);

struct VmOptions {
  std::string guest;  // a name in tests/guests; "": this host's SeaBIOS
  unsigned cpus = 1;
  std::string command_line{};
  std::vector<std::string> devices{"pci_test"};  // and debug_exit
  std::string console = "stdio";
  std::vector<std::string> more{};
  std::string label = "kvmtest";  // what the VM's name begins with
};

class TestVm {
 public:
  explicit TestVm(const VmOptions& options);
  ~TestVm();

  [[nodiscard]] Child& run() { return run_; }
  [[nodiscard]] const std::string& name() const { return name_; }

  // The guest reached `hold PLACE`; release() lets it go on.
  ::testing::AssertionResult at(const std::string& place);
  void release() { run_.send("."); }

  [[nodiscard]] nlohmann::json status();   // its entry of `bulkhead ls --json`
  [[nodiscard]] nlohmann::json devices();  // `bulkhead devices NAME --json`
  [[nodiscard]] std::map<std::string, nlohmann::json> devices_by_role();
  [[nodiscard]] std::vector<pid_t> device_pids();  // by role, as devices() lists them
  [[nodiscard]] pid_t device_pid(const std::string& role);
  [[nodiscard]] pid_t vmm_pid();

 private:
  std::string name_;
  Child run_;
};

[[nodiscard]] std::vector<pid_t> children_of(pid_t pid);

// Processes of VMs named by this program: bulkhead-device by its arguments, bulkhead-vmm by its parent or run
// directory.
[[nodiscard]] std::vector<pid_t> device_processes_of(const std::string& vm);

[[nodiscard]] bool is_alive(pid_t pid);  // a zombie is not
[[nodiscard]] std::string slurp(const std::string& path);
// The value of a field of /proc/PID/status, without blanks around it.
[[nodiscard]] std::string status_field(pid_t pid, const std::string& field);
bool wait_until(const std::function<bool()>& condition, Milliseconds patience = kPatience);

// What a guest prints when all of these steps went well, up to its end.
[[nodiscard]] std::string all_ok(const std::vector<std::string>& steps);
inline constexpr int kGuestPassed = 64;

class KvmTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // Runs a guest that tests by itself, and expects exactly these steps on its console.
  void expect_steps(const VmOptions& options, const std::vector<std::string>& steps);

  [[nodiscard]] const std::string& run_directory() const { return run_directory_; }

 private:
  std::string run_directory_;
};

// A VM with two CPUs whose guest `monitor` keeps every device process busy, and does what single letters tell it.
class MonitorTest : public KvmTest {
 protected:
  void TearDown() override;
  // Up to the guest's "boot". `more`: arguments of `bulkhead run`.
  void start(const std::vector<std::string>& more = {});
  [[nodiscard]] TestVm& vm() { return *vm_; }

 private:
  std::optional<TestVm> vm_;
};

}  // namespace bulkhead::kvmtest
