// ring_hot and ring_cold: one request and its commit between two processes.
#include <time.h>

#include "tests/bench/figures.h"
#include "tests/bench/local_role.h"
#include "tests/bench/ping_pong.h"

namespace bulkhead::bench {
namespace {

constexpr int kTakes = 9;
constexpr int kHotTrips = 20000;
constexpr int kColdTrips = 120;

void sleep_ns(long ns) {
  const timespec pause{0, ns};
  ::nanosleep(&pause, nullptr);
}

double timed(bool (LocalRole::*call)(), LocalRole& role, bool& ok) {
  const unsigned long long from = read_tsc();
  ok = (role.*call)() && ok;
  return static_cast<double>(read_tsc() - from) * ns_per_tsc_tick();
}

// Both sides asleep for at least 2 ms before each trip, ring and socket in turn.
Result<Takes> measure_cold(int client_cpu, int peer_cpu) {
  if (!pin_to(client_cpu)) return make_error("this needs two CPUs");
  ASSIGN_OR_RETURN(const std::unique_ptr<LocalRole> role, LocalRole::start(peer_cpu));
  Takes takes;
  std::vector<double> all_ring;
  std::vector<double> all_echo;
  bool ok = true;
  ipc::AdaptiveWait wait;
  for (int take = 0; take < kTakes && ok; ++take) {
    std::vector<double> ring;
    std::vector<double> echo;
    for (int i = 0; i < kColdTrips; ++i) {
      sleep_ns(2'500'000);
      const unsigned long long from = read_tsc();
      ok = role->request(wait) && ok;
      ring.push_back(static_cast<double>(read_tsc() - from) * ns_per_tsc_tick());
      sleep_ns(2'500'000);
      echo.push_back(timed(&LocalRole::echo, *role, ok));
    }
    takes.values.push_back(median(ring) / median(echo));
    all_ring.push_back(median(ring));
    all_echo.push_back(median(echo));
  }
  unpin();
  if (!ok) return make_error("the benchmark's device process went away");
  takes.note = fmt::format("request {:.1f} us, SEQPACKET {:.1f} us", median(all_ring) / 1000, median(all_echo) / 1000);
  return takes;
}

}  // namespace

Result<Takes> measure_ring_hot() {
  if (!pin_to(0)) return make_error("this needs two CPUs");
  ASSIGN_OR_RETURN(const std::unique_ptr<PingPong> bare, PingPong::start(1));
  ASSIGN_OR_RETURN(const std::unique_ptr<LocalRole> role, LocalRole::start(1));
  Takes takes;
  std::vector<double> ring_medians;
  std::vector<double> bare_medians;
  ipc::AdaptiveWait wait;
  for (int take = 0; take < kTakes; ++take) {
    const double before = bare->round(kHotTrips);
    std::vector<double> ring;
    for (int i = 0; i < kHotTrips + 1000; ++i) {
      const unsigned long long from = read_tsc();
      if (!role->request(wait)) return make_error("the benchmark's device process went away");
      if (i >= 1000) ring.push_back(static_cast<double>(read_tsc() - from) * ns_per_tsc_tick());
    }
    const double after = bare->round(kHotTrips);
    const double base = (before + after) / 2;
    ring_medians.push_back(median(std::move(ring)));
    bare_medians.push_back(base);
    takes.values.push_back(ring_medians.back() / base);
  }
  unpin();
  takes.note = fmt::format("request {:.0f} ns, ping-pong {:.0f} ns", median(ring_medians), median(bare_medians));
  return takes;
}

Result<Takes> measure_ring_cold_one_core() { return measure_cold(0, 0); }
Result<Takes> measure_ring_cold_two_cores() { return measure_cold(0, 1); }

}  // namespace bulkhead::bench
