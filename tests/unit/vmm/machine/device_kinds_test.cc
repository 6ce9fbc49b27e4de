// Consoles, balloons and sockets: what is asked for and what the plan makes of it.
#include <gtest/gtest.h>

#include "vmm/machine/plan.h"

namespace bulkhead::vmm {
namespace {

using control::ConsoleKind;
using control::DeviceRequest;

control::VmConfig config(std::vector<DeviceRequest> devices) {
  control::VmConfig vm;
  vm.name = "test";
  vm.memory_bytes = 512 * kMiB;
  vm.devices = std::move(devices);
  return vm;
}
std::string error_of(std::vector<DeviceRequest> devices) {
  const Result<MachinePlan> plan = plan_machine(config(std::move(devices)), 40);
  return plan ? "no error" : plan.error().message;
}
DeviceRequest console(const std::string& where, std::uint8_t files) {
  return {.type = "virtio_console", .properties = {{"where", where}}, .files = files};
}
DeviceRequest balloon(std::vector<control::Property> properties) {
  return {.type = "virtio_balloon", .properties = std::move(properties)};
}
DeviceRequest vsock(const std::string& cid) {
  return {.type = "virtio_vsock", .properties = {{"cid", cid}, {"path", "/run/x"}}, .files = 1};
}

TEST(PlanConsole, each_has_its_stream_and_its_files) {
  const MachinePlan plan =
      plan_machine(config({vsock("3"), console("file", 1), console("none", 0), console("stdio", 2)}), 40).value();
  ASSERT_EQ(plan.consoles.size(), 3U);
  const std::array kinds = {ConsoleKind::kFile, ConsoleKind::kNone, ConsoleKind::kStdio};
  const std::array<std::size_t, 3> first = {1, 2, 2};
  const std::array<std::size_t, 3> count = {1, 0, 2};
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(plan.consoles[i].kind, kinds[i]);
    EXPECT_EQ(plan.consoles[i].files.first, first[i]);
    EXPECT_EQ(plan.consoles[i].files.count, count[i]);
    EXPECT_EQ(plan.roles[plan.consoles[i].stream.role].instances[0].type->type, "virtio_console");
  }
  EXPECT_NE(plan.consoles[0].stream.role, plan.consoles[1].stream.role);
}

TEST(PlanConsole, a_terminal_that_is_not_there_is_refused) {
  for (const auto& [where, files] :
       {std::pair("stdio", 0), std::pair("pty", 1), std::pair("file", 0), std::pair("none", 1)})
    EXPECT_NE(error_of({console(where, static_cast<std::uint8_t>(files))}).find("--virtio-console"), std::string::npos)
        << where;
  EXPECT_EQ(error_of({console("tty", 2)}), "where=tty must be stdio, pty, file or none");
}

TEST(PlanBalloon, properties) {
  const MachinePlan plan =
      plan_machine(
          config({balloon({{"target", "65536"}, {"stats", "0"}, {"deflate-on-oom", "off"}, {"reporting", "on"}})}), 40)
          .value();
  ASSERT_TRUE(plan.balloon);
  const auto& made = std::get<VirtioBalloonConfig>(plan.roles[*plan.balloon].instances[0].config);
  EXPECT_EQ(made,
            (VirtioBalloonConfig{.target = 65536, .stats_seconds = 0, .deflate_on_oom = false, .reporting = true}));
  EXPECT_EQ(error_of({balloon({{"target", "1k"}})}), "target=1k is not a number of bytes");
  EXPECT_EQ(error_of({balloon({{"reporting", "yes"}})}), "reporting=yes must be on or off");
  EXPECT_EQ(error_of({balloon({{"stats", "3601"}})}), "stats=3601 is not a number of seconds; 0 to 3600 are");
  EXPECT_EQ(error_of({balloon({{"target", std::to_string(512 * kMiB)}})}), "no error");
  EXPECT_EQ(error_of({balloon({{"target", std::to_string(512 * kMiB + 1)}})}),
            "a balloon of 536870913 bytes is larger than the guest's memory");
  EXPECT_EQ(error_of({balloon({}), balloon({})}), "there can be one virtio_balloon only");
}

TEST(PlanVsock, a_relay_without_guest_memory_comes_with_it) {
  const MachinePlan plan =
      plan_machine(config({console("stdio", 2), vsock("4294967294"), console("file", 1)}), 40).value();
  ASSERT_TRUE(plan.vsock);
  EXPECT_EQ(plan.vsock->path, "/run/x");
  EXPECT_EQ(plan.vsock->listener, 2U);
  const RolePlan& relay = plan.roles.back();
  EXPECT_EQ(relay.name, "vsock_relay0");
  EXPECT_FALSE(relay.guest_memory());
  EXPECT_TRUE(relay.syscalls.contains(SyscallGroup::kSocketRelay));
  EXPECT_EQ(relay.effects(), 0U);
  EXPECT_EQ(std::get<VsockRelayConfig>(relay.instances[0].config).guest_cid, 4294967294U);
  // Behind the launcher's four descriptors: the device's three, then the relay's five.
  EXPECT_EQ(relay.instances[0].files.first, 7U);
  EXPECT_EQ(relay.instances[0].files.count, 5U);
  for (const RolePlan& role : plan.roles) {
    if (role.name != "virtio_vsock1") continue;
    EXPECT_EQ(role.instances[0].files.first, 4U);
    EXPECT_FALSE(role.syscalls.contains(SyscallGroup::kSocketRelay));
  }
}

TEST(PlanVsock, context_ids_that_mean_something_else_are_refused) {
  for (const char* cid : {"0", "1", "2", "4294967295", "-1", "x"})
    EXPECT_NE(error_of({vsock(cid)}).find("is not a context id of a guest"), std::string::npos) << cid;
  EXPECT_NE(error_of({{.type = "virtio_vsock", .properties = {}}}).find("--vsock"), std::string::npos);
  EXPECT_EQ(error_of({vsock("3"), vsock("4")}), "there can be one virtio_vsock only");
}

}  // namespace
}  // namespace bulkhead::vmm
