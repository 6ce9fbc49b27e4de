// HostPublisher: what is stored when, after a commit and after a death at any point of it.
#include "devproc/host/guest_publisher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <optional>
#include <random>

#include "tests/fakes/fake_state.h"
#include "tests/unit/devproc/host/role_rig.h"

namespace bulkhead::devproc {
namespace {

class Publisher : public ::testing::Test {
 protected:
  Publisher() { first.begin(false); }
  std::uint64_t at(GuestPhys address) { return memory.load<std::uint64_t>(address).value_or(0); }
  // A successor, with the state as it was committed.
  HostPublisher& succeed() {
    successor.emplace(next_state, words, memory);
    for (std::size_t i = 0; i < state.count(); ++i)
      std::copy(state.bytes(i).begin(), state.bytes(i).end(), next_state.bytes(i).begin());
    successor->begin(true);
    return *successor;
  }

  alignas(4096) std::array<std::byte, 8192> bytes{};
  SpanMemory memory{bytes};
  FakeStateAllocator state;
  FakeStateAllocator next_state;
  ipc::PublicationWords words{};
  HostPublisher first{state, words, memory};
  std::optional<HostPublisher> successor;
};

TEST_F(Publisher, stores_after_the_commit_in_order_and_once) {
  first.publish(0x100, 1);
  first.publish(0x108, 2);
  first.publish(0x100, 3);
  EXPECT_TRUE(first.pending());
  EXPECT_EQ(at(0x100), 0U);
  first.show();
  EXPECT_EQ(at(0x100), 3U);
  EXPECT_EQ(at(0x108), 2U);
  EXPECT_EQ(words.published.load(), 3U);
  memory.store(0x108, std::uint64_t{99});
  first.show();
  first.new_input();
  EXPECT_FALSE(first.pending());
  first.show();
  EXPECT_EQ(at(0x108), 99U);
}

TEST_F(Publisher, a_successor_stores_what_is_left_and_nothing_else) {
  for (std::size_t done = 0; done <= 3; ++done) {
    words.published.store(0);
    bytes = {};
    FakeStateAllocator own_state;
    HostPublisher own(own_state, words, memory);
    own.begin(false);
    for (std::uint64_t i = 0; i < 3; ++i) own.publish(0x100 + 8 * i, i + 1);
    words.published.store(done);  // it died there
    FakeStateAllocator other_state;
    HostPublisher other(other_state, words, memory);
    for (std::size_t i = 0; i < own_state.count(); ++i)
      std::copy(own_state.bytes(i).begin(), own_state.bytes(i).end(), other_state.bytes(i).begin());
    other.begin(true);
    other.show();
    for (std::uint64_t i = 0; i < 3; ++i) EXPECT_EQ(at(0x100 + 8 * i), i < done ? 0 : i + 1) << done;
    other.new_input();
    other.publish(0x200, 7);
    other.show();
    EXPECT_EQ(at(0x200), 7U);
    EXPECT_EQ(words.published.load(), 4U);
  }
}

TEST_F(Publisher, goes_on_over_many_inputs) {
  std::uint64_t total = 0;
  for (std::uint64_t input = 1; input < 50; ++input) {
    first.new_input();
    const std::uint64_t count = input * 7 % (HostPublisher::kMostEntries + 1);
    for (std::uint64_t i = 0; i < count; ++i) first.publish(8 * i, input * 1000 + i);
    EXPECT_EQ(first.room(), HostPublisher::kMostEntries - count);
    first.show();
    total += count;
    EXPECT_EQ(words.published.load(), total);
    for (std::uint64_t i = 0; i < count; ++i) ASSERT_EQ(at(8 * i), input * 1000 + i);
  }
}

TEST_F(Publisher, takes_no_more_than_it_has_room_for) {
  for (std::uint64_t i = 0; i < HostPublisher::kMostEntries + 10; ++i) first.publish(8 * i, 5);
  EXPECT_EQ(first.room(), 0U);
  first.show();
  EXPECT_EQ(at(8 * (HostPublisher::kMostEntries - 1)), 5U);
  EXPECT_EQ(at(8 * HostPublisher::kMostEntries), 0U);
}

TEST_F(Publisher, places_that_are_no_memory_are_passed_over) {
  first.publish(UINT64_MAX - 7, 1);
  first.publish(8192, 1);
  first.publish(0x101, 1);
  first.publish(0x200, 4);
  first.show();
  EXPECT_EQ(words.published.load(), 4U);
  EXPECT_EQ(at(0x200), 4U);
  EXPECT_EQ(at(0x101), 0U);
}

TEST_F(Publisher, counts_that_nobody_honest_left_store_nothing) {
  first.publish(0x100, 1);
  words.published.store(UINT64_MAX - 2);
  HostPublisher& other = succeed();
  other.show();
  EXPECT_EQ(at(0x100), 0U);
  other.new_input();
  other.publish(0x108, 2);
  other.show();
  EXPECT_EQ(at(0x108), 2U);
}

TEST_F(Publisher, any_bytes_as_state_are_survived) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 2000; ++i) {
    for (std::size_t part = 0; part < state.count(); ++part) {
      for (std::byte& one : state.bytes(part))
        one = random() % 4 == 0 ? static_cast<std::byte>(random()) : std::byte{0};
    }
    words.published.store(random() % 3 == 0 ? random() : random() % 200);
    FakeStateAllocator own_state;
    HostPublisher own(own_state, words, memory);
    for (std::size_t part = 0; part < state.count(); ++part)
      std::copy(state.bytes(part).begin(), state.bytes(part).end(), own_state.bytes(part).begin());
    own.begin(true);
    own.show();
    own.new_input();
    own.publish(0x108, 100 + static_cast<std::uint64_t>(i));
    own.show();
    ASSERT_EQ(at(0x108), 100 + static_cast<std::uint64_t>(i));
  }
}

TEST(SettledPublication, counts_the_store_that_was_not_marked) {
  using ipc::settle_publication;
  EXPECT_EQ(settle_publication(7, 0x1234, 0x1234).published, 8U);
  EXPECT_EQ(settle_publication(7, 0x1234, 0x1235).published, 7U);
  EXPECT_EQ(settle_publication(7, 0, 0).published, 7U) << "a process that did not say where";
  EXPECT_EQ(settle_publication(7, 0x1234, 0x1234).publish_mark, 0U) << "the next one says where it stands itself";
}

}  // namespace
}  // namespace bulkhead::devproc
