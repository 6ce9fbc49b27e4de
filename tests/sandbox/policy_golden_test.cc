// The whole text of each policy, for review: a change of what a process may do shows as a change of these
// files. To accept a change: BULKHEAD_UPDATE_GOLDEN=1 build/tests/sandbox_tests --gtest_filter='Golden*',
// and look at `git diff tests/sandbox/golden`.
#include <gtest/gtest.h>
#include <linux/kvm.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "sandbox/policies.h"

namespace bulkhead::sandbox {
namespace {

std::string golden_path(const std::string& name) {
  const std::string here = __FILE__;
  return here.substr(0, here.rfind('/')) + "/golden/" + name + ".pfc";
}

void compare(const std::string& name, const PolicyBuilder& policy) {
  const Result<std::string> text = policy.text();
  ASSERT_TRUE(text) << text.error().message;
  if (std::getenv("BULKHEAD_UPDATE_GOLDEN") != nullptr) {
    std::ofstream(golden_path(name)) << *text;
    return;
  }
  std::stringstream expected;
  expected << std::ifstream(golden_path(name)).rdbuf();
  EXPECT_EQ(*text, expected.str()) << "see the head of " << __FILE__;
}

TEST(Golden, role_without_groups) { compare("role_base", role_policy({})); }
TEST(Golden, role_with_file_io) { compare("role_file_io", role_policy({SyscallGroup::kFileIo})); }
TEST(Golden, role_with_packet_io) { compare("role_packet_io", role_policy({SyscallGroup::kPacketIo})); }
TEST(Golden, role_with_io_uring) { compare("role_io_uring", role_policy({SyscallGroup::kIoUring})); }
TEST(Golden, role_with_user_network) { compare("role_user_network", role_policy({SyscallGroup::kUserNetwork})); }
TEST(Golden, role_with_release_of_ram) { compare("role_release_ram", role_policy({SyscallGroup::kReleaseRam})); }
TEST(Golden, role_with_socket_relay) { compare("role_socket_relay", role_policy({SyscallGroup::kSocketRelay})); }
TEST(Golden, standby) { compare("standby_base", standby_policy({})); }
TEST(Golden, vcpu_thread) {
  constexpr std::array<std::uint32_t, 1> kIoctls = {KVM_RUN};
  compare("vcpu_thread", vcpu_thread_policy(kIoctls, 4242));
}

}  // namespace
}  // namespace bulkhead::sandbox
