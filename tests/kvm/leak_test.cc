// A VM whose device processes die a thousand times: afterwards the VMM holds what it held after the first death.
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/kvm/test_vm.h"

namespace bulkhead::kvmtest {
namespace {

namespace fs = std::filesystem;

constexpr int kRestarts = 1000;
constexpr long kEventsKib = 256;  // the events that are kept for `bulkhead events`, and malloc's rounding

struct Holdings {
  long descriptors = 0;
  long mappings = 0;
  long threads = 0;
  long children = 0;
  long pss_kib = 0;
};

long count_entries(const std::string& path) {
  return std::distance(fs::directory_iterator(path), fs::directory_iterator{});
}

Holdings holdings_of(pid_t pid) {
  const std::string proc = "/proc/" + std::to_string(pid) + "/";
  Holdings held;
  held.descriptors = count_entries(proc + "fd");
  held.threads = count_entries(proc + "task");
  held.children = static_cast<long>(children_of(pid).size());
  std::ifstream maps(proc + "smaps");
  bool ram = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.find("kB") == std::string::npos && line.find('-') < 17) {
      ++held.mappings;
      ram = line.find("bulkhead-ram") != std::string::npos;
    }
    if (!ram && line.starts_with("Pss:")) held.pss_kib += std::atol(line.c_str() + 4);
  }
  return held;
}

class Leaks : public KvmTest {};

TEST_F(Leaks, ThousandRestartsLeaveTheVmmAsTheFirstOneDid) {
  TestVm vm({.guest = "monitor", .cpus = 2});
  ASSERT_TRUE(vm.run().wait_for_output("boot\n")) << vm.run().err();
  const pid_t vmm = vm.vmm_pid();
  const auto restarts = [&] {
    int sum = 0;
    for (const auto& [role, device] : vm.devices_by_role()) sum += device.at("restarts").get<int>();
    return sum;
  };
  // Everybody is back, and the next standby is there.
  const auto at_rest = [&] {
    const auto devices = vm.devices_by_role();
    return std::all_of(devices.begin(), devices.end(),
                       [](const auto& d) { return d.second.at("state") == "running"; }) &&
           children_of(vmm).size() == devices.size() + 1;
  };
  ASSERT_EQ(bulkhead({"fault", vm.name(), "any", "--signal", "KILL", "--random-seed", "1"}).status, 0);
  ASSERT_TRUE(wait_until([&] { return restarts() >= 1 && at_rest(); }));
  std::this_thread::sleep_for(Milliseconds(1'500));  // the corpse is looked after within a tick
  const Holdings first = holdings_of(vmm);
  const Ended drill = bulkhead({"fault", vm.name(), "any", "--signal", "KILL", "--every", "4ms", "--count",
                                std::to_string(kRestarts), "--random-seed", "2"});
  ASSERT_EQ(drill.status, 0) << drill.err;
  ASSERT_TRUE(wait_until([&] { return restarts() >= kRestarts && at_rest(); })) << restarts();
  std::this_thread::sleep_for(Milliseconds(1'500));
  const Holdings last = holdings_of(vmm);
  EXPECT_EQ(last.descriptors, first.descriptors);
  EXPECT_EQ(last.threads, first.threads);
  EXPECT_EQ(last.children, first.children) << "zombies, or processes that nobody needs";
  EXPECT_LE(last.mappings, first.mappings + 2) << "malloc may have grown its heap by a mapping";
  EXPECT_LE(last.pss_kib, first.pss_kib + kEventsKib);
  std::printf("after 1 and %d restarts: descriptors %ld %ld, mappings %ld %ld, threads %ld %ld, PSS %ld %ld KiB\n",
              restarts(), first.descriptors, last.descriptors, first.mappings, last.mappings, first.threads,
              last.threads, first.pss_kib, last.pss_kib);
  vm.run().send("p");
  EXPECT_TRUE(vm.run().wait_for_output("pong\n"));
  vm.run().send("q");
  EXPECT_EQ(vm.run().wait().status, kGuestPassed);
}

}  // namespace
}  // namespace bulkhead::kvmtest
