// Worker: a thread for calls of VmControl that take long, so that the management server answers others
// meanwhile.
//
// Results come back through an eventfd that the server's event loop watches. One call at a time; at most
// kMaxQueued wait. Threading: everything but the calls themselves belongs to the owner's thread. The
// destructor waits for the call at hand, whose time is bounded (VmControl), and drops the others.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"

namespace bulkhead::vmm {

class Worker {
 public:
  static constexpr std::size_t kMaxQueued = 8;
  struct Done {
    std::uint64_t number;
    Status status;
  };

  // `notify`: signalled when take_done() has something to give; outlives this.
  explicit Worker(BorrowedFd notify) : notify_(notify), thread_([this] { work(); }) {}
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker() {
    {
      const std::lock_guard lock(lock_);
      ending_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }

  // The call's number; 0: too many wait already.
  std::uint64_t start(std::function<Status()> call) {
    const std::lock_guard lock(lock_);
    if (waiting_.size() >= kMaxQueued) return 0;
    waiting_.push_back({++last_, std::move(call)});
    changed_.notify_one();
    return last_;
  }

  [[nodiscard]] std::vector<Done> take_done() {
    const std::lock_guard lock(lock_);
    return std::exchange(done_, {});
  }

 private:
  struct Call {
    std::uint64_t number;
    std::function<Status()> run;
  };

  void work() {
    std::unique_lock lock(lock_);
    for (;;) {
      changed_.wait(lock, [this] { return ending_ || !waiting_.empty(); });
      if (ending_) return;
      const Call call = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      Status status = call.run();
      lock.lock();
      done_.push_back({call.number, std::move(status)});
      signal_eventfd(notify_);
    }
  }

  BorrowedFd notify_;
  std::mutex lock_;  // guards what follows
  std::condition_variable changed_;
  std::deque<Call> waiting_;
  std::vector<Done> done_;
  std::uint64_t last_ = 0;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace bulkhead::vmm
