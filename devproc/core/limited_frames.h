// LimitedFrames: the frame backends of a network card, behind a rate limit for each direction. Every NIC model talks to
// these instead of the backends themselves, and hears of time that has passed as it hears of frames and room.
//
// A frame to send that has to wait is told kFull. Frames that have to wait on the other side stay with the backend,
// which is told that nobody wants them: no frame is taken that may not be given to the guest, and nobody spins. What a
// received frame costs shows when it is there, so a direction may owe for one frame.
//
// Units: bytes of frames, without struct virtio_net_hdr. Threading: single-threaded. Trust: as FrameBackend.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "devproc/core/frame_backend.h"
#include "devproc/core/rate_limiter.h"

namespace bulkhead::devproc {

struct LimitedFramesStorage {
  Persistent<RateLimiterState> receive;
  Persistent<RateLimiterState> send;

  [[nodiscard]] static LimitedFramesStorage allocate(StateAllocator& allocator) {
    const auto receive = allocate_state<RateLimiterState>(allocator);
    return {receive, allocate_state<RateLimiterState>(allocator)};
  }
};

class LimitedFrames {
 public:
  static constexpr TimerId kTimers = kNetTimers;  // kReceiveLimit and kSendLimit, in front of the NIC's own

  // References and backends outlive it.
  LimitedFrames(const LimitedFramesStorage& storage, Clock& clock, TimerQueue& timers,
                std::span<FrameBackend* const> frames)
      : limiters_{RateLimiter(storage.receive, clock, timers, kReceiveLimit),
                  RateLimiter(storage.send, clock, timers, kSendLimit)} {
    for (std::size_t i = 0; i < frames.size(); ++i) {
      each_.push_back(std::make_unique<One>(*frames[i], static_cast<std::uint16_t>(i), limiters_));
      pointers_.push_back(each_.back().get());
    }
  }

  [[nodiscard]] std::span<FrameBackend* const> frames() const { return pointers_; }

  void start(const std::array<RateLimit, 2>& configured) {
    for (std::size_t i = 0; i < limiters_.size(); ++i) limiters_[i].start(configured[i]);
    for (const auto& one : each_) one->go_on();
  }
  void restore() {
    for (RateLimiter& limiter : limiters_) limiter.restore();
    for (const auto& one : each_) one->go_on();
  }
  bool set(LimitId which, const RateLimit& limit) {
    if (which >= limiters_.size()) return false;
    limiters_[which].set(limit);
    return true;
  }
  // A timer below kTimers fired: calls `look` with the number of each backend, first of whoever waited longest, which
  // answers whether there is more to do for it.
  template <class Look>
  void on_timer(TimerId timer, Look&& look) {
    if (timer >= limiters_.size() || each_.empty()) return;
    const std::size_t first = limiters_[timer].woken().value_or(0);
    if (timer == kReceiveLimit) {
      for (const auto& one : each_) one->go_on();
    }
    bool more = false;
    for (std::size_t i = 0; i < each_.size(); ++i)
      more = look(static_cast<std::uint16_t>((first + i) % each_.size())) || more;
    if (more) limiters_[timer].wake();
  }
  void inspect(Inspector& inspector) const {
    limiters_[kReceiveLimit].inspect(inspector, "receive_");
    limiters_[kSendLimit].inspect(inspector, "send_");
  }

 private:
  using Limiters = std::array<RateLimiter, 2>;

  class One final : public FrameBackend {
   public:
    One(FrameBackend& inner, std::uint16_t number, Limiters& limiters)
        : inner_(inner), number_(number), limiters_(limiters) {}

    Sent send(std::span<const std::byte> header, std::span<const Segment> memory) override {
      std::uint64_t bytes = header.size();
      for (const Segment& segment : memory) bytes += segment.length;
      bytes -= std::min<std::uint64_t>(bytes, kFrameHeader);
      if (!limiters_[kSendLimit].pass(number_, bytes)) return Sent::kFull;
      const Sent sent = inner_.send(header, memory);
      if (sent == Sent::kFull) limiters_[kSendLimit].take_back(bytes);
      return sent;
    }
    std::span<const std::byte> receive() override {
      if (!limiters_[kReceiveLimit].may_begin(number_)) {
        held_ = true;
        inner_.set_wanted(false);
        return {};
      }
      const auto frame = inner_.receive();
      size_ = frame.size() - std::min(frame.size(), kFrameHeader);
      return frame;
    }
    void consume() override {
      inner_.consume();
      limiters_[kReceiveLimit].charge(size_);
    }
    void set_wanted(bool wanted) override {
      wanted_ = wanted;
      inner_.set_wanted(wanted && !held_);
    }
    void set_offloads(const Offloads& offloads) override { inner_.set_offloads(offloads); }
    [[nodiscard]] bool link() const override { return inner_.link(); }
    [[nodiscard]] std::uint64_t taken() const override { return inner_.taken(); }
    [[nodiscard]] bool takes_offloads() const override { return inner_.takes_offloads(); }

    void go_on() {
      held_ = false;
      inner_.set_wanted(wanted_);
    }

   private:
    FrameBackend& inner_;
    std::uint16_t number_;
    Limiters& limiters_;
    std::size_t size_ = 0;  // of the frame that receive() showed
    bool wanted_ = false;
    bool held_ = false;
  };

  Limiters limiters_;
  std::vector<std::unique_ptr<One>> each_;
  std::vector<FrameBackend*> pointers_;
};

}  // namespace bulkhead::devproc
