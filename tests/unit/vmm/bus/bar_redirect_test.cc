// Accesses of BARs through configuration space: what `pci` redirects, done once on the ring of the BAR's owner, and
// what a hostile one may make of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "ipc/wire/bar_access.h"
#include "tests/unit/ipc/ring_fixture.h"
#include "vmm/pci/bar_map.h"

namespace bulkhead::vmm {
namespace {

using ipc::Reply;
using ipc::ReplyStatus;
using ipc::Request;
using ipc::RequestKind;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr std::uint8_t kFunction = 0x18;
constexpr std::uint16_t kConfigPorts = 0;
constexpr std::uint16_t kMsixRegion = 1;

class NoPendingBits final : public PendingBits {
 public:
  std::uint64_t pending_bits(std::uint8_t, std::uint16_t) override { return 0x8877665544332211; }
};

// A device process and its ring.
struct Peer {
  explicit Peer(BarAccesses* bars = nullptr) : channel(ring, pending, bars) {}
  ipc::Areas areas;
  ipc::RecordingReceiver effects;
  NoPendingBits pending;
  ipc::RequestProducer ring{areas.requests, areas.replies, areas.doorbell.borrow(), effects, {}};
  RemoteChannel channel;
  std::vector<Request> seen;
  std::function<void(const Request&, Reply&)> answer = [](const Request&, Reply&) {};
  std::vector<Effect> next_effects;
  ipc::TinyDevice device{areas,
                         [this](ipc::Ticket, const Request& request, Reply& reply, std::vector<Effect>& effects_out) {
                           seen.push_back(request);
                           effects_out = std::exchange(next_effects, {});
                           answer(request, reply);
                         }};
};

class BarRedirect : public ::testing::Test {
 protected:
  BarRedirect() {
    bars.add({.devfn = kFunction,
              .index = 0,
              .size = 4096,
              .channel = &owner.channel,
              .instance = 2,
              .region = 5,
              .owner = "test"});
    bars.add({.devfn = kFunction,
              .index = 1,
              .size = 4096,
              .channel = &owner.channel,
              .instance = 2,
              .region = 6,
              .posted = true,
              .owner = "test"});
    bars.add(
        {.devfn = kFunction, .index = 4, .size = 64, .channel = &pci.channel, .region = kMsixRegion, .owner = "pci"});
    pci.answer = [this](const Request& request, Reply& reply) {
      if (request.region == kConfigPorts) ipc::store_bar_access(reply, redirect);
    };
    owner.answer = [](const Request& request, Reply& reply) {
      const std::uint64_t value = 0x8877665544332211;
      if (request.kind == RequestKind::kRead) std::memcpy(reply.payload, &value, sizeof value);
    };
  }
  std::uint64_t read(std::uint8_t size, std::uint64_t offset = 4) {
    std::uint64_t value = 0;
    pci.channel.read(0, {.region = kConfigPorts, .size = size, .count = 1, .offset = offset},
                     std::as_writable_bytes(std::span(&value, 1)).first(size));
    return value;
  }
  void write(std::uint8_t size) {
    const std::uint64_t value = 0xeeeeeeeeeeeeeeee;  // what counts is in the redirect
    pci.channel.write(0, {.region = kConfigPorts, .size = size, .count = 1, .offset = 4},
                      std::as_bytes(std::span(&value, 1)).first(size));
  }

