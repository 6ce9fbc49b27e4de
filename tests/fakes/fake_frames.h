// FakeFrames: a frame backend whose frames are scripted, which is full on demand, and which remembers what it was told.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <span>
#include <vector>

#include "devproc/core/frame_backend.h"

namespace bulkhead::devproc {

class FakeFrames final : public FrameBackend {
 public:
  using Frame = std::vector<std::byte>;  // header included

  explicit FakeFrames(GuestMemory& memory) : memory_(memory) {}

  Sent send(std::span<const std::byte> header, std::span<const Segment> memory) override {
    if (dead) return Sent::kSent;
    if (room == 0) {
      ++refused;
      return Sent::kFull;
    }
    if (room > 0) --room;
    Frame frame(header.begin(), header.end());
    for (const Segment& segment : memory) {
      const std::size_t at = frame.size();
      frame.resize(at + segment.length);
      if (memory_.read(segment.address, std::span(frame).subspan(at))) continue;
      ++unreadable;
      return Sent::kSent;
    }
    sent.push_back(std::move(frame));
    if (on_send) on_send();
    return Sent::kSent;
  }
  std::span<const std::byte> receive() override {
    if (incoming.empty()) return {};
    return incoming.front();
  }
  void consume() override {
    if (dead || incoming.empty()) return;
    consumed.push_back(std::move(incoming.front()));
    incoming.pop_front();
  }
  void set_wanted(bool now) override {
    if (!dead) wanted = now;
  }
  void set_offloads(const Offloads& now) override {
    offloads = now;
    ++offloads_told;
  }
  [[nodiscard]] bool link() const override { return link_up; }
  [[nodiscard]] bool takes_offloads() const override { return offloads_taken; }
  [[nodiscard]] std::uint64_t taken() const override { return consumed.size() + lost; }

  std::deque<Frame> incoming;
  std::vector<Frame> sent;
  std::vector<Frame> consumed;
  std::function<void()> on_send;
  Offloads offloads;
  bool offloads_taken = true;
  int room = -1;  // frames that it takes before it is full; negative: it never is
  int refused = 0;
  int unreadable = 0;
  int offloads_told = 0;
  std::uint64_t lost = 0;  // frames that went with a process
  bool wanted = false;
  bool link_up = true;
  bool dead = false;  // the process is: nothing that it does counts

 private:
  GuestMemory& memory_;
};

}  // namespace bulkhead::devproc
