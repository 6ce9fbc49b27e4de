#include "vmm/process/device_events.h"

#include <time.h>

#include <algorithm>

#include "ipc/base/log.h"

namespace bulkhead::vmm {
namespace {

std::string sentence_of(const control::DeviceEvent& event) {
  const auto stall_ms = static_cast<double>(event.stall_ns) / 1e6;
  switch (event.kind) {
    case control::DeviceEventKind::kDied:
    case control::DeviceEventKind::kHung:
      return event.ticket == 0 ? event.cause : fmt::format("{}, while request {} waited", event.cause, event.ticket);
    case control::DeviceEventKind::kRestarting:
      return fmt::format("{} is started again (incarnation {}): {}", event.role, event.incarnation, event.cause);
    case control::DeviceEventKind::kRestored:
      return fmt::format("{} (pid {}) goes on as incarnation {} after {:.2f} ms", event.role, event.pid,
                         event.incarnation, stall_ms);
    case control::DeviceEventKind::kIsolated: return fmt::format("{} is isolated: {}", event.role, event.cause);
    case control::DeviceEventKind::kReturned: return fmt::format("{} is brought back from reset", event.role);
    case control::DeviceEventKind::kUpgraded:
      return fmt::format("{} (pid {}) goes on under {} after {:.2f} ms", event.role, event.pid, event.cause, stall_ms);
    case control::DeviceEventKind::kPaused:
    case control::DeviceEventKind::kUnplugged:
    case control::DeviceEventKind::kPlugged:
    case control::DeviceEventKind::kWaiting: return fmt::format("{}: {}", event.role, event.cause);
  }
  return {};
}

}  // namespace

void DeviceEvents::add(control::DeviceEvent event) {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  event.time_ns = now.tv_sec * 1'000'000'000LL + now.tv_nsec;
  const bool bad =
      event.kind == control::DeviceEventKind::kDied || event.kind == control::DeviceEventKind::kHung ||
      event.kind == control::DeviceEventKind::kIsolated || event.kind == control::DeviceEventKind::kPaused ||
      event.kind == control::DeviceEventKind::kUnplugged || event.kind == control::DeviceEventKind::kWaiting;
  if (may_log(event)) log(bad ? LogLevel::kWarning : LogLevel::kInfo, "{}", sentence_of(event));
  std::function<void()> listener;
  {
    const std::lock_guard lock(lock_);
    event.number = ++last_;
    events_.push_back(std::move(event));
    if (events_.size() > kKept) events_.pop_front();
    listener = listener_;
  }
  if (listener) listener();
}

bool DeviceEvents::may_log(const control::DeviceEvent& event) {
  constexpr std::int64_t kNsALine = 100'000'000;
  const std::lock_guard lock(lock_);
  const std::int64_t room = (event.time_ns - last_logged_ns_) / kNsALine;
  last_logged_ns_ += room * kNsALine;
  lines_ = std::clamp<std::int64_t>(lines_ + room, 0, kBurst);
  // What changes the machine is always worth a line.
  const bool rare =
      event.kind == control::DeviceEventKind::kIsolated || event.kind == control::DeviceEventKind::kReturned ||
      event.kind == control::DeviceEventKind::kUpgraded || event.kind == control::DeviceEventKind::kPaused;
  if (!rare && lines_ == 0) return false;
  lines_ = std::max<std::int64_t>(lines_ - 1, 0);
  return true;
}

std::vector<control::DeviceEvent> DeviceEvents::since(std::uint64_t after, std::size_t most) const {
  const std::lock_guard lock(lock_);
  std::vector<control::DeviceEvent> found;
  for (const control::DeviceEvent& event : events_) {
    if (event.number <= after) continue;
    if (found.size() == most) break;
    found.push_back(event);
  }
  return found;
}

std::uint64_t DeviceEvents::last() const {
  const std::lock_guard lock(lock_);
  return last_;
}

void DeviceEvents::set_listener(std::function<void()> listener) {
  const std::lock_guard lock(lock_);
  listener_ = std::move(listener);
}

}  // namespace bulkhead::vmm
