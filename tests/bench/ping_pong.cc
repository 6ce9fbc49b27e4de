#include "tests/bench/ping_pong.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <vector>

#include "ipc/base/futex.h"
#include "ipc/ring/adaptive_wait.h"
#include "tests/bench/figures.h"

namespace bulkhead::bench {
namespace {

// The process's CPUs as they were at start, before any pinning.
const cpu_set_t& allowed_cpus() {
  static const cpu_set_t set = [] {
    cpu_set_t now;
    CPU_ZERO(&now);
    ::sched_getaffinity(0, sizeof now, &now);
    return now;
  }();
  return set;
}

}  // namespace

struct PingPong::Shared {
  alignas(64) std::atomic<std::uint64_t> line;
  alignas(64) std::atomic<std::uint32_t> go;
};

bool pin_to(int cpu, int thread) {
  const cpu_set_t& all = allowed_cpus();
  for (int i = 0, seen = 0; i < CPU_SETSIZE; ++i) {
    if (!CPU_ISSET(i, &all) || seen++ != cpu) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(i, &one);
    return ::sched_setaffinity(thread, sizeof one, &one) == 0;
  }
  return false;
}

void unpin() { ::sched_setaffinity(0, sizeof(cpu_set_t), &allowed_cpus()); }

double ns_per_tsc_tick() {
  static const double ratio = [] {
    const std::int64_t from_ns = ipc::monotonic_ns();
    const unsigned long long from = read_tsc();
    while (ipc::monotonic_ns() - from_ns < 50'000'000) {
    }
    return static_cast<double>(ipc::monotonic_ns() - from_ns) / static_cast<double>(read_tsc() - from);
  }();
  return ratio;
}

Result<std::unique_ptr<PingPong>> PingPong::start(int peer_cpu) {
  std::unique_ptr<PingPong> game(new PingPong);
  void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return make_errno_error("cannot map memory for the ping-pong");
  game->shared_ = new (memory) Shared{};
  allowed_cpus();
  game->pid_ = ::fork();
  if (game->pid_ < 0) return make_errno_error("cannot fork");
  if (game->pid_ != 0) return game;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  pin_to(peer_cpu);
  Shared& shared = *game->shared_;
  for (std::uint32_t rounds = 0;;) {
    while (shared.go.load() == rounds) futex_wait_until(&shared.go, rounds, ipc::monotonic_ns() + 1'000'000'000);
    rounds = shared.go.load();
    for (;;) {
      const std::uint64_t seen = shared.line.load(std::memory_order_acquire);
      if (seen == ~std::uint64_t{0}) break;
      if ((seen & 1) != 0) shared.line.store(seen + 1, std::memory_order_release);
      ipc::cpu_relax();
    }
    shared.line.store(0);
  }
}

PingPong::~PingPong() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  if (shared_ != nullptr) ::munmap(shared_, sizeof(Shared));
}

double PingPong::round(int trips) {
  shared_->go.fetch_add(1);
  futex_wake_all(&shared_->go);
  std::vector<double> times;
  times.reserve(static_cast<std::size_t>(trips));
  std::uint64_t turn = 1;
  for (int i = 0; i < trips + 1000; ++i, turn += 2) {
    const unsigned long long from = read_tsc();
    shared_->line.store(turn, std::memory_order_release);
    while (shared_->line.load(std::memory_order_acquire) != turn + 1) ipc::cpu_relax();
    if (i >= 1000) times.push_back(static_cast<double>(read_tsc() - from) * ns_per_tsc_tick());
  }
  shared_->line.store(~std::uint64_t{0});
  while (shared_->line.load() != 0) ipc::cpu_relax();
  return median(std::move(times));
}

}  // namespace bulkhead::bench
