// bulkhead-bench: --figures [NAME...] prints the project's figures with their bars; without it, Google Benchmark's
// micro-benchmarks run (see --help).
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/bench/figures.h"

namespace bulkhead::bench {

double percentile(std::vector<double> values, double part) {
  if (values.empty()) return 0;
  const auto index = static_cast<std::size_t>(part * static_cast<double>(values.size()));
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(std::min(index, values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

bool Figure::holds(double value) const { return at_least ? value >= bar : value <= bar; }

double median(std::vector<double> values) { return percentile(std::move(values), 0.5); }

std::string program_path(const char* name) {
  char self[PATH_MAX];
  const ssize_t n = ::readlink("/proc/self/exe", self, sizeof self);
  std::string path(self, static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
  return path.substr(0, path.rfind('/') + 1) + name;
}

std::vector<Figure> all_figures() {
  return {
      {"ring_hot", "request with commit over a bare cache-line ping-pong, two cores", 2.5, measure_ring_hot},
      {"exit_hot", "OUT served by a device process over the same model in the vCPU thread", 1.05, measure_exit_hot},
      {"exit_hot_added", "their difference over the bare ping-pong", 5, measure_exit_hot_added},
      {"exit_posted_added", "the same for a posted memory write", 3, measure_exit_posted_added},
      {"ring_cold_one_core", "round trip from sleep over SEQPACKET, one core", 1.05, measure_ring_cold_one_core},
      {"ring_cold_two_cores", "round trip from sleep over SEQPACKET, two cores", 1.05, measure_ring_cold_two_cores},
      {"commit_cost", "request with commit over the same without, worst of all roles", 1.2, measure_commit_cost},
      {"restart_stall_p50_ms", "stall of a guest's request when its device is killed, ms", 1,
       measure_restart_stall_p50},
      {"restart_stall_p99_ms", "the same, 99th percentile", 5, measure_restart_stall_p99},
      {"restart_cold_p50_ms", "the same without a standby", 20, measure_restart_cold},
      {"standby_pss_mib", "memory that the standby adds, MiB", 1.5, measure_standby_pss},
      {"blk_kill_stall_p99_ms", "stall of a 4 KiB read when its disk is killed, 1 GiB of guest RAM touched, ms", 10,
       measure_disk_kill_stall},
      {"dev_pss_mib", "PSS of an idle NIC's or disk's process, whichever has more, MiB", 1.5, measure_device_pss},
      {"idle_cpu_ms", "CPU time of an idle VM in 10 s, ms", 20, measure_idle_cpu},
      {"start_ms", "exec of `bulkhead run` to the guest's first port write, ms", 40, measure_start},
      {"start_vs_qemu", "the same over qemu-system-x86_64 -M microvm", 0.8, measure_start_vs_qemu},
      {"pss_mib", "PSS of the VMM and its device processes, MiB", 16, measure_pss},
      {"net_tx_vs_qemu", "frames of 1,514 bytes a second from the guest through a TAP, over QEMU's", 1.2,
       measure_net_tx, true},
      {"net_tx_big_vs_qemu", "the same with frames of 64 KiB, which the kernel's copy decides", 1.0, measure_net_tx_big,
       true},
      {"net_rx_vs_qemu", "frames of 1,514 bytes a second through a TAP to the guest, over QEMU's", 1.2, measure_net_rx,
       true},
      {"net_rr_vs_qemu", "echoes of a small frame a second, over QEMU's", 1.2, measure_net_rr, true},
      {"blk_randread_vs_qemu", "random reads of 4 KiB a second, 32 at once, over QEMU's", 1.2, measure_blk_randread,
       true},
      {"blk_seq_vs_qemu", "reads of 1 MiB in order a second, over QEMU's", 1.0, measure_blk_seq, true},
  };
}

namespace {

bool wanted(const Figure& figure, const std::vector<std::string>& names) {
  return names.empty() || std::any_of(names.begin(), names.end(), [&](const std::string& name) {
           return std::string(figure.name).rfind(name, 0) == 0;
         });
}

void print_text(const Figure& figure, const Takes& takes, double middle, bool holds) {
  const auto [low, high] = std::minmax_element(takes.values.begin(), takes.values.end());
  std::printf("%-20s %8.3f  %8.3f..%-8.3f  bar %6.2f  %s\n", figure.name, middle, *low, *high, figure.bar,
              holds ? "holds" : "falls short");
  if (!takes.note.empty()) std::printf("    %s\n", takes.note.c_str());
}

void print_json(const Figure& figure, const Takes& takes, double middle, bool holds, bool first) {
  const auto [low, high] = std::minmax_element(takes.values.begin(), takes.values.end());
  std::printf(
      "%s\n  {\"name\": \"%s\", \"what\": \"%s\", \"median\": %.6g, \"min\": %.6g, \"max\": %.6g, \"bar\": %g, "
      "\"holds\": %s, \"takes\": %zu, \"note\": \"%s\"}",
      first ? "[" : ",", figure.name, figure.what, middle, *low, *high, figure.bar, holds ? "true" : "false",
      takes.values.size(), takes.note.c_str());
}

int run_figures(const std::vector<std::string>& names, bool json) {
  bool all_hold = true;
  bool first = true;
  for (const Figure& figure : all_figures()) {
    if (!wanted(figure, names)) continue;
    const Result<Takes> takes = figure.measure();
    if (!takes || takes->values.empty()) {
      std::fprintf(stderr, "%s could not be measured: %s\n", figure.name,
                   takes ? "no takes" : takes.error().message.c_str());
      all_hold = false;
      continue;
    }
    const double middle = median(takes->values);
    const bool holds = figure.holds(middle);
    all_hold = all_hold && holds;
    if (json) {
      print_json(figure, *takes, middle, holds, first);
    } else {
      print_text(figure, *takes, middle, holds);
    }
    first = false;
    std::fflush(stdout);
  }
  if (json) std::printf("%s\n]\n", first ? "[" : "");
  return all_hold ? 0 : 1;
}

}  // namespace
}  // namespace bulkhead::bench

int main(int argc, char** argv) {
  std::vector<std::string> names;
  bool figures = false;
  bool json = false;
  std::vector<char*> rest{argv[0]};
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--figures") == 0) {
      figures = true;
    } else if (std::strcmp(argv[i], "--json") == 0) {
      json = true;
    } else if (std::strcmp(argv[i], "--help") == 0) {
      std::puts(
          "bulkhead-bench --figures [NAME...] [--json]\n"
          "  prints each figure: name, median, min..max, bar, and whether it holds. Exit status 0: all hold.\n"
          "  net_*_vs_qemu need root, KVM and QEMU: a guest of this project's own that polls, under either, in turns.\n"
          "  (tools/bench --nested has figures of the same names with stock guests.)\n"
          "bulkhead-bench [--benchmark_...]\n"
          "  runs the micro-benchmarks (Google Benchmark's own options).\nFigures:");
      for (const bulkhead::bench::Figure& figure : bulkhead::bench::all_figures())
        std::printf("  %-20s %s (bar %s%g)\n", figure.name, figure.what, figure.at_least ? "at least " : "",
                    figure.bar);
      return 0;
    } else if (figures && argv[i][0] != '-') {
      names.emplace_back(argv[i]);
    } else {
      rest.push_back(argv[i]);
    }
  }
  if (figures) return bulkhead::bench::run_figures(names, json);
  bulkhead::bench::register_restart_benchmarks();
  int count = static_cast<int>(rest.size());
  benchmark::Initialize(&count, rest.data());
  if (benchmark::ReportUnrecognizedArguments(count, rest.data())) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
