// plan_machine(): what a configuration becomes, and each way in which it can be wrong.
#include "vmm/machine/plan.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "ipc/roles/pci_decl.h"
#include "vmm/bus/address_space.h"
#include "vmm/machine/device_request.h"

namespace bulkhead::vmm {
namespace {

control::VmConfig config(std::vector<control::DeviceRequest> devices = {}) {
  control::VmConfig vm;
  vm.name = "test";
  vm.memory_bytes = 512 * kMiB;
  vm.devices = std::move(devices);
  return vm;
}
control::DeviceRequest device(std::string type, std::vector<control::Property> properties = {}) {
  return {std::move(type), std::move(properties)};
}
MachinePlan plan_of(const control::VmConfig& vm) {
  Result<MachinePlan> plan = plan_machine(vm, 40);
  EXPECT_TRUE(plan) << plan.error().message;
  return std::move(plan).value();
}
std::string error_of(const control::VmConfig& vm, std::uint32_t bits = 40) {
  const Result<MachinePlan> plan = plan_machine(vm, bits);
  return plan ? "no error" : plan.error().message;
}
std::set<int> slots_of(const MachinePlan& plan) {
  std::set<int> slots;
  for (const RolePlan& role : plan.roles) {
    if (role.instances[0].devfn) slots.insert(*role.instances[0].devfn >> 3);
  }
  return slots;
}

// The whole plan as text.
std::string describe(const MachinePlan& plan) {
  std::string text;
  for (const RolePlan& role : plan.roles) {
    text += fmt::format("{} effects {:#x}{}\n", role.name, role.effects(), role.guest_memory() ? " memory" : "");
    for (const InstancePlan& instance : role.instances) {
      text += fmt::format("  {} {}", instance.name, instance.type->type);
      if (instance.devfn) text += fmt::format(" {:02x}.{}", *instance.devfn >> 3, *instance.devfn & 7);
      for (const RegionPlan& region : instance.regions)
        text +=
            region.fixed ? fmt::format(" {}@{:x}", region.region, *region.fixed) : fmt::format(" {}@?", region.region);
      for (const LinePlan& line : instance.lines)
        text += fmt::format(" {}{}", line.kind == LineKind::kEdge ? "edge" : "level",
                            line.gsi ? std::to_string(*line.gsi) : "?");
      text += "\n";
    }
  }
  for (const PlannedWindow& window : plan.windows) {
    text += fmt::format("window {:02x}.{} {} {:x} {} -> {}/{} region {}\n", window.devfn >> 3, window.devfn & 7,
                        window.index, window.size, window.io ? "io" : "memory", plan.roles[window.role].name,
                        plan.roles[window.role].instances[window.instance].name, window.region);
  }
  text += fmt::format("console {}/{} debug {}/{} power button {}\n", plan.roles[plan.console.role].name,
                      plan.console.stream, plan.roles[plan.debug.role].name, plan.debug.stream,
                      plan.roles[plan.platform_role].instances[plan.pm_instance].name);
  return text;
}

// The PM window is none of a function with VIRTIO_PCI_CAP_PCI_CFG; the test function's MSI-X BAR is in `pci`.
TEST(PlanMachine, bars_are_reached_through_configuration_space_where_it_says_so) {
  const MachinePlan plan = plan_of(config({device("pci_test")}));
  for (const PlannedWindow& window : plan.windows) EXPECT_EQ(window.pci_cfg, window.devfn != kPmDevfn) << window.index;
  EXPECT_EQ(std::count_if(plan.windows.begin(), plan.windows.end(), [](const auto& window) { return window.pci_cfg; }),
            4);
}

TEST(PlanMachine, the_pc_with_two_test_functions) {
  const MachinePlan plan =
      plan_of(config({device("pci_test", {{"slot", "5"}}), device("debug_exit"), device("pci_test")}));
  EXPECT_EQ(describe(plan), R"(pci effects 0xbe
  pci pci_bus 0@cf8
platform effects 0x20
  com1 uart16550 0@3f8 edge4
  com2 uart16550 0@2f8 edge3
  rtc cmos_rtc 0@70 edge8
  i8042 i8042 0@60 1@64 edge1 edge12
  pm acpi_pm 0@? 1@afe0 2@b2 level9
  ports system_ports 0@92 1@80 2@e9 3@402
  debug-exit debug_exit 0@f4
pci_test0 effects 0x0 memory
  pci_test0 pci_test 05.0 0@? 1@? 2@? level?
pci_test1 effects 0x0 memory
  pci_test1 pci_test 03.0 0@? 1@? 2@? level?
window 01.3 0 40 io -> platform/pm region 0
window 05.0 0 1000 memory -> pci_test0/pci_test0 region 0
window 05.0 1 1000 memory -> pci_test0/pci_test0 region 1
window 05.0 2 40 io -> pci_test0/pci_test0 region 2
window 05.0 4 1000 memory -> pci/pci region 2
window 03.0 0 1000 memory -> pci_test1/pci_test1 region 0
window 03.0 1 1000 memory -> pci_test1/pci_test1 region 1
window 03.0 2 40 io -> pci_test1/pci_test1 region 2
window 03.0 4 1000 memory -> pci/pci region 1
console platform/0 debug platform/3 power button pm
)");
  const auto& bus = std::get<PciBusConfig>(plan.roles[plan.pci_role].instances[plan.pci_instance].config);
  ASSERT_EQ(bus.functions.size(), 2U);
  EXPECT_EQ(bus.functions[0].devfn, 3 << 3) << "in order of their place on the bus";
  EXPECT_EQ(bus.functions[1].devfn, 5 << 3);
  EXPECT_EQ(bus.ram_below_4g, 512 * kMiB);
}

TEST(PlanMachine, nothing_that_is_not_asked_for_is_there) {
  const MachinePlan plan = plan_of(config());
  EXPECT_EQ(plan.roles.size(), 2U);
  for (const RolePlan& role : plan.roles) {
    for (const InstancePlan& instance : role.instances) EXPECT_NE(instance.type->type, "debug_exit");
  }
}

TEST(PlanMachine, fixed_regions_overlap_neither_each_other_nor_the_pm_block) {
  const MachinePlan plan = plan_of(config({device("debug_exit")}));
  std::vector<Claim> claims;
  for (const RolePlan& role : plan.roles) {
    for (const InstancePlan& instance : role.instances) {
      for (const RegionPlan& region : instance.regions) {
        if (!region.fixed) continue;
        const RegionDecl& decl = instance.type->regions[region.region];
        claims.push_back({.space = decl.memory ? Space::kMemory : Space::kPort,
                          .base = *region.fixed,
                          .length = decl.length,
                          .owner = instance.name});
      }
    }
  }
  claims.push_back({.space = Space::kPort, .base = kPmBase, .length = kPmWindowSize, .owner = "pm block"});
  AddressSpace space;
  const Status status = space.publish(claims);
  EXPECT_TRUE(status) << status.error().message;
}

TEST(PlanMachine, every_line_of_the_platform_has_a_gsi_of_its_own) {
  const MachinePlan plan = plan_of(config());
  std::set<std::uint32_t> gsis;
  for (const InstancePlan& instance : plan.roles[plan.platform_role].instances) {
    EXPECT_EQ(instance.lines.size(), instance.type->lines.size()) << instance.name;
    for (const LinePlan& line : instance.lines) {
      ASSERT_TRUE(line.gsi) << instance.name;
      EXPECT_TRUE(gsis.insert(*line.gsi).second) << instance.name;
    }
  }
  EXPECT_FALSE(gsis.contains(0)) << "the 8254's";
  EXPECT_FALSE(gsis.contains(2)) << "the cascade";
}

TEST(PlanMachine, cpus_and_their_topology) {
  control::VmConfig vm = config();
  vm.cpus = 8;
  vm.topology = {.sockets = 2, .cores = 2, .threads = 2};
  EXPECT_EQ(plan_of(vm).acpi.apic_ids.size(), 8U);
  vm.cpus = 7;
  EXPECT_NE(error_of(vm).find("7 CPUs"), std::string::npos);
  vm.cpus = 0;
  vm.topology = {.sockets = 0, .cores = 1, .threads = 1};
  EXPECT_NE(error_of(vm), "no error");
  vm.cpus = 128;
  vm.topology = {.sockets = 1, .cores = 128, .threads = 1};
  EXPECT_NE(error_of(vm), "no error");
  // 2^32 threads of 2^32 cores are 0 in 32 bits.
  vm.cpus = 0;
  vm.topology = {.sockets = 65536, .cores = 65536, .threads = 1};
  EXPECT_NE(error_of(vm), "no error");
}

TEST(PlanMachine, memory_that_no_machine_has) {
  control::VmConfig vm = config();
  vm.memory_bytes = kMinRam - kMiB;
  EXPECT_NE(error_of(vm), "no error");
  vm.memory_bytes = 512 * kMiB + 4096;
  EXPECT_NE(error_of(vm), "no error");
  vm.memory_bytes = 64 * kGiB;
  EXPECT_NE(error_of(vm, 36), "no error");
}

TEST(PlanMachine, unknown_devices_are_named_with_the_known_ones) {
  for (const char* type : {"floppy", "uart16550", "pci_bus", ""}) {
    const std::string error = error_of(config({device(type)}));
    EXPECT_NE(error.find(fmt::format("\"{}\"", type)), std::string::npos) << error;
    EXPECT_NE(error.find("pci_test"), std::string::npos) << error;
    EXPECT_NE(error.find("debug_exit"), std::string::npos) << error;
  }
}

TEST(PlanMachine, slots_that_cannot_be_are_refused) {
  for (const char* slot : {"0", "2", "32", "-3", "3x", "", "99999999999999999999", "0x5"}) {
    const std::string error = error_of(config({device("pci_test", {{"slot", slot}})}));
    EXPECT_NE(error.find(fmt::format("slot={}", slot)), std::string::npos) << error;
  }
}

TEST(PlanMachine, every_property_is_looked_at) {
  EXPECT_NE(error_of(config({device("pci_test", {{"colour", "red"}})})).find("colour"), std::string::npos);
  EXPECT_NE(error_of(config({device("pci_test", {{"slot", "4"}, {"colour", "red"}})})).find("colour"),
            std::string::npos);
  EXPECT_NE(error_of(config({device("pci_test", {{"slot", "4"}, {"slot", "5"}})})), "no error");
  EXPECT_NE(error_of(config({device("debug_exit", {{"slot", "4"}})})), "no error");
}

TEST(PlanMachine, two_devices_cannot_have_one_slot) {
  const std::string error =
      error_of(config({device("pci_test", {{"slot", "7"}}), device("pci_test", {{"slot", "7"}})}));
  EXPECT_NE(error.find("slot 7"), std::string::npos) << error;
}

TEST(PlanMachine, a_slot_that_is_asked_for_is_kept_free_of_devices_that_take_any) {
  const MachinePlan plan =
      plan_of(config({device("pci_test"), device("pci_test", {{"slot", "3"}}), device("pci_test")}));
  EXPECT_EQ(slots_of(plan), (std::set<int>{3, 4, 5}));
}

TEST(PlanMachine, the_bus_holds_as_many_devices_as_it_has_slots) {
  std::vector<control::DeviceRequest> devices(29, device("pci_test"));
  EXPECT_EQ(slots_of(plan_of(config(devices))).size(), 29U);
  devices.push_back(device("pci_test"));
  EXPECT_NE(error_of(config(devices)).find("slots"), std::string::npos);
}

// What a process is granted is what its devices declare, and the test function declares no effect at all.
TEST(PlanMachine, grants_are_the_union_of_what_the_devices_of_a_role_declare) {
  const MachinePlan plan = plan_of(config({device("pci_test")}));
  for (const RolePlan& role : plan.roles) {
    std::uint32_t declared = 0;
    bool memory = false;
    for (const InstancePlan& instance : role.instances) {
      declared |= instance.type->effects;
      memory = memory || instance.type->guest_memory;
    }
    EXPECT_EQ(role.effects(), declared) << role.name;
    EXPECT_EQ(role.guest_memory(), memory) << role.name;
  }
  EXPECT_FALSE(plan.roles[plan.pci_role].guest_memory());
  EXPECT_FALSE(plan.roles[plan.platform_role].guest_memory());
}

// ---- virtio_net ----

control::DeviceRequest card(std::vector<control::Property> properties = {}, std::uint8_t files = 1) {
  properties.insert(properties.begin(), {"tap", "tap0"});
  return {"virtio_net", std::move(properties), files};
}
VirtioNetConfig net_config(const MachinePlan& plan, std::size_t nth = 0) {
  return std::get<VirtioNetConfig>(plan.roles.at(2 + nth).instances.at(0).config);
}

TEST(PlanNet, a_card_has_a_pair_for_each_queue_of_its_tap) {
  const MachinePlan plan = plan_of(config({card({}, 2), card({{"queues", "3"}, {"mtu", "9000"}}, 3)}));
  EXPECT_EQ(net_config(plan).queue_pairs, 2);
  EXPECT_EQ(net_config(plan).mtu, 1500);
  EXPECT_EQ(net_config(plan, 1).queue_pairs, 3);
  EXPECT_EQ(net_config(plan, 1).mtu, 9000);
  const InstancePlan& first = plan.roles[2].instances[0];
  const InstancePlan& second = plan.roles[3].instances[0];
  EXPECT_EQ(first.files.first, 0U);
  EXPECT_EQ(second.files.first, 2U);
  EXPECT_EQ(backing_count(*first.type, first.config), 2U);
  EXPECT_EQ(backing_count(*second.type, second.config), 3U);
  EXPECT_TRUE(plan.roles[2].syscalls.contains(SyscallGroup::kPacketIo));
}

TEST(PlanNet, a_card_without_a_tap_is_refused) {
  EXPECT_NE(error_of(config({device("virtio_net")})).find("--net tap=NAME"), std::string::npos);
  EXPECT_NE(error_of(config({card({{"queues", "2"}}, 1)})), "no error");
  EXPECT_NE(error_of(config({card({}, 5)})), "no error");
}

// ---- A card with a user network ----

control::DeviceRequest user_card(std::vector<control::Property> properties = {}) {
  properties.insert(properties.begin(), {"backend", "user"});
  return {"virtio_net", std::move(properties), 0};
}

TEST(PlanUsernet, card_and_network_are_two_roles_at_the_ends_of_one_ring) {
  const MachinePlan plan = plan_of(config({card(), user_card(), user_card({{"tftp", "/srv/tftp"}, {"mtu", "1400"}})}));
  ASSERT_EQ(plan.roles.size(), 7U);
  EXPECT_EQ(plan.frame_links, 2U);
  EXPECT_FALSE(plan.roles[2].ring);
  for (const std::size_t nth : {0, 1}) {
    const RolePlan& nic = plan.roles[3 + nth];
    const RolePlan& network = plan.roles[5 + nth];
    EXPECT_EQ(network.name, fmt::format("usernet{}", nth));
    EXPECT_EQ(nic.ring->link, nth);
    EXPECT_EQ(network.ring->link, nth);
    EXPECT_NE(nic.ring->side, network.ring->side);
    EXPECT_EQ(net_config(plan, 1 + nth).nic.backend, NicBackend::kFrameRing);
    EXPECT_FALSE(net_config(plan, 1 + nth).nic.offloads);
    EXPECT_EQ(nic.syscalls, SyscallGroups{}) << "no TAP, hence nothing that one needs";
    EXPECT_FALSE(nic.jail.host_network);
    EXPECT_TRUE(network.jail.host_network);
    EXPECT_TRUE(network.syscalls.contains(SyscallGroup::kUserNetwork));
    EXPECT_FALSE(network.guest_memory());
    EXPECT_EQ(network.effects(), 0U);
    EXPECT_FALSE(network.instances[0].devfn);
    EXPECT_EQ(backing_count(*nic.instances[0].type, nic.instances[0].config), 1U);
  }
  EXPECT_EQ(plan.roles[5].jail.tftp, "");
  EXPECT_EQ(plan.roles[6].jail.tftp, "/srv/tftp");
  EXPECT_FALSE(std::get<UsernetConfig>(plan.roles[5].instances[0].config).tftp);
  EXPECT_TRUE(std::get<UsernetConfig>(plan.roles[6].instances[0].config).tftp);
  EXPECT_EQ(std::get<UsernetConfig>(plan.roles[6].instances[0].config).mtu, 1400);
}

TEST(PlanUsernet, a_card_has_one_thing_behind_it) {
  EXPECT_NE(error_of(config({user_card({{"queues", "2"}})})), "no error");
  EXPECT_NE(error_of(config({card({{"backend", "user"}})})), "no error");
  EXPECT_NE(error_of(config({user_card({{"nonsense", "1"}})})).find("nonsense"), std::string::npos);
  EXPECT_NE(error_of(config({{"virtio_net", {{"backend", "carrier-pigeon"}}, 0}})).find("carrier-pigeon"),
            std::string::npos);
}

TEST(PlanNet, an_82540em_has_one_queue_and_a_role_of_its_name) {
  const control::DeviceRequest card{"e1000", {{"tap", "tap0"}, {"mac", "52:54:00:ab:cd:ef"}}, 1};
  const MachinePlan plan = plan_of(config({card}));
  EXPECT_EQ(plan.roles.at(2).name, "e1000_0");
  EXPECT_EQ(std::get<E1000Config>(plan.roles[2].instances.at(0).config).nic.mac[5], 0xef);
  EXPECT_EQ(backing_count(*plan.roles[2].instances[0].type, plan.roles[2].instances[0].config), 1U);
  EXPECT_NE(error_of(config({device("e1000")})).find("--net tap=NAME,model=e1000"), std::string::npos);
  EXPECT_NE(error_of(config({control::DeviceRequest{"e1000", {}, 2}})), "no error");
  EXPECT_NE(error_of(config({control::DeviceRequest{"e1000", {{"mtu", "9000"}}, 1}})).find("\"mtu\""),
            std::string::npos);
}

TEST(PlanNet, cards_of_each_model_take_the_same_limits) {
  const control::Property bytes{"bps", "1M"};
  const control::Property frames{"rx-pps", "100"};
  const MachinePlan plan = plan_of(config({{"virtio_net", {{"tap", "tap0"}, bytes, frames}, 1},
                                           {"e1000", {{"tap", "tap1"}, bytes, frames}, 1},
                                           {"e1000", {{"backend", "user"}, bytes, frames}, 0}}));
  for (const std::size_t role : {2, 3, 4}) {
    const InstancePlan& card = plan.roles.at(role).instances.at(0);
    const NicConfig* nic = nic_config(card.config);
    ASSERT_NE(nic, nullptr) << plan.roles[role].name;
    EXPECT_EQ(nic->limits[kReceiveLimit], (RateLimit{.bytes_per_second = 1 << 20, .operations_per_second = 100}));
    EXPECT_EQ(nic->limits[kSendLimit], RateLimit{.bytes_per_second = 1 << 20});
    EXPECT_EQ(card.type->limits, 2) << "bulkhead limit knows them too";
  }
  EXPECT_NE(
      error_of(config({{"e1000", {{"tap", "tap0"}, {"pps", "fast"}}, 1}})).find("pps=fast must be a whole number"),
      std::string::npos);
}

TEST(PlanNet, an_82540em_on_a_ring_makes_its_checksums_itself) {
  const MachinePlan plan = plan_of(config({{"e1000", {{"backend", "user"}}, 0}, {"e1000", {{"tap", "tap0"}}, 1}}));
  const auto& ring = std::get<E1000Config>(plan.roles.at(2).instances.at(0).config);
  EXPECT_EQ(ring.nic.backend, NicBackend::kFrameRing);
  EXPECT_FALSE(ring.nic.offloads);
  EXPECT_EQ(plan.roles[2].syscalls, SyscallGroups{});
  const auto& tap = std::get<E1000Config>(plan.roles.at(3).instances.at(0).config);
  EXPECT_EQ(tap.nic.backend, NicBackend::kTap);
  EXPECT_TRUE(tap.nic.offloads);
}

TEST(PlanNet, addresses) {
  const auto mac_of = [](const char* text) { return net_config(plan_of(config({card({{"mac", text}})}))).nic.mac; };
  EXPECT_EQ(mac_of("52:54:00:ab:CD:ef"), (std::array<std::uint8_t, 6>{0x52, 0x54, 0, 0xab, 0xcd, 0xef}));
  for (const char* text : {"", "52:54:00:ab:cd", "52:54:00:ab:cd:ef:01", "52:54:00:ab:cd:e", "52-54-00-ab-cd-ef",
                           "52:54:00:ab:cd:eg", "+2:54:00:ab:cd:ef", "52:54:00:ab:cd: f", "5:254:00:ab:cd:ef"}) {
    const std::string error = error_of(config({card({{"mac", text}})}));
    EXPECT_NE(error.find("is no MAC address"), std::string::npos) << text << ": " << error;
  }
  EXPECT_NE(error_of(config({card({{"mac", "01:00:5e:00:00:01"}})})).find("multicast"), std::string::npos);
  EXPECT_NE(error_of(config({card({{"mac", "ff:ff:ff:ff:ff:ff"}})})).find("multicast"), std::string::npos);
  EXPECT_NE(error_of(config({card({{"mac", "00:00:00:00:00:00"}})})).find("nobody"), std::string::npos);
  EXPECT_NE(error_of(config({card({{"mac", "02:00:00:00:00:01"}, {"mac", "02:00:00:00:00:02"}})})), "no error");
}

// The same each time, whatever other devices there are; another one for each card and each VM.
TEST(PlanNet, a_card_without_an_address_gets_one_of_its_own) {
  control::VmConfig vm = config({card(), card()});
  const auto first = net_config(plan_of(vm)).nic.mac;
  EXPECT_EQ(first[0], 0x02) << "locally administered, for one card";
  EXPECT_NE(net_config(plan_of(vm), 1).nic.mac, first);
  EXPECT_EQ(net_config(plan_of(config({device("pci_test"), card()})), 1).nic.mac, first);
  vm.name = "other";
  EXPECT_NE(net_config(plan_of(vm)).nic.mac, first);
  EXPECT_EQ(default_mac("test", 0), (MacAddress{0x02, 0x71, 0x20, 0x85, 0xdc, 0xfe})) << "for ever";
}

TEST(PlanNet, mtus_that_no_network_has_are_refused) {
  for (const char* mtu : {"67", "65536", "0", "-1", "1500x", ""})
    EXPECT_NE(error_of(config({card({{"mtu", mtu}})})).find("is not an MTU"), std::string::npos) << mtu;
  for (const char* mtu : {"68", "65535"}) EXPECT_EQ(error_of(config({card({{"mtu", mtu}})})), "no error") << mtu;
}

}  // namespace
}  // namespace bulkhead::vmm
