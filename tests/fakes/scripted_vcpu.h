// ScriptedVcpu: a vCPU whose guest does what a test says. Without a script it "runs" until it is kicked; immediate_exit
// and signals work as KVM's do.
#pragma once

#include <sched.h>

#include <atomic>
#include <climits>
#include <deque>
#include <functional>
#include <mutex>
#include <string>

#include "ipc/base/futex.h"
#include "vmm/hypervisor/hypervisor.h"

namespace bulkhead::vmm {

class ScriptedVcpu final : public Vcpu {
 public:
  // The next exit; nullopt: the guest runs on. On the vCPU's thread.
  std::function<std::optional<Exit>(ScriptedVcpu&)> script;

  Exit run_once() override {
    inside.fetch_add(1);
    runs.fetch_add(1);
    Exit exit = run();
    io_pending = std::holds_alternative<PioIn>(exit) || std::holds_alternative<MmioRead>(exit) ||
                 std::holds_alternative<PioOut>(exit) || std::holds_alternative<MmioWrite>(exit);
    inside.fetch_sub(1);
    return exit;
  }
  void set_immediate_exit(bool on) override {
    immediate_.store(on ? 1 : 0);
    futex_wake_all(&immediate_);
  }
  Exit complete_pending_io() override {
    completions.fetch_add(1);
    if (!follow_ups.empty()) {
      const Exit exit = follow_ups.front();
      follow_ups.pop_front();
      return exit;
    }
    io_pending = false;
    return Interrupted{};
  }
  std::string describe_state() override { return "RIP 1234"; }

  std::atomic<int> inside{0};          // 1 while the guest runs
  std::atomic<std::uint64_t> runs{0};  // run_once() calls
  std::atomic<std::uint64_t> completions{0};
  std::atomic<bool> io_pending{false};  // an instruction is half finished
  std::deque<Exit> follow_ups;          // the rest of a wide access; set while the vCPU is held

 private:
  Exit run() {
    if (immediate_.load() != 0) return Interrupted{};
    if (script) {
      if (std::optional<Exit> exit = script(*this)) return *exit;
    }
    // Guest code, until a kick: the signal, or immediate_exit where the signal came too early.
    futex_wait_until(&immediate_, 0, INT64_MAX / 2);
    return Interrupted{};
  }
  std::atomic<std::uint32_t> immediate_{0};
};

}  // namespace bulkhead::vmm
