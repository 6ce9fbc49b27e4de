// Random requests against a picture of the disk, served by a model that is killed and rebuilt at any time. Each request
// is answered once, with the right status and data, and done once; after a reset nothing of before it happens.
#include <gtest/gtest.h>

#include <map>

#include "tests/unit/devproc/models/virtio_blk_rig.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio;
using namespace virtio_blk_spec;

constexpr std::size_t kSectors = 128;
constexpr std::size_t kPlaces = 96;  // requests at a time
constexpr GuestPhys kPlaceBytes = 0x2000;

class World {
 public:
  World(const BlkSetup& setup, std::uint64_t seed, bool kills) : rig_(setup), random_(seed), kills_(kills) {
    rig_.disk.random.seed(seed);
    picture_ = rig_.disk.disk;
    for (std::size_t i = 0; i < kPlaces; ++i) free_.push_back(i);
  }

  void run(int steps) {
    for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) step();
    for (int i = 0; i < 1000 && !requests_.empty() && !testing::Test::HasFailure(); ++i) {
      serve();
      while (take_used()) continue;
    }
    EXPECT_TRUE(requests_.empty()) << "requests without an answer";
    EXPECT_EQ(rig_.disk.disk, picture_);
    EXPECT_EQ(rig_.disk.complaint, "");
    EXPECT_FALSE(rig_.needs_reset());
    EXPECT_GE(rig_.disk.performed.size(), io_);
    EXPECT_LE(rig_.disk.performed.size(), io_ + forgotten_) << "done twice";
    for (const auto& driver : rig_.drivers) EXPECT_EQ(driver->complaint(), "");
  }
  [[nodiscard]] std::size_t answered() const { return answered_; }
  [[nodiscard]] std::size_t deaths() const { return deaths_; }

 private:
  struct Request {
    std::uint32_t type = 0;
    std::size_t place = 0;
    std::size_t first = 0;  // sectors that are its own while it is in flight
    std::size_t count = 0;
    std::uint8_t expected = 0;
  };
  using Key = std::pair<QueueId, std::uint16_t>;

  std::size_t below(std::size_t limit) { return random_() % limit; }
  static GuestPhys at(std::size_t place) { return BlkRig::kRequests + kPlaceBytes * place; }

  void step() {
    const auto queue = static_cast<QueueId>(below(rig_.setup.queues));
    switch (below(12)) {
      case 0:
      case 1:
      case 2:
      case 3: add(queue); break;
      case 4:
      case 5:
        if (waiting_[queue]) waiting_[queue] = input([&] { return rig_.device->on_queue(queue); });
        break;
      case 6:
      case 7: rig_.disk.run_one(FakeBlock::kRandom); break;
      case 8: input([&] { return rig_.device->on_backend(0); }); break;
      case 9:
      case 10: take_used(); break;
      default:
        if (below(40) == 0) reset();
        break;
    }
  }
  void serve() {
    // Only what was kicked: a kick that the device did not ask for would hide one that it forgot.
    for (QueueId queue = 0; queue < rig_.setup.queues; ++queue) {
      while (waiting_[queue]) waiting_[queue] = input([&] { return rig_.device->on_queue(queue); });
    }
    rig_.disk.run(FakeBlock::kRandom);
    rig_.on_backend();
  }

  // One input, in which the process may die. What it returns, or true if it died: a successor looks at everything.
  template <class Act>
  bool input(Act&& act) {
    const bool more = act();
    const std::size_t when = kills_ ? below(16) : 16;
    if (when >= 4) {
      rig_.commit();
      return more;
    }
    ++deaths_;
    // 0: before the commit. 1: before the disk is told of the commit. 2: before it is shown. 3: after all of that.
    if (when >= 1) rig_.committed = rig_.fakes.state.snapshot();
    if (when >= 2) rig_.disk.commit();
    if (when >= 3) rig_.commit();
    rig_.take_over();
    if (below(3) == 0) rig_.take_over();
    for (QueueId queue = 0; queue < rig_.setup.queues; ++queue) waiting_[queue] = true;
    return true;
  }

  [[nodiscard]] bool busy(std::size_t first, std::size_t count) const {
    return std::ranges::any_of(requests_, [&](const auto& entry) {
      const Request& other = entry.second;
      return other.count != 0 && first < other.first + other.count && other.first < first + count;
    });
  }
  void add(QueueId queue) {
    if (free_.empty()) return;
    constexpr std::uint32_t kTypes[] = {kVirtioBlkTIn,      kVirtioBlkTIn,          kVirtioBlkTOut,
                                        kVirtioBlkTOut,     kVirtioBlkTFlush,       kVirtioBlkTGetId,
                                        kVirtioBlkTDiscard, kVirtioBlkTWriteZeroes, 99};
    Request request{.type = kTypes[below(std::size(kTypes))], .place = free_.back()};
    const GuestPhys here = at(request.place);
    rig_.put_header(here, request.type, 0);
    BlkRig::Buffers buffers = {{here, 16, false}};
    switch (request.type) {
      case kVirtioBlkTIn:
      case kVirtioBlkTOut:
      case kVirtioBlkTDiscard:
      case kVirtioBlkTWriteZeroes:
        if (!add_range(request, buffers)) return;
        break;
      case kVirtioBlkTGetId: buffers.push_back({here + 512, 20, true}); break;
      case 99: request.expected = kVirtioBlkSUnsupp; break;
      default: break;
    }
    buffers.push_back({here + 256, 1, true});
    const auto id = rig_.driver(queue).add(buffers, below(2) == 0);
    if (!id) return;
    free_.pop_back();
    apply(request);
    requests_[{queue, *id}] = request;
    if (rig_.driver(queue).must_kick()) waiting_[queue] = true;
  }
  bool add_range(Request& request, BlkRig::Buffers& buffers) {
    const GuestPhys here = at(request.place);
    const std::size_t count = 1 + below(6);
    const std::size_t first = below(kSectors + 2);
    if (first + count > kSectors) {
      request.expected = kVirtioBlkSIoErr;
    } else {
      if (busy(first, count)) return false;
      request.first = first;
      request.count = count;
    }
    rig_.put_header(here, request.type, first);
    const bool read = request.type == kVirtioBlkTIn;
    if (read || request.type == kVirtioBlkTOut) {
      // Cut anywhere, not at sectors.
      auto left = static_cast<std::uint32_t>(512 * count);
      for (GuestPhys data = here + 512; left != 0;) {
        const auto piece = below(3) == 0 ? left : static_cast<std::uint32_t>(1 + below(left));
        buffers.push_back({data, piece, read});
        data += piece;
        left -= piece;
        if (buffers.size() == 4 && left != 0) {
          buffers.push_back({data, left, read});
          break;
        }
      }
      const auto pattern = static_cast<std::uint8_t>(random_());
      for (std::size_t i = 0; i < 512 * count; ++i)
        rig_.fakes.memory.store<std::uint8_t>(here + 512 + i, static_cast<std::uint8_t>(pattern + i / 3));
    } else {
      rig_.fakes.memory.store(here + 512, VirtioBlkRange{first, static_cast<std::uint32_t>(count), 0});
      buffers.push_back({here + 512, 16, false});
    }
    return true;
  }
  // To the picture: nobody looks at these sectors before it is over.
  void apply(const Request& request) {
    if (request.count == 0) return;
    const auto part = std::span(picture_).subspan(request.first * 512, request.count * 512);
    if (request.type == kVirtioBlkTOut) rig_.fakes.memory.read(at(request.place) + 512, part);
    if (request.type == kVirtioBlkTDiscard) std::ranges::fill(part, std::byte{0xdd});
    if (request.type == kVirtioBlkTWriteZeroes) std::ranges::fill(part, std::byte{0});
  }

  bool take_used() {
    bool any = false;
    for (QueueId queue = 0; queue < rig_.setup.queues; ++queue) {
      const auto used = rig_.driver(queue).take_used();
      if (!used) continue;
      any = true;
      const auto it = requests_.find({queue, used->id});
      EXPECT_NE(it, requests_.end()) << "answered twice";
      if (it == requests_.end()) return false;
      check(it->second, used->written);
      free_.insert(free_.begin(), it->second.place);
      requests_.erase(it);
      ++answered_;
    }
    return any;
  }
  void check(const Request& request, std::uint32_t written) {
    EXPECT_EQ(rig_.status(at(request.place)), request.expected) << request.type;
    if (request.expected == kVirtioBlkSOk && request.type != kVirtioBlkTGetId) ++io_;
    if (request.type != kVirtioBlkTIn || request.expected != kVirtioBlkSOk) return;
    EXPECT_EQ(written, request.count * 512 + 1);
    std::vector<std::byte> data(request.count * 512);
    EXPECT_TRUE(rig_.fakes.memory.read(at(request.place) + 512, data));
    EXPECT_TRUE(std::ranges::equal(data, std::span(picture_).subspan(request.first * 512, data.size())));
  }

  // What was in flight was done or was not; from then on neither disk nor memory change by it.
  void reset() {
    input([&] {
      EXPECT_TRUE(rig_.device->write({kVirtioRegisters, kVirtioCommonOffset + kDeviceStatus, 1}, 0));
      return false;
    });
    rig_.set_common(kDeviceStatus, 1, 0);
    // A driver waits until it reads zero: so long the disk is still at what it was given.
    for (int i = 0; i < 1000 && rig_.common(kDeviceStatus, 1) != 0; ++i) {
      rig_.disk.run_one(FakeBlock::kRandom);
      input([&] { return rig_.device->on_backend(0); });
    }
    EXPECT_EQ(rig_.common(kDeviceStatus, 1), 0U);
    // It may still tell of what is over: of the past, if it missed the commit that took it.
    EXPECT_TRUE(rig_.disk.noted.empty() && rig_.disk.begun.empty());
    for (const auto& [key, request] : requests_) {
      free_.push_back(request.place);
      std::copy_n(rig_.disk.disk.begin() + static_cast<std::ptrdiff_t>(512 * request.first), 512 * request.count,
                  picture_.begin() + static_cast<std::ptrdiff_t>(512 * request.first));
    }
    forgotten_ += requests_.size();
    requests_.clear();
    rig_.start_driver();
  }

  BlkRig rig_;
  std::mt19937_64 random_;
  bool kills_;
  std::vector<std::byte> picture_;
  std::vector<std::size_t> free_;
  std::map<Key, Request> requests_;
  std::array<bool, kVirtioBlkMaxQueues> waiting_{};  // kicked, or more to do
  std::size_t answered_ = 0;
  std::size_t deaths_ = 0;
  std::size_t io_ = 0;         // requests that the disk has to do
  std::size_t forgotten_ = 0;  // by resets: done or not
};

