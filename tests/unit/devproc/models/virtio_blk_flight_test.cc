// Requests in flight: their order, their limits, resets, and successors that take them up.
#include <gmock/gmock.h>

#include "tests/unit/devproc/models/virtio_blk_rig.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio;
using namespace virtio_blk_spec;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;

constexpr std::uint8_t kNoStatus = BlkRig::kNoStatus;

GuestPhys place(std::size_t i) { return BlkRig::kRequests + 0x800 * i; }

std::vector<std::uint16_t> taken(BlkRig& rig, QueueId queue = 0) {
  std::vector<std::uint16_t> ids;
  while (const auto used = rig.driver(queue).take_used()) ids.push_back(used->id);
  EXPECT_EQ(rig.driver(queue).complaint(), "");
  return ids;
}

// `count` reads of one sector each, kicked.
std::vector<std::uint16_t> reads(BlkRig& rig, std::size_t count, QueueId queue = 0, std::size_t from = 0) {
  std::vector<std::uint16_t> ids;
  for (std::size_t i = from; i < from + count; ++i)
    ids.push_back(rig.add(place(i), kVirtioBlkTIn, i % 64, 512, queue, true));
  rig.kick(queue);
  return ids;
}

TEST(VirtioBlkFlight, disk_begins_after_the_commit) {
  BlkRig rig;
  rig.add(place(0), kVirtioBlkTIn, 0, 512);
  (void)rig.device->on_queue(0);
  EXPECT_EQ(rig.disk.noted.size(), 1U);
  EXPECT_TRUE(rig.disk.begun.empty());
  rig.commit();
  EXPECT_EQ(rig.disk.begun.size(), 1U);
  rig.on_backend();
  EXPECT_THAT(taken(rig), IsEmpty()) << "it is not over";
  EXPECT_EQ(rig.status(place(0)), kNoStatus);
}

TEST(VirtioBlkFlight, split_ring_is_used_in_the_order_of_completion) {
  BlkRig rig;
  const auto ids = reads(rig, 3);
  for (int i = 0; i < 3; ++i) {
    rig.disk.run_one(FakeBlock::kReversed);
    rig.on_backend();
  }
  EXPECT_THAT(taken(rig), ElementsAre(ids[2], ids[1], ids[0]));
}

TEST(VirtioBlkFlight, completions_wait_while_bus_mastering_is_off) {
  BlkRig rig;
  const auto ids = reads(rig, 2);
  rig.device->on_function_control(kControlMemoryEnable);
  rig.commit();
  rig.disk.run();
  rig.on_backend();
  EXPECT_THAT(taken(rig), IsEmpty());
  EXPECT_EQ(rig.status(place(0)), kNoStatus);
  rig.take_over();
  EXPECT_THAT(taken(rig), IsEmpty());
  rig.device->on_function_control(kControlMemoryEnable | kControlBusMaster);
  rig.commit();
  EXPECT_THAT(taken(rig), ElementsAreArray(ids));
  EXPECT_EQ(rig.status(place(1)), kVirtioBlkSOk);
}

TEST(VirtioBlkFlight, packed_ring_is_used_in_the_order_of_taking) {
  BlkRig rig({.packed = true});
  auto ids = reads(rig, 3);
  ids.push_back(rig.add(place(3), kVirtioBlkTGetId, 0, 20));
  rig.kick();
  rig.disk.run_one(FakeBlock::kReversed);
  rig.disk.run_one(FakeBlock::kReversed);
  rig.on_backend();
  EXPECT_THAT(taken(rig), IsEmpty()) << "held back behind the first";
  EXPECT_TRUE(rig.driver().intact());
  rig.take_over();
  rig.disk.run_one();
  rig.on_backend();
  EXPECT_THAT(taken(rig), ElementsAreArray(ids));
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(rig.status(place(i)), kVirtioBlkSOk);
}

TEST(VirtioBlkFlight, more_completions_than_one_input_can_show) {
  for (const bool packed : {false, true}) {
    BlkRig rig({.packed = packed, .queue_size = 128});
    const auto ids = reads(rig, 100);
    rig.disk.run();
    EXPECT_TRUE(rig.device->on_backend(0));
    rig.commit();
    EXPECT_EQ(taken(rig).size(), std::size_t{kMaxShown});
    rig.on_backend();
    EXPECT_EQ(taken(rig).size(), 100U - kMaxShown);
  }
}

