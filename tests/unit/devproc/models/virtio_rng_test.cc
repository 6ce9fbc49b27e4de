// The virtio transport, and the entropy device behind it, driven as a driver does: VIRTIO 1.2, sections 3.1 and 4.1.
#include "devproc/models/virtio_rng/virtio_rng.h"

#include <gmock/gmock.h>

#include <tuple>

#include "devproc/models/virtio/transport_spec.h"
#include "ipc/roles/virtio_decl.h"
#include "tests/fakes/fake_wires.h"
#include "tests/fakes/virtio_start.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr GuestPhys kRing = 0x4000;
constexpr GuestPhys kBuffers = 0x10000;

class RecordingSender final : public MsiSender {
 public:
  void send(std::uint16_t vector) override { sent.push_back(vector); }
  std::vector<std::uint16_t> sent;
};

class VirtioRngTest : public ::testing::Test {
 protected:
  VirtioRngTest()
      : fakes_({.lines = 1, .memory_bytes = 256 * 1024}),
        device_(TransportStorage::allocate(fakes_.state, 1), std::make_unique<VirtioRng>(fakes_.memory, fakes_.entropy),
                fakes_.lines[0], fakes_.msi, fakes_.memory) {
    device_.reset();
    device_.on_function_control(kControlMemoryEnable | kControlBusMaster);
  }

  std::uint32_t common(std::uint32_t offset, std::uint8_t size) { return registers_.get(offset, size); }
  void set_common(std::uint32_t offset, std::uint8_t size, std::uint32_t value) { registers_.set(offset, size, value); }
  std::uint8_t isr() { return registers_.isr(); }
  std::uint64_t offered() { return registers_.offered(); }
  void accept(std::uint64_t features) { registers_.accept(features); }
  // Up to DRIVER_OK, with one queue of eight.
  VirtioDriver& start(bool packed = false, bool event_idx = false) {
    driver_.emplace(fakes_.memory, VirtioDriver::Layout{.packed = packed, .event_idx = event_idx, .at = kRing});
    EXPECT_TRUE(start_virtio(device_, {&*driver_, 1}));
    return *driver_;
  }
  // What the host does at a kick, until nothing is left.
  void kick() {
    bool more = true;
    while (more) {
      more = device_.on_queue(0);
      if (device_.show(false, shown_)) device_.after_show();
    }
  }
  std::vector<std::uint8_t> bytes(GuestPhys at, std::size_t count) {
    std::vector<std::uint8_t> all(count);
    EXPECT_TRUE(fakes_.memory.read(at, std::as_writable_bytes(std::span(all))));
    return all;
  }

  FakeWires fakes_;
  VirtioPci device_;
  VirtioRegisters registers_{device_};
  RecordingSender shown_;
  std::optional<VirtioDriver> driver_;
};

TEST_F(VirtioRngTest, common_configuration_after_reset) {
  EXPECT_EQ(common(kNumQueues, 2), 1U);
  EXPECT_EQ(common(kDeviceStatus, 1), 0U);
  EXPECT_EQ(common(kConfigMsixVector, 2), kNoVector);
  EXPECT_EQ(common(kQueueSize, 2), 256U);
  EXPECT_EQ(common(kQueueMsixVector, 2), kNoVector);
  EXPECT_EQ(common(kQueueEnable, 2), 0U);
  EXPECT_EQ(common(kQueueNotifyOff, 2), 0U);
  set_common(kQueueSelect, 2, 1);
  EXPECT_EQ(common(kQueueSize, 2), 0U) << "there is no such queue";
}

TEST_F(VirtioRngTest, features_are_agreed_on_or_refused) {
  const std::uint64_t all = offered();
  for (const unsigned bit : {kVirtioFVersion1, kVirtioFIndirectDesc, kVirtioFEventIdx, kVirtioFRingPacked,
                             kVirtioFInOrder, kVirtioFRingReset})
    EXPECT_NE(all & feature_bit(bit), 0U) << bit;
  EXPECT_EQ(all & feature_bit(kVirtioFNotificationData), 0U);
  for (const std::uint64_t bad : {std::uint64_t{0}, feature_bit(kVirtioFVersion1) | feature_bit(5)}) {
    set_common(kDeviceStatus, 1, 0);
    set_common(kDeviceStatus, 1, kStatusAcknowledge | kStatusDriver);
    accept(bad);
    set_common(kDeviceStatus, 1, kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk);
    EXPECT_EQ(common(kDeviceStatus, 1) & kStatusFeaturesOk, 0U);
  }
}

class EachLayout : public VirtioRngTest, public ::testing::WithParamInterface<std::tuple<bool, bool>> {};

