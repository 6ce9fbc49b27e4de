// AddressSpace: who answers, against a byte-wise picture; reports; changes under traffic.
#include "vmm/bus/address_space.h"

#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <map>
#include <random>
#include <thread>

namespace bulkhead::vmm {
namespace {

// Answers each byte with a number made of its region and offset; remembers what was written where.
class PatternChannel final : public DeviceChannel {
 public:
  void read(std::uint32_t vcpu, const BusAccess& access, std::span<std::byte> out) override {
    note(vcpu, access, out.size());
    for (std::size_t i = 0; i < out.size(); ++i)
      out[i] = pattern(access.instance, access.region, access.offset + i % access.size, i / access.size);
  }
  void write(std::uint32_t vcpu, const BusAccess& access, std::span<const std::byte> in) override {
    note(vcpu, access, in.size());
    for (std::size_t i = 0; i < in.size(); ++i) written[{access.instance, access.offset + i % access.size}] = in[i];
  }
  static std::byte pattern(std::uint16_t instance, std::uint16_t region, std::uint64_t offset, std::uint64_t element) {
    return static_cast<std::byte>(instance * 37 + region * 11 + offset * 3 + element * 101);
  }

  struct Call {
    std::uint32_t vcpu;
    BusAccess access;
  };
  std::vector<Call> calls;
  std::map<std::pair<std::uint16_t, std::uint64_t>, std::byte> written;
  bool bad = false;  // an access that no device may see

