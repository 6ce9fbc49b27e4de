// The socket device: packets from the guest's queues into the link and back. VIRTIO 1.2, section 5.10.
#include "devproc/models/virtio_vsock/virtio_vsock.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>
#include <string>
#include <tuple>

#include "devproc/models/virtio/transport_spec.h"
#include "ipc/roles/virtio_decl.h"
#include "tests/fakes/fake_wires.h"
#include "tests/fakes/virtio_start.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio;
using namespace virtio_vsock_spec;

constexpr GuestPhys kRing = 0x1000;
constexpr GuestPhys kBuffers = 0x20000;
constexpr GuestPhys kStep = 0x2000;
constexpr std::uint32_t kCid = 7;

VsockHeader header_of(std::uint16_t op, std::uint32_t len = 0) {
  VsockHeader header;
  header.src_cid = to_cid(kCid);
  header.dst_cid = to_cid(kHostCid);
  header.src_port = 1000;
  header.dst_port = 52;
  header.len = len;
  header.type = kTypeStream;
  header.op = op;
  return header;
}

FakeLink::Packet packet_of(const VsockHeader& header, std::string_view payload = {}) {
  FakeLink::Packet packet(sizeof header + payload.size());
  std::memcpy(packet.data(), &header, sizeof header);
  if (!payload.empty()) std::memcpy(packet.data() + sizeof header, payload.data(), payload.size());
  return packet;
}

struct Got {
  VsockHeader header;
  std::string payload;
};

Got parse(std::span<const std::byte> packet) {
  Got got;
  std::memcpy(&got.header, packet.data(), sizeof got.header);
  got.payload.assign(reinterpret_cast<const char*>(packet.data()) + sizeof got.header,
                     packet.size() - sizeof got.header);
  return got;
}

struct Rig {
  explicit Rig(bool packed = false, bool event_idx = false)
      : fakes({.lines = 1, .queues = kVirtioVsockQueues, .memory_bytes = 512 * 1024}),
        device(TransportStorage::allocate(fakes.state, kVirtioVsockQueues),
               std::make_unique<VirtioVsock>(allocate_state<VirtioVsockState>(fakes.state),
                                             VirtioVsockConfig{.guest_cid = kCid}, fakes.memory, fakes.link),
               fakes.lines[0], fakes.msi, fakes.memory) {
    for (unsigned i = 0; i < kVirtioVsockQueues; ++i)
      drivers.emplace_back(fakes.memory,
                           VirtioDriver::Layout{.packed = packed, .event_idx = event_idx, .at = kRing + i * 0x4000});
    device.reset();
    device.on_function_control(kControlMemoryEnable | kControlBusMaster);
  }
  void start() { ASSERT_TRUE(start_virtio(device, drivers, feature_bit(kVirtioFIndirectDesc))); }
  void show() {
    if (device.show(false, fakes.msi)) device.after_show();
  }
  void kick(QueueId queue) {
    for (bool more = true; more;) {
      more = device.on_queue(queue);
      show();
    }
  }
  void link() {
    for (bool more = true; more;) {
      more = device.on_backend(0);
      show();
    }
  }
  // Header and payload in buffers of their own, as Linux has them.
  bool send(const VsockHeader& header, std::string_view payload = {}) {
    const GuestPhys at = next_buffer();
    fakes.memory.store(at, header);
    fakes.memory.write(at + 64, std::as_bytes(std::span(payload.data(), payload.size())));
    std::vector<VirtioDriver::Buffer> buffers{{at, sizeof header, false}};
    if (!payload.empty()) buffers.push_back({at + 64, static_cast<std::uint32_t>(payload.size()), false});
    return drivers[kTxVq].add(buffers).has_value();
  }
  bool offer(QueueId queue, std::uint32_t bytes) {
    const GuestPhys at = next_buffer();
    const std::vector<VirtioDriver::Buffer> one{{at, bytes, true}};
    const auto id = drivers[queue].add(one);
    if (id) places[{queue, *id}] = at;
    return id.has_value();
  }
  std::optional<Got> take() {
    const auto used = drivers[kRxVq].take_used();
    if (!used) return std::nullopt;
    std::vector<std::byte> bytes(used->written);
    fakes.memory.read(places[{kRxVq, used->id}], bytes);
    return parse(bytes);
  }
  GuestPhys next_buffer() { return kBuffers + kStep * (next++ % 40); }
  bool broken() { return (registers.get(kDeviceStatus, 1) & kStatusNeedsReset) != 0; }

  FakeWires fakes;
  VirtioPci device;
  VirtioRegisters registers{device};
  std::vector<VirtioDriver> drivers;
  std::map<std::pair<QueueId, std::uint16_t>, GuestPhys> places;
  unsigned next = 0;
};

class VirtioVsockLayouts : public ::testing::TestWithParam<std::tuple<bool, bool>> {};

