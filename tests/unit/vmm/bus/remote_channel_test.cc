// RemoteChannel: accesses as requests on a ring, and answers that only the VMM can complete.
#include "vmm/bus/remote_channel.h"

#include <gtest/gtest.h>

#include "tests/unit/ipc/ring_fixture.h"

namespace bulkhead::vmm {
namespace {

using ipc::Reply;
using ipc::ReplyStatus;
using ipc::Request;

class FakePending final : public PendingBits {
 public:
  std::uint64_t pending_bits(std::uint8_t devfn, std::uint16_t first_vector) override {
    asked.push_back({devfn, first_vector});
    return bits;
  }
  std::vector<std::pair<std::uint8_t, std::uint16_t>> asked;
  std::uint64_t bits = 0x8877665544332211;
};

class RemoteChannelTest : public ::testing::Test {
 protected:
  std::vector<std::byte> read(const BusAccess& access) {
    std::vector<std::byte> out(std::size_t{access.size} * access.count, std::byte{0xcc});
    channel.read(0, access, out);
    return out;
  }

  ipc::Areas areas;
  ipc::RecordingReceiver effects;
  FakePending pending;
  ipc::RequestProducer ring{areas.requests, areas.replies, areas.doorbell.borrow(), effects, {}};
  RemoteChannel channel{ring, pending};
  std::vector<Request> seen;
  std::function<void(const Request&, Reply&)> answer = [](const Request&, Reply&) {};
  ipc::TinyDevice device{areas, [this](ipc::Ticket, const Request& request, Reply& reply, std::vector<Effect>&) {
                           seen.push_back(request);
                           answer(request, reply);
                         }};
};

TEST_F(RemoteChannelTest, an_access_becomes_one_request_with_all_that_it_says) {
  const std::byte bytes[4] = {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  channel.write(0, {.instance = 3, .region = 2, .size = 4, .count = 1, .offset = 0x123456789a}, bytes);
  ASSERT_EQ(seen.size(), 1U);
  EXPECT_EQ(seen[0].kind, ipc::RequestKind::kWrite);
  EXPECT_EQ(seen[0].instance, 3);
  EXPECT_EQ(seen[0].region, 2);
  EXPECT_EQ(seen[0].size, 4);
  EXPECT_EQ(seen[0].count, 1);
  EXPECT_EQ(seen[0].offset, 0x123456789aU);
  EXPECT_EQ(seen[0].flags, 0);
  EXPECT_EQ(std::memcmp(seen[0].payload, bytes, 4), 0);
  EXPECT_EQ(channel.requests(), 1U);
}

TEST_F(RemoteChannelTest, string_output_is_cut_into_requests_of_at_most_one_slot) {
  for (const std::uint8_t size : {std::uint8_t{1}, std::uint8_t{2}, std::uint8_t{4}, std::uint8_t{8}}) {
    for (const std::uint32_t count : {1U, 3U, 4U, 31U, 32U, 33U, 100U, 4096U / size}) {
      seen.clear();
      std::vector<std::byte> bytes(std::size_t{size} * count);
      for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 256);
      channel.write(0, {.size = size, .count = count}, bytes);
      std::vector<std::byte> arrived;
      for (const Request& request : seen) {
        ASSERT_EQ(request.size, size);
        ASSERT_GE(request.count, 1);
        ASSERT_LE(std::size_t{request.count} * size, ipc::kPayloadBytes);
        const auto* payload = reinterpret_cast<const std::byte*>(request.payload);
        arrived.insert(arrived.end(), payload, payload + std::size_t{request.count} * size);
      }
      ASSERT_EQ(arrived, bytes);
      ASSERT_EQ(seen.size(), (bytes.size() + ipc::kPayloadBytes - 1) / ipc::kPayloadBytes);
    }
  }
}

TEST_F(RemoteChannelTest, string_input_is_put_together_again) {
  std::uint8_t next = 0;
  answer = [&next](const Request& request, Reply& reply) {
    std::memset(reply.payload, 0xee, sizeof reply.payload);  // beyond what was asked for: never looked at
    for (std::uint32_t i = 0; i < std::uint32_t{request.count} * request.size; ++i) reply.payload[i] = next++;
  };
  for (const std::uint32_t count : {1U, 7U, 8U, 9U, 50U}) {
    next = 0;
    const std::vector<std::byte> bytes = read({.size = 4, .count = count});
    for (std::size_t i = 0; i < bytes.size(); ++i) ASSERT_EQ(bytes[i], static_cast<std::byte>(i));
  }
}

TEST_F(RemoteChannelTest, a_posted_write_does_not_wait) {
  const std::byte bytes[2] = {};
  channel.write(0, {.size = 2, .count = 1, .offset = 4, .posted = true}, bytes);
  ASSERT_TRUE(ring.drain(60'000 * ipc::kMillisecond));
  device.stop();
  ASSERT_EQ(seen.size(), 1U);
  EXPECT_EQ(seen[0].flags, ipc::kPosted);
  EXPECT_EQ(channel.posted(), 1U);
  EXPECT_EQ(channel.requests(), 0U);
}

TEST_F(RemoteChannelTest, dropped_poisoned_and_unknown_answers_read_ones) {
  for (const int status : {2, 4, 0, 5, 6, 255}) {
    answer = [status](const Request&, Reply& reply) {
      reply.status = static_cast<ReplyStatus>(status);
      std::memset(reply.payload, 0, sizeof reply.payload);
    };
    for (const std::byte byte : read({.size = 8, .count = 1})) EXPECT_EQ(byte, std::byte{0xff}) << status;
  }
}

TEST_F(RemoteChannelTest, pending_bits_come_from_the_vmm) {
  const auto ask = [&](std::uint16_t function, std::uint16_t first, std::uint8_t byte, std::uint8_t size) {
    answer = [=](const Request&, Reply& reply) {
      reply.status = ReplyStatus::kPendingBits;
      reply.function = function;
      std::memcpy(reply.payload, &first, sizeof first);
      reply.payload[2] = byte;
    };
    std::uint64_t value = 0;
    const std::vector<std::byte> out = read({.size = size, .count = 1});
    std::memcpy(&value, out.data(), size);
    return value;
  };
  EXPECT_EQ(ask(0x18, 64, 0, 8), 0x8877665544332211U);
  EXPECT_EQ(pending.asked.back(), (std::pair<std::uint8_t, std::uint16_t>{0x18, 64}));
  EXPECT_EQ(ask(0x18, 0, 4, 4), 0x88776655U);
  EXPECT_EQ(ask(0x18, 0, 7, 1), 0x88U);
  // A hostile device asks for what is not there.
  const std::size_t before = pending.asked.size();
  EXPECT_EQ(ask(0x18, 0, 5, 4), 0xffffffffU);
  EXPECT_EQ(ask(0x18, 0, 255, 1), 0xffU);
  EXPECT_EQ(ask(0x100, 0, 0, 4), 0xffffffffU);
  EXPECT_EQ(pending.asked.size(), before);
}

TEST_F(RemoteChannelTest, pending_bits_as_the_answer_to_string_input_are_ones) {
  answer = [](const Request&, Reply& reply) { reply.status = ReplyStatus::kPendingBits; };
  for (const std::byte byte : read({.size = 4, .count = 8})) EXPECT_EQ(byte, std::byte{0xff});
}

TEST_F(RemoteChannelTest, a_dead_device_reads_ones_and_takes_no_time) {
  ring.close();
  for (const std::byte byte : read({.size = 2, .count = 40})) EXPECT_EQ(byte, std::byte{0xff});
  const std::byte bytes[4] = {};
  channel.write(0, {.size = 4, .count = 1}, bytes);
  channel.write(0, {.size = 4, .count = 1, .posted = true}, bytes);
  EXPECT_FALSE(channel.request(ipc::RequestKind::kReset));
  EXPECT_TRUE(seen.empty());
}

TEST_F(RemoteChannelTest, the_vmms_own_requests_carry_their_payload_and_offset) {
  const auto reply = channel.request(ipc::RequestKind::kFunctionControl, 2, 0x12345678, 99);
  ASSERT_TRUE(reply);
  ASSERT_EQ(seen.size(), 1U);
  EXPECT_EQ(seen[0].kind, ipc::RequestKind::kFunctionControl);
  EXPECT_EQ(seen[0].instance, 2);
  EXPECT_EQ(seen[0].offset, 99U);
  EXPECT_EQ(ipc::value_of(seen[0]), 0x12345678U);
}

}  // namespace
}  // namespace bulkhead::vmm
