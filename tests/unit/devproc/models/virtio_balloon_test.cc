// The memory balloon, driven as a driver does: VIRTIO 1.2, section 5.5.
#include "devproc/models/virtio_balloon/virtio_balloon.h"

#include <gmock/gmock.h>

#include <random>
#include <set>
#include <tuple>

#include "devproc/models/virtio/transport_spec.h"
#include "ipc/roles/virtio_decl.h"
#include "tests/fakes/fake_wires.h"
#include "tests/fakes/virtio_start.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio;
using namespace virtio_balloon_spec;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

constexpr GuestPhys kRing = 0x1000;
constexpr GuestPhys kRingStep = 0x4000;
constexpr GuestPhys kLists = 0x20000;
constexpr std::uint32_t kFirstPage = 0x40;  // pages from here on are nobody's
constexpr std::size_t kMemory = 0x200000;
constexpr std::uint64_t kReports = feature_bit(kBalloonFPageReporting);
constexpr std::uint64_t kStats = feature_bit(kBalloonFStatsVq);

struct Rig {
  explicit Rig(bool packed = false, bool event_idx = false, VirtioBalloonConfig config = {.stats_seconds = 10})
      : fakes({.lines = 1, .queues = kVirtioBalloonQueues, .memory_bytes = kMemory}),
        device(TransportStorage::allocate(fakes.state, kVirtioBalloonQueues), make(config), fakes.lines[0], fakes.msi,
               fakes.memory) {
    for (unsigned i = 0; i < kVirtioBalloonQueues; ++i)
      drivers.emplace_back(fakes.memory,
                           VirtioDriver::Layout{.packed = packed, .event_idx = event_idx, .at = kRing + i * kRingStep});
    fakes.clock.attach(device);
    device.reset();
    device.on_function_control(kControlMemoryEnable | kControlBusMaster);
    for (std::size_t at = std::size_t{kFirstPage} * kPageBytes; at < kMemory; ++at)
      fakes.memory.bytes[at] = std::byte{7};
  }
  std::unique_ptr<VirtioBalloon> make(VirtioBalloonConfig config) {
    return std::make_unique<VirtioBalloon>(allocate_state<VirtioBalloonState>(fakes.state), config, fakes.memory,
                                           fakes.ram, fakes.clock, fakes.clock);
  }
  void start(std::uint64_t features = kReports | kStats) {
    ASSERT_TRUE(start_virtio(device, drivers, features | feature_bit(kVirtioFIndirectDesc)));
  }
  void show() {
    if (device.show(false, fakes.msi)) device.after_show();
  }
  int kick(QueueId queue) {
    int inputs = 0;
    for (bool more = true; more; ++inputs) {
      more = device.on_queue(queue);
      show();
    }
    return inputs;
  }
  bool give(QueueId queue, const std::vector<std::uint32_t>& pages) {
    const GuestPhys at = kLists + 0x800 * (next++ % 16);
    fakes.memory.write(at, std::as_bytes(std::span(pages)));
    const std::vector<VirtioDriver::Buffer> one{{at, static_cast<std::uint32_t>(4 * pages.size()), false}};
    return drivers[queue].add(one).has_value();
  }
  bool report(QueueId queue, const std::vector<std::pair<GuestPhys, std::uint32_t>>& ranges) {
    std::vector<VirtioDriver::Buffer> buffers;
    for (const auto& [address, length] : ranges) buffers.push_back({address, length, true});
    return drivers[queue].add(buffers).has_value();
  }
  [[nodiscard]] bool zero(std::uint64_t page) const { return fakes.memory.bytes[page * kPageBytes] == std::byte{0}; }
  std::uint32_t config(std::uint32_t offset) {
    return static_cast<std::uint32_t>(
        device.read({kVirtioRegisters, kVirtioDeviceOffset + offset, 4}).value_or(0xffffffff));
  }
  void set_config(std::uint32_t offset, std::uint32_t value) {
    device.write({kVirtioRegisters, kVirtioDeviceOffset + offset, 4}, value);
  }

