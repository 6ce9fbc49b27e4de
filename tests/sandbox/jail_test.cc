// What /proc says of a jailed process, and what the jail refuses even without a system-call filter.
#include <gtest/gtest.h>
#include <sys/un.h>

#include <cstddef>

#include "sandbox/jail_status.h"
#include "tests/sandbox/probe.h"

namespace bulkhead::sandbox {
namespace {

using testing::Probe;
using testing::value_of;

JailStatus status_of(Probe& probe) {
  EXPECT_TRUE(probe.ready()) << probe.output();
  return value_of(read_jail_status(probe.process().pid()));
}

TEST(Jail, of_a_role_has_both_filters_and_no_privilege) {
  Probe probe("wait", "role");
  const JailStatus status = status_of(probe);
  EXPECT_EQ(status.seccomp_mode, 2);
  EXPECT_EQ(status.seccomp_filters, 2);
  EXPECT_TRUE(status.no_new_privs);
  EXPECT_EQ(status.threads, 1);
  EXPECT_EQ(status.cap_effective, 0U);
  EXPECT_EQ(status.cap_permitted, 0U);
  EXPECT_EQ(status.cap_inheritable, 0U);
  EXPECT_EQ(status.cap_bounding, 0U);
  EXPECT_EQ(status.cap_ambient, 0U);
}

TEST(Jail, of_a_standby_has_one_filter) {
  Probe probe("wait", "standby");
  EXPECT_EQ(status_of(probe).seccomp_filters, 1);
}

TEST(Jail, has_namespaces_of_its_own) {
  Probe probe("wait", "role");
  const JailStatus inside = status_of(probe);
  const JailStatus outside = value_of(read_jail_status(::getpid()));
  ASSERT_EQ(inside.namespaces.size(), 7U);
  for (const auto& [name, id] : inside.namespaces) EXPECT_NE(id, outside.namespaces.at(name)) << name;
}

TEST(Jail, differs_from_process_to_process) {
  Probe one("wait", "role");
  Probe two("wait", "role");
  const JailStatus first = status_of(one);
  const JailStatus second = status_of(two);
  for (const auto& [name, id] : first.namespaces) EXPECT_NE(id, second.namespaces.at(name)) << name;
}

TEST(Jail, keeps_the_hosts_network_when_that_is_asked_for) {
  testing::ProbeFds fds = testing::make_probe_fds();
  SpawnOptions options = testing::probe_options(fds, "wait", "role");
  options.namespaces.network = false;
  const ChildProcess child = value_of(spawn(testing::probe_program(), options));
  char word[8];
  ASSERT_EQ(::recv(fds.ours.get(), word, sizeof word, 0), 5);
  const JailStatus inside = value_of(read_jail_status(child.pid()));
  const JailStatus outside = value_of(read_jail_status(::getpid()));
  for (const auto& [name, id] : inside.namespaces) EXPECT_EQ(id == outside.namespaces.at(name), name == "net") << name;
}

TEST(Jail, has_an_empty_read_only_root) {
  Probe probe("wait", "role");
  const JailStatus status = status_of(probe);
  EXPECT_TRUE(status.root_entries.empty());
  EXPECT_TRUE(status.root_read_only);
}

TEST(Jail, holds_the_listed_descriptors_and_no_other) {
  Probe probe("wait", "role");
  const JailStatus status = status_of(probe);
  std::map<int, std::string> kinds;
  for (const auto& [fd, target] : status.descriptors) kinds[fd] = target.substr(0, target.find('['));
  const std::map<int, std::string> expected = {
      {0, "/dev/null"},
      {1, "pipe:"},
      {2, "pipe:"},
      {probe::kControl, "socket:"},
      {probe::kStandbyFilter, "/memfd:bulkhead-filter (deleted)"},
      {probe::kRoleFilter, "/memfd:bulkhead-filter (deleted)"},
      {probe::kRegion, "/memfd:region (deleted)"},
      {probe::kTimer, "anon_inode:"},
      {probe::kEpoll, "anon_inode:"},
  };
  EXPECT_EQ(kinds, expected);
}

// Source and target numbers may overlap in any way, and a target may be where the program itself is open.
TEST(Jail, holds_descriptors_that_traded_places) {
  const testing::ProbeFds fds = testing::make_probe_fds();
  const UniqueFd one(::dup3(fds.region.get(), 150, O_CLOEXEC));
  const UniqueFd two(::dup3(fds.timer.get(), 151, O_CLOEXEC));
  constexpr int kProgram = 160;
  const Executable program = value_of(
      Executable::from_fd(UniqueFd(::fcntl(testing::probe_program().fd().get(), F_DUPFD_CLOEXEC, kProgram)), "probe"));
  ASSERT_EQ(program.fd().get(), kProgram);
  SpawnOptions options = testing::probe_options(fds, "wait", "role");
  options.descriptors.push_back({BorrowedFd(151), 150});
  options.descriptors.push_back({BorrowedFd(150), 151});
  options.descriptors.push_back({fds.timer.borrow(), kProgram});
  const ChildProcess child = value_of(spawn(program, options));
  char word[8];
  ASSERT_EQ(::recv(fds.ours.get(), word, sizeof word, 0), 5);
  const JailStatus status = value_of(read_jail_status(child.pid()));
  EXPECT_EQ(status.descriptors.at(150), "anon_inode:[timerfd]");
  EXPECT_EQ(status.descriptors.at(151), "/memfd:region (deleted)");
  EXPECT_EQ(status.descriptors.at(kProgram), "anon_inode:[timerfd]");
}

TEST(Jail, maps_nothing_but_its_program) {
  if (testing::kSanitized) GTEST_SKIP() << "linked dynamically, and with shadow memory";
  Probe probe("wait", "role");
  for (const std::string& line : status_of(probe).mappings) {
    const std::size_t at = line.find_first_of("/[");
    const std::string what = at == std::string::npos ? "" : line.substr(at);
    const bool own = what.empty() || what == "[heap]" || what == "[stack]" || what.starts_with("[v") ||
                     what.find("jail_probe") != std::string::npos;
    EXPECT_TRUE(own) << line;
    EXPECT_EQ(line.find(" rwx"), std::string::npos) << line;
  }
}

TEST(Jail, of_root_runs_as_an_id_of_this_vm_without_groups) {
  if (::geteuid() != 0) GTEST_SKIP() << "not root";
  Probe probe("wait", "role");
  const JailStatus status = status_of(probe);
  EXPECT_EQ(status.uid, host_identity(::getpid(), 0).uid);
  EXPECT_EQ(status.gid, host_identity(::getpid(), 0).gid);
  EXPECT_TRUE(status.groups.empty());
}

TEST(Jail, summary_fits_a_table) {
  Probe probe("wait", "role");
  const JailStatus inside = status_of(probe);
  const JailStatus outside = value_of(read_jail_status(::getpid()));
  EXPECT_EQ(inside.summary(outside), "user+mnt+pid+net+ipc+uts+cgroup seccomp:2 caps:none nnp empty-root");
  EXPECT_EQ(outside.summary(outside).substr(0, 24), "no-namespaces seccomp:0 ");
}

TEST(JailStatus, of_a_process_that_is_gone_is_an_error) { EXPECT_FALSE(read_jail_status(0x3fffff)); }

// --- Without a filter ---

class JailAlone : public ::testing::TestWithParam<const char*> {};

TEST_P(JailAlone, refuses_it) {
  // The host's abstract socket that reach-network tries.
  const UniqueFd host(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  constexpr std::string_view kName = "bulkhead-sandbox-test";
  kName.copy(address.sun_path + 1, kName.size());
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + kName.size());
  // One name on the whole host, and these tests run side by side.
  if (std::string_view(GetParam()) == "reach-network") {
    ASSERT_EQ(::bind(host.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
    ASSERT_EQ(::listen(host.get(), 1), 0);
  }

  Probe probe(GetParam(), "jail");
  ASSERT_TRUE(probe.ready()) << probe.output();
  const ExitReport report = probe.end();
  EXPECT_EQ(report.kind, ExitKind::kClean) << report.describe(GetParam()) << "\n" << probe.output();
}

INSTANTIATE_TEST_SUITE_P(Escapes, JailAlone,
                         ::testing::Values("reach-files", "reach-network", "reach-processes", "regain-privileges",
                                           "check-settings"),
                         [](const ::testing::TestParamInfo<const char*>& deed) {
                           std::string name = deed.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace bulkhead::sandbox
