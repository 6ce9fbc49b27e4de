#include "vmm/process/device_events.h"

#include <gtest/gtest.h>

namespace bulkhead::vmm {
namespace {

control::DeviceEvent died(const std::string& role) {
  control::DeviceEvent event;
  event.kind = control::DeviceEventKind::kDied;
  event.role = role;
  event.cause = role + " died";
  return event;
}

TEST(DeviceEvents, are_numbered_in_order_and_asked_for_from_any_of_them_on) {
  DeviceEvents events;
  EXPECT_EQ(events.last(), 0U);
  for (int i = 0; i < 5; ++i) events.add(died("role" + std::to_string(i)));
  EXPECT_EQ(events.last(), 5U);
  const auto all = events.since(0, 100);
  ASSERT_EQ(all.size(), 5U);
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(all[i].number, i + 1);
    EXPECT_EQ(all[i].role, "role" + std::to_string(i));
    EXPECT_GT(all[i].time_ns, 0);
  }
  const auto some = events.since(2, 2);
  ASSERT_EQ(some.size(), 2U);
  EXPECT_EQ(some[0].number, 3U);
  EXPECT_TRUE(events.since(5, 100).empty());
  EXPECT_TRUE(events.since(UINT64_MAX, 100).empty());
}

TEST(DeviceEvents, the_oldest_give_way_and_numbers_tell_that_they_did) {
  DeviceEvents events;
  for (std::size_t i = 0; i < DeviceEvents::kKept + 10; ++i) events.add(died("role"));
  const auto all = events.since(0, SIZE_MAX);
  ASSERT_EQ(all.size(), DeviceEvents::kKept);
  EXPECT_EQ(all.front().number, 11U);
  EXPECT_EQ(all.back().number, events.last());
}

TEST(DeviceEvents, a_listener_hears_of_each_and_may_ask) {
  DeviceEvents events;
  std::vector<std::uint64_t> heard;
  events.set_listener([&] { heard.push_back(events.last()); });
  events.add(died("a"));
  events.add(died("b"));
  EXPECT_EQ(heard, (std::vector<std::uint64_t>{1, 2}));
  events.set_listener({});
  events.add(died("c"));
  EXPECT_EQ(heard.size(), 2U);
}

}  // namespace
}  // namespace bulkhead::vmm