// 100 that are over, and wait for the first one.
std::vector<std::uint16_t> hold_back(BlkRig& rig) {
  auto ids = reads(rig, 100);
  for (int i = 0; i < 99; ++i) rig.disk.run_one(FakeBlock::kReversed);
  rig.on_backend();
  EXPECT_THAT(taken(rig), IsEmpty());
  rig.disk.run_one();
  return ids;
}

TEST(VirtioBlkFlight, more_held_back_than_one_input_can_show) {
  BlkRig rig({.packed = true, .queue_size = 128});
  const auto ids = hold_back(rig);
  rig.on_backend();
  EXPECT_THAT(taken(rig), ElementsAreArray(ids));
}

TEST(VirtioBlkFlight, kick_goes_on_with_what_is_left_to_show) {
  BlkRig rig({.packed = true, .queue_size = 128});
  hold_back(rig);
  EXPECT_TRUE(rig.device->on_backend(0));
  rig.commit();
  EXPECT_EQ(taken(rig).size(), 64U);
  for (std::size_t i = 0; i < 40; ++i) rig.add(place(100 + i), kVirtioBlkTGetId, 0, 20, 0, true);
  rig.kick();
  EXPECT_EQ(taken(rig).size(), 36U + 40U);
}

TEST(VirtioBlkFlight, request_that_comes_while_kicks_are_off_is_seen) {
  BlkRig rig({.queues = 4, .queue_size = 128});
  reads(rig, 70);
  int looks = 0;
  rig.memory.after_access = [&] {
    // All were taken, the next look into the ring found nothing, and kicks are still off.
    if (rig.blk_storage->state->taken[0] != 70 || ++looks != 2) return;
    rig.add(place(70), kVirtioBlkTIn, 1, 512, 0, true);
  };
  rig.disk.run();
  rig.on_backend();
  rig.memory.after_access = nullptr;
  EXPECT_EQ(rig.blk_storage->state->taken[0], 71U);
}

TEST(VirtioBlkFlight, more_immediate_answers_than_one_input_can_show) {
  BlkRig rig({.queue_size = 128});
  // The first one holds the others back in a packed ring; here they do not wait for it.
  for (std::size_t i = 0; i < 100; ++i) rig.add(place(i), kVirtioBlkTGetId, 0, 20, 0, true);
  rig.kick();
  EXPECT_EQ(taken(rig).size(), 100U);
}

TEST(VirtioBlkFlight, full_disk_blocks_the_queue_and_a_completion_goes_on) {
  for (const bool packed : {false, true}) {
    BlkRig rig({.packed = packed, .queues = 4, .queue_size = 128});
    reads(rig, 100);
    EXPECT_EQ(rig.disk.in_flight(), 64U) << "a quarter of what the disk takes";
    EXPECT_FALSE(rig.driver().must_kick() && packed) << "kicks would be in vain";
    // Another queue is not kept from its share.
    reads(rig, 1, 1, 100);
    EXPECT_EQ(rig.disk.in_flight(), 65U);
    rig.disk.run_one();
    rig.on_backend();
    EXPECT_EQ(rig.disk.in_flight(), 65U) << "the next one was taken";
    while (rig.disk.run_one()) rig.on_backend();
    EXPECT_EQ(taken(rig).size(), 100U);
    EXPECT_EQ(taken(rig, 1).size(), 1U);
    rig.add(place(0), kVirtioBlkTFlush, 0, 0);
    EXPECT_TRUE(rig.driver().must_kick()) << "kicks count again";
    EXPECT_EQ(rig.disk.complaint, "");
  }
}

TEST(VirtioBlkFlight, queues_have_requests_of_their_own) {
  BlkRig rig({.queues = 3});
  for (QueueId queue = 0; queue < 3; ++queue) reads(rig, 2, queue, queue * 2U);
  while (rig.disk.run_one(FakeBlock::kReversed)) rig.on_backend();
  for (QueueId queue = 0; queue < 3; ++queue) EXPECT_EQ(taken(rig, queue).size(), 2U) << queue;
  for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(rig.bytes(place(i) + 512, 512), rig.on_disk(i));
}

// ---- Resets ----

