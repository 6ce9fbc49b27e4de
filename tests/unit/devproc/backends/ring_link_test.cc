// RingLink: packets through memory that two processes share, across deaths of either, and a peer that lies.
#include "devproc/backends/ring_link.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>

#include "tests/fakes/fake_state.h"

namespace bulkhead::devproc {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }
std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// One side, whose process may be another one at any time.
struct Side {
  Side(ipc::PacketLinkArea& area, std::uint32_t number, BorrowedFd wake, BorrowedFd peer)
      : area_(area), number_(number), wake_(wake), peer_(peer), state(allocate_state<PacketLinkState>(memory)) {
    start();
    link->restore();
  }
  void start() { link = std::make_unique<RingLink>(state, number_, &area_, wake_, peer_); }
  // What was committed is what a successor finds.
  void commit() {
    committed = state.get();
    link->begin();
  }
  void die(bool after_the_commit) {
    if (after_the_commit)
      committed = state.get();
    else
      state.mut() = committed;
    start();
    link->restore();
  }

  ipc::PacketLinkArea& area_;
  std::uint32_t number_;
  BorrowedFd wake_;
  BorrowedFd peer_;
  FakeStateAllocator memory;
  Persistent<PacketLinkState> state;
  PacketLinkState committed{};
  std::unique_ptr<RingLink> link;
};

struct Rig {
  std::unique_ptr<ipc::PacketLinkArea> area = std::make_unique<ipc::PacketLinkArea>();
  UniqueFd wake0 = UniqueFd::create_eventfd().value();
  UniqueFd wake1 = UniqueFd::create_eventfd().value();
  Side device{*area, 0, wake0.borrow(), wake1.borrow()};
  Side relay{*area, 1, wake1.borrow(), wake0.borrow()};
};

TEST(RingLink, a_packet_is_seen_after_its_commit) {
  Rig rig;
  rig.device.link->send(bytes_of("head"), bytes_of("body"));
  EXPECT_TRUE(rig.relay.link->receive().empty());
  drain_eventfd(rig.wake1.borrow());
  rig.device.commit();
  EXPECT_NE(drain_eventfd(rig.wake1.borrow()), 0U);
  EXPECT_EQ(text_of(rig.relay.link->receive()), "headbody");
  EXPECT_EQ(text_of(rig.relay.link->receive()), "headbody") << "until it is consumed";
  rig.relay.link->consume();
  EXPECT_TRUE(rig.relay.link->receive().empty());
}

TEST(RingLink, room_comes_back_after_the_other_sides_commit) {
  Rig rig;
  const std::string large(kMostPacket, 'x');
  int sent = 0;
  for (; rig.device.link->has_room(large.size()); ++sent) rig.device.link->send({}, bytes_of(large));
  EXPECT_EQ(sent, 3);
  rig.device.commit();
  EXPECT_FALSE(rig.relay.link->receive().empty());
  rig.relay.link->consume();
  EXPECT_FALSE(rig.device.link->has_room(large.size()));
  drain_eventfd(rig.wake0.borrow());
  rig.relay.commit();
  EXPECT_NE(drain_eventfd(rig.wake0.borrow()), 0U);
  EXPECT_TRUE(rig.device.link->has_room(large.size()));
}

TEST(RingLink, a_peer_that_takes_room_back_loses_a_packet_and_harms_nobody) {
  Rig rig;
  ASSERT_TRUE(rig.device.link->has_room(4));
  rig.area->from[0].consumed.store(1);  // beyond what was ever produced: as if the ring were full
  rig.device.link->send({}, bytes_of("lost"));
  rig.area->from[0].consumed.store(0);
  rig.device.link->send({}, bytes_of("there"));
  rig.device.commit();
  EXPECT_EQ(text_of(rig.relay.link->receive()), "there");
}

TEST(RingLink, epochs_are_heard_of) {
  Rig rig;
  EXPECT_EQ(rig.device.link->peer_epoch(), 0U);
  rig.relay.link->begin_epoch();
  EXPECT_EQ(rig.device.link->peer_epoch(), 0U);
  rig.relay.commit();
  EXPECT_EQ(rig.device.link->peer_epoch(), 1U);
}