class VirtioBlkProperty : public testing::TestWithParam<BlkSetup> {};

TEST_P(VirtioBlkProperty, random_requests) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(seed);
    World world(GetParam(), seed, false);
    world.run(4000);
    EXPECT_GT(world.answered(), 300U);
    if (HasFailure()) return;
  }
}

TEST_P(VirtioBlkProperty, process_that_dies_anywhere_changes_nothing) {
  for (std::uint64_t seed = 101; seed <= 108; ++seed) {
    SCOPED_TRACE(seed);
    World world(GetParam(), seed, true);
    world.run(4000);
    EXPECT_GT(world.answered(), 300U);
    EXPECT_GT(world.deaths(), 50U);
    if (HasFailure()) return;
  }
}

std::vector<BlkSetup> setups() {
  std::vector<BlkSetup> all;
  for (const bool packed : {false, true})
    for (const bool event_idx : {false, true})
      for (const std::uint16_t queues : {1, 3})
        for (const std::uint16_t size : {8, 64})
          all.push_back({.packed = packed,
                         .event_idx = event_idx,
                         .queues = queues,
                         .queue_size = size,
                         .disk = {.bytes = kSectors * 512, .discard = true, .write_zeroes = true}});
  return all;
}
INSTANTIATE_TEST_SUITE_P(Setups, VirtioBlkProperty, testing::ValuesIn(setups()));

}  // namespace
}  // namespace bulkhead::devproc
