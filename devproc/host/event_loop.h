// EventLoop: the one loop of a device process. It serves requests while there are any, then streams, timers,
// resample events and the control channel; it spins for a measured time and then sleeps.
//
// Every descriptor is registered before the jail closes; afterwards the loop only waits, reads and writes.
// Threading: single-threaded.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "devproc/host/busy_look.h"
#include "devproc/host/role_host.h"
#include "ipc/control/channel.h"
#include "ipc/ring/adaptive_wait.h"

namespace bulkhead::devproc {

class EventLoop {
 public:
  // Makes the epoll and timer descriptors.
  static Result<EventLoop> create(RoleHost& host, const ipc::RequestArea& requests, BorrowedFd doorbell,
                                  std::span<const BorrowedFd> line_resample, std::span<const BorrowedFd> kicks,
                                  control::ControlChannel& control);

  // Serves until the VMM closes the control channel (ok) or breaks its rules (an error).
  Status run();

 private:
  EventLoop(RoleHost& host, const ipc::RequestArea& requests, control::ControlChannel& control)
      : host_(host), requests_(requests), control_(control) {}

  Status watch(BorrowedFd fd, std::uint64_t key, bool edge_triggered);
  // Sleeps (or only looks), and takes note of what came; kLook works on it as well. False: the VMM is gone.
  enum class Wait { kPeek, kLook, kSleep };
  Result<bool> wait_for_events(Wait wait);
  bool work_on_queues();
  // After work on queues: looks for more while that pays, then has the guest kick again.
  enum class Next { kWork, kSleep, kEnd };
  Result<Next> look_for_more();
  void set_timer();
  Result<bool> handle_control();
  Result<bool> answer(const control::FromDevice& message);
  bool quiet() const {
    return !host_.request_waiting() && !host_.stream_work_waiting() && !host_.queue_work_waiting() &&
           !host_.backend_work_waiting();
  }

  RoleHost& host_;
  const ipc::RequestArea& requests_;
  control::ControlChannel& control_;
  UniqueFd epoll_;
  UniqueFd timer_;
  BorrowedFd resample_[kMaxLines];
  std::vector<BorrowedFd> kicks_;
  std::int64_t timer_set_for_ = kTimerOff;
  ipc::AdaptiveWait wait_;
  // Behind frames or completions for the guest, and behind what it asked for: who comes next, and from where, differs.
  BusyLook after_backends_;
  BusyLook after_queues_;
  bool worked_on_queues_ = false;  // since kicks were asked for; that or on backends
  bool backends_were_last_ = false;
  std::uint32_t busy_turns_ = 0;
  bool quiesced_ = false;
};

}  // namespace bulkhead::devproc
