// VirtualClock: the time and the timers of one device under test, moved by hand.
//
// advance() goes from deadline to deadline, as an idle host would; skip() jumps first and fires what is due
// afterwards, each timer once a round, as a host that was busy or paused would. Both stop after
// kMaxFirings (a model that re-arms into the past for ever), and `storm` then says so.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>

#include "devproc/core/clock.h"
#include "devproc/core/device.h"

namespace bulkhead::devproc {

class VirtualClock final : public Clock, public TimerQueue {
 public:
  static constexpr int kMaxFirings = 100'000;

  // Timers fire into this device. May be called again (a model that was killed and built anew).
  void attach(Device& device) { device_ = &device; }

  [[nodiscard]] VmTime now() const override { return now_; }
  [[nodiscard]] WallTime wall() const override { return wall_; }
  void arm(std::uint16_t timer, VmTime deadline) override { deadlines_[timer] = deadline; }
  void cancel(std::uint16_t timer) override { deadlines_.erase(timer); }

  [[nodiscard]] bool armed(std::uint16_t timer) const { return deadlines_.contains(timer); }
  [[nodiscard]] std::optional<VmTime> deadline(std::uint16_t timer) const {
    const auto it = deadlines_.find(timer);
    return it == deadlines_.end() ? std::nullopt : std::optional(it->second);
  }
  [[nodiscard]] std::optional<VmTime> next_deadline() const {
    const auto it = earliest();
    return it == deadlines_.end() ? std::nullopt : std::optional(it->second);
  }
  [[nodiscard]] std::size_t armed_count() const { return deadlines_.size(); }

  // VM time and wall time go on together, stopping at every deadline on the way.
  void advance(std::chrono::nanoseconds duration) {
    const VmTime end{now_.ns + duration.count()};
    for (int n = 0;; ++n) {
      const auto it = earliest();
      if (it == deadlines_.end() || it->second > end) break;
      if (n == kMaxFirings) {
        storm = true;
        break;
      }
      move_to(std::max(now_, it->second));
      fire(it->first);
    }
    move_to(end);
  }

  // The time jumps to the end at once; what is due fires then.
  void skip(std::chrono::nanoseconds duration) {
    move_to(VmTime{now_.ns + duration.count()});
    advance(std::chrono::nanoseconds(0));
  }

  // The host's clock is set, or the VM was paused: VM time stands still.
  void set_wall(WallTime wall) { wall_ = wall; }
  void advance_wall(std::chrono::nanoseconds duration) { wall_.ns += duration.count(); }
  void set_wall_seconds(std::int64_t seconds) { wall_.ns = seconds * 1'000'000'000; }
  void set_now(VmTime now) { now_ = now; }

  int fired = 0;       // on_timer() calls
  bool storm = false;  // advance() gave up

 private:
  using Deadlines = std::map<std::uint16_t, VmTime>;

  [[nodiscard]] Deadlines::const_iterator earliest() const {
    return std::min_element(deadlines_.begin(), deadlines_.end(),
                            [](const auto& a, const auto& b) { return a.second < b.second; });
  }
  void move_to(VmTime time) {
    wall_.ns += time.ns - now_.ns;
    now_ = time;
  }
  void fire(std::uint16_t timer) {
    deadlines_.erase(timer);
    ++fired;
    if (device_ != nullptr) device_->on_timer(timer);
  }

  VmTime now_{};
  WallTime wall_{};
  Deadlines deadlines_;
  Device* device_ = nullptr;
};

}  // namespace bulkhead::devproc