 private:
  void note(std::uint32_t vcpu, const BusAccess& access, std::size_t bytes) {
    calls.push_back({vcpu, access});
    const std::uint8_t size = access.size;
    if ((size != 1 && size != 2 && size != 4 && size != 8) || access.count == 0 ||
        bytes != std::size_t{size} * access.count)
      bad = true;
  }
};

Claim claim(PatternChannel& channel, Space space, std::uint64_t base, std::uint64_t length, std::uint16_t instance = 0,
            std::string owner = "somebody") {
  return {.space = space,
          .base = base,
          .length = length,
          .channel = &channel,
          .instance = instance,
          .owner = std::move(owner)};
}

std::uint64_t read(AddressSpace& space, Space kind, std::uint64_t address, std::uint8_t size) {
  std::byte bytes[8] = {};
  space.read(0, kind, address, size, 1, std::span(bytes).first(size));
  std::uint64_t value = 0;
  std::memcpy(&value, bytes, size);
  return value;
}

TEST(AddressSpace, what_nobody_claims_reads_ones_and_is_counted_once_an_access) {
  AddressSpace space;
  EXPECT_EQ(read(space, Space::kPort, 0x123, 4), 0xffffffffU);
  EXPECT_EQ(read(space, Space::kMemory, 0xd0000000, 8), ~std::uint64_t{0});
  std::byte bytes[4] = {};
  space.write(0, Space::kPort, 0x123, 4, 1, bytes);
  EXPECT_EQ(space.unclaimed(), 3U);
  std::vector<std::byte> string(64);
  space.read(0, Space::kPort, 0x123, 1, 64, string);
  EXPECT_EQ(space.unclaimed(), 67U) << "string I/O is many accesses";
  for (const std::byte byte : string) EXPECT_EQ(byte, std::byte{0xff});
}

TEST(AddressSpace, a_claim_is_answered_from_its_first_to_its_last_byte) {
  PatternChannel channel;
  AddressSpace space;
  ASSERT_TRUE(space.publish({claim(channel, Space::kPort, 0x3f8, 8, 5)}));
  EXPECT_EQ(read(space, Space::kPort, 0x3f7, 1), 0xffU);
  EXPECT_EQ(read(space, Space::kPort, 0x3f8, 1), std::to_integer<std::uint64_t>(PatternChannel::pattern(5, 0, 0, 0)));
  EXPECT_EQ(read(space, Space::kPort, 0x3ff, 1), std::to_integer<std::uint64_t>(PatternChannel::pattern(5, 0, 7, 0)));
  EXPECT_EQ(read(space, Space::kPort, 0x400, 1), 0xffU);
  EXPECT_EQ(read(space, Space::kMemory, 0x3f8, 1), 0xffU) << "another space";
  EXPECT_EQ(channel.calls.size(), 2U);
}

TEST(AddressSpace, string_accesses_go_to_the_device_whole) {
  PatternChannel channel;
  AddressSpace space;
  Claim posted = claim(channel, Space::kPort, 0x100, 4);
  posted.posted = true;
  ASSERT_TRUE(space.publish({posted}));
  std::vector<std::byte> bytes(2048);
  space.read(3, Space::kPort, 0x100, 2, 1024, bytes);
  ASSERT_EQ(channel.calls.size(), 1U);
  EXPECT_EQ(channel.calls[0].vcpu, 3U);
  EXPECT_EQ(channel.calls[0].access.count, 1024U);
  EXPECT_FALSE(channel.calls[0].access.posted) << "a read is never posted";
  space.write(3, Space::kPort, 0x100, 2, 1024, bytes);
  EXPECT_TRUE(channel.calls[1].access.posted);
}

TEST(AddressSpace, the_ends_of_both_spaces_belong_to_nobody_beyond) {
  PatternChannel channel;
  AddressSpace space;
  ASSERT_TRUE(space.publish({claim(channel, Space::kPort, 0xfff8, 8), claim(channel, Space::kPort, 0, 8, 1),
                             claim(channel, Space::kMemory, ~std::uint64_t{0} - 7, 8),
                             claim(channel, Space::kMemory, 0, 8, 1)}));
  EXPECT_EQ(read(space, Space::kPort, 0xfffe, 4) >> 16, 0xffffU);
  EXPECT_EQ(read(space, Space::kPort, 0xffff, 1), std::to_integer<std::uint64_t>(PatternChannel::pattern(0, 0, 7, 0)));
  EXPECT_EQ(read(space, Space::kMemory, ~std::uint64_t{0} - 3, 8), ~std::uint64_t{0});
  for (const PatternChannel::Call& call : channel.calls)
    EXPECT_EQ(call.access.instance, 0) << "nothing wraps to address 0";
}

TEST(AddressSpace, claims_that_cannot_be_are_refused_by_name) {
  PatternChannel channel;
  AddressSpace space;
  for (const Claim& wrong :
       {claim(channel, Space::kPort, 0x100, 0, 0, "empty"), claim(channel, Space::kPort, 0xfff9, 8, 0, "past"),
        claim(channel, Space::kPort, 0x10000, 1, 0, "beyond"),
        claim(channel, Space::kMemory, ~std::uint64_t{0}, 2, 0, "wraps")}) {
    const Status status = space.publish({wrong});
    ASSERT_FALSE(status);
    EXPECT_NE(status.error().message.find(wrong.owner), std::string::npos) << status.error().message;
  }
}

TEST(AddressSpace, every_overlap_is_reported_with_both_names_and_nothing_changes) {
  PatternChannel channel;
  AddressSpace space;
  ASSERT_TRUE(space.publish({claim(channel, Space::kPort, 0x10, 1, 7)}));
  const Status status = space.publish(
      {claim(channel, Space::kPort, 0x100, 0x100, 0, "wide"), claim(channel, Space::kPort, 0x110, 0x10, 0, "first"),
       claim(channel, Space::kPort, 0x1ff, 2, 0, "last"), claim(channel, Space::kMemory, 0x110, 0x10, 0, "elsewhere")});
  ASSERT_FALSE(status);
  const std::string& report = status.error().message;
  EXPECT_NE(report.find("first (0x110-0x11f) overlaps wide (0x100-0x1ff)"), std::string::npos) << report;
  EXPECT_NE(report.find("last (0x1ff-0x200) overlaps wide (0x100-0x1ff)"), std::string::npos) << report;
  EXPECT_EQ(report.find("elsewhere"), std::string::npos) << report;
  read(space, Space::kPort, 0x10, 1);
  ASSERT_EQ(channel.calls.size(), 1U);
  EXPECT_EQ(channel.calls[0].access.instance, 7);
}

TEST(AddressSpace, the_claims_in_force_can_be_listed) {
  PatternChannel channel;
  AddressSpace space;
  ASSERT_TRUE(space.publish({claim(channel, Space::kMemory, 0x1000, 16), claim(channel, Space::kPort, 0x20, 2)}));
  EXPECT_EQ(space.claims().size(), 2U);
  ASSERT_TRUE(space.publish({}));
  EXPECT_TRUE(space.claims().empty());
}

// Random claims and random accesses of every size, straddling ones and those at both ends included, against a picture
// that knows each byte's owner.
TEST(AddressSpace, any_access_reaches_exactly_the_bytes_that_it_covers) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 300; ++round) {
    PatternChannel channel;
    AddressSpace space;
    const Space kind = round % 2 == 0 ? Space::kPort : Space::kMemory;
    // A window of 256 addresses, sometimes at the top of the space.
    const std::uint64_t top = kind == Space::kPort ? 0xffff : ~std::uint64_t{0};
    const std::uint64_t origin = round % 3 == 0 ? top - 255 : round % 3 == 1 ? 0 : 0x3000;
    std::vector<Claim> claims;
    std::map<std::uint64_t, std::pair<std::uint16_t, std::uint64_t>> owner;  // address -> instance, offset
    for (std::uint64_t at = random() % 5; at < 256;) {
      const std::uint64_t length = std::min<std::uint64_t>(1 + random() % 20, 256 - at);
      const auto instance = static_cast<std::uint16_t>(claims.size());
      claims.push_back(claim(channel, kind, origin + at, length, instance));
      for (std::uint64_t i = 0; i < length; ++i) owner[origin + at + i] = {instance, i};
      at += length + (random() % 2 == 0 ? 0 : random() % 10);
    }
    std::shuffle(claims.begin(), claims.end(), random);
    ASSERT_TRUE(space.publish(claims));
    for (int i = 0; i < 200; ++i) {
      const auto size = static_cast<std::uint8_t>(1 + random() % 8);
      const std::uint64_t address = origin + random() % 256;
      if (kind == Space::kMemory && size - 1U > top - address) continue;  // passes the end: a test of its own
      std::vector<std::byte> bytes(size);
      channel.written.clear();
      if (random() % 2 == 0) {
        space.read(0, kind, address, size, 1, bytes);
        for (std::uint8_t b = 0; b < size; ++b) {
          const auto found = owner.find(address + b);
          const std::byte wanted = found == owner.end()
                                       ? std::byte{0xff}
                                       : PatternChannel::pattern(found->second.first, 0, found->second.second, 0);
          ASSERT_EQ(bytes[b], wanted) << std::hex << address << " + " << int{b} << " of " << int{size};
        }
      } else {
        for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
        space.write(0, kind, address, size, 1, bytes);
        std::map<std::pair<std::uint16_t, std::uint64_t>, std::byte> wanted;
        for (std::uint8_t b = 0; b < size; ++b) {
          const auto found = owner.find(address + b);
          if (found != owner.end()) wanted[found->second] = bytes[b];
        }
        ASSERT_EQ(channel.written, wanted);
      }
      ASSERT_FALSE(channel.bad);
    }
  }
}

