// restart_stall, restart_cold, standby_pss: what a guest sees of the death of a device process, and what a warm
// standby costs.
//
// A guest at CPL 3 writes to port 80h without pause and times each write; its `platform` process is killed again and
// again. The stall is the longest write from one kill to the next. What the same guest sees without kills is printed
// beside it.
#include <benchmark/benchmark.h>
#include <signal.h>
#include <time.h>

#include <algorithm>
#include <thread>

#include "ipc/base/log.h"
#include "tests/bench/figures.h"
#include "tests/bench/guest_run.h"
#include "tests/bench/ping_pong.h"

namespace bulkhead::bench {
namespace {

constexpr std::uint64_t kWrites = 1'900'000;  // as many as guest memory holds results of; nobody gets so far
constexpr int kKills = 1000;
constexpr int kColdKills = 200;
constexpr int kTakes = 5;  // the kills of one run in as many parts
constexpr std::int64_t kPatienceNs = 5'000'000'000;

void sleep_us(long us) {
  const timespec pause{0, us * 1000};
  ::nanosleep(&pause, nullptr);
}

struct Stalls {
  std::vector<double> killed_ms;
  std::vector<double> undisturbed_ms;  // the longest write of a stretch as long, without a kill
};

// Follows the guest's results as they come.
class Results {
 public:
  explicit Results(vmm::GuestRam& ram) : ram_(ram) {}
  // The longest write since the last call, in milliseconds.
  double longest_ms() {
    std::uint64_t longest = 0;
    for (; next_ < kWrites; ++next_) {
      const std::uint64_t ticks = *ram_.load<std::uint64_t>(kFirstResults + 8 * next_);
      if (ticks == 0) break;
      longest = std::max(longest, ticks);
    }
    return static_cast<double>(longest) * ns_per_tsc_tick() / 1e6;
  }

 private:
  vmm::GuestRam& ram_;
  std::uint64_t next_ = 0;
};

bool wait_for_successor(vmm::VirtualMachine& vm, std::uint32_t before) {
  const std::int64_t until = ipc::monotonic_ns() + kPatienceNs;
  while (vm.process(1).serving_incarnation() == before) {
    if (ipc::monotonic_ns() > until) return false;
    sleep_us(100);
  }
  return true;
}

Status drive(vmm::VirtualMachine& vm, int kills, Stalls& stalls) {
  Results results(vm.ram());
  sleep_us(20'000);
  (void)results.longest_ms();
  for (int i = 0; i < kills; ++i) {
    // Without a kill, then with one; each time as long as a standby takes to be there.
    sleep_us(4000);
    stalls.undisturbed_ms.push_back(results.longest_ms());
    const std::uint32_t before = vm.process(1).serving_incarnation();
    RETURN_IF_ERROR(vm.fault(vm.process(1).plan().name, SIGKILL));
    if (!wait_for_successor(vm, before)) return make_error("the device process did not come back");
    sleep_us(4000);
    stalls.killed_ms.push_back(results.longest_ms());
  }
  return ok();
}

Result<Stalls> measure_stalls(int kills, bool standby) {
  const ExitPairs parameters{kWrites, kFirstResults, kSecondResults, 0x80, 0x80, 0, 0, 0};
  vmm::VmOptions options;
  options.standby = standby;
  ASSIGN_OR_RETURN(const std::unique_ptr<vmm::VirtualMachine> vm, make_guest(parameters, nullptr, std::move(options)));
  set_log_level(LogLevel::kError);
  Stalls stalls;
  Status driven = ok();
  std::thread driver([&] {
    driven = drive(*vm, kills, stalls);
    (void)vm->kill();
  });
  const control::Exited ended = vm->run(nullptr);
  driver.join();
  set_log_level(LogLevel::kInfo);
  if (!driven) return driven.error();
  if (ended.status != control::kExitKilled) return make_error("the benchmark's guest ended: " + ended.sentence);
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

// Both percentiles come from one run.
const Result<Stalls>& warm_stalls() {
  static const Result<Stalls> stalls = measure_stalls(kKills, true);
  return stalls;
}

Result<double> children_mib(bool standby) {
  const ExitPairs parameters{kWrites, kFirstResults, kSecondResults, 0x80, 0x80, 0, 0, 0};
  vmm::VmOptions options;
  options.standby = standby;
  ASSIGN_OR_RETURN(const std::unique_ptr<vmm::VirtualMachine> vm, make_guest(parameters, nullptr, std::move(options)));
  double sum = 0;
  std::thread look([&] {
    sleep_us(300'000);
    for (std::size_t i = 0; i < vm->device_process_count(); ++i)
      sum += pss_mib(vm->supervisor().pid_of(vm->process(i)));
    if (const pid_t pid = vm->supervisor().standby_pid(); pid != 0) sum += pss_mib(pid);
    (void)vm->kill();
  });
  (void)vm->run(nullptr);
  look.join();
  return sum;
}

// --benchmark_filter=restart: each iteration is one kill, and its time the stall that the guest saw.
void stall_benchmark(benchmark::State& state, bool standby) {
  const Result<Stalls> stalls = measure_stalls(static_cast<int>(state.max_iterations), standby);
  if (!stalls) return state.SkipWithError(stalls.error().message.c_str());
  std::size_t kill = 0;
  for ([[maybe_unused]] auto _ : state) state.SetIterationTime(stalls->killed_ms[kill++] / 1e3);
  state.counters["p50_ms"] = percentile(stalls->killed_ms, 0.5);
  state.counters["p99_ms"] = percentile(stalls->killed_ms, 0.99);
  state.counters["calm_p99_ms"] = percentile(stalls->undisturbed_ms, 0.99);
}

}  // namespace

void register_restart_benchmarks() {
  for (const bool standby : {true, false}) {
    benchmark::RegisterBenchmark(standby ? "restart/standby" : "restart/cold",
                                 [standby](benchmark::State& state) { stall_benchmark(state, standby); })
        ->Iterations(standby ? kKills : kColdKills)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  }
}

Result<Takes> measure_restart_stall_p50() {
  if (!warm_stalls()) return warm_stalls().error();
  return takes_of(*warm_stalls(), 0.5);
}

Result<Takes> measure_restart_stall_p99() {
  if (!warm_stalls()) return warm_stalls().error();
  return takes_of(*warm_stalls(), 0.99);
}

Result<Takes> measure_restart_cold() {
  ASSIGN_OR_RETURN(const Stalls stalls, measure_stalls(kColdKills, false));
  return takes_of(stalls, 0.5);
}

Result<Takes> measure_standby_pss() {
  Takes takes;
  for (int i = 0; i < 3; ++i) {
    ASSIGN_OR_RETURN(const double without, children_mib(false));
    ASSIGN_OR_RETURN(const double with, children_mib(true));
    takes.values.push_back(with - without);
    takes.note = fmt::format("device processes {:.2f} MiB, with the standby {:.2f} MiB", without, with);
  }
  return takes;
}

}  // namespace bulkhead::bench
