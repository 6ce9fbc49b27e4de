// DeviceEvents: what has happened to a VM's device processes, for people and programs: a line in the log for each (at
// most ten a second in the long run), and the last kKept of them for `bulkhead events`.
//
// Threading: any thread. Trust: what devices can cause is bounded; texts come cleaned (ExitReport, sentences of the
// control channel).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "ipc/control/management.h"

namespace bulkhead::vmm {

class DeviceEvents {
 public:
  static constexpr std::size_t kKept = 512;

  // Gives the event its number and time, logs it (limited) and keeps it.
  void add(control::DeviceEvent event);

  // Those after number `after`, oldest first, at most `most`.
  [[nodiscard]] std::vector<control::DeviceEvent> since(std::uint64_t after, std::size_t most) const;
  [[nodiscard]] std::uint64_t last() const;

  // Called after each add(), on its thread.
  void set_listener(std::function<void()> listener);

 private:
  static constexpr std::int64_t kBurst = 256;
  bool may_log(const control::DeviceEvent& event);

  mutable std::mutex lock_;
  std::deque<control::DeviceEvent> events_;
  std::uint64_t last_ = 0;
  std::int64_t last_logged_ns_ = 0;
  std::int64_t lines_ = kBurst;  // that may be logged now
  std::function<void()> listener_;
};

}  // namespace bulkhead::vmm
