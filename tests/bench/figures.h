// The project's figures: what each measures, its bar, and how results are printed.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "ipc/base/result.h"

namespace bulkhead::bench {

// Several takes of one figure from one run; the median counts, the spread is printed.
struct Takes {
  std::vector<double> values;
  std::string note;  // what else the run showed, e.g. both sides of a ratio
};

struct Figure {
  const char* name;
  const char* what;
  double bar;
  std::function<Result<Takes>()> measure;
  bool at_least = false;  // the bar is a lower one

  [[nodiscard]] bool holds(double value) const;
};

[[nodiscard]] std::vector<Figure> all_figures();

// From figure_*.cc.
Result<Takes> measure_ring_hot();
Result<Takes> measure_ring_cold_one_core();
Result<Takes> measure_ring_cold_two_cores();
Result<Takes> measure_exit_hot();
Result<Takes> measure_exit_hot_added();
Result<Takes> measure_exit_posted_added();
Result<Takes> measure_commit_cost();
Result<Takes> measure_restart_stall_p50();
Result<Takes> measure_restart_stall_p99();
Result<Takes> measure_restart_cold();
Result<Takes> measure_standby_pss();
Result<Takes> measure_disk_kill_stall();
Result<Takes> measure_device_pss();
Result<Takes> measure_idle_cpu();
Result<Takes> measure_start();
Result<Takes> measure_start_vs_qemu();
Result<Takes> measure_pss();
Result<Takes> measure_net_tx();
Result<Takes> measure_net_tx_big();
Result<Takes> measure_net_rx();
Result<Takes> measure_net_rr();
Result<Takes> measure_blk_randread();
Result<Takes> measure_blk_seq();

// For Google Benchmark.
void register_restart_benchmarks();

[[nodiscard]] double median(std::vector<double> values);
[[nodiscard]] double percentile(std::vector<double> values, double part);  // part: 0..1
// PSS of a process without guest RAM.
[[nodiscard]] double pss_mib(int pid);

// Where this program's siblings are (build/bin).
[[nodiscard]] std::string program_path(const char* name);

}  // namespace bulkhead::bench
