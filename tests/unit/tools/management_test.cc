// The management interface from both ends, and what hostile clients make of it.
#include <capnp/message.h>
#include <capnp/rpc.capnp.h>
#include <capnp/serialize.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <random>
#include <thread>

#include "ipc/control/channel.h"
#include "ipc/control/management.capnp.h"
#include "ipc/control/management_client.h"
#include "ipc/control/run_directory.h"
#include "tests/unit/tools/fake_control.h"
#include "tests/unit/tools/program.h"
#include "tests/unit/tools/served_vm.h"

namespace bulkhead::vmm {
namespace {

using namespace std::chrono_literals;
using cli::test::run_program;
using cli::test::Scratch;
using control::ManagementClient;
using control::RunDirectory;

void make_devices_large(FakeControl& vm) {
  vm.device_count = 64;
  vm.permissions.assign(20000, 'p');
}

// The peer closed our connection, or does within two seconds.
bool is_closed(const UniqueFd& socket) {
  const auto give_up = std::chrono::steady_clock::now() + 2s;
  while (std::chrono::steady_clock::now() < give_up) {
    pollfd entry{.fd = socket.get(), .events = POLLIN, .revents = 0};
    ::poll(&entry, 1, 50);
    char buffer[4096];
    const ssize_t got = ::recv(socket.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN)) return true;
  }
  return false;
}

bool send_all(const UniqueFd& socket, const void* data, std::size_t size) {
  const char* bytes = static_cast<const char*>(data);
  for (std::size_t sent = 0; sent < size;) {
    const ssize_t written = ::send(socket.get(), bytes + sent, size - sent, MSG_NOSIGNAL);
    if (written < 0 && errno == EAGAIN) {
      pollfd entry{.fd = socket.get(), .events = POLLOUT, .revents = 0};
      if (::poll(&entry, 1, 500) <= 0) return false;
      continue;
    }
    if (written <= 0) return false;
    sent += static_cast<std::size_t>(written);
  }
  return true;
}

template <class Fill>
std::vector<char> rpc_message(Fill fill) {
  capnp::MallocMessageBuilder builder;
  fill(builder.initRoot<capnp::rpc::Message>());
  const auto words = capnp::messageToFlatArray(builder);
  const auto bytes = words.asChars();
  return {bytes.begin(), bytes.end()};
}

std::vector<char> bootstrap_message(std::uint32_t question) {
  return rpc_message([&](capnp::rpc::Message::Builder message) { message.initBootstrap().setQuestionId(question); });
}

std::vector<char> devices_call(std::uint32_t question) {
  return rpc_message([&](capnp::rpc::Message::Builder message) {
    auto call = message.initCall();
    call.setQuestionId(question);
    call.initTarget().initPromisedAnswer().setQuestionId(0);
    call.setInterfaceId(capnp::typeId<control::schema::Management>());
    call.setMethodId(1);
    call.initParams();
  });
}

TEST(Management, status_and_devices_arrive_whole) {
  Server server;
  const auto client = server.client();
  const auto status = client->status();
  ASSERT_TRUE(status) << status.error().message;
  EXPECT_EQ(*status, server.vm.status().value());
  const auto devices = client->devices();
  ASSERT_TRUE(devices) << devices.error().message;
  EXPECT_EQ(*devices, server.vm.devices().value());
}

TEST(Management, every_action_reaches_the_vm) {
  Server server;
  const auto client = server.client();
  EXPECT_TRUE(client->power_button());
  EXPECT_TRUE(client->pause());
  EXPECT_TRUE(client->resume());
  EXPECT_TRUE(client->reset());
  EXPECT_TRUE(client->kill());
  EXPECT_EQ(server.vm.calls(), (std::vector<std::string>{"power_button", "pause", "resume", "reset", "kill"}));
}

TEST(Management, inspection_shows_fields_and_refuses_unknown_instances) {
  Server server;
  const auto client = server.client();
  const auto fields = client->inspect("com1");
  ASSERT_TRUE(fields) << fields.error().message;
  EXPECT_EQ((*fields)[0].name, "com1");
  EXPECT_EQ((*fields)[0].fields[1].name, "msix[0]");
  EXPECT_EQ(client->inspect("ghost").error().message, "no device instance named ghost");
  EXPECT_EQ(client->inspect("a/b").error().message, "that is not the name of a device instance");
}

TEST(Management, failures_arrive_as_the_vms_own_sentence) {
  Server server([](FakeControl& vm) { vm.failure = "the VM is ending"; });
  const auto client = server.client();
  EXPECT_EQ(client->status().error().message, "the VM is ending");
  EXPECT_EQ(client->devices().error().message, "the VM is ending");
  EXPECT_EQ(client->pause().error().message, "the VM is ending");
}

TEST(Management, large_answers_arrive) {
  Server server(make_devices_large);
  const auto devices = server.client()->devices();
  ASSERT_TRUE(devices) << devices.error().message;
  EXPECT_EQ(devices->size(), 64U);
  EXPECT_EQ(devices->back().permissions.size(), 20000U);
}

TEST(Management, answer_to_kill_goes_out_before_the_server_stops) {
  for (int round = 0; round < 20; ++round) {
    std::atomic<bool> killed{false};
    Server server([&](FakeControl& fake) { fake.on_kill = [&] { killed = true; }; });
    std::jthread vm([&] {
      while (!killed) std::this_thread::sleep_for(50us);
      server.stop();
    });
    EXPECT_TRUE(server.client()->kill());
  }
}

TEST(Management, client_notices_that_the_server_is_gone) {
  Server server;
  const auto client = server.client();
  EXPECT_TRUE(client->status());
  server.stop();
  const auto status = client->status();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().message, "the VM closed the connection");
}

