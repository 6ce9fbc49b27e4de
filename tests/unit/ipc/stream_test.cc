// StreamEnd: the VMM's end of a byte stream, against honest and hostile indexes.
#include "ipc/ring/stream.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "tests/unit/ipc/ring_fixture.h"

namespace bulkhead::ipc {
namespace {

constexpr std::uint32_t kStream = 3;

class StreamEndTest : public ::testing::Test {
 protected:
  // What a device does after its commit: bytes first, then the index.
  void device_writes(std::uint64_t count) {
    std::uint64_t at = areas.replies.output_produced[kStream].load();
    for (std::uint64_t i = 0; i < count; ++i, ++at) areas.replies.output[kStream][at % kOutputBytes] = byte_at(at);
    areas.replies.output_produced[kStream].store(at, std::memory_order_release);
  }
  static std::uint8_t byte_at(std::uint64_t index) { return static_cast<std::uint8_t>(index * 131 + index / 251); }

  Areas areas;
  StreamEnd end{areas.requests, areas.replies, kStream};
};

TEST_F(StreamEndTest, nothing_is_there_at_first_and_all_room_is) {
  std::uint8_t buffer[16];
  EXPECT_EQ(end.take(buffer), 0U);
  EXPECT_EQ(end.room(), kInputBytes);
}

TEST_F(StreamEndTest, output_comes_byte_for_byte_through_many_turns_of_the_ring) {
  std::mt19937 random(1);
  std::uint64_t written = 0;
  std::uint64_t taken = 0;
  std::vector<std::uint8_t> buffer(kOutputBytes);
  while (taken < 20 * kOutputBytes) {
    const std::uint64_t n = std::min<std::uint64_t>(random() % 6000, kOutputBytes - (written - taken));
    device_writes(n);
    written += n;
    const auto got = end.take(std::span(buffer).first(1 + random() % 7000));
    ASSERT_TRUE(got);
    for (std::size_t i = 0; i < *got; ++i) ASSERT_EQ(buffer[i], byte_at(taken + i));
    taken += *got;
    ASSERT_EQ(areas.requests.output_consumed[kStream].load(), taken);
  }
}

TEST_F(StreamEndTest, a_full_ring_is_taken_whole) {
  device_writes(kOutputBytes);
  std::vector<std::uint8_t> buffer(kOutputBytes + 1);
  EXPECT_EQ(end.take(buffer), kOutputBytes);
}

TEST_F(StreamEndTest, an_output_index_that_no_device_can_have_is_refused) {
  std::uint8_t buffer[16];
  for (const std::uint64_t produced : {std::uint64_t{kOutputBytes} + 1, ~std::uint64_t{0}, std::uint64_t{1} << 63}) {
    areas.replies.output_produced[kStream].store(produced);
    EXPECT_FALSE(end.take(buffer));
  }
  // Nor one that goes back.
  areas.replies.output_produced[kStream].store(10);
  EXPECT_EQ(end.take(buffer), 10U);
  areas.replies.output_produced[kStream].store(9);
  EXPECT_FALSE(end.take(buffer));
}

TEST_F(StreamEndTest, input_is_placed_byte_for_byte_through_many_turns_of_the_ring) {
  std::mt19937 random(2);
  std::uint64_t given = 0;
  std::uint64_t consumed = 0;
  while (given < 20 * kInputBytes) {
    const auto room = end.room();
    ASSERT_TRUE(room);
    ASSERT_EQ(*room, kInputBytes - (given - consumed));
    std::vector<std::uint8_t> bytes(std::min<std::size_t>(*room, random() % 3000));
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = byte_at(given + i);
    end.give(bytes);
    given += bytes.size();
    ASSERT_EQ(areas.requests.input_produced[kStream].load(), given);
    for (std::uint64_t n = random() % 3000; n > 0 && consumed < given; --n, ++consumed)
      ASSERT_EQ(areas.requests.input[kStream][consumed % kInputBytes], byte_at(consumed));
    areas.replies.input_consumed[kStream].store(consumed);
  }
}

TEST_F(StreamEndTest, an_input_index_that_no_device_can_have_is_refused) {
  end.give(std::vector<std::uint8_t>(100));
  for (const std::uint64_t consumed :
       {std::uint64_t{101}, std::uint64_t{1} << 63, std::uint64_t{100} - kInputBytes - 1}) {
    areas.replies.input_consumed[kStream].store(consumed);
    EXPECT_FALSE(end.room()) << consumed;
  }
}

TEST_F(StreamEndTest, streams_do_not_touch_each_other) {
  device_writes(10);
  StreamEnd other(areas.requests, areas.replies, kStream + 1);
  std::uint8_t buffer[16];
  EXPECT_EQ(other.take(buffer), 0U);
  other.give(std::vector<std::uint8_t>(5));
  EXPECT_EQ(end.room(), kInputBytes);
}

}  // namespace
}  // namespace bulkhead::ipc
