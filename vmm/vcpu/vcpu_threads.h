// VcpuThreads: one thread for each vCPU, and the gate that lets all of them run or holds all of them.
//
// close() holds every vCPU out of KVM_RUN with no instruction half finished, so that registers, memory slots and
// interrupt controllers may be changed; open() lets them go on. A vCPU that waits for a device is held as soon as it
// has its answer. The gate can be closed from a vCPU's own thread without waiting (hold_soon): no guest instruction
// runs after the one that asked.
// Threading: run, close, open and stop from one controlling thread; hold_soon from any. Errors: Status.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "sandbox/filter.h"
#include "vmm/bus/address_space.h"
#include "vmm/hypervisor/hypervisor.h"
#include "vmm/vcpu/dispatch.h"

namespace bulkhead::vmm {

class VcpuThreads {
 public:
  // What ended a vCPU's run, with a readable report of its state. Called on its thread, which then waits at the
  // gate like one that is held.
  using EndHandler = std::function<void(std::uint32_t vcpu, ExitAction action, std::string report)>;

  VcpuThreads(const std::vector<Vcpu*>& vcpus, AddressSpace& space, EndHandler on_end);
  ~VcpuThreads();
  VcpuThreads(const VcpuThreads&) = delete;
  VcpuThreads& operator=(const VcpuThreads&) = delete;

  // Starts the threads, held at the gate. `filter`: loaded by each thread before it runs guest code.
  Status start(const std::optional<sandbox::CompiledFilter>& filter);

  // Holds all vCPUs and returns when they are. False: one is still waiting for a device after `deadline_ns`.
  bool close(std::int64_t deadline_ns);
  void open();
  // Closes the gate without waiting and without disturbing anybody: each vCPU is held at its next exit, the calling
  // one at once. close() must follow.
  void hold_soon();

  // Runs `change` while no vCPU is inside of KVM_RUN, for what all of them must see at once (memory slots). Any thread
  // may call it, a vCPU's own in the middle of its access too; one change at a time. Whoever waits for a device, or at
  // the gate, is outside.
  void while_none_runs(const std::function<void()>& change);

  // Ends the threads. A vCPU that waits for a device must have been released before (its ring closed).
  void stop();

  [[nodiscard]] std::uint64_t exits() const;

 private:
  struct alignas(64) Thread {
    std::uint32_t index = 0;
    Vcpu* vcpu = nullptr;
    std::thread thread;
    std::atomic<std::uint64_t> exits{0};
    std::atomic<bool> inside{false};  // of KVM_RUN, or about to be
    std::atomic<pid_t> id{0};
    bool held = false;   // guarded by lock_
    bool ended = false;  // guarded by lock_: it reported its end and waits for open()
  };

  void thread_main(Thread& self, const std::optional<sandbox::CompiledFilter>& filter);
  // Waits until the gate opens. False: stop.
  bool wait_at_gate(Thread& self);
  void finish_instruction(Thread& self);
  // Around every KVM_RUN: waits while somebody changes what all vCPUs see.
  void enter(Thread& self);
  void leave(Thread& self);
  void interrupt_all();

  AddressSpace& space_;
  EndHandler on_end_;
  pid_t process_;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::atomic<bool> closed_{true};
  std::mutex lock_;
  std::condition_variable changed_;
  std::mutex change_lock_;             // one change at a time; taken before lock_
  std::atomic<bool> changing_{false};  // set under change_lock_ and lock_
  bool stop_ = false;                  // guarded by lock_
  std::size_t ready_ = 0;              // guarded by lock_
  std::string start_error_;            // guarded by lock_
};

}  // namespace bulkhead::vmm