TEST(Management, client_gives_up_on_a_vm_that_does_not_answer) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
  const UniqueFd other(ends[1]);
  const auto client = ManagementClient::create(UniqueFd(ends[0]), 100ms).value();
  EXPECT_EQ(client->status().error().message, "the VM does not answer");
}

TEST(Management, many_clients_come_and_go) {
  Server server;
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(server.client()->status());
}

TEST(Management, clients_beyond_the_bound_are_closed_and_the_others_served) {
  Server server;
  std::vector<UniqueFd> idle;
  for (unsigned i = 0; i < kMaxClients; ++i) idle.push_back(server.connect());
  EXPECT_TRUE(is_closed(server.connect()));
  idle.pop_back();
  // The server may take a moment to notice.
  bool answered = false;
  for (int i = 0; i < 100 && !answered; ++i) answered = server.answers();
  EXPECT_TRUE(answered);
}

TEST(Management, garbage_costs_the_client_its_connection_only) {
  Server server;
  std::mt19937_64 random(3);
  for (int round = 0; round < 300; ++round) {
    const UniqueFd socket = server.connect();
    std::vector<char> bytes(1 + random() % 2000);
    for (char& byte : bytes) byte = static_cast<char>(random());
    send_all(socket, bytes.data(), bytes.size());
  }
  EXPECT_TRUE(server.answers());
}

TEST(Management, changed_messages_cost_the_client_its_connection_only) {
  Server server;
  std::mt19937_64 random(4);
  for (int round = 0; round < 500; ++round) {
    const UniqueFd socket = server.connect();
    for (auto bytes : {bootstrap_message(0), devices_call(1), devices_call(2)}) {
      if (random() % 2 == 0) bytes[8 + random() % (bytes.size() - 8)] ^= static_cast<char>(1U << (random() % 8));
      send_all(socket, bytes.data(), bytes.size());
    }
  }
  EXPECT_TRUE(server.answers());
}

TEST(Management, huge_message_is_refused_by_its_header) {
  Server server;
  const UniqueFd socket = server.connect();
  const std::uint32_t header[2] = {0, 0x1fffffff};  // one segment of 4 GiB
  ASSERT_TRUE(send_all(socket, header, sizeof header));
  EXPECT_TRUE(is_closed(socket));
  const UniqueFd other = server.connect();
  const std::uint32_t segments[2] = {0xffffffff, 1};
  ASSERT_TRUE(send_all(other, segments, sizeof segments));
  EXPECT_TRUE(is_closed(other));
  EXPECT_TRUE(server.answers());
}

TEST(Management, half_a_message_holds_nobody_up) {
  Server server;
  const UniqueFd socket = server.connect();
  const auto bytes = bootstrap_message(0);
  ASSERT_TRUE(send_all(socket, bytes.data(), bytes.size() / 2));
  EXPECT_TRUE(server.answers());
}

TEST(Management, calls_without_end_cost_the_client_its_connection) {
  Server server;
  const UniqueFd socket = server.connect();
  bool sent = true;
  for (std::uint32_t question = 0; question < 1000 && sent; ++question) {
    const auto bytes = bootstrap_message(question);
    sent = send_all(socket, bytes.data(), bytes.size());
  }
  EXPECT_TRUE(is_closed(socket));
  EXPECT_TRUE(server.answers());
}

