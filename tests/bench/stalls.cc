#include "tests/bench/stalls.h"

#include <signal.h>
#include <time.h>

#include <algorithm>
#include <thread>

#include "ipc/base/log.h"
#include "tests/bench/ping_pong.h"

namespace bulkhead::bench {
namespace {

constexpr int kTakes = 5;  // the kills of one run in as many parts
constexpr std::int64_t kPatienceNs = 5'000'000'000;

// Follows the guest's results as they come.
class Results {
 public:
  Results(vmm::GuestRam& ram, ResultArea area) : ram_(ram), area_(area) {}
  // The longest request since the last call, in milliseconds.
  double longest_ms() {
    std::uint64_t longest = 0;
    for (; next_ < area_.count; ++next_) {
      const std::uint64_t ticks = *ram_.load<std::uint64_t>(area_.address + 8 * next_);
      if (ticks == 0) break;
      longest = std::max(longest, ticks);
    }
    return static_cast<double>(longest) * ns_per_tsc_tick() / 1e6;
  }
  [[nodiscard]] std::uint64_t seen() const { return next_; }

 private:
  vmm::GuestRam& ram_;
  ResultArea area_;
  std::uint64_t next_ = 0;
};

template <class Condition>
bool wait_until(const Condition& condition) {
  const std::int64_t until = ipc::monotonic_ns() + kPatienceNs;
  while (!condition()) {
    if (ipc::monotonic_ns() > until) return false;
    sleep_us(100);
  }
  return true;
}

Status drive(vmm::VirtualMachine& vm, vmm::DeviceProcess& victim, ResultArea area, int kills, Stalls& stalls) {
  Results results(vm.ram(), area);
  sleep_us(20'000);
  const auto moves = [&] {
    const std::uint64_t before = results.seen();
    (void)results.longest_ms();
    return results.seen() != before;
  };
  if (!wait_until(moves)) return make_error("the benchmark's guest does not get to its first request");
  for (int i = 0; i < kills; ++i) {
    // Without a kill, then with one; each time as long as a standby takes to be there.
    sleep_us(4000);
    stalls.undisturbed_ms.push_back(results.longest_ms());
    const std::uint32_t before = victim.serving_incarnation();
    RETURN_IF_ERROR(vm.fault(victim.plan().name, SIGKILL));
    if (!wait_until([&] { return victim.serving_incarnation() != before; }))
      return make_error("the device process did not come back");
    sleep_us(4000);
    // The request that the death held up is seen once it is over, be that later.
    const std::uint64_t seen = results.seen();
    double longest = 0;
    if (!wait_until([&] {
          longest = std::max(longest, results.longest_ms());
          return results.seen() != seen;
        }))
      return make_error("a request was not answered after a death");
    stalls.killed_ms.push_back(longest);
  }
  return ok();
}

}  // namespace

void sleep_us(long us) {
  const timespec pause{0, us * 1000};
  ::nanosleep(&pause, nullptr);
}

Result<Stalls> stalls_of(vmm::VirtualMachine& vm, vmm::DeviceProcess& victim, ResultArea results, int kills) {
  set_log_level(LogLevel::kError);
  Stalls stalls;
  Status driven = ok();
  std::thread driver([&] {
    driven = drive(vm, victim, results, kills, stalls);
    (void)vm.kill();
  });
  const control::Exited ended = vm.run(nullptr);
  driver.join();
  set_log_level(LogLevel::kInfo);
  if (ended.status != control::kExitKilled) return make_error("the benchmark's guest ended: " + ended.sentence);
  if (!driven) return driven.error();
  return stalls;
}

Takes takes_of(const Stalls& stalls, double part) {
  Takes takes;
  const std::size_t batch = stalls.killed_ms.size() / kTakes;
  for (std::size_t i = 0; i < kTakes; ++i) {
    const auto first = stalls.killed_ms.begin() + static_cast<std::ptrdiff_t>(i * batch);
    takes.values.push_back(percentile({first, first + static_cast<std::ptrdiff_t>(batch)}, part));
  }
  takes.note = fmt::format(
      "{} kills: p50 {:.2f}, p99 {:.2f}, longest {:.2f} ms; without a kill p50 {:.2f}, p99 {:.2f} ms",
      stalls.killed_ms.size(), percentile(stalls.killed_ms, 0.5), percentile(stalls.killed_ms, 0.99),
      percentile(stalls.killed_ms, 1), percentile(stalls.undisturbed_ms, 0.5), percentile(stalls.undisturbed_ms, 0.99));
  return takes;
}

}  // namespace bulkhead::bench
