// Time as a device model sees it.
//
// VmTime counts nanoseconds of the VM's life: it stops while the VM is paused and never goes back.
// WallTime is the host's UTC clock, for the RTC alone. Within one input both stand still, so that a model's
// answer is a function of its state and the input.
#pragma once

#include <compare>
#include <cstdint>

namespace bulkhead::devproc {

struct VmTime {
  std::int64_t ns = 0;
  auto operator<=>(const VmTime&) const = default;
};

struct WallTime {
  std::int64_t ns = 0;  // since 1970-01-01 00:00:00 UTC
  auto operator<=>(const WallTime&) const = default;
};

class Clock {
 public:
  virtual ~Clock() = default;
  [[nodiscard]] virtual VmTime now() const = 0;
  [[nodiscard]] virtual WallTime wall() const = 0;
};

// A device's timers: absolute deadlines, kept in the committed state. A deadline in the past fires at once.
class TimerQueue {
 public:
  virtual ~TimerQueue() = default;
  virtual void arm(std::uint16_t timer, VmTime deadline) = 0;
  virtual void cancel(std::uint16_t timer) = 0;
};

}  // namespace bulkhead::devproc