// Windows that move under traffic: each access is answered by a table that was whole, old or new.
TEST(AddressSpace, vcpus_read_on_while_windows_move) {
  // Answers its own number in every byte, from any thread.
  class NumberChannel final : public DeviceChannel {
   public:
    void read(std::uint32_t, const BusAccess& access, std::span<std::byte> out) override {
      for (std::byte& byte : out) byte = static_cast<std::byte>(access.instance);
    }
    void write(std::uint32_t, const BusAccess&, std::span<const std::byte>) override {}
  };
  NumberChannel channel;
  AddressSpace space;
  const auto window = [&](std::uint64_t base, std::uint16_t instance) {
    return Claim{.space = Space::kMemory,
                 .base = base,
                 .length = 0x1000,
                 .channel = &channel,
                 .instance = instance,
                 .owner = "bar"};
  };
  ASSERT_TRUE(space.publish({window(0x10000, 1), window(0x20000, 2)}));
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> wrong{0};
  std::atomic<std::uint64_t> reads{0};
  std::vector<std::thread> vcpus;
  for (std::uint32_t vcpu = 0; vcpu < 4; ++vcpu) {
    vcpus.emplace_back([&, vcpu] {
      while (!stop.load(std::memory_order_relaxed)) {
        std::byte low[4] = {};
        std::byte high[4] = {};
        space.read(vcpu, Space::kMemory, 0x10ffe, 4, 1, low);  // half in the window, half beyond
        space.read(vcpu, Space::kMemory, 0x20000, 4, 1, high);
        const bool one_or_two = low[0] == low[1] && (low[0] == std::byte{1} || low[0] == std::byte{2});
        if (!one_or_two || low[2] != std::byte{0xff} || high[0] != high[3]) wrong.fetch_add(1);
        reads.fetch_add(1, std::memory_order_relaxed);
      }
    });
  }
  for (int i = 0; i < 3000; ++i) {
    const bool swapped = i % 2 == 0;
    ASSERT_TRUE(space.publish({window(0x10000, swapped ? 2 : 1), window(0x20000, swapped ? 1 : 2)}));
    if (i % 100 == 0) (void)space.claims();
  }
  while (reads.load() < 100) std::this_thread::yield();
  stop = true;
  for (std::thread& vcpu : vcpus) vcpu.join();
  EXPECT_EQ(wrong, 0U);
}