TEST_P(EachLayout, buffers_are_filled) {
  const auto [packed, event_idx] = GetParam();
  VirtioDriver& driver = start(packed, event_idx);
  const VirtioDriver::Buffer two[] = {{kBuffers, 16, true}, {kBuffers + 64, 8, true}};
  ASSERT_TRUE(driver.add(two));
  EXPECT_TRUE(driver.must_kick());
  kick();
  const auto used = driver.take_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->written, 24U);
  EXPECT_EQ(bytes(kBuffers, 3), (std::vector<std::uint8_t>{1, 2, 3}));
  EXPECT_EQ(bytes(kBuffers + 64, 2), (std::vector<std::uint8_t>{17, 18}));
  EXPECT_EQ(driver.take_used(), std::nullopt);
}

INSTANTIATE_TEST_SUITE_P(Rings, EachLayout, ::testing::Combine(::testing::Bool(), ::testing::Bool()));

TEST_F(VirtioRngTest, interrupt_by_intx_is_behind_the_used_entry) {
  VirtioDriver& driver = start();
  const VirtioDriver::Buffer one[] = {{kBuffers, 4, true}};
  ASSERT_TRUE(driver.add(one));
  (void)device_.on_queue(0);
  EXPECT_FALSE(fakes_.lines[0].level) << "nothing is to be seen yet";
  EXPECT_FALSE(driver.has_used());
  ASSERT_TRUE(device_.show(false, shown_));
  EXPECT_TRUE(driver.has_used());
  device_.after_show();
  EXPECT_TRUE(fakes_.lines[0].level);
  EXPECT_EQ(isr(), kIsrQueue);
  EXPECT_FALSE(fakes_.lines[0].level);
  EXPECT_EQ(isr(), 0U);
  EXPECT_THAT(shown_.sent, IsEmpty());
}

TEST_F(VirtioRngTest, interrupt_by_intx_does_not_come_after_a_reset) {
  VirtioDriver& driver = start();
  const VirtioDriver::Buffer one[] = {{kBuffers, 4, true}};
  ASSERT_TRUE(driver.add(one));
  (void)device_.on_queue(0);
  ASSERT_TRUE(device_.show(false, shown_));
  set_common(kDeviceStatus, 1, 0);
  device_.after_show();
  EXPECT_FALSE(fakes_.lines[0].level) << "nobody is there to take it down";
  EXPECT_EQ(isr(), 0U);
}

TEST_F(VirtioRngTest, interrupt_by_msix_goes_to_the_queues_vector) {
  device_.on_function_control(kControlMemoryEnable | kControlBusMaster | kControlMsixEnable);
  VirtioDriver& driver = start();
  set_common(kQueueMsixVector, 2, 2);
  EXPECT_EQ(common(kQueueMsixVector, 2), kNoVector) << "there are two vectors";
  set_common(kQueueMsixVector, 2, 1);
  EXPECT_EQ(common(kQueueMsixVector, 2), 1U);
  const VirtioDriver::Buffer one[] = {{kBuffers, 4, true}};
  ASSERT_TRUE(driver.add(one));
  kick();
  EXPECT_THAT(shown_.sent, ElementsAre(1));
  EXPECT_FALSE(fakes_.lines[0].level);
  driver.refuse_interrupts();
  ASSERT_TRUE(driver.add(one));
  kick();
  EXPECT_THAT(shown_.sent, ElementsAre(1)) << "the driver polls";
}

TEST_F(VirtioRngTest, successor_shows_again_and_interrupts_again) {
  device_.on_function_control(kControlMemoryEnable | kControlBusMaster | kControlMsixEnable);
  VirtioDriver& driver = start();
  set_common(kQueueMsixVector, 2, 1);
  const VirtioDriver::Buffer one[] = {{kBuffers, 4, true}};
  ASSERT_TRUE(driver.add(one));
  (void)device_.on_queue(0);
  // The process dies here; its state lives on.
  device_.restore();
  EXPECT_FALSE(device_.show(true, shown_));
  ASSERT_TRUE(driver.take_used());
  EXPECT_THAT(shown_.sent, ElementsAre(1));
  device_.restore();
  (void)device_.show(true, shown_);
  EXPECT_EQ(driver.take_used(), std::nullopt) << "shown twice, used once";
}

TEST_F(VirtioRngTest, nothing_is_done_before_driver_ok_or_without_bus_mastering) {
  VirtioDriver& driver = start();
  device_.on_function_control(kControlMemoryEnable);
  const VirtioDriver::Buffer one[] = {{kBuffers, 4, true}};
  ASSERT_TRUE(driver.add(one));
  kick();
  EXPECT_FALSE(driver.has_used());
  device_.on_function_control(kControlMemoryEnable | kControlBusMaster);
  kick();
  EXPECT_TRUE(driver.has_used());
}