TEST(Management, client_that_reads_no_answers_holds_nobody_up) {
  Server server(make_devices_large);
  const UniqueFd socket = server.connect();
  auto bytes = bootstrap_message(0);
  ASSERT_TRUE(send_all(socket, bytes.data(), bytes.size()));
  for (std::uint32_t question = 1; question < 20; ++question) {
    bytes = devices_call(question);
    if (!send_all(socket, bytes.data(), bytes.size())) break;
  }
  const auto before = std::chrono::steady_clock::now();
  EXPECT_TRUE(server.answers());
  EXPECT_LT(std::chrono::steady_clock::now() - before, 2s);
  EXPECT_TRUE(is_closed(socket));  // its answers went beyond the bound
}

TEST(Management, descriptors_sent_along_are_dropped) {
  Server server;
  const UniqueFd socket = server.connect();
  const UniqueFd sent(::memfd_create("sent-along", MFD_CLOEXEC));
  const auto count = [] {
    int links = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code error;
      if (std::filesystem::read_symlink(entry.path(), error).string().find("sent-along") != std::string::npos) ++links;
    }
    return links;
  };
  auto bytes = bootstrap_message(0);
  iovec part{.iov_base = bytes.data(), .iov_len = bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  cmsghdr* item = CMSG_FIRSTHDR(&header);
  item->cmsg_level = SOL_SOCKET;
  item->cmsg_type = SCM_RIGHTS;
  item->cmsg_len = CMSG_LEN(sizeof(int));
  const int fd = sent.get();
  std::memcpy(CMSG_DATA(item), &fd, sizeof fd);
  ASSERT_GT(::sendmsg(socket.get(), &header, 0), 0);
  ASSERT_TRUE(server.answers());
  EXPECT_EQ(count(), 1);
}

// A socket that leaked to another user is of no use to them: SO_PEERCRED speaks of who connected.
TEST(Management, other_users_are_turned_away) {
  FakeControl vm;
  std::string pattern = testing::TempDir() + "/open-XXXXXX";
  ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
  ASSERT_EQ(::chmod(pattern.c_str(), 0755), 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  (pattern + "/s").copy(address.sun_path, sizeof address.sun_path - 1);
  const auto* generic = static_cast<const sockaddr*>(static_cast<const void*>(&address));
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(listener.get(), generic, sizeof address), 0);
  ASSERT_EQ(::chmod(address.sun_path, 0777), 0);
  ASSERT_EQ(::listen(listener.get(), 5), 0);
  const auto server = ManagementServer::start(std::move(listener), vm).value();
  // The raw call changes this one thread alone (libc's would change them all); a fork of a process with
  // threads could find malloc's lock held for ever.
  const auto answered_as = [&](uid_t uid) {
    bool answered = false;
    std::thread([&] {
      if (::syscall(SYS_setresuid, -1, uid, -1) != 0) return;
      UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
      if (::connect(socket.get(), generic, sizeof address) != 0) return;
      const auto client = ManagementClient::create(std::move(socket), 2s);
      answered = client && (*client)->status();
    }).join();
    return answered;
  };
  EXPECT_TRUE(answered_as(::geteuid()));
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  EXPECT_FALSE(answered_as(12345));
  EXPECT_EQ(vm.calls(), (std::vector<std::string>{"status"}));
  std::filesystem::remove_all(pattern);
}

TEST(ManagementProgram, lists_shows_and_acts) {
  Server server([](FakeControl& vm) { vm.name = "alpha"; });
  const auto list = run_program({"ls"});
  EXPECT_EQ(list.status, 0) << list.err;
  EXPECT_NE(list.out.find("alpha"), std::string::npos);
  EXPECT_NE(list.out.find("256M"), std::string::npos);
  EXPECT_NE(run_program({"ls", "--json"}).out.find("\"memory_bytes\": 268435456"), std::string::npos);
  const auto devices = run_program({"devices", "alpha"});
  EXPECT_EQ(devices.status, 0) << devices.err;
  EXPECT_NE(devices.out.find("role1"), std::string::npos);
  EXPECT_NE(devices.out.find("filter"), std::string::npos);
  EXPECT_NE(run_program({"devices", "alpha", "--permissions"}).out.find("  no guest memory\n"), std::string::npos);
  EXPECT_NE(run_program({"devices", "alpha", "--json"}).out.find("\"seccomp_mode\": 2"), std::string::npos);
  EXPECT_NE(run_program({"inspect", "alpha", "com1"}).out.find("0x60 (96)"), std::string::npos);
  for (const char* action : {"stop", "pause", "resume", "reset"})
    EXPECT_EQ(run_program({action, "alpha"}).status, 0) << action;
  const auto unknown = run_program({"inspect", "alpha", "ghost"});
  EXPECT_EQ(unknown.status, 1);
  EXPECT_EQ(unknown.err, "bulkhead: no device instance named ghost\n");
}

