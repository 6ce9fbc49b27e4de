// A disk whose host stops answering (a file server that is gone): a reset of its VM waits and says so, and nothing
// hangs the VM's end, not even a disk's process that is dead and cannot be buried.
#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>

#include "tests/kvm/stuck_file.h"
#include "tests/kvm/test_vm.h"

namespace bulkhead::kvmtest {
namespace {

constexpr const char* kDisk = "virtio_blk0";

// A boot sector that writes another sector of its disk, and that again. (A write is not answered from a cache.)
std::string writer() {
  constexpr std::array<unsigned char, 22> kCode = {0x31, 0xc0,        // xor %ax, %ax
                                                   0x8e, 0xd8,        // mov %ax, %ds
                                                   0x8e, 0xc0,        // mov %ax, %es
                                                   0xb8, 0x01, 0x03,  // mov $0x0301, %ax: write one sector
                                                   0xbb, 0x00, 0x80,  // mov $0x8000, %bx: from here
                                                   0xb9, 0x02, 0x00,  // mov $2, %cx: the second one
                                                   0xba, 0x80, 0x00,  // mov $0x80, %dx: of the first disk
                                                   0xcd, 0x13,        // int $0x13
                                                   0xeb, 0xf0};       // jmp to the third mov
  std::string sector(512, '\0');
  std::copy(kCode.begin(), kCode.end(), sector.begin());
  sector[510] = '\x55';
  sector[511] = '\xaa';
  return sector;
}

class StuckDisk : public KvmTest {
 protected:
  static bool told(TestVm& vm) {
    return bulkhead({"events", vm.name(), "--no-follow"}).out.find("its reset waits for I/O that the host does not") !=
           std::string::npos;
  }
};

TEST_F(StuckDisk, ResetIsToldOfAndTheEndDoesNotWaitForIt) {
  if (!std::filesystem::exists("/usr/share/seabios/bios-256k.bin")) GTEST_SKIP() << "no SeaBIOS here";
  StuckFile file(run_directory() + "/stuck", writer());
  if (!file.mounted()) GTEST_SKIP() << "FUSE needs root and /dev/fuse";
  TestVm vm({.guest = "", .devices = {}, .more = {"--disk", file.path()}});
  ASSERT_TRUE(wait_until([&] { return file.writes() > 20; })) << vm.run().err();
  file.stick();
  ASSERT_TRUE(wait_until([&] { return file.stuck() != 0; }));
  // Dead, but the kernel works for it for good; a successor goes on.
  const pid_t disk = vm.device_pid(kDisk);
  ASSERT_EQ(bulkhead({"fault", vm.name(), kDisk}).status, 0);
  ASSERT_TRUE(wait_until([&] { return vm.device_pid(kDisk) != disk && vm.device_pid(kDisk) != 0; }));
  EXPECT_TRUE(vm.device_pid("platform") != 0);
  EXPECT_FALSE(told(vm)) << "nobody has reset anything";
  EXPECT_NE(bulkhead({"reset", vm.name()}).status, 0) << "it waits";
  EXPECT_TRUE(wait_until([&] { return told(vm); }));
  EXPECT_EQ(bulkhead({"kill", vm.name()}).status, 0);
  (void)vm.run().wait();
}

}  // namespace
}  // namespace bulkhead::kvmtest