TEST_P(VirtioVsockLayouts, packets_pass_both_ways) {
  const auto [packed, event_idx] = GetParam();
  Rig rig(packed, event_idx);
  rig.start();
  EXPECT_EQ(rig.device.read({kVirtioRegisters, kVirtioDeviceOffset, 4}), kCid);
  EXPECT_EQ(rig.device.read({kVirtioRegisters, kVirtioDeviceOffset + 4, 4}), 0U);
  ASSERT_TRUE(rig.send(header_of(kOpRequest)));
  ASSERT_TRUE(rig.send(header_of(kOpRw, 5), "hello"));
  rig.kick(kTxVq);
  ASSERT_EQ(rig.fakes.link.sent.size(), 2U);
  EXPECT_EQ(parse(rig.fakes.link.sent[0]).header, header_of(kOpRequest));
  EXPECT_EQ(parse(rig.fakes.link.sent[1]).payload, "hello");
  EXPECT_TRUE(rig.drivers[kTxVq].take_used());
  EXPECT_TRUE(rig.drivers[kTxVq].take_used());

  for (int i = 0; i < 3; ++i) ASSERT_TRUE(rig.offer(kRxVq, 4096));
  rig.kick(kRxVq);
  rig.fakes.link.incoming.push_back(packet_of(header_of(kOpRw, 3), "abc"));
  rig.fakes.link.incoming.push_back(packet_of(header_of(kOpShutdown)));
  rig.link();
  const auto first = rig.take();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->payload, "abc");
  EXPECT_EQ(first->header.src_cid, to_cid(kHostCid)) << "whatever the relay says";
  EXPECT_EQ(first->header.dst_cid, to_cid(kCid));
  ASSERT_TRUE(rig.take());
  EXPECT_FALSE(rig.take());
  EXPECT_TRUE(rig.fakes.link.incoming.empty());
}

INSTANTIATE_TEST_SUITE_P(Rings, VirtioVsockLayouts, ::testing::Combine(::testing::Bool(), ::testing::Bool()));