  FakeWires fakes;
  VirtioPci device;
  VirtioRegisters registers{device};
  std::vector<VirtioDriver> drivers;
  unsigned next = 0;
};

class VirtioBalloonLayouts : public ::testing::TestWithParam<std::tuple<bool, bool>> {};

TEST_P(VirtioBalloonLayouts, pages_that_are_given_up_are_released_and_come_back_when_touched) {
  const auto [packed, event_idx] = GetParam();
  Rig rig(packed, event_idx);
  rig.start();
  ASSERT_TRUE(rig.give(kInflateq, {0x50, 0x51, 0x52, 0x60, 0x5f, 0x5e, 0x70}));
  EXPECT_THAT(rig.fakes.ram.released, IsEmpty());
  rig.kick(kInflateq);
  EXPECT_THAT(rig.fakes.ram.released, ElementsAre(Pair(0x50000, 0x3000), Pair(0x5e000, 0x3000), Pair(0x70000, 0x1000)));
  EXPECT_TRUE(rig.drivers[kInflateq].take_used());
  EXPECT_TRUE(rig.zero(0x51));
  EXPECT_FALSE(rig.zero(0x53));
  rig.fakes.ram.released.clear();
  ASSERT_TRUE(rig.give(kDeflateq, {0x50, 0x51}));
  rig.kick(kDeflateq);
  EXPECT_TRUE(rig.drivers[kDeflateq].take_used());
  EXPECT_THAT(rig.fakes.ram.released, IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Rings, VirtioBalloonLayouts, ::testing::Combine(::testing::Bool(), ::testing::Bool()));

// A page is released before the guest sees its chain used, and never after.
TEST(VirtioBalloon, what_was_shown_is_not_released_again) {
  Rig rig;
  rig.start();
  ASSERT_TRUE(rig.give(kInflateq, {0x50}));
  (void)rig.device.on_queue(kInflateq);
  EXPECT_TRUE(rig.zero(0x50)) << "before anything is shown";
  EXPECT_FALSE(rig.drivers[kInflateq].has_used());
  rig.show();
  ASSERT_TRUE(rig.drivers[kInflateq].take_used());
  // The guest takes the page back without a word, and its device dies.
  rig.fakes.memory.bytes[0x50 * kPageBytes] = std::byte{9};
  rig.device.restore();
  if (rig.device.show(true, rig.fakes.msi)) rig.device.after_show();
  rig.kick(kInflateq);
  EXPECT_FALSE(rig.zero(0x50));
}

TEST(VirtioBalloon, pages_outside_ram_are_left_alone) {
  Rig rig;
  rig.start();
  ASSERT_TRUE(rig.give(kInflateq, {0x50, 0xffffffff, kMemory / kPageBytes, 0x52, 0xfffffffe}));
  rig.kick(kInflateq);
  EXPECT_TRUE(rig.drivers[kInflateq].take_used());
  EXPECT_THAT(rig.fakes.ram.released, ElementsAre(Pair(0x50000, 0x1000), Pair(0x52000, 0x1000)));
  EXPECT_EQ(rig.registers.get(kDeviceStatus, 1) & kStatusNeedsReset, 0U);
}

TEST(VirtioBalloon, a_list_outside_ram_needs_a_reset) {
  Rig rig;
  rig.start();
  const std::vector<VirtioDriver::Buffer> outside{{std::uint64_t{1} << 40, 4, false}};
  ASSERT_TRUE(rig.drivers[kInflateq].add(outside));
  rig.kick(kInflateq);
  EXPECT_NE(rig.registers.get(kDeviceStatus, 1) & kStatusNeedsReset, 0U);
}

TEST(VirtioBalloon, a_long_list_takes_several_inputs_each_of_bounded_work) {
  Rig rig;
  rig.start();
  std::vector<std::uint32_t> pages(3 * VirtioBalloon::kMostPages, 0x50);
  for (std::size_t i = 0; i < pages.size(); ++i) pages[i] = kFirstPage + static_cast<std::uint32_t>(i % 128);
  rig.fakes.memory.write(0x28000, std::as_bytes(std::span(pages)));
  const std::vector<VirtioDriver::Buffer> one{{0x28000, static_cast<std::uint32_t>(4 * pages.size()), false}};
  ASSERT_TRUE(rig.drivers[kInflateq].add(one));
  ASSERT_TRUE(rig.device.on_queue(kInflateq));
  rig.show();
  EXPECT_FALSE(rig.drivers[kInflateq].has_used());
  rig.device.restore();
  EXPECT_GE(rig.kick(kInflateq), 2);
  EXPECT_TRUE(rig.drivers[kInflateq].take_used());
  std::uint64_t released = 0;
  for (const auto& [address, length] : rig.fakes.ram.released) released += length;
  EXPECT_EQ(released, pages.size() * kPageBytes) << "each once";
}

// Linux leaves no gap for queues that are not there; the specification does.
TEST(VirtioBalloon, reports_come_by_either_number) {
  struct Case {
    std::uint64_t features;
    QueueId queue;
    bool reports;
  };
  for (const Case& one : {Case{kReports | kStats, 3, true}, Case{kReports | kStats, 4, true}, Case{kReports, 2, true},
                          Case{kReports, 4, true}, Case{kReports, 3, false}, Case{kStats, 3, false},
                          Case{kStats, 4, false}, Case{0, 2, false}}) {
    Rig rig;
    rig.start(one.features);
    ASSERT_TRUE(rig.report(one.queue, {{0x50800, 0x3000}, {0x60000, 0x1000}}));
    rig.kick(one.queue);
    EXPECT_EQ(rig.drivers[one.queue].take_used().has_value(), one.reports) << one.queue;
    EXPECT_EQ(rig.zero(0x51) && rig.zero(0x52) && rig.zero(0x60), one.reports) << one.queue;
    EXPECT_FALSE(rig.zero(0x50) || rig.zero(0x53)) << "only whole pages";
  }
}

TEST(VirtioBalloon, reported_pages_of_a_guest_that_poisons_them_stay_as_they_are) {
  Rig rig;
  ASSERT_TRUE(has_feature(rig.registers.offered(), kBalloonFPagePoison));
  rig.start(kReports | feature_bit(kBalloonFPagePoison));
  rig.set_config(offsetof(BalloonConfig, poison_val), 0xaaaaaaaa);
  EXPECT_EQ(rig.config(offsetof(BalloonConfig, poison_val)), 0xaaaaaaaaU);
  ASSERT_TRUE(rig.report(kReportingVq, {{0x50000, 0x3000}}));
  rig.kick(kReportingVq);
  EXPECT_TRUE(rig.drivers[kReportingVq].take_used());
  EXPECT_THAT(rig.fakes.ram.released, IsEmpty());
}

TEST(VirtioBalloon, a_large_report_takes_several_inputs) {
  Rig rig;
  rig.start();
  constexpr auto kPart = static_cast<std::uint32_t>(VirtioBalloon::kMostBytes - kPageBytes);
  ASSERT_TRUE(rig.report(kReportingVq, {{0x60000, kPart}, {0x60000, kPart}, {0x50000, 0x1000}}));
  EXPECT_GE(rig.kick(kReportingVq), 2);
  EXPECT_TRUE(rig.drivers[kReportingVq].take_used());
  EXPECT_EQ(rig.fakes.ram.released.back(), std::pair(GuestPhys{0x50000}, std::uint64_t{0x1000}));
}

TEST(VirtioBalloon, target_is_told_by_a_configuration_change_and_survives_reset) {
  Rig rig(false, false, {.target = 5 * kPageBytes});
  rig.start(kReports);
  EXPECT_EQ(rig.config(0), 5U);
  rig.device.on_setting(Setting::kBalloonTarget, 9 * kPageBytes + 1);
  EXPECT_EQ(rig.config(0), 9U);
  EXPECT_EQ(rig.registers.isr(), kIsrConfig);
  rig.device.on_setting(Setting::kBalloonTarget, 9 * kPageBytes);
  EXPECT_EQ(rig.registers.isr(), 0U);
  rig.set_config(offsetof(BalloonConfig, actual), 7);
  EXPECT_EQ(rig.config(offsetof(BalloonConfig, actual)), 7U);
  rig.set_config(0, 1);
  EXPECT_EQ(rig.config(0), 9U) << "read only";
  rig.device.reset();
  EXPECT_EQ(rig.config(0), 9U);
  EXPECT_EQ(rig.config(offsetof(BalloonConfig, actual)), 0U) << "a reset empties the balloon";
  rig.device.on_setting(Setting::kBalloonTarget, 0);
  rig.device.reset();
  EXPECT_EQ(rig.config(0), 0U) << "not what it began with";
}

class Fields final : public Inspector {
 public:
  void field(std::string_view name, std::uint64_t value) override { all[std::string(name)] = value; }
  std::map<std::string, std::uint64_t> all;
};

TEST(VirtioBalloon, statistics_are_asked_for_again_and_again) {
  Rig rig;
  rig.start();
  const auto offer = [&](std::uint64_t free) {
    std::vector<std::byte> bytes;
    for (const auto& [tag, value] : {std::pair<std::uint16_t, std::uint64_t>{4, free}, {5, 1000}, {0xffff, 1}}) {
      const auto* t = reinterpret_cast<const std::byte*>(&tag);
      const auto* v = reinterpret_cast<const std::byte*>(&value);
      bytes.insert(bytes.end(), t, t + 2);
      bytes.insert(bytes.end(), v, v + 8);
    }
    rig.fakes.memory.write(kLists, bytes);
    const std::vector<VirtioDriver::Buffer> one{{kLists, static_cast<std::uint32_t>(bytes.size()), false}};
    ASSERT_TRUE(rig.drivers[kStatsq].add(one));
    EXPECT_TRUE(rig.drivers[kStatsq].must_kick());
    rig.kick(kStatsq);
  };
  for (const std::uint64_t free : {500U, 400U, 300U}) {
    offer(free);
    Fields fields;
    rig.device.inspect(fields);
    EXPECT_EQ(fields.all["stat_free_memory"], free);
    EXPECT_EQ(fields.all["stat_total_memory"], 1000U);
    EXPECT_FALSE(rig.drivers[kStatsq].has_used()) << "it is kept until it is wanted";
    rig.fakes.clock.advance(std::chrono::seconds(9));
    EXPECT_FALSE(rig.drivers[kStatsq].has_used());
    rig.device.restore();
    rig.fakes.clock.advance(std::chrono::seconds(1));
    rig.show();
    ASSERT_TRUE(rig.drivers[kStatsq].take_used());
  }
  EXPECT_EQ(rig.fakes.clock.armed_count(), 0U) << "a driver that does not answer is not asked";
}

TEST(VirtioBalloon, the_reset_of_another_queue_leaves_the_statistics_alone) {
  Rig rig;
  rig.start(kReports | kStats | feature_bit(kVirtioFRingReset));
  const std::vector<VirtioDriver::Buffer> one{{kLists, kStatBytes, false}};
  ASSERT_TRUE(rig.drivers[kStatsq].add(one));
  rig.kick(kStatsq);
  rig.registers.set(kQueueSelect, 2, kInflateq);
  rig.registers.set(kQueueReset, 2, 1);
  rig.fakes.clock.advance(std::chrono::seconds(10));
  rig.show();
  EXPECT_TRUE(rig.drivers[kStatsq].take_used()) << "its buffer is still the device's to give back";
}

// Linux does so. What the device was told before DRIVER_OK it may look at no sooner, and the driver tells it once.
TEST(VirtioBalloon, statistics_that_were_offered_before_the_driver_was_ready_are_taken) {
  Rig rig;
  std::array<std::byte, kStatBytes> entry{};
  constexpr std::uint64_t kValue = 700;
  std::memcpy(entry.data() + sizeof(std::uint16_t), &kValue, sizeof kValue);
  rig.fakes.memory.write(kLists, entry);
  const std::vector<VirtioDriver::Buffer> one{{kLists, kStatBytes, false}};
  ASSERT_TRUE(rig.drivers[kStatsq].add(one));
  rig.kick(kStatsq);
  rig.start();
  rig.fakes.clock.advance(std::chrono::seconds(1));
  Fields fields;
  rig.device.inspect(fields);
  EXPECT_EQ(fields.all["stats_updates"], 1U);
  EXPECT_FALSE(rig.drivers[kStatsq].has_used());
  rig.fakes.clock.advance(std::chrono::seconds(10));
  rig.show();
  EXPECT_TRUE(rig.drivers[kStatsq].take_used()) << "the next ones are wanted";
}

// A guest that gives pages up and takes them back as it likes, and a device that dies at any moment: nothing that the
// guest has in use is ever released.
TEST(VirtioBalloon, pages_in_use_are_never_released) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    std::mt19937_64 random(seed);
    Rig rig((seed & 1) != 0, (seed & 2) != 0);
    rig.start();
    std::set<std::uint32_t> used_pages;  // what they hold is 7
    for (std::uint32_t page = kFirstPage; page < kMemory / kPageBytes; ++page) used_pages.insert(page);
    std::map<std::uint16_t, std::vector<std::uint32_t>> in_flight;
    std::vector<std::uint32_t> balloon;
    for (int step = 0; step < 200; ++step) {
      switch (random() % 4) {
        case 0: {
          std::vector<std::uint32_t> pages;
          for (unsigned i = 0; i < 1 + random() % 20 && !used_pages.empty(); ++i) {
            auto at = used_pages.lower_bound(static_cast<std::uint32_t>(random() % (kMemory / kPageBytes)));
            if (at == used_pages.end()) at = used_pages.begin();
            pages.push_back(*at);
            used_pages.erase(at);
          }
          const GuestPhys list = kLists + 0x800 * (rig.next++ % 16);
          rig.fakes.memory.write(list, std::as_bytes(std::span(pages)));
          const std::vector<VirtioDriver::Buffer> one{{list, static_cast<std::uint32_t>(4 * pages.size()), false}};
          const auto id = pages.empty() ? std::nullopt : rig.drivers[kInflateq].add(one);
          if (id)
            in_flight[*id] = pages;
          else
            used_pages.insert(pages.begin(), pages.end());
          break;
        }
        case 1:
          while (const auto used = rig.drivers[kInflateq].take_used()) {
            const auto& pages = in_flight[used->id];
            for (const std::uint32_t page : pages) ASSERT_TRUE(rig.zero(page));
            balloon.insert(balloon.end(), pages.begin(), pages.end());
          }
          break;
        case 2:
          for (unsigned i = 0; i < 10 && !balloon.empty(); ++i) {
            const std::uint32_t page = balloon.back();
            balloon.pop_back();
            rig.fakes.memory.bytes[page * kPageBytes] = std::byte{7};
            used_pages.insert(page);
          }
          break;
        default:
          if (random() % 2 != 0) {
            rig.device.restore();
            if (rig.device.show(true, rig.fakes.msi)) rig.device.after_show();
          }
          rig.kick(kInflateq);
      }
      for (const std::uint32_t page : used_pages) ASSERT_FALSE(rig.zero(page)) << "seed " << seed << " page " << page;
    }
  }
}

}  // namespace
}  // namespace bulkhead::devproc
