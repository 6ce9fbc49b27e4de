// What a virtqueue does, step by step; the properties are in virtio_queue_property_test.cc, malice is in
// virtio_queue_hostile_test.cc.
#include <gmock/gmock.h>

#include "devproc/models/virtio/queue.h"
#include "tests/unit/devproc/models/virtio_queue_rig.h"

namespace bulkhead::devproc::virtio {
namespace {

using testing::ElementsAre;

class VirtQueueBoth : public testing::TestWithParam<bool> {
 protected:
  static QueueSetup setup(std::uint16_t size = 8) { return {.packed = GetParam(), .size = size}; }
  static QueueSetup with_event_idx() { return {.packed = GetParam(), .event_idx = true}; }
};
INSTANTIATE_TEST_SUITE_P(Layouts, VirtQueueBoth, testing::Bool(),
                         [](const auto& layout) { return layout.param ? "packed" : "split"; });

TEST_P(VirtQueueBoth, gives_a_chain_as_it_was_made) {
  for (const bool indirect : {false, true}) {
    QueueRig rig(setup());
    const std::uint16_t id = rig.add(5, 2, indirect);
    const Chain chain = rig.pop();
    EXPECT_EQ(chain.id, id);
    EXPECT_EQ(chain.readable.size(), 3U);
    EXPECT_EQ(chain.writable.size(), 2U);
    EXPECT_EQ(chain.readable[2].address, kBuffers + 0x200);
    EXPECT_EQ(chain.writable[0].address, kBuffers + 0x300);
    EXPECT_EQ(chain.readable_bytes, 48U);
    EXPECT_EQ(chain.writable_bytes, 32U);
    EXPECT_EQ(chain.descriptors, GetParam() && !indirect ? 5 : 1);
    Chain none;
    EXPECT_EQ(rig.queue->pop(none), Pop::kEmpty);
  }
}

// At every place of the ring, so that what is undone crosses its end and the wrap counter's turn.
TEST_P(VirtQueueBoth, chains_that_are_put_back_come_again) {
  const std::uint16_t size = GetParam() ? 7 : 8;
  for (int before = 0; before < 2 * size; ++before) {
    for (const bool indirect : {false, true}) {
      QueueRig rig(setup(size));
      for (int i = 0; i < before; ++i) {
        rig.add();
        rig.serve();
        rig.drain();
      }
      const std::uint16_t ids[] = {rig.add(2, 1, indirect), rig.add(2, 1, indirect), rig.add(3, 1, indirect)};
      rig.queue->begin();
      rig.use(rig.pop(), 4);
      const std::uint16_t mark = rig.queue->mark();
      rig.queue->put_back(mark);  // nothing
      for (int round = 0; round < 2; ++round) {
        EXPECT_EQ(rig.pop().id, ids[1]);
        EXPECT_EQ(rig.pop().id, ids[2]);
        EXPECT_FALSE(rig.queue->has_more());
        rig.queue->put_back(mark);
        EXPECT_TRUE(rig.queue->has_more());
        EXPECT_EQ(rig.queue->mark(), mark);
      }
      rig.show();
      EXPECT_EQ(rig.driver.take_used()->id, ids[0]);
      EXPECT_FALSE(rig.driver.take_used());
      EXPECT_TRUE(rig.take_over()) << "of the one that was used";
      rig.serve(2, 9);
      EXPECT_EQ(rig.driver.take_used()->id, ids[1]);
      EXPECT_EQ(rig.driver.take_used()->id, ids[2]);
      EXPECT_EQ(rig.state->faults, 0U);
      rig.check();
    }
  }
}

TEST_P(VirtQueueBoth, nothing_is_put_back_into_a_queue_that_broke) {
  QueueRig rig(setup());
  rig.add();
  rig.queue->begin();
  const std::uint16_t mark = rig.queue->mark();
  rig.pop();
  rig.queue->mut().broken = 1;
  rig.queue->put_back(mark);
  EXPECT_NE(rig.queue->mark(), mark);
}

TEST_P(VirtQueueBoth, nothing_is_seen_as_used_before_show) {
  QueueRig rig(setup());
  rig.add();
  rig.queue->begin();
  rig.use(rig.pop(), 9);
  EXPECT_FALSE(rig.driver.has_used());
  EXPECT_TRUE(rig.show());
  const auto used = rig.driver.take_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->written, 9U);
  EXPECT_FALSE(rig.show() && rig.driver.has_used()) << "an input that works on another queue shows nothing new";
  rig.queue->begin();
  EXPECT_FALSE(rig.show());
  rig.check();
}

TEST_P(VirtQueueBoth, counts_its_room) {
  QueueRig rig(setup(256));
  for (int i = 0; i < kMaxShown; ++i) rig.add();
  rig.queue->begin();
  for (int i = 0; i < kMaxShown; ++i) {
    EXPECT_EQ(rig.queue->room(), kMaxShown - i);
    rig.use(rig.pop(), 1);
  }
  EXPECT_EQ(rig.queue->room(), 0);
  rig.show();
  rig.queue->begin();
  EXPECT_EQ(rig.queue->room(), kMaxShown);
}

TEST_P(VirtQueueBoth, finds_chains_again) {
  QueueRig rig(setup());
  std::vector<std::uint16_t> positions;
  const std::vector<std::size_t> lengths{2, 1, 3};
  for (const std::size_t length : lengths) {
    rig.add(length, 1);
    positions.push_back(rig.pop().position);
  }
  rig.take_over();
  for (const std::size_t i : {2, 0, 1}) {
    Chain chain;
    ASSERT_EQ(rig.queue->fetch(positions[i], chain), Pop::kChain);
    EXPECT_EQ(chain.position, positions[i]);
    EXPECT_EQ(chain.readable.size() + chain.writable.size(), lengths[i]);
  }
  if (!GetParam()) return;
  EXPECT_THAT(positions, ElementsAre(0x8000, 0x8002, 0x8003));
}

TEST_P(VirtQueueBoth, does_nothing_unless_enabled) {
  QueueRig rig(setup());
  rig.add();
  rig.add();
  rig.use(rig.pop(), 1);
  rig.state.mut().enabled = 0;
  Chain chain;
  EXPECT_EQ(rig.queue->pop(chain), Pop::kEmpty);
  EXPECT_EQ(rig.queue->fetch(0, chain), Pop::kEmpty);
  EXPECT_FALSE(rig.queue->has_more());
  rig.memory.writes = 0;
  rig.queue->set_kicks(false);
  rig.queue->push({});
  EXPECT_FALSE(rig.queue->show(true));
  EXPECT_EQ(rig.memory.writes, 0U);
  rig.queue->restore();
  EXPECT_EQ(rig.state->faults, 0U);
}

TEST_P(VirtQueueBoth, enabling_begins_anew) {
  QueueRig rig(setup());
  rig.add();
  rig.serve();
  rig.state.mut().broken = 1;
  rig.queue->enable();
  EXPECT_TRUE(rig.queue->usable());
  EXPECT_EQ(rig.state->next_avail, GetParam() ? 0x8000 : 0);
  EXPECT_EQ(rig.state->next_used, rig.state->next_avail);
  EXPECT_EQ(rig.state->shown_count, 0);
}

// ---- Interrupts ----

TEST_P(VirtQueueBoth, interrupts_as_the_driver_wants) {
  QueueRig rig(setup());
  rig.driver.refuse_interrupts();
  rig.add();
  EXPECT_FALSE(rig.serve());
  rig.driver.want_interrupts();
  rig.add();
  EXPECT_TRUE(rig.serve());
}

TEST_P(VirtQueueBoth, a_successor_interrupts_in_any_case) {
  QueueRig rig(setup());
  rig.driver.refuse_interrupts();
  rig.add();
  EXPECT_FALSE(rig.serve());
  EXPECT_TRUE(rig.take_over());
  rig.queue->begin();
  EXPECT_FALSE(rig.take_over()) << "there is nothing to interrupt for";
}

TEST_P(VirtQueueBoth, event_index_interrupts_once_when_it_is_passed) {
  QueueRig rig(with_event_idx());
  for (int turn = 0; turn < 7; ++turn) {  // the position moves through the ring
    for (int i = 0; i < 6; ++i) rig.add();
    rig.driver.want_interrupts(3);
    EXPECT_FALSE(rig.serve(2));
    EXPECT_FALSE(rig.serve(1)) << "three used: the fourth is the one";
    EXPECT_TRUE(rig.serve(2));
    EXPECT_FALSE(rig.serve(1));
    rig.drain();
  }
  rig.check();
}

TEST(VirtQueueEvents, packed_driver_events) {
  QueueRig rig({.packed = true, .event_idx = true});
  const auto event = [&](std::uint16_t where, std::uint16_t flags) {
    rig.ram.store(rig.driver.driver() + kPvirtqEventDesc, where);
    rig.ram.store(rig.driver.driver() + kPvirtqEventFlags, flags);
    rig.add();
    const bool interrupt = rig.serve();
    rig.drain();
    return interrupt;
  };
  EXPECT_TRUE(event(0x8001, kRingEventFlagsEnable));
  EXPECT_FALSE(event(0x8001, kRingEventFlagsDisable));
  EXPECT_TRUE(event(0x8002, kRingEventFlagsDesc));
  EXPECT_FALSE(event(0x0003, kRingEventFlagsDesc)) << "in the next turn";
  EXPECT_FALSE(event(0x8005, kRingEventFlagsDesc));
  EXPECT_FALSE(event(0x8006, 0xfffc | kRingEventFlagsDesc)) << "reserved bits";
  EXPECT_TRUE(event(0x8000, 3)) << "a reserved mode";
  EXPECT_TRUE(event(0x8008, kRingEventFlagsDesc)) << "no slot of this ring";
  EXPECT_TRUE(event(0x0000, kRingEventFlagsDesc));
  rig.setup.event_idx = false;
  rig.start();
  EXPECT_TRUE(event(0x8005, kRingEventFlagsDesc)) << "a mode that was not negotiated";
}

// ---- Kicks ----

TEST_P(VirtQueueBoth, asks_for_kicks_and_for_none) {
  QueueRig rig(setup());
  rig.add();
  EXPECT_TRUE(rig.driver.must_kick()) << "the driver's first";
  rig.queue->set_kicks(false);
  rig.add();
  EXPECT_FALSE(rig.driver.must_kick());
  EXPECT_TRUE(rig.queue->has_more());
  rig.serve(2);
  rig.queue->set_kicks(true);
  EXPECT_FALSE(rig.queue->has_more());
  rig.add();
  EXPECT_TRUE(rig.driver.must_kick());
}

TEST_P(VirtQueueBoth, event_index_asks_for_one_kick) {
  QueueRig rig(with_event_idx());
  for (int turn = 0; turn < 7; ++turn) {
    rig.queue->set_kicks(true);
    rig.add();
    EXPECT_TRUE(rig.driver.must_kick()) << turn;
    rig.add();
    EXPECT_FALSE(rig.driver.must_kick());
    rig.serve(2);
    rig.add();
    EXPECT_FALSE(rig.driver.must_kick()) << "as long as the device does not ask again";
    rig.serve(1);
    rig.drain();
  }
  rig.check();
}

// ---- The state of a successor ----

TEST_P(VirtQueueBoth, a_state_that_contradicts_itself_is_broken) {
  const auto broken_by = [](auto change) {
    QueueRig rig(setup());
    for (int i = 0; i < 6; ++i) rig.add();
    rig.serve(2);
    rig.pop();
    change(rig.state.mut());
    rig.queue->restore();
    const QueueState once = rig.state.get();
    rig.queue->restore();
    EXPECT_EQ(std::memcmp(&once, &rig.state.get(), sizeof(once)), 0) << "restoring twice is restoring once";
    EXPECT_LE(rig.state->shown_count, kMaxShown);
    return rig.state->broken == 1 && rig.state->faults == 1 && !rig.queue->show(true);
  };
  EXPECT_FALSE(broken_by([](QueueState&) {}));
  EXPECT_TRUE(broken_by([](QueueState& s) { s.size = 0; }));
  EXPECT_TRUE(broken_by([](QueueState& s) {
    s.size = kMaxQueueSize + 1;
    s.desc = kRam - 64;
  }));
  EXPECT_TRUE(broken_by([](QueueState& s) { s.next_avail = static_cast<std::uint16_t>(s.next_used + 7); }));
  EXPECT_TRUE(broken_by([](QueueState& s) {
    --s.next_avail;
    --s.next_avail;
  }));
  EXPECT_TRUE(broken_by([](QueueState& s) { s.shown_count = kMaxShown + 1; }));
  EXPECT_TRUE(broken_by([](QueueState& s) { s.shown_count = 0xffff; }));
  EXPECT_TRUE(broken_by([](QueueState& s) { s.shown_count = kMaxShown; }));
  EXPECT_TRUE(broken_by([](QueueState& s) { s.desc = ~0ULL << 4; }));
  EXPECT_TRUE(broken_by([](QueueState& s) { s.driver += 1; }));
  EXPECT_TRUE(broken_by([](QueueState& s) { s.device = kRam; }));
  if (GetParam()) {
    EXPECT_TRUE(broken_by([](QueueState& s) { s.next_avail = 0x8008; }));
    EXPECT_TRUE(broken_by([](QueueState& s) { s.next_used = 0x7fff; }));
    EXPECT_TRUE(broken_by([](QueueState& s) { s.next_avail ^= 0x8000; }));
    EXPECT_TRUE(broken_by([](QueueState& s) { s.shown[0].descriptors = 0; }));
    EXPECT_TRUE(broken_by([](QueueState& s) { s.shown[1].descriptors = 8; }));
    EXPECT_TRUE(broken_by([](QueueState& s) { s.shown[1].descriptors = 0xffff; }));
  } else {
    EXPECT_TRUE(broken_by([](QueueState& s) { s.size = 7; }));
    EXPECT_TRUE(broken_by([](QueueState& s) { s.shown[1].id = 8; }));
  }
}

TEST_P(VirtQueueBoth, flags_of_a_state_are_brought_into_range) {
  QueueRig rig(setup());
  rig.state.mut().enabled = 0xff;
  rig.queue->restore();
  EXPECT_EQ(rig.state->enabled, 1);
  EXPECT_TRUE(rig.queue->usable());
  rig.state.mut().broken = 0x80;
  rig.queue->restore();
  EXPECT_EQ(rig.state->broken, 1);
  rig.state.mut().enabled = 0;
  rig.state.mut().shown_count = 0xffff;
  rig.state.mut().size = 0xffff;
  rig.queue->restore();
  EXPECT_EQ(rig.queue->room(), kMaxShown);
  EXPECT_EQ(rig.state->size, kMaxQueueSize);
}

// ---- What a device pushes ----

TEST_P(VirtQueueBoth, an_element_that_was_not_taken_breaks_the_queue) {
  QueueRig rig(setup());
  rig.add();
  rig.use(rig.pop(), 1);
  rig.queue->push({0, 1, 1});
  rig.queue->begin();
  rig.expect_broken();
}

TEST(VirtQueuePush, wrong_elements_break_the_queue) {
  QueueRig split({});
  split.add();
  split.pop();
  split.queue->push({8, 1, 1});
  split.expect_broken();
  for (const std::uint16_t descriptors : {0, 3}) {
    QueueRig packed({.packed = true});
    packed.add(2, 1);
    packed.pop();
    packed.queue->push({0, descriptors, 1});
    packed.expect_broken();
  }
}

TEST_P(VirtQueueBoth, what_was_used_before_the_queue_broke_is_shown) {
  QueueRig rig(setup());
  rig.add();
  rig.queue->begin();
  rig.use(rig.pop(), 3);
  rig.queue->push({0, 1, 1});
  EXPECT_FALSE(rig.queue->usable());
  EXPECT_TRUE(rig.show());
  EXPECT_TRUE(rig.driver.take_used());
  rig.check();
}

TEST(VirtQueuePacked, says_that_nothing_was_written) {
  QueueRig rig({.packed = true});
  rig.add();
  rig.serve(1, 0);
  EXPECT_EQ(*rig.ram.load<std::uint16_t>(rig.driver.desc() + 14), kVirtqDescFAvail | kVirtqDescFUsed);
  rig.add();
  rig.serve(1, 1);
  EXPECT_EQ(*rig.ram.load<std::uint16_t>(rig.driver.desc() + 16 + 14),
            kVirtqDescFAvail | kVirtqDescFUsed | kVirtqDescFWrite);
}

// Out of order, B's element takes the slot of A's descriptor.
TEST(VirtQueuePacked, a_chain_that_was_overtaken_is_not_found_again) {
  QueueRig rig({.packed = true});
  rig.add();
  rig.add();
  const std::uint16_t first = rig.pop().position;
  rig.use(rig.pop(), 1);
  rig.show();
  rig.queue->begin();
  Chain chain;
  EXPECT_EQ(rig.queue->fetch(first, chain), Pop::kBroken);
  rig.expect_broken();
}

TEST(VirtQueueSplit, direct_descriptors_may_end_in_an_indirect_one) {
  QueueRig rig({});
  rig.split_desc(0, {kBuffers, 16, kVirtqDescFNext, 3});
  rig.split_desc(3, {kBuffers + 0x1000, 32, kVirtqDescFIndirect | kVirtqDescFWrite, 0});
  rig.ram.store(kBuffers + 0x1000, VirtqDesc{kBuffers + 0x100, 8, kVirtqDescFNext, 1});
  rig.ram.store(kBuffers + 0x1010, VirtqDesc{kBuffers + 0x200, 4, kVirtqDescFWrite, 0});
  rig.make_available({0});
  const Chain chain = rig.pop();
  EXPECT_EQ(chain.readable_bytes, 24U);
  EXPECT_EQ(chain.writable_bytes, 4U);
}

// ---- Bytes of a chain ----

TEST(VirtQueueSegments, are_read_and_written_as_one_buffer) {
  VectorMemory ram(4096);
  const std::vector<Segment> segments{{100, 3}, {200, 1}, {300, 4}};
  const std::array<std::byte, 6> in{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}, std::byte{5}, std::byte{6}};
  EXPECT_TRUE(write_segments(ram, segments, 1, in));
  EXPECT_EQ(ram.bytes[100], std::byte{0});
  EXPECT_EQ(ram.bytes[101], std::byte{1});
  EXPECT_EQ(ram.bytes[102], std::byte{2});
  EXPECT_EQ(ram.bytes[103], std::byte{0});
  EXPECT_EQ(ram.bytes[200], std::byte{3});
  EXPECT_EQ(ram.bytes[302], std::byte{6});
  std::array<std::byte, 6> out{};
  EXPECT_TRUE(read_segments(ram, segments, 1, out));
  EXPECT_EQ(out, in);
  EXPECT_TRUE(read_segments(ram, segments, 4, std::span(out).first(4)));
  EXPECT_EQ(out[0], std::byte{4});
  EXPECT_TRUE(read_segments(ram, segments, 8, std::span(out).first(0)));
}

TEST(VirtQueueSegments, that_end_early_or_leave_ram_fail) {
  VectorMemory ram(4096);
  std::array<std::byte, 8> bytes{};
  const std::vector<Segment> segments{{0, 4}, {4090, 6}, {4096, 4}};
  EXPECT_FALSE(read_segments(ram, std::span(segments).first(1), 0, std::span(bytes).first(5)));
  EXPECT_FALSE(read_segments(ram, std::span(segments).first(1), 5, std::span(bytes).first(1)));
  EXPECT_FALSE(read_segments(ram, std::span(segments).first(1), UINT64_MAX, std::span(bytes).first(1)));
  EXPECT_TRUE(read_segments(ram, segments, 2, bytes));
  EXPECT_FALSE(read_segments(ram, segments, 3, bytes));
  EXPECT_FALSE(write_segments(ram, segments, 3, bytes));
}

}  // namespace
}  // namespace bulkhead::devproc::virtio
