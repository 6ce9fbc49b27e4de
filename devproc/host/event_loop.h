// EventLoop: the one loop of a device process. It serves requests while there are any, then streams, timers,
// resample events and the control channel; it spins for a measured time and then sleeps.
//
// Every descriptor is registered before the jail closes; afterwards the loop only waits, reads and writes.
// Threading: single-threaded.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

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
  // Sleeps (or, with kLook, only looks) and handles what came. False: the VMM is gone.
  enum class Wait { kLook, kSleep };
  Result<bool> wait_for_events(Wait wait);
  bool work_on_queues();
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
  std::uint32_t busy_turns_ = 0;
  bool quiesced_ = false;
};

}  // namespace bulkhead::devproc
