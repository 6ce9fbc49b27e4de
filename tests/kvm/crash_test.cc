// A guest that cannot go on ends its VM with status 11 and a report: why, on which CPU, registers, bytes at RIP.
#include <gmock/gmock.h>

#include <regex>

#include "tests/kvm/test_vm.h"

namespace bulkhead::kvmtest {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int kGuestCrash = 11;

class Crash : public KvmTest {
 protected:
  static Ended crash(const std::string& command) {
    TestVm vm({.guest = "monitor", .cpus = 2});
    EXPECT_TRUE(vm.run().wait_for_output("boot\n"));
    vm.run().send(command);
    return vm.run().wait();
  }

  // Everything that one needs to find out what went on.
  static void expect_report(const std::string& report) {
    for (const char* part :
         {"rip ", "rflags ", "rax ", "r15 ", "cr0 ", "cr3 ", "efer ", "cs ", "ss ", "tr ", "gdt ", "idt "})
      EXPECT_THAT(report, HasSubstr(part));
  }
};

TEST_F(Crash, TripleFault) {
  const Ended ended = crash("t");
  EXPECT_EQ(ended.status, kGuestCrash);
  EXPECT_EQ(ended.out, "boot\n");
  EXPECT_THAT(ended.err, StartsWith("bulkhead: the guest crashed on CPU 0: triple fault\n"));
  expect_report(ended.err);
  EXPECT_THAT(ended.err, HasSubstr("rax 00000000600df00d  rbx 00000000cafef00d"));
  EXPECT_THAT(ended.err, HasSubstr(" <0f> 0b ")) << "the UD2 at RIP";
  // CS is flat: RIP is in the guest's text.
  EXPECT_TRUE(std::regex_search(ended.err, std::regex("rip 00000000001[0-9a-f]{5} "))) << ended.err;
}

TEST_F(Crash, InstructionThatKvmCannotEmulate) {
  const Ended ended = crash("u");
  EXPECT_EQ(ended.status, kGuestCrash);
  EXPECT_EQ(ended.out, "boot\n");
  EXPECT_THAT(ended.err,
              StartsWith("bulkhead: the guest crashed on CPU 0: internal error of KVM: an instruction that it "
                         "cannot emulate (suberror 1)"));
  expect_report(ended.err);
  EXPECT_THAT(ended.err, HasSubstr("rcx 00000000badc0de5"));
  EXPECT_THAT(ended.err, HasSubstr(" <dd> 05 00 01 00 d0 ")) << "FLDL from the register";
}

}  // namespace
}  // namespace bulkhead::kvmtest