TEST(ManagementProgram, unknown_vm_gets_one_sentence) {
  const Scratch scratch;
  for (const std::string command : {"devices", "stop", "kill", "pause", "resume", "reset", "inspect"}) {
    const auto finished = run_program({command, "ghost"});
    EXPECT_EQ(finished.status, 1);
    EXPECT_EQ(finished.err, "bulkhead: no VM named ghost is running\n");
  }
  EXPECT_EQ(run_program({"ls"}).out, "NAME  PID  STATE  CPUS  MEMORY  UPTIME\n");
  EXPECT_EQ(run_program({"ls", "--json"}).out, "[]\n");
}

// A VM's name whose socket has somebody behind it who is stuck, or broken, or says what is none of the
// protocol.
class BadServer {
 public:
  enum class Answer { kSilence, kEnd, kGarbage };
  BadServer(RunDirectory& directory, const std::string& name, Answer answer)
      : name_(directory.claim(name).value()),
        listener_(name_.listen().value()),
        thread_([this, answer](const std::stop_token& stop) { serve(stop, answer); }) {}

 private:
  void serve(const std::stop_token& stop, Answer answer) {
    std::vector<UniqueFd> connections;
    while (!stop.stop_requested()) {
      pollfd entry{.fd = listener_.get(), .events = POLLIN, .revents = 0};
      if (::poll(&entry, 1, 20) <= 0) continue;
      UniqueFd connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (answer == Answer::kEnd) continue;
      if (answer == Answer::kGarbage) send_all(connection, std::string(4096, '\x1b').data(), 4096);
      connections.push_back(std::move(connection));
    }
  }

  control::ClaimedName name_;
  UniqueFd listener_;
  std::jthread thread_;
};

TEST(ManagementProgram, server_that_is_none_gets_one_sentence_in_bounded_time) {
  const Scratch scratch;
  RunDirectory directory = RunDirectory::open(scratch.path("run")).value();
  BadServer silent(directory, "silent", BadServer::Answer::kSilence);
  BadServer ended(directory, "ended", BadServer::Answer::kEnd);
  BadServer garbage(directory, "garbage", BadServer::Answer::kGarbage);
  const auto began = std::chrono::steady_clock::now();
  // Side by side: with a silent server each waits for its own time to run out.
  std::vector<std::jthread> commands;
  for (const std::string name : {"silent", "ended", "garbage"}) {
    for (const std::string command : {"devices", "inspect", "stop", "kill", "pause"}) {
      commands.emplace_back([command, name] {
        const auto finished = run_program({command, name});
        EXPECT_EQ(finished.status, 1) << command;
        EXPECT_EQ(finished.out, "");
        EXPECT_EQ(std::count(finished.err.begin(), finished.err.end(), '\n'), 1) << finished.err;
        EXPECT_TRUE(finished.err.starts_with("bulkhead: ")) << finished.err;
        EXPECT_EQ(finished.err.find('\x1b'), std::string::npos) << finished.err;
        EXPECT_EQ(finished.err == "bulkhead: the VM does not answer\n", name == "silent") << finished.err;
      });
    }
  }
  const auto list = run_program({"ls"});
  EXPECT_EQ(list.status, 0) << list.err;
  EXPECT_LT(std::chrono::steady_clock::now() - began, 9s) << "one VM that hangs must not hide the others for long";
  for (const std::string name : {"silent ", "ended ", "garbage "})
    EXPECT_NE(list.out.find("\n" + name), std::string::npos) << list.out;
  commands.clear();
  EXPECT_LT(std::chrono::steady_clock::now() - began, 25s);
}

TEST(ManagementProgram, kill_returns_once_the_vm_is_gone) {
  const Scratch scratch;
  auto vm = cli::test::Running::on_pipes(scratch.run("serve", {"--name", "alpha", "--console", "none"}));
  for (int i = 0; i < 5000 && !std::filesystem::exists(scratch.path("run/alpha.sock")); ++i)
    std::this_thread::sleep_for(1ms);
  const auto finished = run_program({"kill", "alpha"});
  EXPECT_EQ(finished.status, 0) << finished.err;
  EXPECT_FALSE(std::filesystem::exists(scratch.path("run/alpha.sock")));
  EXPECT_EQ(vm.wait(), 12);
}

}  // namespace
}  // namespace bulkhead::vmm
