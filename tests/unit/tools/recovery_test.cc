// Events, fault drills and replacement through the management interface: callers that wait, callers that go
// away, and calls that take long while others are answered. The VMM only pretends (FakeControl).
#include <capnp/message.h>
#include <capnp/rpc.capnp.h>
#include <capnp/serialize.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <csignal>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "ipc/control/channel.h"
#include "ipc/control/management.capnp.h"
#include "ipc/control/management_client.h"
#include "ipc/control/run_directory.h"
#include "tests/unit/tools/fake_control.h"
#include "tests/unit/tools/program.h"
#include "vmm/api/management_server.h"

namespace bulkhead::vmm {
namespace {

using namespace std::chrono_literals;
using cli::test::run_program;
using cli::test::Running;
using cli::test::Scratch;
using control::DeviceEvent;
using control::DeviceEventKind;
using control::ManagementClient;
using control::RunDirectory;

class Recovery : public testing::Test {
 protected:
  Recovery() : directory_(RunDirectory::open(scratch_.path("run")).value()), name_(directory_.claim("alpha").value()) {
    server_ = ManagementServer::start(name_.listen().value(), vm_).value();
  }
  UniqueFd connect() { return directory_.connect("alpha").value(); }
  std::unique_ptr<ManagementClient> client(std::chrono::milliseconds timeout = 10s) {
    return ManagementClient::create(connect(), timeout).value();
  }
  bool answers() {
    return std::async(std::launch::async, [this] { return static_cast<bool>(client(5s)->status()); }).get();
  }
  // Waits for events in a thread of its own: a client belongs to one thread.
  std::future<std::vector<DeviceEvent>> ask_later(std::uint64_t after) {
    return std::async(std::launch::async, [this, after] {
      const auto events = client()->events(after, true);
      EXPECT_TRUE(events) << events.error().message;
      return events ? *events : std::vector<DeviceEvent>{};
    });
  }
  void add(DeviceEventKind kind, const std::string& role = "pci_test0") {
    vm_.events().add(
        {.kind = kind, .role = role, .pid = 77, .incarnation = 2, .cause = "it fell over", .system_call = {}});
  }
  void stop() { server_.reset(); }

  Scratch scratch_;
  FakeControl vm_;