TEST_F(VirtioRngTest, bad_buffer_needs_a_reset) {
  VirtioDriver& driver = start();
  const VirtioDriver::Buffer outside[] = {{std::uint64_t{1} << 40, 4, true}};
  ASSERT_TRUE(driver.add(outside));
  kick();
  EXPECT_NE(common(kDeviceStatus, 1) & kStatusNeedsReset, 0U);
  EXPECT_EQ(isr(), kIsrConfig);
  EXPECT_FALSE(driver.has_used());
  // Only a reset ends it.
  const VirtioDriver::Buffer inside[] = {{kBuffers, 4, true}};
  ASSERT_TRUE(driver.add(inside));
  kick();
  EXPECT_FALSE(driver.has_used());
  set_common(kDeviceStatus, 1, 0);
  EXPECT_EQ(common(kDeviceStatus, 1), 0U);
  VirtioDriver& again = start();
  ASSERT_TRUE(again.add(inside));
  kick();
  EXPECT_TRUE(again.take_used());
}

TEST_F(VirtioRngTest, poisoned_queue_needs_a_reset) {
  start();
  device_.on_queue_poisoned(0);
  EXPECT_NE(common(kDeviceStatus, 1) & kStatusNeedsReset, 0U);
}

TEST_F(VirtioRngTest, queue_fields_stay_once_it_is_enabled) {
  start();
  const std::uint32_t before = common(kQueueDesc, 4);
  set_common(kQueueDesc, 4, 0x12345000);
  set_common(kQueueSize, 2, 4);
  EXPECT_EQ(common(kQueueDesc, 4), before);
  EXPECT_EQ(common(kQueueSize, 2), 8U);
}

// In every layout: somebody looks at the queue instead of being kicked.
class VirtioKicksWait : public VirtioRngTest, public ::testing::WithParamInterface<std::tuple<bool, bool>> {
 protected:
  VirtioKicksWait() : driver(start(std::get<0>(GetParam()), std::get<1>(GetParam()))) { device_.let_kicks_wait(); }
  void add() { ASSERT_TRUE(driver.add(std::vector<VirtioDriver::Buffer>{{kBuffers, 16, true}})); }
  bool used() { return driver.take_used().has_value(); }

  VirtioDriver& driver;
};

INSTANTIATE_TEST_SUITE_P(Layouts, VirtioKicksWait, ::testing::Combine(::testing::Bool(), ::testing::Bool()));

TEST_P(VirtioKicksWait, an_emptied_queue_is_looked_at_and_not_kicked) {
  EXPECT_FALSE(device_.queue_stirs(0)) << "nobody has worked on it";
  add();
  kick();
  EXPECT_TRUE(used());
  EXPECT_FALSE(device_.queue_stirs(0));
  (void)driver.must_kick();
  add();
  EXPECT_FALSE(driver.must_kick());
  EXPECT_TRUE(device_.queue_stirs(0));
  kick();
  EXPECT_TRUE(used());
  EXPECT_FALSE(device_.queue_stirs(0));
}

TEST_P(VirtioKicksWait, asked_for_they_come_again) {
  add();
  kick();
  (void)driver.must_kick();
  EXPECT_FALSE(device_.ask_for_kicks(0));
  add();
  EXPECT_TRUE(driver.must_kick());
  EXPECT_FALSE(device_.queue_stirs(0)) << "the driver kicks";
}

TEST_P(VirtioKicksWait, held_they_do_not_come_until_asked_for_again) {
  add();
  kick();
  EXPECT_FALSE(device_.ask_for_kicks(0));
  (void)driver.must_kick();
  device_.hold_kicks(0);
  EXPECT_FALSE(device_.queue_stirs(0));
  add();
  EXPECT_FALSE(driver.must_kick());
  EXPECT_TRUE(device_.queue_stirs(0));
  kick();
  EXPECT_FALSE(device_.ask_for_kicks(0));
  add();
  EXPECT_TRUE(driver.must_kick());
}

TEST_P(VirtioKicksWait, what_came_before_the_driver_knew_is_told) {
  add();
  kick();
  add();
  EXPECT_TRUE(device_.ask_for_kicks(0));
}

TEST_P(VirtioKicksWait, a_device_that_may_not_work_is_still) {
  add();
  kick();
  add();
  device_.on_function_control(kControlMemoryEnable);
  EXPECT_FALSE(device_.queue_stirs(0));
  EXPECT_FALSE(device_.ask_for_kicks(0));
  EXPECT_FALSE(device_.queue_stirs(7)) << "there is no such queue";
  EXPECT_FALSE(device_.ask_for_kicks(7));
}

}  // namespace
}  // namespace bulkhead::devproc
