// WindowMap: which windows are in force is a function of what is wanted, never of the order in which it was said.
#include "vmm/pci/window_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace bulkhead::vmm {
namespace {

Effect wanted(std::uint8_t devfn, std::uint32_t bar, std::uint64_t size, std::optional<std::uint64_t> base,
              bool io = false) {
  Effect effect{.kind = static_cast<std::uint16_t>(EffectKind::kWindow), .function = devfn, .index = bar};
  effect.size = size;
  if (base) effect.address = *base;
  effect.flags = (base ? kEffectEnabled : 0U) | (io ? kEffectIoSpace : 0U);
  return effect;
}

WindowPlan plan(std::uint8_t devfn, std::uint32_t bar, std::uint64_t size, bool io = false) {
  return {.devfn = devfn,
          .index = bar,
          .space = io ? Space::kPort : Space::kMemory,
          .size = size,
          .owner = std::to_string(devfn) + "/" + std::to_string(bar)};
}

// "owner@base" of every window in force.
std::vector<std::string> in_force(const WindowMap& map) {
  std::vector<std::string> all;
  for (const Claim& claim : map.claims()) {
    if (claim.owner != "fixed") all.push_back(claim.owner + "@" + std::to_string(claim.base));
  }
  std::sort(all.begin(), all.end());
  return all;
}

using Strings = std::vector<std::string>;

Claim fixed(Space space, std::uint64_t base, std::uint64_t length) {
  return {.space = space, .base = base, .length = length, .owner = "fixed"};
}

TEST(WindowMap, a_window_is_in_force_while_it_is_wanted) {
  WindowMap map({plan(8, 0, 0x1000)}, {}, {});
  EXPECT_EQ(in_force(map), Strings{});
  EXPECT_TRUE(map.want(wanted(8, 0, 0x1000, 0x2000)));
  EXPECT_EQ(in_force(map), Strings{"8/0@8192"});
  EXPECT_TRUE(map.want(wanted(8, 0, 0x1000, 0x3000)));
  EXPECT_EQ(in_force(map), Strings{"8/0@12288"});
  EXPECT_TRUE(map.want(wanted(8, 0, 0x1000, std::nullopt)));
  EXPECT_EQ(in_force(map), Strings{});
}

TEST(WindowMap, a_claim_carries_what_the_plan_says_and_not_what_the_effect_does) {
  WindowPlan bar = plan(8, 0, 0x1000);
  bar.instance = 4;
  bar.region = 2;
  bar.posted = true;
  WindowMap map({bar}, {}, {});
  map.want(wanted(8, 0, 0x1000, 0x5000));
  const std::vector<Claim> claims = map.claims();
  ASSERT_EQ(claims.size(), 1U);
  EXPECT_EQ(claims[0].length, 0x1000U);
  EXPECT_EQ(claims[0].instance, 4);
  EXPECT_EQ(claims[0].region, 2);
  EXPECT_TRUE(claims[0].posted);
}

TEST(WindowMap, windows_that_nobody_planned_are_refused) {
  WindowMap map({plan(8, 0, 0x1000), plan(8, 2, 64, true)}, {}, {});
  EXPECT_FALSE(map.want(wanted(9, 0, 0x1000, 0x2000))) << "no such function";
  EXPECT_FALSE(map.want(wanted(8, 1, 0x1000, 0x2000))) << "no such BAR";
  EXPECT_FALSE(map.want(wanted(8, 0, 0x2000, 0x2000))) << "another size";
  EXPECT_FALSE(map.want(wanted(8, 0, 0x1000, 0x2000, true))) << "another space";
  EXPECT_FALSE(map.want(wanted(8, 2, 64, 0x2000, false)));
  EXPECT_TRUE(map.want(wanted(8, 2, 64, 0x2000, true)));
  EXPECT_EQ(in_force(map), Strings{"8/2@8192"});
}

TEST(WindowMap, ram_and_fixed_claims_come_first) {
  WindowMap map({plan(8, 0, 0x1000), plan(8, 2, 64, true)}, {*Range::make(0, 0x100000)},
                {fixed(Space::kPort, 0x3f8, 8)});
  map.want(wanted(8, 0, 0x1000, 0xff000));
  map.want(wanted(8, 2, 64, 0x3c0, true));
  EXPECT_EQ(in_force(map), Strings{});
  map.want(wanted(8, 0, 0x1000, 0x100000));
  map.want(wanted(8, 2, 64, 0x400, true));
  EXPECT_EQ(in_force(map), (Strings{"8/0@1048576", "8/2@1024"}));
}

TEST(WindowMap, memory_that_is_reserved_keeps_no_port_away) {
  WindowMap map({plan(8, 2, 64, true)}, {*Range::make(0, 0x100000)}, {fixed(Space::kMemory, 0x400, 64)});
  map.want(wanted(8, 2, 64, 0x400, true));
  EXPECT_EQ(in_force(map), Strings{"8/2@1024"});
}

TEST(WindowMap, of_two_windows_the_lower_function_wins_and_the_other_comes_by_itself_when_there_is_room) {
  WindowMap map({plan(16, 0, 0x1000), plan(8, 0, 0x1000)}, {}, {});
  map.want(wanted(16, 0, 0x1000, 0x4000));
  EXPECT_EQ(in_force(map), Strings{"16/0@16384"});
  map.want(wanted(8, 0, 0x1000, 0x4000));
  EXPECT_EQ(in_force(map), Strings{"8/0@16384"});
  map.want(wanted(8, 0, 0x1000, 0x8000));
  EXPECT_EQ(in_force(map), (Strings{"16/0@16384", "8/0@32768"}));
}

TEST(WindowMap, of_two_windows_of_one_function_the_lower_bar_wins) {
  WindowMap map({plan(8, 3, 0x1000), plan(8, 1, 0x1000)}, {}, {});
  map.want(wanted(8, 3, 0x1000, 0x4000));
  map.want(wanted(8, 1, 0x1000, 0x4000));
  EXPECT_EQ(in_force(map), Strings{"8/1@16384"});
}

TEST(WindowMap, a_window_past_the_end_of_its_space_is_refused_until_it_moves) {
  WindowMap map({plan(8, 2, 64, true), plan(8, 4, std::uint64_t{1} << 20)}, {}, {});
  map.want(wanted(8, 2, 64, 0x10000, true));
  map.want(wanted(8, 4, std::uint64_t{1} << 20, ~std::uint64_t{0} - 0xfff));  // a hostile process aligns nothing
  EXPECT_EQ(in_force(map), Strings{});
  map.want(wanted(8, 2, 64, 0xffc0, true));
  EXPECT_EQ(in_force(map), Strings{"8/2@65472"});
}

TEST(WindowMap, a_reset_takes_every_window_away_and_leaves_what_is_fixed) {
  WindowMap map({plan(8, 0, 0x1000)}, {}, {fixed(Space::kPort, 0x60, 1)});
  map.want(wanted(8, 0, 0x1000, 0x2000));
  map.reset();
  EXPECT_EQ(in_force(map), Strings{});
  EXPECT_EQ(map.claims().size(), 1U);
}

TEST(WindowMap, an_isolated_function_gives_up_its_room_and_comes_back_from_reset) {
  WindowMap map({plan(8, 0, 0x1000), plan(16, 0, 0x1000)}, {}, {});
  map.want(wanted(8, 0, 0x1000, 0x2000));
  map.want(wanted(16, 0, 0x1000, 0x2000));
  EXPECT_EQ(in_force(map), Strings{"8/0@8192"});
  map.set_present(8, false);
  EXPECT_EQ(in_force(map), Strings{"16/0@8192"});
  EXPECT_TRUE(map.want(wanted(8, 0, 0x1000, 0x3000)));
  EXPECT_EQ(in_force(map), Strings{"16/0@8192"}) << "whatever is wanted of it";
  map.set_present(8, true);
  EXPECT_EQ(in_force(map), Strings{"16/0@8192"});
  EXPECT_TRUE(map.want(wanted(8, 0, 0x1000, 0x3000)));
  EXPECT_EQ(in_force(map), (Strings{"16/0@8192", "8/0@12288"}));
}

// The property that keeps two processes from disagreeing for ever: any history that ends in the same wishes ends in the
// same map, the one that a plain reading of the rules gives.
TEST(WindowMap, the_map_is_a_function_of_the_wishes_alone) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 500; ++round) {
    std::vector<WindowPlan> plans;
    for (std::uint8_t devfn = 8; devfn < 48; devfn += 8) {
      for (std::uint32_t bar = 0; bar < 3; ++bar)
        plans.push_back(plan(devfn, bar, std::uint64_t{16} << random() % 4, bar == 2));
    }
    const std::vector<Range> reserved = {*Range::make(0x40, 0x40)};
    const std::vector<Claim> claims = {fixed(Space::kPort, 0x100, 16), fixed(Space::kMemory, 0x200, 32)};
    // The last wish of each window.
    std::vector<Effect> last;
    const auto some_wish = [&](const WindowPlan& of) {
      std::optional<std::uint64_t> base;
      if (random() % 4 != 0) base = random() % 64 * 16 / of.size * of.size;
      return wanted(of.devfn, of.index, of.size, base, of.space == Space::kPort);
    };
    for (const WindowPlan& of : plans) last.push_back(some_wish(of));
    const auto after_some_history = [&] {
      std::vector<WindowPlan> shuffled = plans;
      std::shuffle(shuffled.begin(), shuffled.end(), random);
      WindowMap map(shuffled, reserved, claims);
      for (int i = 0; i < 40; ++i) {
        (void)map.want(some_wish(plans[random() % plans.size()]));
        if (random() % 20 == 0) map.reset();
      }
      std::vector<Effect> order = last;
      std::shuffle(order.begin(), order.end(), random);
      for (const Effect& effect : order) EXPECT_TRUE(map.want(effect));
      return map;
    };
    const Strings found = in_force(after_some_history());
    ASSERT_EQ(in_force(after_some_history()), found);
    // By the rules: RAM, fixed claims, then function by function, BAR by BAR.
    Strings by_the_rules;
    std::vector<std::pair<Space, Range>> taken;
    for (const Claim& one : claims) taken.emplace_back(one.space, *Range::make(one.base, one.length));
    for (const Range& one : reserved) taken.emplace_back(Space::kMemory, one);
    std::vector<std::size_t> order(plans.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return std::pair(plans[a].devfn, plans[a].index) < std::pair(plans[b].devfn, plans[b].index);
    });
    for (const std::size_t i : order) {
      if ((last[i].flags & kEffectEnabled) == 0) continue;
      const Range range = *Range::make(last[i].address, plans[i].size);
      const bool free = std::none_of(taken.begin(), taken.end(), [&](const auto& other) {
        return other.first == plans[i].space && other.second.overlaps(range);
      });
      if (!free) continue;
      taken.emplace_back(plans[i].space, range);
      by_the_rules.push_back(plans[i].owner + "@" + std::to_string(last[i].address));
    }
    std::sort(by_the_rules.begin(), by_the_rules.end());
    ASSERT_EQ(found, by_the_rules);
    // And it can always be published.
    AddressSpace space;
    ASSERT_TRUE(space.publish(after_some_history().claims()));
  }
}

}  // namespace
}  // namespace bulkhead::vmm