TEST(VirtioVsock, long_packets_arrive_in_pieces_across_deaths) {
  Rig rig;
  rig.start();
  std::string text(10'000, '\0');
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 7 + i / 251);
  rig.fakes.link.incoming.push_back(packet_of(header_of(kOpRw, 10'000), text));
  std::string got;
  for (int i = 0; i < 20 && got.size() < text.size(); ++i) {
    ASSERT_TRUE(rig.offer(kRxVq, 1000));
    rig.kick(kRxVq);
    rig.device.restore();
    const auto piece = rig.take();
    ASSERT_TRUE(piece);
    EXPECT_EQ(piece->header.op, kOpRw);
    EXPECT_EQ(piece->header.len, piece->payload.size());
    got += piece->payload;
  }
  EXPECT_EQ(got, text);
  EXPECT_TRUE(rig.fakes.link.incoming.empty());
}

TEST(VirtioVsock, a_full_link_holds_the_guest_up) {
  Rig rig;
  rig.start();
  rig.fakes.link.room = 60;
  ASSERT_TRUE(rig.send(header_of(kOpRw, 5), "first"));
  ASSERT_TRUE(rig.send(header_of(kOpRw, 6), "second"));
  rig.kick(kTxVq);
  EXPECT_EQ(rig.fakes.link.sent.size(), 1U);
  rig.link();
  EXPECT_EQ(rig.fakes.link.sent.size(), 1U);
  rig.device.restore();
  rig.fakes.link.room = 1000;
  rig.link();
  ASSERT_EQ(rig.fakes.link.sent.size(), 2U);
  EXPECT_EQ(parse(rig.fakes.link.sent[1]).payload, "second");
}

TEST(VirtioVsock, bad_packets_of_the_guest_are_dropped) {
  Rig rig;
  rig.start();
  VsockHeader other = header_of(kOpRw);
  other.src_cid = to_cid(8);
  VsockHeader far = header_of(kOpRw);
  far.dst_cid = to_cid(std::uint64_t{1} << 32 | kHostCid);
  for (const VsockHeader& bad : {other, far, header_of(kOpRw, 1), header_of(kOpRw, kMostPayload + 1)})
    ASSERT_TRUE(rig.send(bad));
  const std::vector<VirtioDriver::Buffer> part{{kBuffers, 43, false}};
  ASSERT_TRUE(rig.drivers[kTxVq].add(part));
  rig.kick(kTxVq);
  EXPECT_TRUE(rig.fakes.link.sent.empty());
  EXPECT_FALSE(rig.broken());
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(rig.drivers[kTxVq].take_used()) << i;
}

TEST(VirtioVsock, bad_packets_of_the_relay_are_dropped) {
  Rig rig;
  rig.start();
  ASSERT_TRUE(rig.offer(kRxVq, 4096));
  rig.kick(kRxVq);
  rig.fakes.link.incoming.push_back(FakeLink::Packet(10));
  rig.fakes.link.incoming.push_back(packet_of(header_of(kOpRw, 4), "abc"));
  rig.fakes.link.incoming.push_back(packet_of(header_of(kOpRst, 3), "abc"));
  rig.fakes.link.incoming.push_back(packet_of(header_of(kOpRw, 4), "good"));
  rig.link();
  const auto got = rig.take();
  ASSERT_TRUE(got);
  EXPECT_EQ(got->payload, "good");
  EXPECT_FALSE(rig.broken());
}

TEST(VirtioVsock, buffers_that_cannot_be_need_a_reset) {
  for (const VirtioDriver::Buffer& bad :
       {VirtioDriver::Buffer{std::uint64_t{1} << 40, 4096, true}, VirtioDriver::Buffer{kBuffers, 44, true},
        VirtioDriver::Buffer{kBuffers, 20, true}}) {
    Rig rig;
    rig.start();
    const std::vector<VirtioDriver::Buffer> one{bad};
    ASSERT_TRUE(rig.drivers[kRxVq].add(one));
    rig.fakes.link.incoming.push_back(packet_of(header_of(kOpRw, 1), "x"));
    rig.kick(kRxVq);
    EXPECT_TRUE(rig.broken()) << bad.length;
  }
}

TEST(VirtioVsock, the_guest_hears_of_a_relay_that_has_forgotten_everything) {
  Rig rig;
  rig.fakes.link.peers = 3;
  rig.start();
  ASSERT_TRUE(rig.offer(kEventVq, 4));
  rig.kick(kEventVq);
  rig.link();
  EXPECT_FALSE(rig.drivers[kEventVq].has_used()) << "it began with this one";
  rig.fakes.link.peers = 4;
  rig.link();
  const auto used = rig.drivers[kEventVq].take_used();
  ASSERT_TRUE(used);
  EXPECT_EQ(used->written, 4U);
  rig.link();
  rig.device.restore();
  rig.link();
  rig.fakes.link.peers = 5;  // and without a buffer for the event
  rig.link();
  EXPECT_FALSE(rig.drivers[kEventVq].has_used());
  ASSERT_TRUE(rig.offer(kEventVq, 4));
  EXPECT_TRUE(rig.drivers[kEventVq].must_kick());
  rig.kick(kEventVq);
  EXPECT_TRUE(rig.drivers[kEventVq].take_used());
}

TEST(VirtioVsock, a_reset_is_a_new_epoch_for_the_relay) {
  Rig rig;
  rig.start();
  const std::uint32_t before = rig.fakes.link.epoch;
  rig.fakes.link.incoming.push_back(packet_of(header_of(kOpRw, 1), "x"));
  rig.registers.set(kDeviceStatus, 1, 0);
  EXPECT_EQ(rig.fakes.link.epoch, before + 1);
  EXPECT_TRUE(rig.fakes.link.incoming.empty()) << "of connections that are gone";
}

// Whatever the guest and the relay do, in whatever order: every packet once and in order.
TEST(VirtioVsock, every_packet_once_and_in_order) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    std::mt19937_64 random(seed);
    Rig rig((seed & 1) != 0, (seed & 2) != 0);
    rig.start();
    rig.fakes.link.room = 0;
    std::string sent;
    std::string given;
    std::string got;
    for (int step = 0; step < 400; ++step) {
      switch (random() % 6) {
        case 0: {
          const std::string text(1 + random() % 500, static_cast<char>('a' + step % 26));
          if (rig.send(header_of(kOpRw, static_cast<std::uint32_t>(text.size())), text)) sent += text;
          if (rig.drivers[kTxVq].must_kick()) rig.kick(kTxVq);
          break;
        }
        case 1:
          rig.fakes.link.room += random() % 1000;
          rig.link();
          break;
        case 2: {
          const std::string text(1 + random() % 2000, static_cast<char>('A' + step % 26));
          given += text;
          rig.fakes.link.incoming.push_back(packet_of(header_of(kOpRw, static_cast<std::uint32_t>(text.size())), text));
          rig.link();
          break;
        }
        case 3:
          rig.offer(kRxVq, 45 + static_cast<std::uint32_t>(random() % 700));
          if (rig.drivers[kRxVq].must_kick()) rig.kick(kRxVq);
          break;
        case 4:
          while (const auto packet = rig.take()) got += packet->payload;
          while (rig.drivers[kTxVq].take_used()) {
          }
          break;
        default:
          rig.device.restore();
          if (rig.device.show(true, rig.fakes.msi)) rig.device.after_show();
          for (const QueueId queue : {kRxVq, kTxVq, kEventVq}) rig.kick(queue);
      }
    }
    rig.fakes.link.room = 1 << 20;
    rig.link();
    rig.kick(kTxVq);
    for (int i = 0; i < 10'000 && got.size() < given.size(); ++i) {
      rig.offer(kRxVq, 1000);
      if (rig.drivers[kRxVq].must_kick()) rig.kick(kRxVq);
      while (const auto packet = rig.take()) got += packet->payload;
    }
    std::string arrived;
    for (const FakeLink::Packet& packet : rig.fakes.link.sent) arrived += parse(packet).payload;
    ASSERT_EQ(arrived, sent) << "seed " << seed;
    ASSERT_EQ(got, given) << "seed " << seed;
  }
}

}  // namespace
}  // namespace bulkhead::devproc
