// read_request(): properties of devices, each way in which they can be wrong, and what becomes of them in the plan.
#include "vmm/machine/device_request.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "ipc/roles/virtio_decl.h"
#include "vmm/machine/plan.h"

namespace bulkhead::vmm {
namespace {

using Properties = std::vector<control::Property>;

constexpr DiskGeometry kDisk{.bytes = 1 << 20, .logical_block = 512, .physical_block = 4096};

control::DeviceRequest disk(Properties properties = {}) {
  properties.insert(properties.begin(), {"path", "/a"});
  return {.type = "virtio_blk", .properties = std::move(properties), .files = 1};
}
Result<FunctionRequest> read(const control::DeviceRequest& request) { return read_request(request, kDisk); }
VirtioBlkConfig config_of(const Properties& properties) {
  const Result<FunctionRequest> function = read(disk(properties));
  EXPECT_TRUE(function) << function.error().message;
  return function ? std::get<VirtioBlkConfig>(function->config) : VirtioBlkConfig{};
}
std::string refusal(const control::DeviceRequest& request) {
  const Result<FunctionRequest> function = read(request);
  return function ? "accepted" : function.error().message;
}
std::string disk_refusal(Properties properties) { return refusal(disk(std::move(properties))); }

TEST(DeviceRequest, disk_without_properties) {
  const FunctionRequest function = read(disk()).value();
  EXPECT_EQ(function.type, find_device_type("virtio_blk"));
  EXPECT_FALSE(function.slot);
  EXPECT_EQ(std::get<VirtioBlkConfig>(function.config), (VirtioBlkConfig{.queues = 1, .serial = "", .disk = kDisk}));
}

TEST(DeviceRequest, disk_with_all_properties) {
  const FunctionRequest function =
      read(disk({{"queues", "3"}, {"direct", "on"}, {"slot", "31"}, {"readonly", "on"}, {"serial", "a=b"}})).value();
  EXPECT_EQ(function.slot, 31);
  EXPECT_EQ(std::get<VirtioBlkConfig>(function.config), (VirtioBlkConfig{.queues = 3, .serial = "a=b", .disk = kDisk}));
}

TEST(DeviceRequest, serial_has_twenty_bytes_at_most) {
  const std::string most(kMaxDiskSerial, 's');
  EXPECT_EQ(config_of({{"serial", most}}).serial, most);
  EXPECT_EQ(config_of({{"serial", ""}}).serial, "");
  EXPECT_EQ(disk_refusal({{"serial", most + "t"}}),
            "serial=" + most + "t has 21 bytes; at most 20 are shown to a guest");
}

TEST(DeviceRequest, queues_are_one_to_four) {
  for (int queues = 1; queues <= kVirtioBlkMaxQueues; ++queues)
    EXPECT_EQ(config_of({{"queues", std::to_string(queues)}}).queues, queues);
  for (const char* queues : {"0", "5", "-1", "", "1x", " 1", "+1", "0x1", "65537", "4294967297"})
    EXPECT_EQ(disk_refusal({{"queues", queues}}),
              fmt::format("queues={} is not a number of queues; 1 to 4 are", queues));
}

TEST(DeviceRequest, slots_are_those_that_are_free_on_every_machine) {
  for (int slot = kFirstFreeSlot; slot < kSlots; ++slot)
    EXPECT_EQ(read(disk({{"slot", std::to_string(slot)}})).value().slot, slot);
  for (const char* slot : {"0", "1", "2", "32", "259", "", "x", "4294967299"})
    EXPECT_EQ(disk_refusal({{"slot", slot}}), fmt::format("slot={} is not a PCI slot; 3 to 31 are", slot));
}

TEST(DeviceRequest, unknown_property_is_named_with_the_known_ones) {
  EXPECT_EQ(disk_refusal({{"serial", "x"}, {"colour", "red"}}),
            "device virtio_blk has no property \"colour\"; it takes slot, bootindex, rom, path, "
            "readonly, direct, format, aio, serial, queues, werror, bps, bps-burst, iops, iops-burst");
  EXPECT_EQ(disk_refusal({{"Serial", "x"}}),
            "device virtio_blk has no property \"Serial\"; it takes slot, bootindex, rom, path, "
            "readonly, direct, format, aio, serial, queues, werror, bps, bps-burst, iops, iops-burst");
  for (const char* type : {"virtio_rng", "pci_test"})
    EXPECT_EQ(refusal({.type = type, .properties = {{"serial", "x"}}}),
              fmt::format("device {} has no property \"serial\"; it takes slot, bootindex, rom", type));
}

TEST(DeviceRequest, property_twice_is_refused) {
  for (const char* key : {"serial", "queues", "slot", "readonly", "path"}) {
    Properties properties{{key, "4"}};
    if (std::string_view(key) != "path") properties.push_back({key, "5"});
    EXPECT_EQ(disk_refusal(properties), fmt::format("device virtio_blk is given two of \"{}\"", key));
  }
}

TEST(DeviceRequest, disk_needs_a_file) {
  const Result<FunctionRequest> function = read_request({.type = "virtio_blk", .properties = {}}, std::nullopt);
  ASSERT_FALSE(function);
  EXPECT_EQ(function.error().message, "device virtio_blk needs a file: --disk FILE gives it one");
}

MachinePlan plan_of(std::vector<control::DeviceRequest> devices,
                    const std::vector<std::optional<DiskGeometry>>& disks) {
  control::VmConfig vm;
  vm.memory_bytes = 512 << 20;
  vm.devices = std::move(devices);
  Result<MachinePlan> plan = plan_machine(vm, 40, disks);
  EXPECT_TRUE(plan) << plan.error().message;
  return std::move(plan).value();
}

DiskGeometry disk_of(std::uint64_t bytes) { return {.bytes = bytes, .read_only = bytes == 1024}; }

TEST(DeviceRequest, each_disk_gets_its_own_geometry_and_descriptors) {
  const MachinePlan plan =
      plan_of({{.type = "pci_test", .properties = {}},
               disk({{"slot", "9"}}),
               {.type = "debug_exit", .properties = {}},
               disk({{"serial", "second"}}),
               {.type = "virtio_rng", .properties = {}},
               disk()},
              {std::nullopt, disk_of(512), std::nullopt, disk_of(1024), std::nullopt, disk_of(2048)});
  std::string text;
  for (std::size_t i = 2; i < plan.roles.size(); ++i) {
    const InstancePlan& instance = plan.roles[i].instances.at(0);
    text += fmt::format("{} slot {} files {}+{}", instance.name, *instance.devfn >> 3, instance.files.first,
                        instance.files.count);
    if (const auto* blk = std::get_if<VirtioBlkConfig>(&instance.config))
      text += fmt::format(" bytes {}{} '{}'", blk->disk.bytes, blk->disk.read_only ? " read-only" : "", blk->serial);
    text += "\n";
  }
  EXPECT_EQ(text,
            "pci_test0 slot 3 files 0+0\n"
            "virtio_blk1 slot 9 files 0+1 bytes 512 ''\n"
            "virtio_blk2 slot 4 files 1+1 bytes 1024 read-only 'second'\n"
            "virtio_rng3 slot 5 files 2+0\n"
            "virtio_blk4 slot 6 files 2+1 bytes 2048 ''\n");
}

TEST(DeviceRequest, disk_whose_file_was_not_looked_at_makes_no_machine) {
  control::VmConfig vm;
  vm.memory_bytes = 512 << 20;
  vm.devices = {disk()};
  const Result<MachinePlan> plan = plan_machine(vm, 40);
  ASSERT_FALSE(plan);
  EXPECT_NE(plan.error().message.find("needs a file"), std::string::npos) << plan.error().message;
}

// Whose process may read and write files: a disk's, and no other.
TEST(DeviceRequest, file_calls_are_of_disks_alone) {
  const MachinePlan plan =
      plan_of({disk(), {.type = "virtio_rng", .properties = {}}, {.type = "pci_test", .properties = {}}}, {kDisk});
  ASSERT_EQ(plan.roles.size(), 5U);
  for (const RolePlan& role : plan.roles) {
    const bool is_disk = role.name == "virtio_blk0";
    EXPECT_EQ(role.syscalls, is_disk ? SyscallGroups{SyscallGroup::kFileIo} : SyscallGroups{}) << role.name;
    EXPECT_EQ(role.syscalls.contains(SyscallGroup::kFileIo), is_disk) << role.name;
  }
}

}  // namespace
}  // namespace bulkhead::vmm
