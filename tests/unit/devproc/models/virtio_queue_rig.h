// A virtqueue between an honest driver and a device that the test plays.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <optional>
#include <random>

#include "devproc/models/virtio/queue.h"
#include "tests/fakes/fake_state.h"
#include "tests/fakes/vector_memory.h"
#include "tests/fakes/virtio_driver.h"

namespace bulkhead::devproc::virtio {

// Guest memory as a device process sees it. Counts accesses, lets the test in after each, and loses all writes of a
// process that died.
class WatchedMemory final : public GuestMemory {
 public:
  static constexpr std::uint64_t kForever = std::numeric_limits<std::uint64_t>::max();

  explicit WatchedMemory(GuestMemory& ram) : ram_(ram) {}
  bool read(GuestPhys address, std::span<std::byte> out) override {
    const bool ok = ram_.read(address, out);
    accessed();
    return ok;
  }
  bool write(GuestPhys address, std::span<const std::byte> in) override {
    const bool ok = !may_write() || ram_.write(address, in);
    accessed();
    return ok;
  }
  std::optional<std::uint16_t> load_acquire(GuestPhys address) override {
    const auto value = ram_.load_acquire(address);
    accessed();
    return value;
  }
  bool store_release(GuestPhys address, std::uint16_t value) override {
    const bool ok = !may_write() || ram_.store_release(address, value);
    accessed();
    return ok;
  }

  std::function<void()> after_access;
  std::uint64_t writes_left = kForever;  // then the process is dead
  std::uint64_t writes = 0;
  std::uint64_t accesses = 0;

 private:
  bool may_write() {
    if (writes_left == 0) return false;
    --writes_left;
    ++writes;
    return true;
  }
  void accessed() {
    ++accesses;
    if (after_access) after_access();
  }

  GuestMemory& ram_;
};

struct QueueSetup {
  bool packed = false;
  bool indirect = true;
  bool event_idx = false;
  std::uint16_t size = 8;
  bool in_order = true;
};

inline std::ostream& operator<<(std::ostream& out, const QueueSetup& s) {
  return out << (s.packed ? "packed" : "split") << (s.indirect ? ", indirect" : "")
             << (s.event_idx ? ", event idx" : "") << (s.in_order ? ", in order" : "") << ", size " << s.size;
}

using Buffers = std::vector<VirtioDriver::Buffer>;

inline constexpr GuestPhys kRings = 0x1000;
inline constexpr GuestPhys kBuffers = 0x40000;
inline constexpr std::size_t kRam = 0x80000;

struct QueueRig {
  explicit QueueRig(const QueueSetup& s)
      : setup(s), driver(ram, {.packed = s.packed, .event_idx = s.event_idx, .size = s.size, .at = kRings}) {
    driver.place(state.mut());
    start();
    queue->enable();
  }

  // The device process, or its successor.
  void start() {
    queue.emplace(state, memory);
    queue->set_features(
        {.packed = setup.packed, .indirect = setup.indirect, .event_idx = setup.event_idx, .in_order = setup.in_order});
  }
  // Takes over as a successor does. True: an interrupt.
  bool take_over() {
    memory.writes_left = WatchedMemory::kForever;
    start();
    const QueueState before = state.get();
    queue->restore();
    EXPECT_EQ(std::memcmp(&before, &state.get(), sizeof(before)), 0) << "an honest state stays as it is";
    return queue->show(true);
  }

  // A chain of `count` buffers of 16 bytes; the last `writable` of them are the device's to write.
  static Buffers buffers(std::size_t count, std::size_t writable) {
    Buffers all;
    for (std::size_t i = 0; i < count; ++i) all.push_back({kBuffers + 0x100 * i, 16, i + writable >= count});
    return all;
  }
  std::uint16_t add(std::size_t count = 1, std::size_t writable = 1, bool indirect = false) {
    return driver.add(buffers(count, writable), indirect).value();
  }
  Chain pop() {
    Chain chain;
    EXPECT_EQ(queue->pop(chain), Pop::kChain);
    return chain;
  }
  void use(const Chain& chain, std::uint32_t written) { queue->push({chain.id, chain.descriptors, written}); }
  // One input that takes and uses `count` chains. True: an interrupt.
  bool serve(int count = 1, std::uint32_t written = 5) {
    queue->begin();
    for (int i = 0; i < count; ++i) use(pop(), written);
    return show();
  }
  bool show() {
    allocator.reset_dirty();
    const bool interrupt = queue->show(false);
    EXPECT_FALSE(allocator.dirty(0)) << "after the commit nothing changes";
    return interrupt;
  }
  void drain() {
    while (driver.take_used()) continue;
  }
  void check() { EXPECT_EQ(driver.complaint(), ""); }
  // The queue finds itself broken, once, and from then on is as good as not there.
  void expect_broken_at_pop() {
    Chain chain;
    queue->begin();
    EXPECT_EQ(queue->pop(chain), Pop::kBroken);
    expect_broken();
  }
  void expect_broken() {
    Chain chain;
    EXPECT_FALSE(queue->usable());
    EXPECT_EQ(queue->state().broken, 1);
    EXPECT_EQ(queue->state().faults, 1U);
    EXPECT_EQ(queue->pop(chain), Pop::kEmpty);
    EXPECT_EQ(queue->fetch(0, chain), Pop::kEmpty);
    EXPECT_FALSE(queue->has_more());
    EXPECT_EQ(queue->state().faults, 1U);
    EXPECT_FALSE(queue->show(false));
  }

  // The ring as bytes, for drivers that are not honest.
  void split_desc(std::uint16_t i, const VirtqDesc& d) { ram.store(driver.desc() + 16U * i, d); }
  void packed_desc(std::uint16_t i, const PvirtqDesc& d) { ram.store(driver.desc() + 16U * i, d); }
  void make_available(std::initializer_list<std::uint16_t> heads) {
    std::uint16_t idx = state->next_avail;
    for (const std::uint16_t head : heads)
      ram.store<std::uint16_t>(driver.driver() + kVirtqRing + 2U * (idx++ % setup.size), head);
    ram.store<std::uint16_t>(driver.driver() + kVirtqIdx, idx);
  }

  QueueSetup setup;
  VectorMemory ram{kRam};
  WatchedMemory memory{ram};
  FakeStateAllocator allocator;
  Persistent<QueueState> state = allocate_state<QueueState>(allocator);
  VirtioDriver driver;
  std::optional<VirtQueue> queue;
};

inline std::vector<QueueSetup> all_setups(std::initializer_list<std::uint16_t> split_sizes,
                                          std::initializer_list<std::uint16_t> packed_sizes) {
  std::vector<QueueSetup> all;
  for (unsigned bits = 0; bits < 16; ++bits) {
    const bool packed = (bits & 1) != 0;
    for (const std::uint16_t size : packed ? packed_sizes : split_sizes)
      all.push_back({.packed = packed,
                     .indirect = (bits & 2) != 0,
                     .event_idx = (bits & 4) != 0,
                     .size = size,
                     .in_order = (bits & 8) != 0});
  }
  return all;
}

}  // namespace bulkhead::devproc::virtio