TEST(VirtioBlkReset, is_over_when_the_last_request_is) {
  BlkRig rig;
  rig.add(place(0), kVirtioBlkTOut, 3, 512);
  rig.kick();
  rig.add(place(1), kVirtioBlkTIn, 4, 512);
  (void)rig.device->on_queue(0);  // submitted, not begun
  EXPECT_TRUE(rig.device->write({kVirtioRegisters, kVirtioCommonOffset + kDeviceStatus, 1}, 0));
  EXPECT_TRUE(rig.disk.noted.empty()) << "what has not begun never does";
  rig.commit();
  EXPECT_EQ(rig.disk.begun.size(), 1U);
  for (int death = 0; death < 2; ++death) {
    EXPECT_NE(rig.common(kDeviceStatus, 1), 0U) << "the driver's buffers are still in use";
    rig.set_common(kDeviceStatus, 1, kStatusAcknowledge);
    rig.set_common(kDeviceStatus, 1, 0);
    EXPECT_NE(rig.common(kDeviceStatus, 1), 0U);
    rig.take_over();
  }
  rig.set_common(kQueueSelect, 2, 0);
  rig.set_common(kQueueEnable, 2, 1);
  EXPECT_EQ(rig.common(kQueueEnable, 2), 0U) << "not before the reset is over";
  rig.disk.run();
  const auto status = rig.status(place(0));
  rig.on_backend();
  EXPECT_EQ(rig.common(kDeviceStatus, 1), 0U);
  EXPECT_EQ(rig.status(place(0)), status) << "memory is the driver's again";
  EXPECT_EQ(rig.disk.performed.size(), 1U);
  rig.start_driver();
  EXPECT_EQ(rig.request(kVirtioBlkTIn, 3, 512), kVirtioBlkSOk);
}

