// A disk whose host has no room: what is held, what is told, and when it is tried again.
#include <gmock/gmock.h>

#include "tests/unit/devproc/models/virtio_blk_rig.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio;
using namespace virtio_blk_spec;

constexpr std::chrono::milliseconds kRetry{VirtioBlk::kRetryAfterNs / 1'000'000};

GuestPhys place(std::size_t i) { return BlkRig::kRequests + 0x800 * i; }

class Space : public ::testing::TestWithParam<BlkSetup> {
 protected:
  static BlkSetup setup(bool stop = true) {
    BlkSetup s = GetParam();
    s.stop_on_no_space = stop;
    return s;
  }
  // Only what moves data onto the disk needs room.
  static void fill_up(BlkRig& rig) {
    rig.disk.fate = [](const BlockRequest& request) {
      const bool needs_room = request.op == BlockOp::kWrite || request.op == BlockOp::kWriteZeroes;
      return needs_room ? BlockStatus::kNoSpace : BlockStatus::kOk;
    };
  }
  static std::size_t pauses(const BlkRig& rig) {
    std::size_t count = 0;
    for (const Effect& effect : rig.fakes.effects.emitted) {
      EXPECT_EQ(effect.kind, static_cast<std::uint16_t>(EffectKind::kPause));
      EXPECT_TRUE(parse_effect(effect));
      ++count;
    }
    return count;
  }
  static std::size_t used(BlkRig& rig, QueueId queue = 0) {
    std::size_t count = 0;
    while (rig.driver(queue).take_used()) ++count;
    EXPECT_EQ(rig.driver(queue).complaint(), "");
    return count;
  }
  // VM time goes on, and what the timer did is committed.
  static void wait(BlkRig& rig, std::chrono::nanoseconds time = kRetry) {
    rig.fakes.clock.advance(time);
    rig.commit();
  }
};

TEST_P(Space, reported_it_is_an_error) {
  BlkRig rig(setup(false));
  fill_up(rig);
  EXPECT_EQ(rig.request(kVirtioBlkTOut, 1, 512), kVirtioBlkSIoErr);
  EXPECT_EQ(pauses(rig), 0U);
}

TEST_P(Space, held_until_there_is_room) {
  BlkRig rig(setup());
  fill_up(rig);
  const auto before = rig.on_disk(5);
  rig.add(place(0), kVirtioBlkTOut, 5, 512);
  rig.settle();
  EXPECT_EQ(used(rig), 0U);
  EXPECT_EQ(rig.status(place(0)), BlkRig::kNoStatus);
  EXPECT_EQ(pauses(rig), 1U);
  // As long as it lasts, it is asked for again, once each time.
  for (std::size_t i = 2; i < 5; ++i) {
    wait(rig);
    rig.settle();
    EXPECT_EQ(pauses(rig), i);
    EXPECT_EQ(used(rig), 0U);
  }
  EXPECT_EQ(rig.on_disk(5), before);
  rig.disk.fate = {};
  wait(rig);
  rig.settle();
  EXPECT_EQ(used(rig), 1U);
  EXPECT_EQ(rig.status(place(0)), kVirtioBlkSOk);
  EXPECT_EQ(rig.on_disk(5), rig.bytes(place(0) + 512, 512));
  EXPECT_FALSE(rig.fakes.clock.armed(VirtioBlk::kRetryTimer)) << "nothing is left to try";
  EXPECT_EQ(pauses(rig), 4U);
}

TEST_P(Space, nothing_is_tried_while_time_stands_still) {
  BlkRig rig(setup());
  fill_up(rig);
  rig.add(place(0), kVirtioBlkTOut, 5, 512);
  rig.settle();
  const std::size_t tried = rig.disk.performed.size();
  wait(rig, kRetry - std::chrono::nanoseconds(1));
  rig.settle();
  EXPECT_EQ(rig.disk.performed.size(), tried);
}

TEST_P(Space, many_are_one_pause) {
  BlkRig rig(setup());
  fill_up(rig);
  for (std::size_t i = 0; i < 4; ++i) rig.add(place(i), kVirtioBlkTOut, i, 512, 0, true);
  rig.kick();
  rig.disk.run();
  rig.on_backend();
  EXPECT_EQ(pauses(rig), 1U);
  rig.disk.fate = {};
  wait(rig);
  rig.settle();
  EXPECT_EQ(used(rig), 4U);
}

TEST_P(Space, others_go_on) {
  BlkRig rig(setup());
  fill_up(rig);
  rig.add(place(0), kVirtioBlkTOut, 5, 512, 0, true);
  rig.add(place(1), kVirtioBlkTIn, 6, 512, 0, true);
  rig.add(place(2), kVirtioBlkTFlush, 0, 0, 0, true);
  rig.settle();
  // A packed ring is used in order (queue.h).
  EXPECT_EQ(used(rig), GetParam().packed ? 0U : 2U);
  rig.disk.fate = {};
  wait(rig);
  rig.settle();
  EXPECT_EQ(used(rig), GetParam().packed ? 3U : 1U);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(rig.status(place(i)), kVirtioBlkSOk);
}

