#include "devproc/host/event_loop.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <limits>

#include "ipc/base/log.h"

namespace bulkhead::devproc {
namespace {

constexpr std::uint64_t kDoorbell = 1U << 16;
constexpr std::uint64_t kTimer = 2U << 16;
constexpr std::uint64_t kControl = 3U << 16;
constexpr std::uint64_t kResample = 4U << 16;  // + line
constexpr std::uint64_t kKick = 5U << 16;      // + queue
constexpr std::uint64_t kBackend = 6U << 16;   // + backend of the role
constexpr std::uint32_t kTurnsBetweenLooks = 32;

}  // namespace

Result<EventLoop> EventLoop::create(RoleHost& host, const ipc::RequestArea& requests, BorrowedFd doorbell,
                                    std::span<const BorrowedFd> line_resample, std::span<const BorrowedFd> kicks,
                                    control::ControlChannel& control) {
  EventLoop loop(host, requests, control);
  loop.epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!loop.epoll_.valid()) return make_errno_error("cannot create an epoll descriptor");
  loop.timer_.reset(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!loop.timer_.valid()) return make_errno_error("cannot create a timer descriptor");
  // Edge-triggered: a doorbell or timer that rang need not be read, which saves a system call a wake-up.
  RETURN_IF_ERROR(loop.watch(doorbell, kDoorbell, true));
  RETURN_IF_ERROR(loop.watch(loop.timer_.borrow(), kTimer, true));
  RETURN_IF_ERROR(loop.watch(control.fd(), kControl, false));
  for (std::size_t line = 0; line < std::min<std::size_t>(line_resample.size(), kMaxLines); ++line) {
    if (!line_resample[line].valid()) continue;
    loop.resample_[line] = line_resample[line];
    RETURN_IF_ERROR(loop.watch(line_resample[line], kResample + line, false));
  }
  // Read at each kick: one that stays readable tells the supervisor of a hang.
  loop.kicks_.assign(kicks.begin(), kicks.end());
  for (std::size_t kick = 0; kick < kicks.size(); ++kick) RETURN_IF_ERROR(loop.watch(kicks[kick], kKick + kick, false));
  // By edges: a device that takes no frames now is not woken by those that wait, and looks again when it does.
  const std::vector<BorrowedFd> backends = host.watched_backends();
  for (std::size_t i = 0; i < backends.size(); ++i) {
    if (backends[i].valid()) RETURN_IF_ERROR(loop.watch(backends[i], kBackend + i, true));
  }
  host.let_kicks_wait();
  return loop;
}

Status EventLoop::watch(BorrowedFd fd, std::uint64_t key, bool edge_triggered) {
  epoll_event event{};
  event.events = EPOLLIN | (edge_triggered ? static_cast<std::uint32_t>(EPOLLET) : 0U);
  if (key >= kBackend) event.events |= EPOLLOUT;
  event.data.u64 = key;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd.get(), &event) != 0)
    return make_errno_error("cannot watch a descriptor");
  return ok();
}

