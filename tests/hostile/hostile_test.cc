// A device process under its guest's control, and the VMM it serves: each deed ends the VM with one clear
// sentence or leaves it running, in bounded time and memory, and nothing of it reaches the terminal. See
// hostile_device.h.
#include <gmock/gmock.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <regex>

#include "tests/kvm/test_vm.h"

namespace bulkhead::kvmtest {
namespace {

constexpr int kHostError = 1;
constexpr int kKilled = 12;
constexpr int kGuestFailed = 65;
constexpr Milliseconds kBound{20'000};   // for what takes a second, on a machine that is busy
constexpr long kMemoryBound = 32 << 10;  // KiB

long kib(pid_t pid, const std::string& field) { return std::atol(status_field(pid, field).c_str()); }

long open_files(pid_t pid) {
  std::error_code error;
  std::filesystem::directory_iterator all("/proc/" + std::to_string(pid) + "/fd", error);
  return error ? -1 : std::distance(all, std::filesystem::directory_iterator{});
}

// 8-bit control characters are as good as escape sequences: alone, and as UTF-8.
bool is_clean(std::string_view text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if ((c < 0x20 && c != '\n') || c == 0x7f) return false;
    if (c >= 0x80) return false;  // nothing that these tests expect needs it
  }
  return true;
}

struct Case {
  const char* deed;
  const char* role;
  // What `bulkhead run` says when the VM ends of it, behind "NAME (pid N) "; nullptr: the VM carries on.
  const char* sentence;
  bool may_carry_on = false;
};

void PrintTo(const Case& deed, std::ostream* out) { *out << deed.deed << " by " << deed.role; }

class Hostile : public KvmTest, public ::testing::WithParamInterface<Case> {
 protected:
  void start(const std::string& deed, const std::string& role, const std::string& on_crash) {
    vm_.emplace(VmOptions{.guest = "monitor",
                          .cpus = 2,
                          .more = {"--device-program", HOSTILE_DEVICE, "--on-crash", on_crash},
                          .label = "hostile." + deed + "." + role});
  }
  void TearDown() override {
    vm_.reset();
    KvmTest::TearDown();
  }
  void note_start() {
    vmm_ = vm_->vmm_pid();
    first_rss_ = kib(vmm_, "VmRSS");
    files_ = open_files(vmm_);
    for (const pid_t pid : device_processes_of(vm_->name())) pids_.push_back(pid);
  }
  // The command at which the monitor guest touches that role as nothing else does.
  static const char* sign(std::string_view role) {
    if (role == "platform") return "p";
    return role == "pci" ? "T" : "v";
  }
  // Looks on until the VM has ended or the time is up.
  bool ends_within(Milliseconds patience) {
    return wait_until(
        [&] {
          vm_->run().take_output(Milliseconds(5));
          peak_rss_ = std::max(peak_rss_, kib(vmm_, "VmRSS"));
          return !is_alive(vmm_);
        },
        patience);
  }
  void expect_nothing_left() {
    EXPECT_LE(peak_rss_ - first_rss_, kMemoryBound) << "the VMM's memory grew";
    EXPECT_TRUE(wait_until([&] { return std::none_of(pids_.begin(), pids_.end(), is_alive); }, Milliseconds(5'000)));
    EXPECT_FALSE(is_alive(vmm_));
    EXPECT_TRUE(is_clean(vm_->run().err())) << vm_->run().err();
    EXPECT_LT(vm_->run().err().size(), 64U << 10) << "a flood on the terminal";
    EXPECT_TRUE(std::filesystem::is_empty(run_directory())) << "a file of the VM is left";
  }

  std::optional<TestVm> vm_;
  pid_t vmm_ = -1;
  long first_rss_ = 0;
  long peak_rss_ = 0;
  long files_ = 0;
  std::vector<pid_t> pids_;
};

TEST_P(Hostile, IsContained) {
  const Case& deed = GetParam();
  start(deed.deed, deed.role, "stop");
  ASSERT_TRUE(vm_->run().wait_for_output("boot\n")) << vm_->run().err();
  note_start();
  ASSERT_GE(pids_.size(), 3U);  // and a standby
  vm_->run().send(sign(deed.role));
  const bool must_end = deed.sentence != nullptr && !deed.may_carry_on;
  const bool ended = ends_within(must_end ? kBound : Milliseconds(deed.may_carry_on ? 2'500 : 1'000));
  if (ended) {
    const Ended& how = vm_->run().wait(kBound);
    // A guest whose reset went nowhere says so and ends.
    if (deed.may_carry_on && how.status == kGuestFailed) return expect_nothing_left();
    ASSERT_NE(deed.sentence, nullptr) << "the VM ended: " << how.err;
    EXPECT_EQ(how.status, kHostError) << how.err;
    const std::regex sentence("(.*\n)*bulkhead: (the machine could not be reset: [^\n]*|a device process died: " +
                              std::string(deed.role) + " \\(pid [0-9]+\\) " + deed.sentence + ")\n");
    EXPECT_TRUE(std::regex_match(how.err, sentence)) << how.err;
    return expect_nothing_left();
  }
  EXPECT_FALSE(must_end) << "the VM carries on; standard error: " << vm_->run().err();
  EXPECT_LE(open_files(vmm_), files_) << "descriptors leaked";
  // Its manager still has it in hand.
  EXPECT_EQ(bulkhead({"ls"}).status, 0);
  EXPECT_EQ(bulkhead({"devices", vm_->name()}).status, 0);
  EXPECT_EQ(bulkhead({"kill", vm_->name()}, kBound).status, 0);
  EXPECT_TRUE(ends_within(kBound));
  EXPECT_EQ(vm_->run().wait(kBound).status, kKilled) << vm_->run().err();
  expect_nothing_left();
}

#define BY_SUPERVISOR(what) "was killed by SIGKILL[^\n]* \\(" what "\\)"
#define WROTE(what) BY_SUPERVISOR("it wrote " what)
#define FORBIDDEN(call) "[^\n]*" call "[^\n]*"
constexpr const char* kUnanswered = BY_SUPERVISOR("request [0-9]+ was not answered in time");
constexpr const char* kAnything = "[^\n]*";

std::string test_name(const ::testing::TestParamInfo<Case>& info) {
  std::string name = std::string(info.param.deed) + "_" + info.param.role;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

const std::vector<Case> kReplies = {
    Case{"too-many-effects", "platform", WROTE("a reply with more effects than there can be")},
    Case{"too-many-effects", "pci", WROTE("a reply with more effects than there can be")},
    Case{"ungranted-effect", "platform", WROTE("an effect that it was not granted")},
    Case{"ungranted-effect", "pci_test0", WROTE("an effect that it was not granted")},
    Case{"random-windows", "pci", nullptr, true},
    Case{"random-routes", "pci", kAnything, true},
    Case{"bar-accesses", "pci", kAnything, true},
    Case{"bar-accesses", "platform", nullptr, true},
    Case{"wrong-generation", "platform", nullptr},
    Case{"wrong-total", "platform", nullptr},
    Case{"late-reply", "platform", kUnanswered, true},
    Case{"late-reply", "pci_test0", kUnanswered, true},
    Case{"no-reply", "platform", kUnanswered},
    Case{"no-reply", "pci", kUnanswered},
    Case{"no-reply", "pci_test0", kUnanswered},
    Case{"random-everywhere", "platform", kAnything},
    Case{"random-everywhere", "pci", kAnything},
    Case{"random-everywhere", "pci_test0", kAnything},
    Case{"future-replies", "platform", kUnanswered, true},
    Case{"future-replies", "pci_test0", kUnanswered, true},
    Case{"flip", "platform", kAnything, true},
    Case{"flip", "pci_test0", kAnything, true},
    Case{"random-wake-words", "platform", nullptr},
    Case{"random-wake-words", "pci_test0", nullptr}};
INSTANTIATE_TEST_SUITE_P(Replies, Hostile, ::testing::ValuesIn(kReplies), test_name);

// More resets than a machine can do.
const std::vector<Case> kResets = {Case{"outbound-resets", "platform", nullptr}};
INSTANTIATE_TEST_SUITE_P(Resets, Hostile, ::testing::ValuesIn(kResets), test_name);

// More desired state than there can be, slowly.
const std::vector<Case> kState = {Case{"endless-state", "pci", kAnything, true}};
INSTANTIATE_TEST_SUITE_P(State, Hostile, ::testing::ValuesIn(kState), test_name);

const std::vector<Case> kStreams = {Case{"output-index", "platform", WROTE("a stream index that cannot be")},
                                    Case{"input-index", "platform", WROTE("a stream index that cannot be")},
                                    Case{"outbound-index", "pci_test0", WROTE("an effect index that cannot be")},
                                    Case{"outbound-ungranted", "platform", WROTE("an effect that it was not granted")}};
INSTANTIATE_TEST_SUITE_P(Streams, Hostile, ::testing::ValuesIn(kStreams), test_name);

const std::vector<Case> kControl = {
    Case{"control-garbage", "platform", BY_SUPERVISOR("[^\n]+")},
    Case{"control-huge", "platform", BY_SUPERVISOR("[^\n]+")},
    Case{"control-flood", "platform", BY_SUPERVISOR("it spoke without being asked")},
    Case{"control-ready-again", "platform", BY_SUPERVISOR("it spoke without being asked")},
    Case{"control-failed-late", "platform", BY_SUPERVISOR("it spoke without being asked")},
    Case{"control-descriptors", "platform", BY_SUPERVISOR("[^\n]*descriptors[^\n]*")},
    Case{"control-close", "platform", BY_SUPERVISOR("it closed its control channel")},
    Case{"control-close-filtered", "platform", FORBIDDEN("close")}};
INSTANTIATE_TEST_SUITE_P(Control, Hostile, ::testing::ValuesIn(kControl), test_name);

const std::vector<Case> kLog = {Case{"log-flood", "platform", nullptr}, Case{"log-endless-line", "pci_test0", nullptr}};
INSTANTIATE_TEST_SUITE_P(Log, Hostile, ::testing::ValuesIn(kLog), test_name);

const std::vector<Case> kCalls = {Case{"stop-itself", "platform", FORBIDDEN("kill")},
                                  Case{"fork", "pci_test0", FORBIDDEN("fork")},
                                  Case{"execute", "platform", FORBIDDEN("execve")},
                                  Case{"socket", "pci", FORBIDDEN("socket")},
                                  Case{"crash", "platform", FORBIDDEN("SIGSEGV")},
                                  Case{"spin", "platform", kUnanswered},
                                  Case{"spin", "pci", kUnanswered}};
INSTANTIATE_TEST_SUITE_P(Calls, Hostile, ::testing::ValuesIn(kCalls), test_name);

// Of those deeds, the ones that are always noticed.
std::vector<Case> noticed() {
  std::vector<Case> all;
  for (const std::vector<Case>* some : {&kReplies, &kResets, &kState, &kStreams, &kControl, &kLog, &kCalls}) {
    std::copy_if(some->begin(), some->end(), std::back_inserter(all),
                 [](const Case& deed) { return deed.sentence != nullptr && !deed.may_carry_on; });
  }
  return all;
}

// As users have it: whoever breaks the rules is replaced, and the guest goes on with an honest successor.
class Succession : public Hostile {};

TEST_P(Succession, IsSucceeded) {
  const Case& deed = GetParam();
  start(deed.deed, deed.role, "restart");
  ASSERT_TRUE(vm_->run().wait_for_output("boot\n")) << vm_->run().err();
  note_start();
  vm_->run().send(sign(deed.role));
  const std::regex successor(std::string(deed.role) + " \\(pid [0-9]+\\) goes on as incarnation");
  ASSERT_TRUE(wait_until(
      [&] {
        vm_->run().take_output(Milliseconds(5));
        return std::regex_search(vm_->run().err(), successor);
      },
      kBound))
      << vm_->run().err();
  // The sign for `pci` is a reset, which takes what is typed meanwhile with it.
  if (std::string_view(deed.role) == "pci") {
    ASSERT_TRUE(vm_->run().wait_for_output("boot\n"))
        << vm_->run().err() << vm_->run().out() << "status " << vm_->run().wait(Milliseconds(1'000)).status;
  }
  vm_->run().send("q");
  const Ended& how = vm_->run().wait(kBound);
  EXPECT_EQ(how.status, kGuestPassed) << how.out << how.err;
  peak_rss_ = first_rss_;
  expect_nothing_left();
}

INSTANTIATE_TEST_SUITE_P(Noticed, Succession, ::testing::ValuesIn(noticed()), test_name);

// ---- While the VM starts ----

class HostileStart : public Hostile {};

TEST_P(HostileStart, IsContained) {
  start(GetParam().deed, GetParam().role, "stop");
  const Ended& how = vm_->run().wait(kBound);
  EXPECT_EQ(how.status, kHostError);
  EXPECT_TRUE(
      std::regex_match(how.err, std::regex(std::string("(.*\n)*bulkhead: [^\n]*") + GetParam().sentence + "[^\n]*\n")))
      << how.err;
  EXPECT_EQ(how.out, "");
  EXPECT_TRUE(is_clean(how.err)) << how.err;
  EXPECT_TRUE(std::filesystem::is_empty(run_directory()));
  EXPECT_TRUE(wait_until([&] { return device_processes_of(vm_->name()).empty(); }, Milliseconds(5'000)));
}

INSTANTIATE_TEST_SUITE_P(All, HostileStart,
                         ::testing::Values(Case{"never-ready", "platform", "it did not take over its role in time"},
                                           Case{"fail-rudely", "pci", "the pci device process could not start: !+"},
                                           Case{"many-failures", "pci_test0", "could not start: again"}),
                         test_name);

}  // namespace
}  // namespace bulkhead::kvmtest