TEST(RingLink, every_packet_once_and_in_order_across_deaths_of_both_sides) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    std::mt19937_64 random(seed);
    Rig rig;
    std::vector<std::string> sent;
    std::vector<std::string> sending;  // in the input at hand
    std::vector<std::string> got;
    std::vector<std::string> getting;
    for (int step = 0; step < 500; ++step) {
      switch (random() % 6) {
        case 0:
        case 1: {
          std::string text(1 + random() % 20'000, static_cast<char>('a' + step % 26));
          if (!rig.device.link->has_room(text.size())) break;
          rig.device.link->send(bytes_of(text.substr(0, text.size() / 2)), bytes_of(text.substr(text.size() / 2)));
          sending.push_back(text);
          break;
        }
        case 2:
          if (random() % 4 == 0) {
            const bool committed = random() % 2 != 0;
            if (committed) sent.insert(sent.end(), sending.begin(), sending.end());
            rig.device.die(committed);
            rig.device.commit();  // a successor's first input
          } else {
            sent.insert(sent.end(), sending.begin(), sending.end());
            rig.device.commit();
          }
          sending.clear();
          break;
        case 3:
        case 4:
          if (const auto packet = rig.relay.link->receive(); !packet.empty()) {
            getting.push_back(text_of(packet));
            rig.relay.link->consume();
          }
          break;
        default:
          if (random() % 4 == 0) {
            const bool committed = random() % 2 != 0;
            if (committed) got.insert(got.end(), getting.begin(), getting.end());
            rig.relay.die(committed);
            rig.relay.commit();
          } else {
            got.insert(got.end(), getting.begin(), getting.end());
            rig.relay.commit();
          }
          getting.clear();
      }
    }
    rig.device.commit();
    sent.insert(sent.end(), sending.begin(), sending.end());
    rig.relay.commit();
    got.insert(got.end(), getting.begin(), getting.end());
    for (auto packet = rig.relay.link->receive(); !packet.empty(); packet = rig.relay.link->receive()) {
      got.push_back(text_of(packet));
      rig.relay.link->consume();
    }
    ASSERT_TRUE(got == sent) << "seed " << seed << ": " << got.size() << " of " << sent.size();
  }
}

TEST(RingLink, a_peer_that_lies_costs_packets_and_nothing_else) {
  std::mt19937_64 random(1);
  for (int turn = 0; turn < 2000; ++turn) {
    Rig rig;
    const auto at = reinterpret_cast<std::uint8_t*>(rig.area.get());
    for (int i = 0; i < 8; ++i) {
      ipc::PacketRing& ring = rig.area->from[random() % 2];
      switch (random() % 4) {
        case 0: ring.produced.store(random() >> (random() % 64)); break;
        case 1: ring.consumed.store(random() >> (random() % 64)); break;
        default: at[random() % sizeof(ipc::PacketLinkArea)] = static_cast<std::uint8_t>(random());
      }
      for (int k = 0; k < 100; ++k) {
        const auto packet = rig.device.link->receive();
        ASSERT_LE(packet.size(), kMostPacket);
        if (packet.empty()) break;
        rig.device.link->consume();
      }
      if (rig.device.link->has_room(10)) rig.device.link->send(bytes_of("0123456789"), {});
      rig.device.commit();
      if (random() % 4 == 0) rig.device.die(true);
    }
  }
}

TEST(RingLink, without_an_area_it_carries_nothing) {
  FakeStateAllocator memory;
  RingLink link(allocate_state<PacketLinkState>(memory), 0, nullptr, {}, {});
  EXPECT_FALSE(link.has_room(1));
  EXPECT_TRUE(link.receive().empty());
  link.consume();
  link.begin_epoch();
  link.restore();
  link.begin();
}

}  // namespace
}  // namespace bulkhead::devproc