TEST_P(Space, zeroes_are_held_as_well) {
  BlkRig rig(setup());
  fill_up(rig);
  rig.put_header(place(0), kVirtioBlkTWriteZeroes, 0);
  rig.fakes.memory.store(place(0) + 512, VirtioBlkRange{3, 1, 0});
  const BlkRig::Buffers buffers = {{place(0), 16, false}, {place(0) + 512, 16, false}, {place(0) + 256, 1, true}};
  rig.driver().add(buffers).value();
  rig.settle();
  EXPECT_EQ(pauses(rig), 1U);
  rig.disk.fate = {};
  wait(rig);
  rig.settle();
  EXPECT_EQ(rig.status(place(0)), kVirtioBlkSOk);
  EXPECT_THAT(rig.on_disk(3), ::testing::Each(0));
}

TEST_P(Space, a_flush_that_fails_is_told) {
  BlkRig rig(setup());
  rig.disk.fate = [](const BlockRequest&) { return BlockStatus::kNoSpace; };
  EXPECT_EQ(rig.request(kVirtioBlkTFlush, 0, 0), kVirtioBlkSIoErr) << "done again it would seem to succeed";
  EXPECT_EQ(pauses(rig), 0U);
}

TEST_P(Space, other_errors_are_told) {
  BlkRig rig(setup());
  rig.disk.fate = [](const BlockRequest&) { return BlockStatus::kError; };
  EXPECT_EQ(rig.request(kVirtioBlkTOut, 1, 512), kVirtioBlkSIoErr);
  EXPECT_EQ(pauses(rig), 0U);
}

TEST_P(Space, a_successor_holds_it_and_tries_again) {
  BlkRig rig(setup());
  fill_up(rig);
  rig.add(place(0), kVirtioBlkTOut, 5, 512);
  rig.settle();
  // Deaths before and after it is tried again, while the disk is full and when it is not.
  for (int i = 0; i < 3; ++i) {
    rig.take_over();
    rig.settle();
    EXPECT_EQ(used(rig), 0U);
    wait(rig);
    rig.take_over();
    rig.settle();
  }
  const std::size_t tried = rig.disk.performed.size();
  rig.disk.fate = {};
  rig.take_over();
  rig.settle();
  EXPECT_EQ(rig.disk.performed.size(), tried) << "only time brings it back";
  wait(rig);
  rig.take_over();
  rig.settle();
  EXPECT_EQ(used(rig), 1U);
  EXPECT_EQ(rig.status(place(0)), kVirtioBlkSOk);
  EXPECT_EQ(rig.on_disk(5), rig.bytes(place(0) + 512, 512));
}

TEST_P(Space, what_the_disk_tells_late_of_the_first_try_is_not_about_the_second) {
  BlkRig rig(setup());
  fill_up(rig);
  rig.add(place(0), kVirtioBlkTOut, 5, 512);
  rig.settle();
  const std::uint32_t first = rig.disk.performed.back().tag;
  rig.disk.fate = {};
  wait(rig);
  rig.disk.done.push_front({first, BlockStatus::kOk});
  rig.on_backend();
  EXPECT_EQ(used(rig), 0U) << "the second is not done yet";
  rig.settle();
  EXPECT_EQ(used(rig), 1U);
}

TEST_P(Space, reset_forgets_it) {
  BlkRig rig(setup());
  fill_up(rig);
  rig.add(place(0), kVirtioBlkTOut, 5, 512);
  rig.settle();
  rig.set_common(kDeviceStatus, 1, 0);
  EXPECT_FALSE(rig.fakes.clock.armed(VirtioBlk::kRetryTimer));
  rig.start_driver();
  rig.disk.fate = {};
  wait(rig);
  rig.settle();
  EXPECT_EQ(used(rig), 0U);
  EXPECT_EQ(rig.request(kVirtioBlkTIn, 5, 512), kVirtioBlkSOk);
}

TEST_P(Space, a_guest_that_changes_the_request_meanwhile_gets_what_it_asks_for) {
  BlkRig rig(setup());
  fill_up(rig);
  rig.add(place(0), kVirtioBlkTOut, 5, 512);
  rig.settle();
  rig.fakes.memory.store(place(0), VirtioBlkHeader{0x4711, 0, 5});  // no such request
  wait(rig);
  rig.settle();
  EXPECT_EQ(used(rig), 1U);
  EXPECT_EQ(rig.status(place(0)), kVirtioBlkSUnsupp);
  EXPECT_EQ(rig.disk.complaint, "");
}

TEST_P(Space, off_the_bus_it_waits) {
  BlkRig rig(setup());
  fill_up(rig);
  rig.add(place(0), kVirtioBlkTOut, 5, 512);
  rig.settle();
  rig.device->on_function_control(kControlMemoryEnable);
  rig.disk.fate = {};
  wait(rig);
  rig.on_backend();
  EXPECT_EQ(used(rig), 0U);
  rig.device->on_function_control(kControlMemoryEnable | kControlBusMaster);
  rig.commit();
  wait(rig);
  rig.settle();
  EXPECT_EQ(used(rig), 1U);
}

INSTANTIATE_TEST_SUITE_P(Rings, Space, ::testing::Values(BlkSetup{}, BlkSetup{.packed = true, .event_idx = true}),
                         [](const auto& param) { return param.param.packed ? "packed" : "split"; });

}  // namespace
}  // namespace bulkhead::devproc
