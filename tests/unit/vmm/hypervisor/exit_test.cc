#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>

#include "vmm/hypervisor/hypervisor.h"

namespace bulkhead::vmm {
namespace {

using testing::HasSubstr;

TEST(DescribeExit, names_an_instruction_that_kvm_cannot_emulate) {
  const std::uint64_t data[] = {0xABCD};
  EXPECT_THAT(describe(InternalError{KVM_INTERNAL_ERROR_EMULATION, data}),
              testing::AllOf(HasSubstr("cannot emulate"), HasSubstr("suberror 1"), HasSubstr("0xabcd")));
}

TEST(DescribeExit, names_ports_and_addresses) {
  EXPECT_THAT(describe(PioIn{.port = 0x3F8, .size = 1, .count = 2}), HasSubstr("0x3f8"));
  EXPECT_THAT(describe(MmioWrite{.address = 0xFED00000, .size = 4}), HasSubstr("0xfed00000"));
}

TEST(DescribeExit, names_the_reason_of_a_failure) {
  EXPECT_THAT(describe(RunFailed{EFAULT}), HasSubstr("Bad address"));
  EXPECT_THAT(describe(FailEntry{0x80000021}), HasSubstr("0x80000021"));
  EXPECT_THAT(describe(Shutdown{}), HasSubstr("triple fault"));
}

}  // namespace
}  // namespace bulkhead::vmm
