// The same jail for a user who is not root: run as that user when the tests run as root.
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox/jail_status.h"
#include "tests/sandbox/probe.h"

namespace bulkhead::sandbox {
namespace {

using testing::Probe;
using testing::value_of;

constexpr uid_t kNobody = 65534;
constexpr gid_t kSomeGroup = 12345;  // stands for group kvm

// Runs `body` as an ordinary user with one supplementary group, in a process of its own.
template <class Body>
void as_ordinary_user(Body body) {
  if (::geteuid() != 0) return body();
  testing::probe_program();  // opened as root: the build tree may be closed to others
  std::fflush(nullptr);
  const pid_t pid = ::fork();
  if (pid == 0) {
    const gid_t groups[] = {kSomeGroup};
    if (::setgroups(1, groups) != 0 || ::setresgid(kNobody, kNobody, kNobody) != 0 ||
        ::setresuid(kNobody, kNobody, kNobody) != 0)
      ::_exit(2);
    body();
    std::fflush(nullptr);
    ::_exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(OrdinaryUser, gets_the_same_jail) {
  as_ordinary_user([] {
    Probe probe("wait", "role");
    ASSERT_TRUE(probe.ready()) << probe.output();
    const JailStatus inside = value_of(read_jail_status(probe.process().pid()));
    EXPECT_EQ(inside.seccomp_mode, 2);
    EXPECT_EQ(inside.seccomp_filters, 2);
    EXPECT_TRUE(inside.no_new_privs);
    EXPECT_EQ(inside.cap_effective | inside.cap_permitted | inside.cap_bounding | inside.cap_ambient, 0U);
    EXPECT_TRUE(inside.root_entries.empty());
    EXPECT_TRUE(inside.root_read_only);
    EXPECT_EQ(inside.uid, ::geteuid());
    EXPECT_EQ(inside.descriptors.size(), 9U);
    // Not of ourselves: a process that has changed its id cannot read all of its own /proc.
    for (const auto& [name, id] : inside.namespaces) {
      char host[64] = {};
      ASSERT_GT(::readlink(("/proc/self/ns/" + name).c_str(), host, sizeof host - 1), 0);
      EXPECT_NE(id, host) << name;
    }
  });
}

TEST(OrdinaryUser, gets_the_same_reports) {
  as_ordinary_user([] {
    Probe probe("openat", "role");
    ASSERT_TRUE(probe.ready()) << probe.output();
    const ExitReport report = probe.end();
    EXPECT_EQ(report.kind, ExitKind::kSeccompViolation);
    EXPECT_NE(report.describe("x").find("openat"), std::string::npos) << report.describe("x");
  });
}

TEST(OrdinaryUser, is_refused_the_same) {
  as_ordinary_user([] {
    for (const char* deed : {"reach-files", "reach-processes", "regain-privileges", "check-settings"}) {
      Probe probe(deed, "jail");
      ASSERT_TRUE(probe.ready()) << probe.output();
      const ExitReport report = probe.end();
      EXPECT_EQ(report.kind, ExitKind::kClean) << report.describe(deed);
    }
  });
}

}  // namespace
}  // namespace bulkhead::sandbox
