// WindowMap against the plainest model of its rule: RAM and other reserved memory first, then fixed claims,
// then the windows by function and index, each where it fits. What comes out must be a table that
// AddressSpace accepts.
#include <algorithm>
#include <vector>

#include "tests/fuzz/fuzz_script.h"
#include "vmm/pci/window_map.h"

namespace {

using namespace bulkhead;
using namespace bulkhead::vmm;
using bulkhead::fuzz::FuzzScript;
using bulkhead::fuzz::require;

struct Wanted {
  WindowPlan plan;
  bool enabled = false;
  std::uint64_t base = 0;
};

using Wide = unsigned __int128;

bool overlap(std::uint64_t a, std::uint64_t a_size, std::uint64_t b, std::uint64_t b_size) {
  return Wide{a} < Wide{b} + b_size && Wide{b} < Wide{a} + a_size;
}
bool overlap(const Claim& a, const Claim& b) {
  return a.space == b.space && overlap(a.base, a.length, b.base, b.length);
}

// Addresses that meet each other: a few bits, low or at the top of the address space.
std::uint64_t address(FuzzScript& script, Space space) {
  const std::uint8_t where = script.byte();
  const std::uint64_t low = std::uint64_t{script.byte()} << 4;
  if (space == Space::kPort) return where % 4 == 0 ? 0xff00 + low : low;
  if (where % 4 == 0) return ~std::uint64_t{0xfff} + low;
  return where % 4 == 1 ? script.number(8) : low;
}

struct Machine {
  std::vector<Range> reserved;
  std::vector<Claim> fixed;
  std::vector<Wanted> windows;  // by function, then index
};

Machine make_machine(FuzzScript& script) {
  Machine machine;
  const std::uint8_t shape = script.byte();
  for (int i = 0; i < (shape & 3); ++i) {
    if (const auto range = Range::make(address(script, Space::kMemory), 1U + script.byte()))
      machine.reserved.push_back(*range);
  }
  for (int i = 0; i < (shape >> 2 & 3); ++i) {
    Claim claim{.space = script.byte() % 2 == 0 ? Space::kPort : Space::kMemory, .owner = "fixed"};
    claim.base = address(script, claim.space);
    claim.length = 1U + script.byte() % 64;
    const bool fits = Range::make(claim.base, claim.length).has_value() &&
                      (claim.space == Space::kMemory || claim.base + claim.length <= 0x10000);
    const bool apart = std::none_of(machine.fixed.begin(), machine.fixed.end(),
                                    [&](const Claim& other) { return overlap(claim, other); });
    if (fits && apart) machine.fixed.push_back(claim);
  }
  for (int i = 0; i < 2 + (shape >> 4); ++i) {
    WindowPlan plan;
    plan.devfn = script.byte() & 7;
    plan.index = script.byte() % kBarCount;
    plan.space = script.byte() % 2 == 0 ? Space::kPort : Space::kMemory;
    plan.size = std::uint64_t{16} << script.byte() % 4;
    plan.instance = static_cast<std::uint16_t>(i);
    const bool known = std::any_of(machine.windows.begin(), machine.windows.end(), [&](const Wanted& other) {
      return other.plan.devfn == plan.devfn && other.plan.index == plan.index;
    });
    if (!known) machine.windows.push_back({plan});
  }
  return machine;
}

// The rule, read aloud.
std::vector<Claim> model(const Machine& machine) {
  std::vector<Wanted> by_rank = machine.windows;
  std::sort(by_rank.begin(), by_rank.end(), [](const Wanted& a, const Wanted& b) {
    return a.plan.devfn != b.plan.devfn ? a.plan.devfn < b.plan.devfn : a.plan.index < b.plan.index;
  });
  std::vector<Claim> placed = machine.fixed;
  for (const Wanted& window : by_rank) {
    const Wide end = Wide{window.base} + window.plan.size;
    bool fits = window.enabled && end <= (window.plan.space == Space::kPort ? Wide{0x10000} : Wide{1} << 64);
    for (const Range& range : machine.reserved) {
      if (window.plan.space == Space::kMemory && window.base <= range.last() && end > range.first()) fits = false;
    }
    const Claim claim{
        .space = window.plan.space, .base = window.base, .length = window.plan.size, .instance = window.plan.instance};
    for (const Claim& other : placed) fits = fits && !overlap(claim, other);
    if (fits) placed.push_back(claim);
  }
  return placed;
}

void compare(const Machine& machine, const WindowMap& map, AddressSpace& space) {
  const std::vector<Claim> claims = map.claims();
  const std::vector<Claim> expected = model(machine);
  require(claims.size() == expected.size(), "another number of windows is in force");
  for (std::size_t i = 0; i < claims.size(); ++i) {
    require(claims[i].space == expected[i].space && claims[i].base == expected[i].base &&
                claims[i].length == expected[i].length && claims[i].instance == expected[i].instance,
            "another window is in force");
  }
  require(static_cast<bool>(space.publish(claims)), "the address space refused the claims");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzScript script({data, size});
  Machine machine = make_machine(script);
  std::vector<WindowPlan> plans;
  for (const Wanted& window : machine.windows) plans.push_back(window.plan);
  WindowMap map(plans, machine.reserved, machine.fixed);
  AddressSpace space;
  compare(machine, map, space);
  for (int step = 0; step < 64 && !script.empty(); ++step) {
    const std::uint8_t what = script.byte();
    if (what == 0xff) {
      map.reset();
      for (Wanted& window : machine.windows) window.enabled = false;
    } else {
      Wanted& window = machine.windows[what % machine.windows.size()];
      const std::uint8_t how = script.byte();
      const std::uint64_t base = address(script, window.plan.space);
      const bool io = (window.plan.space == Space::kPort) != (how >= 0xf8);
      const std::uint64_t wrong = how >= 0xf0 && how < 0xf8 ? 2 : 1;
      const bool on = how % 8 != 0;
      const Effect effect{.kind = 1,
                          .function = window.plan.devfn,
                          .index = window.plan.index,
                          .address = base,
                          .size = window.plan.size * wrong,
                          .flags = (io ? kEffectIoSpace : 0U) | (on ? kEffectEnabled : 0U)};
      const bool taken = map.want(effect);
      require(taken == (how < 0xf0), "an effect that fits no window was taken, or one that fits was not");
      if (taken) {
        window.enabled = on;
        window.base = base;
      }
    }
    compare(machine, map, space);
  }
  return 0;
}
