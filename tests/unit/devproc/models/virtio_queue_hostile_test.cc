// A virtqueue whose driver is malicious, or whose state a hostile process left behind.
#include <gtest/gtest.h>

#include "tests/unit/devproc/models/virtio_queue_rig.h"

namespace bulkhead::devproc::virtio {
namespace {

constexpr GuestPhys kTable = kBuffers + 0x4000;
constexpr std::uint16_t kWrap = kVirtqDescFAvail;  // of a packed descriptor in the first turn

// ---- Where the ring is ----

struct Place {
  const char* what;
  void (*change)(QueueState&);
};

void expect_broken_at_enable(bool packed, const Place& place) {
  SCOPED_TRACE(testing::Message() << (packed ? "packed: " : "split: ") << place.what);
  QueueRig rig({.packed = packed});
  place.change(rig.state.mut());
  rig.queue->enable();
  rig.expect_broken();
  rig.queue->restore();
  rig.expect_broken();
  // A queue that was enabled before its ring went bad finds out when it works.
  rig.state.mut().broken = 0;
  rig.state.mut().faults = 0;
  rig.queue->set_kicks(true);
  Chain chain;
  rig.queue->pop(chain);
  rig.queue->fetch(0, chain);
  rig.queue->show(true);
}

TEST(VirtQueueHostile, rings_that_cannot_be) {
  const Place both[] = {
      {"no size", [](QueueState& s) { s.size = 0; }},
      {"too large", [](QueueState& s) { s.size = 2 * kMaxQueueSize; }},
      {"descriptors misaligned", [](QueueState& s) { s.desc += 8; }},
      {"driver area misaligned", [](QueueState& s) { s.driver += 1; }},
      {"device area misaligned", [](QueueState& s) { s.device += 2; }},
      {"descriptors outside RAM", [](QueueState& s) { s.desc = kRam; }},
      {"descriptors leave RAM", [](QueueState& s) { s.desc = kRam - 16; }},
      {"driver area outside RAM", [](QueueState& s) { s.driver = kRam + 0x1000; }},
      {"device area outside RAM", [](QueueState& s) { s.device = kRam + 0x1000; }},
      {"descriptors wrap", [](QueueState& s) { s.desc = ~0xfULL; }},
  };
  const Place split[] = {
      {"size no power of two", [](QueueState& s) { s.size = 6; }},
      {"driver area leaves RAM", [](QueueState& s) { s.driver = kRam - 20; }},
      {"device area leaves RAM", [](QueueState& s) { s.device = kRam - 68; }},
      {"driver area wraps", [](QueueState& s) { s.driver = ~1ULL; }},
      {"device area wraps", [](QueueState& s) { s.device = ~3ULL; }},
  };
  for (const Place& place : both) {
    expect_broken_at_enable(false, place);
    expect_broken_at_enable(true, place);
  }
  for (const Place& place : split) expect_broken_at_enable(false, place);
}

TEST(VirtQueueHostile, a_ring_across_a_hole_in_ram) {
  // The first and the last byte are there; the page between is not.
  class Holed final : public GuestMemory {
   public:
    bool read(GuestPhys address, std::span<std::byte> out) override { return !hole(address) && ram.read(address, out); }
    bool write(GuestPhys address, std::span<const std::byte> in) override {
      return !hole(address) && ram.write(address, in);
    }
    std::optional<std::uint16_t> load_acquire(GuestPhys address) override {
      return hole(address) ? std::nullopt : ram.load_acquire(address);
    }
    bool store_release(GuestPhys address, std::uint16_t value) override {
      return !hole(address) && ram.store_release(address, value);
    }
    VectorMemory ram{kRam};

   private:
    static bool hole(GuestPhys address) { return address >= 0x3000 && address < 0x4000; }
  } memory;
  for (const bool packed : {false, true}) {
    FakeStateAllocator allocator;
    VirtQueue queue(allocate_state<QueueState>(allocator), memory);
    queue.set_features({.packed = packed});
    queue.mut().size = 1024;  // 16 KiB
    queue.mut().desc = 0x1000;
    queue.mut().driver = 0x10000;
    queue.mut().device = 0x12000;
    queue.enable();
    EXPECT_FALSE(queue.usable());
    queue.mut().desc = 0x4000;
    queue.enable();
    EXPECT_TRUE(queue.usable());
  }
}

// ---- Split ----

struct SplitCase {
  const char* what;
  void (*make)(QueueRig&);
  bool indirect = true;
};

const VirtqDesc kGood{kBuffers, 16, 0, 0};

const SplitCase kSplitCases[] = {
    {"a loop of one",
     [](QueueRig& r) {
       r.split_desc(0, {kBuffers, 16, kVirtqDescFNext, 0});
     }},
    {"a loop of two",
     [](QueueRig& r) {
       r.split_desc(0, {kBuffers, 16, kVirtqDescFNext, 1});
       r.split_desc(1, {kBuffers, 16, kVirtqDescFNext, 0});
     }},
    {"next beyond the table",
     [](QueueRig& r) {
       r.split_desc(0, {kBuffers, 16, kVirtqDescFNext, 8});
     }},
    {"no length",
     [](QueueRig& r) {
       r.split_desc(0, {kBuffers, 0, 0, 0});
     }},
    {"wraps around",
     [](QueueRig& r) {
       r.split_desc(0, {~0ULL - 14, 16, 0, 0});
     }},
    {"writable before readable",
     [](QueueRig& r) {
       r.split_desc(0, {kBuffers, 16, kVirtqDescFNext | kVirtqDescFWrite, 1});
       r.split_desc(1, kGood);
     }},
    {"more than 4 GiB",
     [](QueueRig& r) {
       r.split_desc(0, {0, 0xffffffff, kVirtqDescFNext, 1});
       r.split_desc(1, {0, 2, 0, 0});
     }},
    {"head beyond the table", [](QueueRig& r) { r.ram.store<std::uint16_t>(r.driver.driver() + kVirtqRing, 8); }},
    {"index jumps", [](QueueRig& r) { r.ram.store<std::uint16_t>(r.driver.driver() + kVirtqIdx, 9); }},
    {"index goes back", [](QueueRig& r) { r.ram.store<std::uint16_t>(r.driver.driver() + kVirtqIdx, 0xffff); }},
    {"indirect was not negotiated",
     [](QueueRig& r) {
       r.split_desc(0, {kTable, 16, kVirtqDescFIndirect, 0});
     },
     false},
    {"indirect and next",
     [](QueueRig& r) {
       r.split_desc(0, {kTable, 16, kVirtqDescFIndirect | kVirtqDescFNext, 1});
     }},
    {"nested indirect",
     [](QueueRig& r) {
       r.ram.store(kTable, VirtqDesc{kTable, 16, kVirtqDescFIndirect, 0});
     }},
    {"empty table",
     [](QueueRig& r) {
       r.split_desc(0, {kTable, 0, kVirtqDescFIndirect, 0});
     }},
    {"table of 17 bytes",
     [](QueueRig& r) {
       r.split_desc(0, {kTable, 17, kVirtqDescFIndirect, 0});
     }},
    {"table outside RAM",
     [](QueueRig& r) {
       r.split_desc(0, {kRam, 16, kVirtqDescFIndirect, 0});
     }},
    {"table wraps around",
     [](QueueRig& r) {
       r.split_desc(0, {~0xfULL, 32, kVirtqDescFIndirect, 0});
     }},
    {"loop in a table",
     [](QueueRig& r) {
       r.ram.store(kTable, VirtqDesc{kBuffers, 16, kVirtqDescFNext, 0});
     }},
    {"next beyond a table",
     [](QueueRig& r) {
       r.ram.store(kTable, VirtqDesc{kBuffers, 16, kVirtqDescFNext, 1});
     }},
    {"table with no length",
     [](QueueRig& r) {
       r.ram.store(kTable, VirtqDesc{kBuffers, 0, 0, 0});
     }},
    {"table longer than the queue",
     [](QueueRig& r) {
       r.split_desc(0, {kTable, 16 * 16, kVirtqDescFIndirect, 0});
       for (std::uint16_t i = 0; i < 9; ++i)
         r.ram.store(kTable + 16U * i, VirtqDesc{kBuffers, 16, i < 8 ? kVirtqDescFNext : std::uint16_t{0},
                                                 static_cast<std::uint16_t>(i + 1)});
     }},
    {"direct and indirect together longer than the queue",
     [](QueueRig& r) {
       for (std::uint16_t i = 0; i < 7; ++i)
         r.split_desc(i, {kBuffers, 16, kVirtqDescFNext, static_cast<std::uint16_t>(i + 1)});
       r.split_desc(7, {kTable, 32, kVirtqDescFIndirect, 0});
       r.ram.store(kTable, VirtqDesc{kBuffers, 16, kVirtqDescFNext, 1});
       r.ram.store(kTable + 16, kGood);
     }},
};

TEST(VirtQueueHostile, split_chains) {
  for (const SplitCase& one : kSplitCases) {
    SCOPED_TRACE(one.what);
    QueueRig rig({.indirect = one.indirect});
    // Without the case's change this is an indirect chain of one.
    rig.split_desc(0, {kTable, 16, kVirtqDescFIndirect, 0});
    rig.ram.store(kTable, kGood);
    rig.make_available({0});
    if (one.indirect) {
      QueueRig honest({});
      honest.ram.bytes = rig.ram.bytes;
      honest.pop();
    }
    one.make(rig);
    rig.expect_broken_at_pop();
    EXPECT_LT(rig.memory.accesses, 200U);
  }
}

TEST(VirtQueueHostile, split_chain_that_fills_the_queue_is_fine) {
  QueueRig rig({});
  rig.add(8, 4);
  EXPECT_EQ(rig.pop().readable.size(), 4U);
  rig.take_over();
  EXPECT_TRUE(rig.queue->usable());
}

TEST(VirtQueueHostile, split_more_in_flight_than_the_queue_has) {
  QueueRig rig({});
  for (std::uint16_t i = 0; i < 8; ++i) rig.split_desc(i, kGood);
  rig.make_available({0, 1, 2, 3, 4, 5, 6, 7});
  rig.queue->begin();
  for (int i = 0; i < 8; ++i) rig.use(rig.pop(), 1);
  // None of them was shown yet.
  rig.make_available({0});
  Chain chain;
  EXPECT_EQ(rig.queue->pop(chain), Pop::kBroken);
  EXPECT_EQ(rig.state->faults, 1U);
}

TEST(VirtQueueHostile, split_index_goes_back_behind_what_was_taken) {
  QueueRig rig({});
  rig.add();
  rig.add();
  rig.pop();
  rig.pop();
  rig.ram.store<std::uint16_t>(rig.driver.driver() + kVirtqIdx, 1);
  EXPECT_TRUE(rig.queue->has_more()) << "so that the device looks";
  rig.expect_broken_at_pop();
}

TEST(VirtQueueHostile, split_chain_changes_after_it_was_taken) {
  QueueRig rig({});
  rig.add();
  const std::uint16_t position = rig.pop().position;
  Chain chain;
  rig.split_desc(position, {kBuffers, 16, kVirtqDescFNext, position});
  EXPECT_EQ(rig.queue->fetch(position, chain), Pop::kBroken);
  rig.expect_broken();
}

TEST(VirtQueueHostile, split_fetch_of_what_cannot_be) {
  QueueRig rig({});
  Chain chain;
  EXPECT_EQ(rig.queue->fetch(8, chain), Pop::kBroken);
  rig.expect_broken();
}

// ---- Packed ----

struct PackedCase {
  const char* what;
  void (*make)(QueueRig&);
  bool indirect = true;
};

const PackedCase kPackedCases[] = {
    {"a chain without an end",
     [](QueueRig& r) {
       for (std::uint16_t i = 0; i < 8; ++i) r.packed_desc(i, {kBuffers, 16, 0, kWrap | kVirtqDescFNext});
     }},
    {"a slot that is not available",
     [](QueueRig& r) {
       r.packed_desc(0, {kBuffers, 16, 0, kWrap | kVirtqDescFNext});
       r.packed_desc(1, {kBuffers, 16, 0, 0});
     }},
    {"no length",
     [](QueueRig& r) {
       r.packed_desc(0, {kBuffers, 0, 0, kWrap});
     }},
    {"wraps around",
     [](QueueRig& r) {
       r.packed_desc(0, {~0ULL - 14, 16, 0, kWrap});
     }},
    {"writable before readable",
     [](QueueRig& r) {
       r.packed_desc(0, {kBuffers, 16, 0, kWrap | kVirtqDescFNext | kVirtqDescFWrite});
       r.packed_desc(1, {kBuffers, 16, 0, kWrap});
     }},
    {"more than 4 GiB",
     [](QueueRig& r) {
       r.packed_desc(0, {0, 0xffffffff, 0, kWrap | kVirtqDescFNext});
       r.packed_desc(1, {0, 2, 0, kWrap});
     }},
    {"indirect was not negotiated", [](QueueRig&) {}, false},
    {"indirect and next",
     [](QueueRig& r) {
       r.packed_desc(0, {kTable, 16, 0, kWrap | kVirtqDescFIndirect | kVirtqDescFNext});
       r.packed_desc(1, {kBuffers, 16, 0, kWrap});
     }},
    {"indirect after direct",
     [](QueueRig& r) {
       r.packed_desc(0, {kBuffers, 16, 0, kWrap | kVirtqDescFNext});
       r.packed_desc(1, {kTable, 16, 0, kWrap | kVirtqDescFIndirect});
     }},
    {"nested indirect",
     [](QueueRig& r) {
       r.ram.store(kTable, PvirtqDesc{kTable, 16, 0, kVirtqDescFIndirect});
     }},
    {"empty table",
     [](QueueRig& r) {
       r.packed_desc(0, {kTable, 0, 0, kWrap | kVirtqDescFIndirect});
     }},
    {"table of 17 bytes",
     [](QueueRig& r) {
       r.packed_desc(0, {kTable, 17, 0, kWrap | kVirtqDescFIndirect});
     }},
    {"table outside RAM",
     [](QueueRig& r) {
       r.packed_desc(0, {kRam, 16, 0, kWrap | kVirtqDescFIndirect});
     }},
    {"table wraps around",
     [](QueueRig& r) {
       r.packed_desc(0, {~0xfULL, 32, 0, kWrap | kVirtqDescFIndirect});
     }},
    {"table with no length",
     [](QueueRig& r) {
       r.ram.store(kTable, PvirtqDesc{kBuffers, 0, 0, 0});
     }},
    {"table longer than the queue",
     [](QueueRig& r) {
       r.packed_desc(0, {kTable, 16 * 9, 0, kWrap | kVirtqDescFIndirect});
       for (std::uint16_t i = 0; i < 9; ++i) r.ram.store(kTable + 16U * i, PvirtqDesc{kBuffers, 16, 0, 0});
     }},
};

TEST(VirtQueueHostile, packed_chains) {
  for (const PackedCase& one : kPackedCases) {
    SCOPED_TRACE(one.what);
    QueueRig rig({.packed = true, .indirect = one.indirect});
    rig.packed_desc(0, {kTable, 16, 0, kWrap | kVirtqDescFIndirect});
    rig.ram.store(kTable, PvirtqDesc{kBuffers, 16, 0, 0});
    if (one.indirect) {
      QueueRig honest({.packed = true});
      honest.ram.bytes = rig.ram.bytes;
      honest.pop();
    }
    one.make(rig);
    rig.expect_broken_at_pop();
    EXPECT_LT(rig.memory.accesses, 200U);
  }
}

TEST(VirtQueueHostile, packed_slots_are_made_available_before_they_are_used) {
  QueueRig rig({.packed = true, .size = 3});
  for (int i = 0; i < 3; ++i) rig.add();
  rig.queue->begin();
  rig.pop();
  rig.use(rig.pop(), 1);  // used, and not shown
  rig.pop();
  rig.packed_desc(0, {kBuffers, 16, 0, kVirtqDescFUsed});  // the next turn's
  Chain chain;
  EXPECT_EQ(rig.queue->pop(chain), Pop::kBroken);
  EXPECT_EQ(rig.state->faults, 1U);
}

TEST(VirtQueueHostile, packed_fetch_of_what_was_not_taken) {
  for (const std::uint16_t position : {0x8001, 0x8002, 0x0000, 0x8008, 0xffff, 0x8007}) {
    QueueRig rig({.packed = true});
    for (int i = 0; i < 3; ++i) rig.add();
    EXPECT_EQ(rig.pop().position, 0x8000);
    Chain chain;
    EXPECT_EQ(rig.queue->fetch(position, chain), Pop::kBroken) << position;
    rig.expect_broken();
  }
}

TEST(VirtQueueHostile, packed_fetch_of_a_slot_behind_the_ring) {
  QueueRig rig({.packed = true});
  for (int i = 0; i < 3; ++i) rig.add();
  rig.serve(3);
  rig.drain();
  for (int i = 0; i < 8; ++i) rig.add();
  rig.queue->begin();
  for (int i = 0; i < 8; ++i) rig.pop();
  rig.packed_desc(8, {kBuffers, 16, 0, kWrap});
  Chain chain;
  EXPECT_EQ(rig.queue->fetch(0x8008, chain), Pop::kBroken);
  rig.expect_broken();
}

// The flags that were looked at are the flags that count.
TEST(VirtQueueHostile, packed_flags_change_under_the_device) {
  QueueRig rig({.packed = true});
  rig.add();
  rig.memory.after_access = [&] {
    rig.ram.store<std::uint16_t>(rig.driver.desc() + kPvirtqDescFlags, kWrap | kVirtqDescFIndirect | kVirtqDescFNext);
  };
  rig.queue->begin();
  const Chain chain = rig.pop();
  EXPECT_EQ(chain.descriptors, 1);
  EXPECT_EQ(chain.writable_bytes, 16U);
}

TEST(VirtQueueHostile, packed_chain_changes_after_it_was_taken) {
  for (const std::uint16_t flags : {std::uint16_t{0}, static_cast<std::uint16_t>(kWrap | kVirtqDescFNext)}) {
    QueueRig rig({.packed = true});
    rig.add();
    rig.add();
    const std::uint16_t position = rig.pop().position;
    rig.packed_desc(0, {kBuffers, 16, 0, flags});
    Chain chain;
    EXPECT_EQ(rig.queue->fetch(position, chain), Pop::kBroken) << "gone, or grown beyond what was taken";
    rig.expect_broken();
  }
}

// ---- Anything ----

// Random bytes, with numbers among them that are about to be right.
void scramble(std::span<std::byte> bytes, std::mt19937_64& random) {
  for (std::size_t i = 0; i + 2 <= bytes.size(); i += 2) {
    const std::uint64_t dice = random();
    std::uint16_t value = 0;
    switch (dice % 4) {
      case 0: value = static_cast<std::uint16_t>(dice >> 16); break;
      case 1: value = static_cast<std::uint16_t>((dice >> 16) % 16); break;
      case 2: value = static_cast<std::uint16_t>((dice >> 16) & 0x8087); break;
      default: break;
    }
    std::memcpy(bytes.data() + i, &value, 2);
  }
}

void scramble_state(QueueRig& rig, std::mt19937_64& random) {
  QueueState& state = rig.state.mut();
  const QueueState honest = state;
  scramble(std::as_writable_bytes(std::span(&state, 1)), random);
  // Left as it was now and then, else nothing would ever get past the first check.
  if (random() % 8 != 0) {
    state.desc = honest.desc;
    state.driver = honest.driver;
    state.device = honest.device;
  }
  if (random() % 8 != 0) state.size = honest.size;
  if (random() % 4 != 0) state.shown_count = static_cast<std::uint16_t>(random() % 3);
  if (random() % 2 != 0) state.next_avail = state.next_used;
  if (random() % 8 != 0) state.enabled = 1;
  if (random() % 8 != 0) state.broken = 0;
}

TEST(VirtQueueHostile, random_rings_and_states_do_bounded_work) {
  std::uint64_t chains = 0;
  std::uint64_t survived = 0;
  for (std::uint64_t seed = 1; seed <= 6000; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    const std::uint16_t sizes[] = {1, 2, 8, 256};
    QueueRig rig({.packed = random() % 2 != 0, .event_idx = random() % 2 != 0, .size = sizes[random() % 4]});
    const std::uint64_t limit = 2U * kMaxQueueSize + 100;
    // Another vCPU writes all the while.
    const bool racing = random() % 4 == 0;
    rig.memory.after_access = [&] {
      if (racing) rig.ram.bytes[kRings + random() % rig.driver.bytes()] ^= static_cast<std::byte>(1U << random() % 8);
    };
    if (random() % 2 == 0) {
      scramble(std::span(rig.ram.bytes).subspan(kRings, 0x2000), random);
    } else {
      // Honest chains, some of their bytes changed.
      while (rig.driver.add(QueueRig::buffers(1 + random() % 3, random() % 2), random() % 2 == 0)) continue;
      for (std::size_t i = random() % 8; i > 0; --i)
        rig.ram.bytes[kRings + random() % rig.driver.bytes()] = static_cast<std::byte>(random());
    }
    if (random() % 2 == 0) {
      scramble_state(rig, random);
      rig.queue->restore();
      EXPECT_LT(rig.memory.accesses, 100U);
    }
    survived += rig.queue->usable() ? 1 : 0;
    rig.queue->show(true);
    for (int i = 0; i < 30; ++i) {
      rig.memory.accesses = 0;
      Chain chain;
      switch (random() % 7) {
        case 0: rig.queue->begin(); break;
        case 1:
          if (rig.queue->pop(chain) == Pop::kChain) ++chains;
          break;
        case 2: rig.queue->fetch(static_cast<std::uint16_t>(random() & 0x8007), chain); break;
        case 3: {
          const std::uint64_t dice = random();
          if (rig.queue->room() != 0)
            rig.queue->push({static_cast<std::uint16_t>(dice % 16),
                             static_cast<std::uint16_t>(dice >> 8) % 4U == 0 ? static_cast<std::uint16_t>(dice >> 16)
                                                                             : std::uint16_t{1},
                             static_cast<std::uint32_t>(dice >> 32)});
          break;
        }
        case 4: static_cast<void>(rig.queue->has_more()); break;
        case 5: rig.queue->set_kicks(random() % 2 != 0); break;
        default:
          rig.queue->show(random() % 2 != 0);
          scramble(std::span(rig.ram.bytes).subspan(kRings, 64), random);
          break;
      }
      EXPECT_LT(rig.memory.accesses, limit);
      EXPECT_LE(chain.readable.size() + chain.writable.size(), rig.state->size);
      for (const auto part : {chain.readable, chain.writable}) {
        for (const Segment& segment : part) EXPECT_TRUE(Range::make(segment.address, segment.length));
      }
    }
    if (testing::Test::HasFailure()) break;
  }
  EXPECT_GT(chains, 500U) << "some of it has to look honest";
  EXPECT_GT(survived, 1000U);
}

}  // namespace
}  // namespace bulkhead::devproc::virtio