TEST(VirtioBlkReset, old_completion_is_not_taken_for_a_new_one) {
  BlkRig rig;
  rig.add(place(0), kVirtioBlkTIn, 3, 512);
  rig.kick();
  const std::uint32_t old = rig.disk.begun[0].what.tag;
  rig.set_common(kDeviceStatus, 1, 0);
  rig.disk.run();
  rig.on_backend();
  rig.start_driver();
  rig.add(place(0), kVirtioBlkTIn, 3, 512);
  rig.kick();
  ASSERT_EQ(rig.disk.begun.size(), 1U);
  EXPECT_NE(rig.disk.begun[0].what.tag, old);
  for (const std::uint32_t tag :
       {old, std::uint32_t{0xffff}, std::uint32_t{0xffff'ffff}, old + 1, old + (1U << 16) + 1})
    rig.disk.done.push_back({tag, BlockStatus::kOk});
  rig.on_backend();
  EXPECT_THAT(taken(rig), IsEmpty());
  rig.settle();
  EXPECT_EQ(taken(rig).size(), 1U);
  rig.disk.done.push_back({old + (1U << 16), BlockStatus::kError});
  rig.on_backend();
  EXPECT_THAT(taken(rig), IsEmpty()) << "told twice";
}

TEST(VirtioBlkReset, queue_reset_forgets_that_queue_alone) {
  BlkRig rig({.queues = 2});
  reads(rig, 3, 0);
  reads(rig, 2, 1, 3);
  rig.set_common(kQueueSelect, 2, 0);
  rig.set_common(kQueueReset, 2, 1);
  EXPECT_EQ(rig.common(kQueueReset, 2), 1U);
  EXPECT_EQ(rig.common(kQueueEnable, 2), 0U);
  rig.take_over();
  EXPECT_EQ(rig.common(kQueueReset, 2), 1U);
  rig.set_common(kQueueSelect, 2, 1);
  EXPECT_EQ(rig.common(kQueueReset, 2), 0U) << "the other one";
  EXPECT_NE(rig.common(kDeviceStatus, 1), 0U);
  rig.set_common(kQueueSelect, 2, 0);
  rig.disk.run();
  rig.on_backend();
  EXPECT_EQ(rig.common(kQueueReset, 2), 0U);
  rig.drivers[0] = std::make_unique<VirtioDriver>(rig.fakes.memory, rig.driver(0).layout());
  rig.start_queue(0);
  const auto ids = reads(rig, 1, 0, 5);
  rig.settle();
  EXPECT_THAT(taken(rig, 0), ElementsAreArray(ids));
  EXPECT_EQ(taken(rig, 1).size(), 2U);
}

TEST(VirtioBlkReset, broken_queue_drops_what_comes_back) {
  BlkRig rig;
  reads(rig, 2);
  rig.device->on_queue_poisoned(0);
  rig.commit();
  EXPECT_TRUE(rig.needs_reset());
  rig.disk.run();
  rig.on_backend();
  EXPECT_THAT(taken(rig), IsEmpty());
  rig.set_common(kDeviceStatus, 1, 0);
  rig.start_driver();
  EXPECT_EQ(rig.request(kVirtioBlkTIn, 3, 512), kVirtioBlkSOk);
}

TEST(VirtioBlkReset, nothing_is_taken_once_a_reset_is_needed) {
  BlkRig rig({.queues = 4, .queue_size = 128});
  reads(rig, 100);
  rig.device->on_queue_poisoned(1);
  rig.commit();
  rig.disk.run();
  rig.on_backend();
  EXPECT_EQ(rig.blk_storage->state->taken[0], 64U);
  EXPECT_EQ(rig.disk.in_flight(), 0U);
}

// ---- Take-over ----

TEST(VirtioBlkTakeOver, what_was_begun_is_not_run_again) {
  for (const bool packed : {false, true}) {
    BlkRig rig({.packed = packed});
    const auto ids = reads(rig, 3);
    rig.disk.run_one();
    rig.take_over();
    EXPECT_EQ(rig.disk.adopted, 3U);
    rig.settle();
    EXPECT_EQ(rig.disk.performed.size(), 3U);
    EXPECT_THAT(taken(rig), ElementsAreArray(ids));
  }
}

TEST(VirtioBlkTakeOver, what_was_lost_is_submitted_again_in_order) {
  BlkRig rig;
  for (std::size_t i = 0; i < 3; ++i) rig.add(place(i), kVirtioBlkTOut, 10 - i, 512);
  rig.kick();
  const auto tag = [&](std::size_t i) { return rig.disk.begun[i].what.tag; };
  const std::vector<std::uint32_t> tags = {tag(0), tag(1), tag(2)};
  rig.disk.begun.clear();  // a disk that died with its process
  rig.take_over();
  ASSERT_EQ(rig.disk.begun.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(tag(i), tags[i]);
    EXPECT_EQ(rig.disk.begun[i].what.offset, 512 * (10 - i));
    EXPECT_EQ(rig.disk.begun[i].what.op, BlockOp::kWrite);
  }
  rig.settle();
  EXPECT_EQ(taken(rig).size(), 3U);
}

TEST(VirtioBlkTakeOver, completion_that_was_not_committed_is_told_again) {
  BlkRig rig;
  const auto ids = reads(rig, 1);
  rig.disk.run();
  (void)rig.device->on_backend(0);
  rig.take_over();
  EXPECT_THAT(taken(rig), IsEmpty());
  rig.on_backend();
  EXPECT_THAT(taken(rig), ElementsAreArray(ids));
  EXPECT_EQ(rig.disk.performed.size(), 1U);
}

TEST(VirtioBlkTakeOver, blocked_queue_goes_on) {
  BlkRig rig({.queues = 4, .queue_size = 128});
  reads(rig, 100);
  rig.take_over();
  while (rig.disk.run_one()) rig.on_backend();
  EXPECT_EQ(taken(rig).size(), 100U);
}

TEST(VirtioBlkTakeOver, reset_cancels_what_the_predecessor_began) {
  BlkRig rig;
  reads(rig, 3);
  rig.take_over();
  EXPECT_EQ(rig.disk.adopted, 3U);
  rig.set_common(kDeviceStatus, 1, 0);
  rig.take_over();
  EXPECT_NE(rig.common(kDeviceStatus, 1), 0U);
  rig.disk.run();
  rig.on_backend();
  EXPECT_EQ(rig.common(kDeviceStatus, 1), 0U);
  EXPECT_THAT(taken(rig), IsEmpty());
  EXPECT_EQ(rig.disk.performed.size(), 3U) << "nothing is run again";
}

TEST(VirtioBlkTakeOver, chain_that_was_changed_breaks_the_queue) {
  for (const int how : {0, 1}) {
    BlkRig rig;
    const std::uint16_t id = rig.add(place(0), kVirtioBlkTIn, 0, 512);
    rig.kick();
    const GuestPhys descriptor = rig.driver().desc() + 16U * id;
    if (how == 0) rig.fakes.memory.store<std::uint16_t>(descriptor + 14, 999);  // next: leaves the table
    if (how == 1) rig.fakes.memory.store<std::uint16_t>(descriptor + 12, 0);    // ends: no status byte
    rig.disk.die();
    rig.build();
    rig.device->restore();
    rig.commit();
    rig.on_backend();
    EXPECT_TRUE(rig.needs_reset()) << how;
    rig.set_common(kDeviceStatus, 1, 0);
    EXPECT_EQ(rig.disk.begun.size(), 1U);
    EXPECT_NE(rig.common(kDeviceStatus, 1), 0U);
    rig.disk.run();
    rig.on_backend();
    EXPECT_EQ(rig.common(kDeviceStatus, 1), 0U) << "the buffers are free";
  }
}

TEST(VirtioBlkTakeOver, header_that_was_changed_is_answered_as_it_is_now) {
  BlkRig rig;
  rig.add(place(0), kVirtioBlkTOut, 0, 512);
  rig.kick();
  rig.disk.begun.clear();
  rig.put_header(place(0), kVirtioBlkTOut, 1000);
  rig.disk.die();
  rig.build();
  rig.device->restore();
  rig.commit();
  rig.on_backend();
  EXPECT_EQ(taken(rig).size(), 1U);
  EXPECT_EQ(rig.status(place(0)), kVirtioBlkSIoErr);
  EXPECT_TRUE(rig.disk.performed.empty());
}

class VirtioBlkHostileState : public ::testing::Test {
 protected:
  VirtioBlkHostileState() {
    reads(rig, 2);
    for (VirtioBlkRecord& record : rig.blk_storage->parts[0].mut().records)
      (record.phase != VirtioBlkRecord::kFree ? busy : free).push_back(&record);
  }
  void restore() {
    rig.device->restore();
    rig.commit();
    rig.on_backend();
  }
  BlkRig rig;
  std::vector<VirtioBlkRecord*> busy, free;
};

TEST_F(VirtioBlkHostileState, two_records_of_one_chain_break_the_queue) {
  *busy[1] = *busy[0];
  restore();
  EXPECT_TRUE(rig.needs_reset());
}

TEST_F(VirtioBlkHostileState, record_of_another_chain_breaks_the_queue) {
  std::swap(busy[0]->position, busy[1]->position);
  restore();
  EXPECT_TRUE(rig.needs_reset());
}

TEST_F(VirtioBlkHostileState, record_of_another_length_breaks_the_queue) {
  ++busy[0]->descriptors;
  restore();
  EXPECT_TRUE(rig.needs_reset());
}

TEST_F(VirtioBlkHostileState, fields_come_into_range) {
  *free[0] = {.status_at = 1, .generation = 5, .phase = 77, .status = 3};
  *free[1] = {.order = 9, .generation = 6, .reserved = {1}};
  busy[0]->phase = VirtioBlkRecord::kOver;
  busy[0]->status = 0x80;
  restore();
  EXPECT_EQ(*free[0], VirtioBlkRecord{.generation = 5});
  EXPECT_EQ(*free[1], VirtioBlkRecord{.generation = 6});
  EXPECT_EQ(taken(rig).size(), 1U);
  EXPECT_EQ(std::min(rig.status(place(0)), rig.status(place(1))), kVirtioBlkSIoErr);
}

TEST_F(VirtioBlkHostileState, status_byte_outside_ram_needs_a_reset) {
  busy[0]->phase = VirtioBlkRecord::kOver;
  busy[0]->status_at = BlkRig::kOutside;
  restore();
  EXPECT_TRUE(rig.needs_reset());
}

TEST(VirtioBlkTakeOver, any_state_comes_into_range) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 300; ++round) {
    BlkRig rig({.packed = round % 2 != 0, .queues = static_cast<std::uint16_t>(1 + round % 4)});
    reads(rig, 4);
    for (auto& part : rig.blk_storage->parts) {
      const auto bytes = std::as_writable_bytes(std::span(&part.mut(), 1));
      for (std::byte& b : bytes)
        if (round % 3 == 0 || random() % 64 == 0) b = static_cast<std::byte>(random() % (round % 5 == 0 ? 3 : 256));
    }
    rig.device->restore();
    rig.commit();
    const auto once = rig.fakes.state.snapshot();
    rig.device->restore();
    ASSERT_EQ(rig.fakes.state.snapshot(), once) << round;
    rig.commit();
    rig.settle(FakeBlock::kRandom);
    EXPECT_EQ(rig.disk.complaint, "");
    rig.set_common(kDeviceStatus, 1, 0);
    EXPECT_EQ(rig.disk.in_flight(), 0U);
    rig.start_driver();
    EXPECT_EQ(rig.request(kVirtioBlkTIn, 3, 512), kVirtioBlkSOk);
  }
}

TEST(VirtioBlkState, reset_twice_is_reset_once) {
  BlkRig rig;
  reads(rig, 3);
  rig.device->reset();
  const auto once = rig.fakes.state.snapshot();
  rig.device->reset();
  EXPECT_EQ(rig.fakes.state.snapshot(), once);
}

}  // namespace
}  // namespace bulkhead::devproc