  BarMap bars;
  Peer owner;
  Peer pci{&bars};
  BarAccess redirect{.offset = 0x10, .value = 0xddccbbaa, .devfn = kFunction, .bar = 0, .size = 4};
};

TEST_F(BarRedirect, a_read_becomes_one_of_the_bar_at_its_owner) {
  EXPECT_EQ(read(4), 0x44332211U);
  ASSERT_THAT(owner.seen, SizeIs(1));
  const Request& request = owner.seen[0];
  EXPECT_EQ(request.kind, RequestKind::kRead);
  EXPECT_EQ(request.instance, 2);
  EXPECT_EQ(request.region, 5);
  EXPECT_EQ(request.size, 4);
  EXPECT_EQ(request.count, 1);
  EXPECT_EQ(request.offset, 0x10U);
  EXPECT_EQ(request.flags, 0);
  EXPECT_THAT(pci.seen, SizeIs(1));
}

TEST_F(BarRedirect, a_write_becomes_one_to_the_bar_at_its_owner) {
  for (const std::uint8_t length : {std::uint8_t{1}, std::uint8_t{2}, std::uint8_t{4}}) {
    owner.seen.clear();
    redirect.size = length;
    write(4);
    ASSERT_THAT(owner.seen, SizeIs(1));
    EXPECT_EQ(owner.seen[0].kind, RequestKind::kWrite);
    EXPECT_EQ(owner.seen[0].size, length);
    EXPECT_EQ(owner.seen[0].flags, 0);
    EXPECT_EQ(ipc::value_of(owner.seen[0]), 0xddccbbaaU & (length == 4 ? ~0U : (1U << 8 * length) - 1));
  }
}

// VIRTIO 1.2, section 4.1.4.9.1: the first `length` bytes of pci_cfg_data are the BAR's.
TEST_F(BarRedirect, every_part_of_the_data_register_can_be_read) {
  for (const std::uint8_t length : {std::uint8_t{1}, std::uint8_t{2}, std::uint8_t{4}}) {
    const std::uint64_t data = length == 4 ? 0x44332211U : length == 2 ? 0xddcc2211U : 0xddccbb11U;
    redirect.size = length;
    for (const std::uint8_t size : {std::uint8_t{1}, std::uint8_t{2}, std::uint8_t{4}}) {
      for (std::uint8_t first = 0; first + size <= 4; ++first) {
        redirect.first = first;
        EXPECT_EQ(read(size), data >> (8 * first) & ((std::uint64_t{1} << 8 * size) - 1))
            << int{length} << " " << int{size} << " " << int{first};
      }
    }
  }
  // An access that began before the data register.
  redirect.first = 0;
  redirect.size = 4;
  redirect.lead = 2;
  EXPECT_EQ(read(4), 0x2211ffffU);
  redirect.lead = 3;
  EXPECT_EQ(read(4), 0x11ffffffU);
}

TEST_F(BarRedirect, a_posted_region_stays_posted) {
  redirect.bar = 1;
  write(4);
  ASSERT_TRUE(owner.ring.drain(60'000 * ipc::kMillisecond));
  owner.device.stop();
  ASSERT_THAT(owner.seen, SizeIs(1));
  EXPECT_EQ(owner.seen[0].flags, ipc::kPosted);
  EXPECT_EQ(owner.seen[0].region, 6);
  EXPECT_EQ(owner.channel.posted(), 1U);
}

TEST_F(BarRedirect, effects_of_the_owner_are_applied_before_the_vcpu_goes_on) {
  const Effect power{.kind = static_cast<std::uint16_t>(EffectKind::kPower), .data = 1};
  owner.next_effects = {power};
  write(4);
  EXPECT_EQ(owner.effects.all(), std::vector<Effect>{power});
}

TEST_F(BarRedirect, an_isolated_owner_reads_ones) {
  owner.ring.close();
  EXPECT_EQ(read(4), 0xffffffffU);
  redirect.size = 1;
  EXPECT_EQ(read(1), 0xffU);
  write(4);
  EXPECT_THAT(owner.seen, IsEmpty());
}

TEST_F(BarRedirect, the_msix_bar_is_in_pci_itself) {
  redirect.bar = 4;
  pci.answer = [this](const Request& request, Reply& reply) {
    if (request.region == kConfigPorts) return ipc::store_bar_access(reply, redirect);
    const std::uint32_t value = 0x12345678;
    std::memcpy(reply.payload, &value, sizeof value);
  };
  EXPECT_EQ(read(4), 0x12345678U);
  ASSERT_THAT(pci.seen, SizeIs(2));
  EXPECT_EQ(pci.seen[1].region, kMsixRegion);
  EXPECT_EQ(pci.seen[1].offset, 0x10U);
  // Its pending bits are the VMM's, as for any read of them.
  pci.answer = [this](const Request& request, Reply& reply) {
    if (request.region == kConfigPorts) return ipc::store_bar_access(reply, redirect);
    reply.status = ReplyStatus::kPendingBits;
    std::memset(reply.payload, 0, sizeof reply.payload);
    reply.payload[2] = 4;
  };
  EXPECT_EQ(read(4), 0x88776655U);
}

TEST_F(BarRedirect, a_redirect_is_not_redirected) {
  redirect.bar = 4;
  pci.answer = [this](const Request&, Reply& reply) { ipc::store_bar_access(reply, redirect); };
  EXPECT_EQ(read(4), 0xffffffffU);
  EXPECT_THAT(pci.seen, SizeIs(2));
  pci.seen.clear();
  write(4);
  EXPECT_THAT(pci.seen, SizeIs(2));
  EXPECT_THAT(owner.seen, IsEmpty());
}

TEST_F(BarRedirect, only_pci_may_redirect) {
  owner.answer = [this](const Request&, Reply& reply) { ipc::store_bar_access(reply, redirect); };
  std::uint32_t value = 0;
  owner.channel.read(0, {.size = 4, .count = 1}, std::as_writable_bytes(std::span(&value, 1)));
  EXPECT_EQ(value, 0xffffffffU);
  owner.channel.write(0, {.size = 4, .count = 1}, std::as_bytes(std::span(&value, 1)));
  EXPECT_THAT(owner.seen, SizeIs(2));
  // Nor may the owner when `pci` sent the VMM to it.
  owner.seen.clear();
  EXPECT_EQ(read(4), 0xffffffffU);
  EXPECT_THAT(owner.seen, SizeIs(1));
}

TEST_F(BarRedirect, what_is_not_planned_reads_ones_and_writes_nothing) {
  const auto refused = [this](auto change, std::uint8_t bytes = 4) {
    const BarAccess good = redirect;
    change(redirect);
    const bool ones = read(bytes) == (bytes == 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << 8 * bytes) - 1);
    write(bytes);
    redirect = good;
    return ones && owner.seen.empty() && pci.seen.size() == 2 && (pci.seen.clear(), true);
  };
  EXPECT_TRUE(refused([](BarAccess& a) { a.devfn = 0x19; }));
  EXPECT_TRUE(refused([](BarAccess& a) { a.devfn = 0x118; }));
  EXPECT_TRUE(refused([](BarAccess& a) { a.bar = 2; }));
  EXPECT_TRUE(refused([](BarAccess& a) { a.bar = 6; }));
  EXPECT_TRUE(refused([](BarAccess& a) { a.bar = 0xff; }));
  for (const int size : {0, 3, 5, 8, 16, 32, 255})
    EXPECT_TRUE(refused([=](BarAccess& a) { a.size = static_cast<std::uint8_t>(size); })) << size;
  EXPECT_TRUE(refused([](BarAccess& a) { a.offset = 4093; }));
  EXPECT_TRUE(refused([](BarAccess& a) { a.offset = 4096; }));
  EXPECT_TRUE(refused([](BarAccess& a) { a.offset = 0xffffffff; }));
  EXPECT_TRUE(refused([](BarAccess& a) { a.first = 1; }));
  EXPECT_TRUE(refused([](BarAccess& a) { a.first = 255; }));
  EXPECT_TRUE(refused([](BarAccess& a) { a.first = 4; }, 1));
  EXPECT_TRUE(refused([](BarAccess& a) { a.lead = 4; }));
  EXPECT_TRUE(refused([](BarAccess& a) { a.lead = 1; }, 1));
  EXPECT_TRUE(refused([](BarAccess& a) { a.first = a.lead = 3; }, 8));
  EXPECT_TRUE(refused([](BarAccess& a) { a.reserved = 1; }));
  EXPECT_TRUE(refused([](BarAccess&) {}, 8)) << "there is no such access of a dword";
  EXPECT_EQ(read(4), 0x44332211U);
}

TEST_F(BarRedirect, string_io_is_one_access_of_the_bar_for_each_element) {
  std::uint32_t next = 1;
  owner.answer = [&next](const Request& request, Reply& reply) {
    if (request.kind == RequestKind::kRead) std::memcpy(reply.payload, &next, sizeof next), ++next;
  };
  for (const std::uint32_t count : {2U, 8U, 9U, 40U}) {
    next = 1;
    owner.seen.clear();
    std::vector<std::uint32_t> values(count);
    pci.channel.read(0, {.region = kConfigPorts, .size = 4, .count = count, .offset = 4},
                     std::as_writable_bytes(std::span(values)));
    for (std::uint32_t i = 0; i < count; ++i) ASSERT_EQ(values[i], i + 1);
    EXPECT_THAT(owner.seen, SizeIs(count));
    owner.seen.clear();
    // Here `pci` stores what the element at hand writes.
    pci.answer = [this](const Request& request, Reply& reply) {
      if (request.kind == RequestKind::kWrite) redirect.value = static_cast<std::uint32_t>(ipc::value_of(request));
      ipc::store_bar_access(reply, redirect);
    };
    pci.channel.write(0, {.region = kConfigPorts, .size = 4, .count = count, .offset = 4},
                      std::as_bytes(std::span(values)));
    ASSERT_THAT(owner.seen, SizeIs(count));
    for (std::uint32_t i = 0; i < count; ++i) ASSERT_EQ(ipc::value_of(owner.seen[i]), i + 1);
  }
}

TEST_F(BarRedirect, any_payload_at_any_reply_is_one_access_of_the_owner_or_none) {
  std::mt19937_64 random(23);
  std::size_t done = 0;
  pci.answer = [&](const Request&, Reply& reply) {
    reply.status = ReplyStatus::kBarAccess;
    for (std::uint8_t& byte : reply.payload) byte = static_cast<std::uint8_t>(random() % 4 == 0 ? random() : 0);
    if (random() % 2 == 0) {
      BarAccess access;
      std::memcpy(&access, reply.payload, sizeof access);
      access.devfn = kFunction;
      access.bar %= 8;
      access.size %= 8;
      access.offset %= 8192;
      std::memcpy(reply.payload, &access, sizeof access);
    }
  };
  for (int i = 0; i < 5000; ++i) {
    owner.seen.clear();
    pci.seen.clear();
    const auto size = static_cast<std::uint8_t>(1U << random() % 4);
    const auto region = static_cast<std::uint16_t>(random() % 3);
    std::array<std::byte, 64> bytes{};
    const std::uint32_t count = 1 + static_cast<std::uint32_t>(random() % 2) * 7;
    const BusAccess access{.region = region, .size = size, .count = count, .offset = random()};
    const std::span<std::byte> part = std::span(bytes).first(std::size_t{size} * count);
    if (random() % 2 == 0) {
      pci.channel.read(0, access, part);
    } else {
      pci.channel.write(0, access, part);
    }
    ASSERT_TRUE(owner.ring.drain(60'000 * ipc::kMillisecond));
    ASSERT_LE(owner.seen.size(), count);
    ASSERT_LE(pci.seen.size(), 2 * count);
    for (const Request& request : owner.seen) {
      ASSERT_LE(request.offset + request.size, 4096U);
      ASSERT_TRUE(request.region == 5 || request.region == 6);
      ASSERT_TRUE(request.size == 1 || request.size == 2 || request.size == 4);
      ++done;
    }
  }
  EXPECT_GT(done, 50U) << "hardly any got through: the test shows little";
}

}  // namespace
}  // namespace bulkhead::vmm
