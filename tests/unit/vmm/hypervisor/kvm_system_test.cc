#include "vmm/hypervisor/kvm_system.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <set>

#include "vmm/hypervisor/kvm_abi.h"

namespace bulkhead::vmm {
namespace {

using testing::HasSubstr;
using testing::Not;

// A host's KVM, good until told otherwise. Its descriptor is /dev/null's.
struct FakeKvm {
  int open_error = 0;
  int version = KVM_API_VERSION;
  int mapping_size = 12288;
  std::set<unsigned> missing{};
  std::size_t msr_count = 3;

  KvmCalls calls() {
    return {[this](const char*, int) {
              if (open_error == 0) return ::open("/dev/null", O_RDWR | O_CLOEXEC);
              errno = open_error;
              return -1;
            },
            [this](int, unsigned long request, unsigned long argument) { return answer(request, argument); }};
  }

  int answer(unsigned long request, unsigned long argument) {
    if (request == KVM_GET_API_VERSION) {
      if (version < 0) errno = ENOTTY;
      return version;
    }
    if (request == KVM_CHECK_EXTENSION) return missing.contains(static_cast<unsigned>(argument)) ? 0 : 1;
    if (request == KVM_GET_VCPU_MMAP_SIZE) return mapping_size;
    if (request == kvm_abi::kGetMsrIndexList) return fill_msrs(reinterpret_cast<std::uint32_t*>(argument));
    if (request == kvm_abi::kGetSupportedCpuid) {
      *reinterpret_cast<std::uint32_t*>(argument) = 0;
      return 0;
    }
    errno = EINVAL;
    return -1;
  }

  // Highest index first, to see them sorted.
  int fill_msrs(std::uint32_t* list) const {
    const std::uint32_t room = list[0];
    list[0] = static_cast<std::uint32_t>(msr_count);
    if (room < msr_count) {
      errno = E2BIG;
      return -1;
    }
    for (std::uint32_t n = 0; n < msr_count; ++n) list[1 + n] = 0x1000 - n;
    return 0;
  }

  std::string error() {
    const auto system = KvmSystem::open("/dev/kvm", calls());
    return system ? "no error" : system.error().message;
  }
};

TEST(KvmSystem, opens_a_complete_kvm) {
  FakeKvm kvm;
  const auto system = KvmSystem::open("/dev/kvm", kvm.calls());
  ASSERT_TRUE(system) << system.error().message;
  EXPECT_EQ(system->vcpu_mapping_size(), 12288U);
  EXPECT_EQ(system->msr_indices(), (std::vector<std::uint32_t>{0xFFE, 0xFFF, 0x1000}));
}

TEST(KvmSystem, grows_a_list_that_is_too_small) {
  FakeKvm kvm;
  kvm.msr_count = 700;
  const auto system = KvmSystem::open("/dev/kvm", kvm.calls());
  ASSERT_TRUE(system) << system.error().message;
  EXPECT_EQ(system->msr_indices().size(), 700U);
}

TEST(KvmSystem, gives_up_on_a_list_without_end) {
  FakeKvm kvm;
  kvm.msr_count = 1'000'000;
  EXPECT_THAT(kvm.error(), HasSubstr("KVM_GET_MSR_INDEX_LIST"));
}

TEST(KvmSystem, says_that_the_device_is_missing) {
  FakeKvm kvm{.open_error = ENOENT};
  EXPECT_THAT(kvm.error(), HasSubstr("/dev/kvm is missing"));
}

TEST(KvmSystem, says_which_group_to_join) {
  FakeKvm kvm{.open_error = EACCES};
  EXPECT_THAT(kvm.error(), HasSubstr("join the group kvm"));
}

TEST(KvmSystem, names_another_reason_not_to_open) {
  FakeKvm kvm{.open_error = EMFILE};
  EXPECT_THAT(kvm.error(), HasSubstr(std::strerror(EMFILE)));
}

TEST(KvmSystem, says_that_a_device_is_not_kvm) {
  FakeKvm kvm{.version = -1};
  EXPECT_THAT(kvm.error(), HasSubstr("is not KVM"));
}

TEST(KvmSystem, refuses_another_version_of_the_interface) {
  FakeKvm kvm{.version = 11};
  EXPECT_THAT(kvm.error(), HasSubstr("version 11"));
}

TEST(KvmSystem, names_every_missing_capability_in_one_message) {
  FakeKvm kvm;
  kvm.missing = {KVM_CAP_IRQFD, KVM_CAP_READONLY_MEM};
  EXPECT_THAT(kvm.error(), testing::AllOf(HasSubstr("KVM_CAP_IRQFD"), HasSubstr("KVM_CAP_READONLY_MEM"),
                                          Not(HasSubstr("KVM_CAP_IRQCHIP")), Not(HasSubstr("RESAMPLE"))));
}

TEST(KvmSystem, lives_without_optional_capabilities) {
  FakeKvm kvm;
  kvm.missing = {KVM_CAP_X86_SMM, KVM_CAP_XSAVE, KVM_CAP_COALESCED_PIO, KVM_CAP_MAX_VCPUS, KVM_CAP_XSAVE2};
  const auto system = KvmSystem::open("/dev/kvm", kvm.calls());
  ASSERT_TRUE(system) << system.error().message;
  EXPECT_FALSE(system->optional().smm);
  EXPECT_FALSE(system->optional().xsave);
  EXPECT_EQ(system->optional().xsave_size, 4096U);
  EXPECT_GE(system->optional().max_vcpus, 4U);
}

TEST(KvmSystem, refuses_a_mapping_smaller_than_its_struct) {
  FakeKvm kvm{.mapping_size = 16};
  EXPECT_THAT(kvm.error(), HasSubstr("KVM_GET_VCPU_MMAP_SIZE"));
}

TEST(KvmSystem, says_so_when_the_path_does_not_exist) {
  const auto system = KvmSystem::open("/nonexistent/kvm");
  ASSERT_FALSE(system);
  EXPECT_THAT(system.error().message, HasSubstr("/nonexistent/kvm is missing"));
}

// The numbers that C programs use; <linux/kvm.h> of Linux 6.1 gives others to C++.
TEST(KvmAbi, has_the_kernels_numbers) {
  EXPECT_EQ(kvm_abi::kGetMsrIndexList, 0xC004AE02UL);
  EXPECT_EQ(kvm_abi::kGetSupportedCpuid, 0xC008AE05UL);
  EXPECT_EQ(kvm_abi::kSetGsiRouting, 0x4008AE6AUL);
  EXPECT_EQ(kvm_abi::kGetMsrs, 0xC008AE88UL);
  EXPECT_EQ(kvm_abi::kSetMsrs, 0x4008AE89UL);
  EXPECT_EQ(kvm_abi::kSetCpuid2, 0x4008AE90UL);
  EXPECT_EQ(kvm_abi::kGetCpuid2, 0xC008AE91UL);
  EXPECT_EQ(kvm_abi::kGetXsave, 0x9000AEA4UL);
  EXPECT_EQ(kvm_abi::kSetXsave, 0x5000AEA5UL);
}

TEST(KvmAbi, a_list_never_gives_more_than_it_has_room_for) {
  kvm_abi::MsrIndexList list(2);
  *static_cast<std::uint32_t*>(list.argument()) = 1000;
  EXPECT_EQ(list.items().size(), 2U);
}

}  // namespace
}  // namespace bulkhead::vmm
