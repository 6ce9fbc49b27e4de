// commit_cost: what it costs a request that its device's state is committed, role by role.
#include <algorithm>
#include <array>
#include <cstring>

#include "tests/bench/figures.h"
#include "tests/bench/local_role.h"
#include "tests/bench/ping_pong.h"

namespace bulkhead::bench {
namespace {

constexpr int kTakes = 9;
constexpr int kTrips = 10000;
constexpr int kWarmUp = 500;
constexpr std::uint32_t kTestFunctions = 29;  // with the chipset's three: 32 functions

struct Access {
  const char* what;
  std::uint16_t instance;
  std::uint16_t region;
  std::uint8_t size;
  std::uint64_t offset;
  std::uint32_t values[2];  // written in turn, so that state changes each time
};

struct Role {
  const char* name;
  std::vector<Access> accesses;
};

// Registers that a guest writes often, and the largest state that one write changes.
const std::vector<Role>& roles() {
  static const std::vector<Role> all = {
      {"platform", {{"UART scratch register", 0, 0, 1, 7, {0x11, 0x22}}, {"RTC index", 2, 0, 1, 0, {0x0f, 0x0e}}}},
      {"pci", {{"CONFADD", 0, 0, 4, 0, {0x80001004, 0x8000183c}}, {"a function's interrupt line", 0, 0, 1, 4, {5, 6}}}},
      {"pci_test0", {{"scratch register", 0, 0, 4, 0x10, {1, 2}}}}};
  return all;
}

Result<vmm::RolePlan> plan_of(const std::string& name) {
  control::VmConfig config;
  config.memory_bytes = 64 << 20;
  config.devices.assign(kTestFunctions, {"pci_test", {}});
  ASSIGN_OR_RETURN(vmm::MachinePlan plan, vmm::plan_machine(config, 40));
  for (vmm::RolePlan& role : plan.roles) {
    if (role.name == name) return std::move(role);
  }
  return make_error("there is no role " + name);
}

Result<double> round_ns(LocalRole& role, const Access& access, ipc::AdaptiveWait& wait) {
  std::vector<double> times;
  ipc::Request request;
  request.kind = ipc::RequestKind::kWrite;
  request.size = access.size;
  request.count = 1;
  request.instance = access.instance;
  request.region = access.region;
  request.offset = access.offset;
  for (int i = 0; i < kTrips + kWarmUp; ++i) {
    std::memcpy(request.payload, &access.values[i % 2], sizeof access.values[0]);
    const unsigned long long from = read_tsc();
    if (!role.request(request, wait)) return make_error("the benchmark's device process went away");
    if (i >= kWarmUp) times.push_back(static_cast<double>(read_tsc() - from) * ns_per_tsc_tick());
  }
  return median(std::move(times));
}

}  // namespace

Result<Takes> measure_commit_cost() {
  if (!pin_to(0)) return make_error("this needs two CPUs");
  Takes worst;
  for (const Role& role : roles()) {
    ASSIGN_OR_RETURN(const vmm::RolePlan plan, plan_of(role.name));
    for (const Access& access : role.accesses) {
      Takes takes;
      std::vector<double> with;
      std::vector<double> without;
      ipc::AdaptiveWait wait;
      ipc::AdaptiveWait other_wait;
      for (int take = 0; take < kTakes; ++take) {
        // One child at a time: two that spin would share a core.
        {
          ASSIGN_OR_RETURN(const auto committing, LocalRole::start(1, plan));
          ASSIGN_OR_RETURN(const double ns, round_ns(*committing, access, wait));
          with.push_back(ns);
        }
        ASSIGN_OR_RETURN(const auto in_place, LocalRole::start(1, plan, LocalRole::Serve::kInPlace));
        ASSIGN_OR_RETURN(const double ns, round_ns(*in_place, access, other_wait));
        without.push_back(ns);
        takes.values.push_back(with.back() / without.back());
      }
      takes.note = fmt::format("{}, {}: {:.0f} ns with, {:.0f} ns without", role.name, access.what, median(with),
                               median(without));
      if (worst.values.empty() || median(takes.values) > median(worst.values)) worst = std::move(takes);
    }
  }
  unpin();
  return worst;
}

}  // namespace bulkhead::bench
