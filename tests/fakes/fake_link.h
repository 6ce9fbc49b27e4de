// FakeLink: both directions of a PacketLink as queues of packets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "devproc/core/packet_link.h"

namespace bulkhead::devproc {

class FakeLink final : public PacketLink {
 public:
  using Packet = std::vector<std::byte>;

  [[nodiscard]] bool has_room(std::size_t size) const override { return size <= room; }
  void send(std::span<const std::byte> head, std::span<const std::byte> body) override {
    Packet packet(head.begin(), head.end());
    packet.insert(packet.end(), body.begin(), body.end());
    room -= packet.size();
    sent.push_back(std::move(packet));
  }
  std::span<const std::byte> receive() override {
    return incoming.empty() ? std::span<const std::byte>() : std::span<const std::byte>(incoming.front());
  }
  void consume() override {
    if (!incoming.empty()) incoming.pop_front();
  }
  void begin_epoch() override { ++epoch; }
  [[nodiscard]] std::uint32_t own_epoch() const override { return epoch; }
  [[nodiscard]] std::uint32_t peer_epoch() const override { return peers; }
  void restore() override {}

  std::deque<Packet> sent;
  std::deque<Packet> incoming;
  std::size_t room = 1U << 20;
  std::uint32_t epoch = 0;
  std::uint32_t peers = 0;
};

}  // namespace bulkhead::devproc
