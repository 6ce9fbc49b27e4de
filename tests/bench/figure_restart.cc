// restart_stall, restart_cold, standby_pss: what a guest sees of the death of a device process, and what a warm
// standby costs.
//
// A guest at CPL 3 writes to port 80h without pause and times each write; its `platform` process is killed again and
// again. The stall is the longest write from one kill to the next. What the same guest sees without kills is printed
// beside it.
#include <benchmark/benchmark.h>

#include <thread>

#include "tests/bench/figures.h"
#include "tests/bench/guest_run.h"
#include "tests/bench/stalls.h"

namespace bulkhead::bench {
namespace {

constexpr std::uint64_t kWrites = 1'900'000;  // as many as guest memory holds results of; nobody gets so far
constexpr int kKills = 1000;
constexpr int kColdKills = 200;

Result<Stalls> measure_stalls(int kills, bool standby) {
  const ExitPairs parameters{kWrites, kFirstResults, kSecondResults, 0x80, 0x80, 0, 0, 0};
  vmm::VmOptions options;
  options.standby = standby;
  ASSIGN_OR_RETURN(const std::unique_ptr<vmm::VirtualMachine> vm, make_guest(parameters, nullptr, std::move(options)));
  return stalls_of(*vm, vm->process(1), {kFirstResults, kWrites}, kills);
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