Status EventLoop::run() {
  for (;;) {
    if (!quiesced_ && host_.handle_request()) {
      // Requests come first, but a guest that never stops asking must not starve timers, EOIs and streams.
      if (++busy_turns_ < kTurnsBetweenLooks) continue;
      busy_turns_ = 0;
      ASSIGN_OR_RETURN(const bool looking, wait_for_events(Wait::kLook));
      if (!looking) return ok();
      continue;
    }
    if (!quiesced_ && host_.handle_streams()) continue;
    if (!quiesced_ && work_on_queues()) {
      // A queue that is never empty must not starve what comes through descriptors.
      if (++busy_turns_ < kTurnsBetweenLooks) continue;
      busy_turns_ = 0;
      ASSIGN_OR_RETURN(const bool looking, wait_for_events(Wait::kLook));
      if (!looking) return ok();
      continue;
    }
    if (!quiesced_ && host_.next_deadline() <= ipc::monotonic_ns() && host_.handle_timers()) continue;
    if (!quiesced_ && worked_on_queues_) {
      ASSIGN_OR_RETURN(const Next next, look_for_more());
      if (next == Next::kEnd) return ok();
      if (next == Next::kWork) continue;
    }
    ipc::DeviceCounters& counters = host_.replies().counters;
    if (!quiesced_ && wait_.spin([this] { return !quiet(); })) {
      counters.spins_won.store(counters.spins_won.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
      continue;
    }
    ASSIGN_OR_RETURN(const bool open, wait_for_events(Wait::kSleep));
    if (!open) return ok();
  }
}

Result<bool> EventLoop::wait_for_events(Wait wait) {
  ipc::ReplyArea& replies = host_.replies();
  int timeout = 0;
  if (wait == Wait::kSleep) {
    replies.asleep.exchange(1, std::memory_order_seq_cst);
    host_.set_asleep(true);
    set_timer();  // after the flag: a VMM that lets time go on again sees it and rings, or we see the new time here
    timeout = quiesced_ || quiet() ? -1 : 0;
    if (timeout != 0)
      replies.counters.sleeps.store(replies.counters.sleeps.load(std::memory_order_relaxed) + 1,
                                    std::memory_order_relaxed);
  }
  std::array<epoll_event, 16> events{};
  const int n = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout);
  if (wait == Wait::kSleep) {
    replies.asleep.store(0, std::memory_order_relaxed);
    host_.set_asleep(false);
  }
  if (n < 0 && errno != EINTR) return make_errno_error("cannot wait for events");
  bool timer_fired = false;
  for (int i = 0; i < n; ++i) {
    const std::uint64_t key = events[static_cast<std::size_t>(i)].data.u64;
    if (key == kDoorbell) {
      if (timeout != 0 && host_.request_waiting()) wait_.learn(requests_.device_woken);
    } else if (key == kTimer) {
      timer_fired = true;
    } else if (key == kControl) {
      ASSIGN_OR_RETURN(const bool open, handle_control());
      if (!open) return false;
    } else if (key >= kResample && key < kResample + kMaxLines) {
      const auto line = static_cast<std::uint32_t>(key - kResample);
      drain_eventfd(resample_[line]);
      host_.handle_resample(line);
    } else if (key >= kKick && key < kKick + kicks_.size()) {
      const auto kick = static_cast<std::uint32_t>(key - kKick);
      if (timeout != 0) wait_.in_vain();
      drain_eventfd(kicks_[kick]);
      host_.kick(kick);
    } else if (key >= kBackend && key < kBackend + kMaxBackings) {
      if (timeout != 0) {
        wait_.in_vain();
        // What the guest gets it may answer at once, and need not kick for it.
        if (!quiesced_ && after_backends_.worth_it(ipc::monotonic_ns()) && host_.hold_kicks()) worked_on_queues_ = true;
      }
      host_.backend_stirs(static_cast<std::size_t>(key - kBackend), events[static_cast<std::size_t>(i)].events);
    }
  }
  if (timer_fired) timer_set_for_ = kTimerOff;
  if (!quiesced_ && (timer_fired || wait == Wait::kLook)) host_.handle_timers();
  if (!quiesced_ && wait == Wait::kLook) {
    host_.handle_streams();
    work_on_queues();
  }
  return true;
}

bool EventLoop::work_on_queues() {
  const bool backends = host_.handle_backends();
  const bool queues = host_.handle_queues();  // in turns: neither starves the other
  worked_on_queues_ = worked_on_queues_ || backends || queues;
  if (backends || queues) backends_were_last_ = !queues;
  return backends || queues;
}

Result<EventLoop::Next> EventLoop::look_for_more() {
  constexpr int kTurns = 32;  // of looking at memory, between two looks at descriptors
  BusyLook& look = backends_were_last_ ? after_backends_ : after_queues_;
  const std::int64_t began = ipc::monotonic_ns();
  if (look.worth_it(began)) {
    bool came = false;
    std::int64_t now = began;
    while (!came && now - began < BusyLook::kWindowNs) {
      for (int i = 0; i < kTurns && !came; ++i) {
        came = host_.queues_stir() || !quiet();
        ipc::cpu_relax();
      }
      if (!came) {
        ASSIGN_OR_RETURN(const bool open, wait_for_events(Wait::kPeek));
        if (!open) return Next::kEnd;
        came = !quiet();
      }
      now = ipc::monotonic_ns();
    }
    look.learn(began, now, came);
    if (came) return Next::kWork;
  }
  worked_on_queues_ = false;
  if (quiesced_) return Next::kSleep;  // a successor takes every queue as kicked
  return host_.ask_for_kicks() ? Next::kWork : Next::kSleep;
}

void EventLoop::set_timer() {
  const std::int64_t deadline = quiesced_ ? kTimerOff : host_.next_deadline();
  if (deadline == timer_set_for_) return;
  timer_set_for_ = deadline;
  itimerspec when{};
  if (deadline != kTimerOff) {
    const std::int64_t at = std::max<std::int64_t>(deadline, 1);
    when.it_value = {at / 1'000'000'000, at % 1'000'000'000};
  }
  ::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &when, nullptr);
}

Result<bool> EventLoop::handle_control() {
  Result<control::Message> message = control_.receive(control::no_wait());
  if (!message) {
    if (message.error().error_number == control::kTimedOut) return true;
    if (message.error().error_number == control::kPeerClosed) return false;
    return message.error();
  }
  ASSIGN_OR_RETURN(const control::ToDevice decoded, control::decode_to_device(message->bytes, 0));
  if (std::holds_alternative<control::Quiesce>(decoded)) {
    quiesced_ = true;
    return answer(control::Quiesced{host_.last_ticket(), host_.commits()});
  }
  if (const auto* inspect = std::get_if<control::Inspect>(&decoded))
    return answer(control::InspectReply{host_.inspect(inspect->instance)});
  return make_error("the VMM sent a message that does not belong after the start");
}

Result<bool> EventLoop::answer(const control::FromDevice& message) {
  ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, control::encode(message));
  RETURN_IF_ERROR(control_.send(bytes, control::deadline_in(std::chrono::seconds(1))));
  return true;
}

}  // namespace bulkhead::devproc