 private:
  RunDirectory directory_;
  control::ClaimedName name_;
  std::unique_ptr<ManagementServer> server_;
};

TEST_F(Recovery, events_arrive_whole) {
  vm_.events().add({.kind = DeviceEventKind::kDied,
                    .role = "platform",
                    .pid = 4711,
                    .incarnation = 3,
                    .cause = "it was killed",
                    .signal = SIGSYS,
                    .system_call = "openat",
                    .ticket = 12345,
                    .stall_ns = 0});
  add(DeviceEventKind::kUpgraded);
  const auto events = client()->events(0, true);
  ASSERT_TRUE(events) << events.error().message;
  EXPECT_EQ(*events, vm_.events().since(0, 10));
  EXPECT_EQ(client()->events(1, true)->size(), 1U);
  EXPECT_TRUE(client()->events(2, false)->empty()) << "without waiting";
}

TEST_F(Recovery, an_overlong_cause_is_cut_and_no_terminal_is_driven) {
  vm_.events().add(
      {.kind = DeviceEventKind::kDied, .role = "pci", .cause = std::string(5000, '\x1b'), .system_call = {}});
  const auto events = client()->events(0, false);
  ASSERT_TRUE(events) << events.error().message;
  EXPECT_EQ(events->at(0).cause, std::string(control::kMaxSentenceLength, '?'));
}

TEST_F(Recovery, a_caller_waits_for_an_event_that_comes_later) {
  auto first = ask_later(0);
  auto second = ask_later(0);
  EXPECT_TRUE(answers()) << "others are answered meanwhile";
  EXPECT_EQ(first.wait_for(50ms), std::future_status::timeout);
  const auto began = std::chrono::steady_clock::now();
  add(DeviceEventKind::kHung);
  EXPECT_EQ(first.get(), vm_.events().since(0, 1));
  EXPECT_EQ(second.get(), vm_.events().since(0, 1));
  EXPECT_LT(std::chrono::steady_clock::now() - began, 5s);
}

TEST_F(Recovery, many_events_come_in_order_and_once) {
  std::atomic<std::uint64_t> read{0};
  std::jthread busy([&] {
    for (std::uint64_t i = 0; i < 2000; ++i) {
      // Older ones give way: a reader that falls behind by more misses some.
      while (i >= read.load() + vmm::DeviceEvents::kKept) std::this_thread::yield();
      add(DeviceEventKind::kRestarting);
    }
  });
  const auto caller = client();
  std::uint64_t last = 0;
  for (; last < 2000; read.store(last)) {
    const auto events = caller->events(last, true);
    ASSERT_TRUE(events) << events.error().message;
    EXPECT_LE(events->size(), control::kMaxEventsAtOnce);
    for (const DeviceEvent& event : *events) ASSERT_EQ(event.number, ++last);
  }
}

TEST_F(Recovery, a_call_without_events_ends_empty) {
  const auto began = std::chrono::steady_clock::now();
  const auto events = client()->events(0, true);
  ASSERT_TRUE(events) << events.error().message;
  EXPECT_TRUE(events->empty());
  EXPECT_GE(std::chrono::steady_clock::now() - began, control::kEventsPatience - 100ms);
}

// The bytes of a connection's start and of `calls` calls that wait for an event.
std::vector<char> waiting_calls(unsigned calls) {
  std::vector<char> all;
  for (unsigned question = 0; question <= calls; ++question) {
    capnp::MallocMessageBuilder builder;
    auto message = builder.initRoot<capnp::rpc::Message>();
    if (question == 0) {
      message.initBootstrap().setQuestionId(0);
    } else {
      auto call = message.initCall();
      call.setQuestionId(question);
      call.initTarget().initPromisedAnswer().setQuestionId(0);
      call.setInterfaceId(capnp::typeId<control::schema::Management>());
      call.setMethodId(11);
      auto params = call.initParams().initContent().initAs<control::schema::Management::EventsParams>();
      params.setMost(1);
      params.setWait(true);
    }
    const auto words = capnp::messageToFlatArray(builder);
    all.insert(all.end(), words.asChars().begin(), words.asChars().end());
  }
  return all;
}

// All places are taken by callers that go away, again and again: none stays taken.
TEST_F(Recovery, callers_that_go_away_leave_nothing_behind) {
  constexpr unsigned kCallers = 8;
  const std::vector<char> bytes = waiting_calls(kMaxWaiters / kCallers);
  for (int round = 0; round < 5; ++round) {
    std::vector<UniqueFd> sockets;
    for (unsigned i = 0; i < kCallers; ++i) {
      sockets.push_back(connect());
      ASSERT_EQ(::send(sockets.back().get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), ssize_t(bytes.size()));
    }
    EXPECT_TRUE(answers());
    EXPECT_EQ(client()->events(0, true).error().message, "too many callers wait for events") << round;
  }
  EXPECT_TRUE(answers());
  auto last = ask_later(0);
  EXPECT_EQ(last.wait_for(20ms), std::future_status::timeout) << "there is no place to wait";
  add(DeviceEventKind::kDied);
  EXPECT_EQ(last.get().size(), 1U);
}

TEST_F(Recovery, waiting_ends_with_the_server) {
  auto caller = std::async(std::launch::async, [this] { return client()->events(0, true).error().error_number; });
  EXPECT_TRUE(answers());
  EXPECT_EQ(caller.wait_for(20ms), std::future_status::timeout);
  stop();
  EXPECT_EQ(caller.get(), control::kPeerClosed);
  add(DeviceEventKind::kDied);  // nobody listens any more
}

TEST_F(Recovery, fault_upgrade_and_restore_reach_the_vm) {
  const auto caller = client();
  EXPECT_TRUE(caller->fault("pci", SIGSEGV));
  EXPECT_TRUE(caller->upgrade("pci", "/x/y"));
  EXPECT_TRUE(caller->restore("pci_test0"));
  EXPECT_EQ(vm_.calls(), (std::vector<std::string>{"fault pci 11", "upgrade pci /x/y", "restore pci_test0"}));
  EXPECT_EQ(caller->fault("a/b", SIGKILL).error().message, "that is not the name of a device process");
  EXPECT_EQ(caller->restore("").error().message, "that is not the name of a device process");
  EXPECT_EQ(caller->upgrade("pci", "relative").error().message, "that is not the absolute path of an executable");
  EXPECT_EQ(vm_.calls().size(), 3U);
}

TEST_F(Recovery, a_slow_upgrade_holds_nobody_up) {
  std::promise<void> go;
  vm_.set(&FakeControl::on_upgrade, [wait = go.get_future().share()] { wait.get(); });
  auto upgrade = std::async(std::launch::async, [this] { return client()->upgrade("pci", "/x"); });
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(answers());
  EXPECT_EQ(upgrade.wait_for(0s), std::future_status::timeout);
  // Who waits behind it is bounded, and the ones beyond the bound hear of it.
  std::vector<std::future<Status>> more;
  for (unsigned i = 0; i < 12; ++i)
    more.push_back(std::async(std::launch::async, [this] { return client()->upgrade("pci", "/x"); }));
  const auto refused = [&] {
    return std::count_if(more.begin(), more.end(),
                         [](const auto& call) { return call.wait_for(0s) == std::future_status::ready; });
  };
  while (refused() < 4) std::this_thread::yield();
  go.set_value();
  EXPECT_TRUE(upgrade.get());
  unsigned done = 0;
  for (auto& call : more) {
    const Status status = call.get();
    if (status)
      ++done;
    else
      EXPECT_EQ(status.error().message, "too many devices are being replaced already");
  }
  EXPECT_EQ(done, 8U);
}

// A pause waits for the CPUs, and they may wait for a device.
TEST_F(Recovery, a_slow_pause_holds_nobody_up) {
  std::promise<void> go;
  vm_.on_pause = [wait = go.get_future().share()] { wait.get(); };
  auto pause = std::async(std::launch::async, [this] { return client()->pause(); });
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(answers());
  EXPECT_TRUE(std::async(std::launch::async, [this] { return client()->upgrade("pci", "/x"); }).get());
  EXPECT_EQ(pause.wait_for(0s), std::future_status::timeout);
  EXPECT_TRUE(std::async(std::launch::async, [this] { return client()->kill(); }).get());
  go.set_value();
  EXPECT_TRUE(pause.get());
}

TEST_F(Recovery, a_client_that_leaves_during_its_upgrade_hurts_nobody) {
  std::promise<void> started;
  std::promise<void> go;
  vm_.set(&FakeControl::on_upgrade, [&, wait = go.get_future().share()] {
    started.set_value();
    wait.get();
  });
  std::thread([&] {
    const auto socket = std::make_shared<UniqueFd>(connect());
    auto caller = ManagementClient::create(UniqueFd::duplicate(socket->borrow()).value(), 10s).value();
    std::jthread cutter([&, socket] {
      started.get_future().wait();
      ::shutdown(socket->get(), SHUT_RDWR);
    });
    EXPECT_FALSE(caller->upgrade("pci", "/x"));
  }).join();
  EXPECT_TRUE(answers());
  vm_.set(&FakeControl::on_upgrade, nullptr);
  go.set_value();
  EXPECT_TRUE(client()->upgrade("pci", "/y"));
}

// ---- The commands ----

TEST_F(Recovery, events_are_a_line_each) {
  vm_.events().add({.kind = DeviceEventKind::kDied,
                    .role = "platform",
                    .pid = 4711,
                    .incarnation = 3,
                    .cause = "it was \"killed\"",
                    .signal = SIGSYS,
                    .system_call = "openat",
                    .ticket = 5});
  vm_.events().add(
      {.kind = DeviceEventKind::kRestored, .role = "platform", .cause = {}, .system_call = {}, .stall_ns = 1'500'000});
  const auto text = run_program({"events", "alpha", "--no-follow"});
  EXPECT_EQ(text.status, 0) << text.err;
  EXPECT_THAT(text.out,
              testing::MatchesRegex(
                  "[0-9-]{10}T[0-9:]{8}\\.[0-9]{3}Z platform died \\(incarnation 3, pid 4711, at request 5\\): "
                  "it was \"killed\"\n[^ ]+ platform restored \\(incarnation 0, after 1\\.50 ms\\)\n"));
  const auto json = run_program({"events", "alpha", "--json", "--no-follow"});
  std::istringstream lines(json.out);
  std::string line;
  ASSERT_TRUE(std::getline(lines, line));
  auto event = nlohmann::json::parse(line);
  EXPECT_THAT(event.at("time").get<std::string>(), testing::MatchesRegex("[0-9-]{10}T[0-9:]{8}\\.[0-9]{3}Z"));
  event.erase("time");
  EXPECT_EQ(event, nlohmann::json::parse(
                       R"({"number":1,"kind":"died","device":"platform","pid":4711,"incarnation":3,
      "cause":"it was \"killed\"","signal":"SIGSYS","system_call":"openat","ticket":5,"stall_ms":null})"));
  ASSERT_TRUE(std::getline(lines, line));
  EXPECT_EQ(nlohmann::json::parse(line).at("stall_ms"), 1.5);
  EXPECT_EQ(nlohmann::json::parse(line).at("signal"), nullptr);
  EXPECT_FALSE(std::getline(lines, line));
}

TEST_F(Recovery, events_are_a_stream_until_the_vm_ends) {
  auto events = Running::on_pipes({"events", "alpha", "--json"});
  add(DeviceEventKind::kDied);
  EXPECT_TRUE(events.expect("\"died\""));
  add(DeviceEventKind::kIsolated);
  EXPECT_TRUE(events.expect("\"isolated\""));
  stop();
  EXPECT_EQ(events.wait(), 0) << events.errors();
  EXPECT_EQ(events.errors(), "");
}

TEST_F(Recovery, lost_events_are_spoken_of) {
  for (std::size_t i = 0; i < DeviceEvents::kKept + 3; ++i) add(DeviceEventKind::kDied);
  const auto finished = run_program({"events", "alpha", "--no-follow"});
  EXPECT_EQ(finished.status, 0);
  EXPECT_EQ(finished.err, "bulkhead: 3 events are no longer known\n");
}

TEST_F(Recovery, a_fault_names_a_role_or_a_device) {
  EXPECT_EQ(run_program({"fault", "alpha", "role1"}).out, "SIGKILL to role1 (pid 1001)\n");
  EXPECT_EQ(run_program({"fault", "alpha", "rtc", "--signal", "STOP"}).out, "SIGSTOP to role0 (pid 1000)\n");
  EXPECT_EQ(run_program({"fault", "alpha", "standby", "--signal", "SIGABRT"}).out, "SIGABRT to standby\n");
  EXPECT_THAT(vm_.calls(), testing::IsSupersetOf({"fault role1 9", "fault role0 19", "fault standby 6"}));
  const auto unknown = run_program({"fault", "alpha", "ghost"});
  EXPECT_EQ(unknown.status, 1);
  EXPECT_EQ(unknown.err, "bulkhead: this VM has no device named ghost (it has role0, com1, rtc, role1, com1, rtc)\n");
}

TEST_F(Recovery, a_device_that_is_just_being_replaced_is_tried_again) {
  int refusals = 3;
  vm_.set(&FakeControl::on_fault, [&](const std::string&, int) {
    return refusals-- > 0 ? make_error("the device process is not running") : ok();
  });
  const auto finished = run_program({"fault", "alpha", "role0"});
  EXPECT_EQ(finished.status, 0) << finished.err;
  EXPECT_EQ(finished.out, "SIGKILL to role0 (pid 1000)\n");
}

TEST_F(Recovery, the_seed_repeats_the_choice) {
  vm_.set(&FakeControl::device_count, 60);
  const auto drill = [](const char* seed) {
    return run_program({"fault", "alpha", "any", "--count", "3", "--every", "2ms", "--random-seed", seed}).out;
  };
  const std::string once = drill("42");
  EXPECT_TRUE(once.starts_with("random seed 42\nSIGKILL to role")) << once;
  EXPECT_EQ(std::count(once.begin(), once.end(), '\n'), 4);
  EXPECT_EQ(drill("42"), once);
  EXPECT_NE(drill("43").substr(15), once.substr(15));
}

TEST_F(Recovery, upgrade_and_restore_take_a_device) {
  EXPECT_EQ(run_program({"upgrade", "alpha", "com1", "--executable", "new"}).status, 0);
  EXPECT_EQ(run_program({"upgrade", "alpha", "role1"}).status, 0);
  EXPECT_EQ(run_program({"restore", "alpha", "role1"}).status, 0);
  EXPECT_THAT(vm_.calls(), testing::Contains(testing::MatchesRegex("upgrade role0 /.*/new")));
  EXPECT_THAT(vm_.calls(), testing::Contains(testing::MatchesRegex("upgrade role1 /.*/bulkhead-device")));
  EXPECT_THAT(vm_.calls(), testing::Contains("restore role1"));
  vm_.set(&FakeControl::failure, "pci_test0 is not isolated");
  const auto failed = run_program({"restore", "alpha", "role1"});
  EXPECT_EQ(failed.status, 1);
  EXPECT_EQ(failed.err, "bulkhead: pci_test0 is not isolated\n");
}

TEST_F(Recovery, devices_show_restarts_and_stalls) {
  const auto table = run_program({"devices", "alpha"}).out;
  EXPECT_THAT(table, testing::ContainsRegex("RESTARTS +STALL-MS +REPLAYED +POISONED"));
  EXPECT_THAT(table, testing::ContainsRegex("  2 +1.5/2.2 +4 +1  "));
  const auto json = nlohmann::json::parse(run_program({"devices", "alpha", "--json"}).out);
  EXPECT_EQ(json[0].at("last_stall_ns"), 1'500'000);
  EXPECT_EQ(json[0].at("longest_stall_ns"), 2'250'000);
  EXPECT_EQ(json[0].at("replayed"), 4);
  EXPECT_EQ(json[0].at("poisoned"), 1);
}

TEST(RecoveryProgram, bad_usage_gets_one_sentence) {
  const Scratch scratch;
  const std::vector<std::vector<std::string>> wrong = {
      {"fault", "alpha", "pci", "--signal", "TERM"},
      {"fault", "alpha", "pci", "--signal", ""},
      {"fault", "alpha", "pci", "--count", "0"},
      {"fault", "alpha", "pci", "--count", "x"},
      {"fault", "alpha", "pci", "--every", "1"},
      {"fault", "alpha", "pci", "--every", "0s"},
      {"fault", "alpha", "a/b"},
      {"fault", "alpha", "any", "--random-seed", "-1"},
      {"fault", "alpha"},
      {"upgrade", "alpha"},
      {"upgrade", "alpha", "pci", "--executable", ""},
      {"restore", "alpha"},
      {"events", "a/b"},
  };
  for (const auto& arguments : wrong) {
    const auto finished = run_program(arguments);
    EXPECT_EQ(finished.status, 2) << testing::PrintToString(arguments);
    EXPECT_TRUE(finished.err.starts_with("bulkhead: ")) << finished.err;
    EXPECT_EQ(std::count(finished.err.begin(), finished.err.end(), '\n'), 1) << finished.err;
  }
  for (const std::string command : {"events", "fault", "upgrade", "restore"}) {
    const auto finished =
        command == "events" ? run_program({command, "ghost"}) : run_program({command, "ghost", "pci"});
    EXPECT_EQ(finished.status, 1);
    EXPECT_EQ(finished.err, "bulkhead: no VM named ghost is running\n");
    EXPECT_EQ(run_program({command, "--help"}).status, 0);
  }
}

TEST(RecoveryProgram, rules_for_crashes_reach_the_vmm) {
  const Scratch scratch;
  const auto good =
      run_program(scratch.run("facts", {"--on-crash", "isolate", "--on-crash", "pci=stop", "--on-crash", "x=restart"}));
  EXPECT_NE(good.out.find("on crash []=1 [pci]=2 [x]=0\n"), std::string::npos) << good.out << good.err;
  for (const char* rule : {"explode", "", "pci=", "=stop", "a/b=stop", "pci=Stop", "stop=pci"}) {
    const auto bad = run_program(scratch.run("facts", {"--on-crash", rule}));
    EXPECT_EQ(bad.status, 2) << rule;
    EXPECT_EQ(std::count(bad.err.begin(), bad.err.end(), '\n'), 1) << bad.err;
  }
  EXPECT_EQ(run_program(scratch.run("facts", {"--on-crash", "pci=stop", "--on-crash", "pci=isolate"})).err,
            "bulkhead: --on-crash pci=isolate: another rule speaks of pci\n");
}

}  // namespace
}  // namespace bulkhead::vmm