// A guest may move its BARs for ever; a vCPU that sits in a device's answer keeps one table alive, no more.
TEST(AddressSpace, memory_does_not_grow_with_the_number_of_changes) {
  PatternChannel channel;
  AddressSpace space;
  const auto change = [&](int i) {
    std::vector<Claim> claims;
    for (std::uint64_t n = 0; n < 16; ++n)
      claims.push_back(
          claim(channel, Space::kMemory, 0x100000 * (n + 1) + (static_cast<std::uint64_t>(i) % 16) * 0x1000, 0x1000));
    ASSERT_TRUE(space.publish(std::move(claims)));
  };
  for (int i = 0; i < 1000; ++i) change(i);
  const std::size_t before = ::mallinfo2().uordblks;
  for (int i = 0; i < 20'000; ++i) change(i);
  EXPECT_LT(::mallinfo2().uordblks, before + 100'000);
}

TEST(AddressSpace, a_vcpu_inside_a_device_keeps_only_its_own_table_alive) {
  // Publishes from within an access, as effects do.
  class MovingChannel final : public DeviceChannel {
   public:
    explicit MovingChannel(AddressSpace& space) : space_(space) {}
    void read(std::uint32_t, const BusAccess&, std::span<std::byte> out) override {
      for (int i = 0; i < 1000; ++i) ASSERT_TRUE(space_.publish({self()}));
      out[0] = std::byte{1};
    }
    void write(std::uint32_t, const BusAccess&, std::span<const std::byte>) override {}
    [[nodiscard]] Claim self() {
      return {.space = Space::kPort, .base = 0xcf8, .length = 8, .channel = this, .owner = "pci/configuration ports"};
    }

   private:
    AddressSpace& space_;
  };
  AddressSpace space;
  MovingChannel channel(space);
  ASSERT_TRUE(space.publish({channel.self()}));
  const std::size_t before = ::mallinfo2().uordblks;
  EXPECT_EQ(read(space, Space::kPort, 0xcf8, 1), 1U);
  EXPECT_LT(::mallinfo2().uordblks, before + 10'000);
}

}  // namespace
}  // namespace bulkhead::vmm
