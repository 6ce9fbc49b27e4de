// net_*_vs_qemu: what a frame costs Bulkhead and QEMU's virtio-net without vhost, each behind a TAP of its own; and
// blk_*_vs_qemu: what a read of a disk costs them, both by io_uring and without a cache.
//
// Both boot the same image (guest/net_guest.cc), whose driver polls at CPL 3: what decides is the data path of the VMM,
// not what an interrupt costs on this host. They are asked in turns; whoever is not asked is stopped, since a guest
// that polls takes a processor. The frames end on the host without a listener, and come from a packet socket. The disk
// is a file in memory (O_DIRECT on tmpfs, Linux 6.6): one that has to wait for a device would show that device.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <utility>

#include "ipc/ring/adaptive_wait.h"
#include "tests/bench/figures.h"
#include "tests/bench/host_net.h"
#include "tests/bench/ping_pong.h"
#include "tests/bench/program.h"
#include "tests/bench/stalls.h"

namespace bulkhead::bench {
namespace {

using std::chrono::milliseconds;

// Short takes, so that what else the host does hits both alike.
constexpr int kRounds = 25;
constexpr double kTakeNs = 100e6;
constexpr int kBatches = 20;  // of received frames, a take
constexpr milliseconds kPatience{5000};
constexpr milliseconds kBootPatience{30'000};  // QEMU's firmware may be interpreted
constexpr long kSettleUs = 20'000;

// `disk`: empty, or a file.
std::vector<std::string> bulkhead_arguments(const std::string& tap, const std::string& disk) {
  std::vector<std::string> all = {program_path("bulkhead"),
                                  "run",
                                  "--kernel",
                                  program_path("bench-net-guest.elf"),
                                  "--memory",
                                  "64M",
                                  "--console",
                                  "none",
                                  "--net",
                                  "tap=" + tap};
  if (!disk.empty()) all.insert(all.end(), {"--disk", disk + ",readonly=on,direct=on,aio=io_uring"});
  return all;
}

std::vector<std::string> qemu_arguments(const std::string& tap, const std::string& disk) {
  std::vector<std::string> all = {"/usr/bin/qemu-system-x86_64",
                                  "-name",
                                  "bench,debug-threads=on",
                                  "-M",
                                  "pc",
                                  "-accel",
                                  "kvm",
                                  "-cpu",
                                  "host,arch-capabilities=off",
                                  "-m",
                                  "64",
                                  "-nodefaults",
                                  "-no-user-config",
                                  "-display",
                                  "none",
                                  "-kernel",
                                  program_path("bench-net-guest.elf"),
                                  "-netdev",
                                  "tap,id=net,script=no,downscript=no,vhost=off,ifname=" + tap,
                                  "-device",
                                  "virtio-net-pci,netdev=net,disable-legacy=on,romfile="};
  if (!disk.empty())
    all.insert(
        all.end(),
        {"-drive", "if=none,id=disk,format=raw,cache=none,aio=io_uring,readonly=on,file.locking=off,file=" + disk,
         "-device", "virtio-blk-pci,drive=disk,disable-legacy=on"});
  return all;
}

// A file in memory with something in it.
class MemoryDisk {
 public:
  static Result<MemoryDisk> make() {
    MemoryDisk disk;
    disk.path_ = fmt::format("/dev/shm/bulkhead-bench-{}", ::getpid());
    ASSIGN_OR_RETURN(const UniqueFd file, UniqueFd::open(disk.path_, O_RDWR | O_CREAT | O_TRUNC, 0600));
    const std::vector<char> piece(1 << 20, 'd');
    for (unsigned written = 0; written < kDiskBytes; written += piece.size()) {
      if (::write(file.get(), piece.data(), piece.size()) != static_cast<ssize_t>(piece.size()))
        return make_errno_error("cannot write a file in memory");
    }
    if (!UniqueFd::open(disk.path_, O_RDONLY | O_DIRECT)) return make_error("this host's tmpfs knows no O_DIRECT");
    return disk;
  }
  MemoryDisk(MemoryDisk&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  MemoryDisk& operator=(MemoryDisk&&) = delete;
  ~MemoryDisk() {
    if (!path_.empty()) ::unlink(path_.c_str());
  }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  MemoryDisk() = default;
  std::string path_;
};

// A VMM with its guest and its TAP.
class Peer {
 public:
  static Result<std::unique_ptr<Peer>> boot(HostTap tap, std::vector<std::string> arguments, const char* vmm) {
    ASSIGN_OR_RETURN(Program program, Program::start(std::move(arguments)));
    std::unique_ptr<Peer> peer(new Peer(std::move(tap), std::move(program)));
    const std::optional<NetMessage> ready = peer->tap_.hear(kBootPatience);
    if (!ready || ready->op != NetOp::kReady) return make_error(std::string(vmm) + "'s guest does not come up");
    for (const pid_t pid : process_tree(peer->program_.pid())) {
      if (process_name(pid) == vmm) peer->vmm_ = pid;
    }
    if (peer->vmm_ <= 0) return make_error(std::string("there is no process of ") + vmm);
    RETURN_IF_ERROR(peer->place());
    peer->stop();
    return peer;
  }

  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;
  // A VMM that is stopped would not see that its launcher is gone.
  ~Peer() {
    if (vmm_ > 0) ::kill(vmm_, SIGKILL);
  }

  void stop() {
    ::kill(vmm_, SIGSTOP);
    sleep_us(1000);  // until it stands
  }

  // What `op` did, a second.
  Result<double> take(NetOp op) {
    const Result<double> rate = op == NetOp::kReceive ? measure_receive() : measure(op);
    stop();
    return rate;
  }
  [[nodiscard]] const NetMessage& last_report() const { return report_; }

 private:
  Peer(HostTap tap, Program program) : tap_(std::move(tap)), program_(std::move(program)) {}

  Status place() {
    bool found = false;
    for (const pid_t pid : process_tree(program_.pid())) {
      for (const auto& [thread, name] : threads_of(pid)) {
        const bool vcpu = name == "vcpu0" || name == "CPU 0/KVM";
        found = found || vcpu;
        if (!pin_to(vcpu ? 0 : 1, thread)) return make_errno_error("cannot pin the VMMs' threads to two processors");
      }
    }
    return found ? ok() : make_error("a VMM's vCPU has no thread of the name that was expected");
  }

  static std::uint64_t ticks_of(double ns) { return static_cast<std::uint64_t>(ns / ns_per_tsc_tick()); }

  Result<double> measure(NetOp op) {
    ::kill(vmm_, SIGCONT);
    sleep_us(kSettleUs);
    while (tap_.hear(milliseconds(0))) continue;
    ++round_;
    ASSIGN_OR_RETURN(const std::uint64_t before, tap_.came_out());
    const std::int64_t began = ipc::monotonic_ns();
    RETURN_IF_ERROR(tap_.tell({op, round_, ticks_of(kTakeNs), 0, 0}));
    RETURN_IF_ERROR(answer_until_report());
    const double seconds = static_cast<double>(ipc::monotonic_ns() - began) / 1e9;
    ASSIGN_OR_RETURN(const std::uint64_t after, tap_.came_out());
    auto frames = static_cast<double>(report_.frames);
    // What counts is what reached the host.
    if (op == NetOp::kSend || op == NetOp::kSendBig) frames = static_cast<double>(after - before - 1);
    if (frames <= 0) return make_error("nothing went through");
    return frames / seconds;
  }

  // True: it was the report.
  bool take_report(const NetMessage& message) {
    if (message.round != round_ || message.op != NetOp::kReport) return false;
    report_ = message;
    return true;
  }

  Status answer_until_report() {
    for (;;) {
      const std::optional<NetMessage> message = tap_.hear(kPatience);
      if (!message) return make_error("the benchmark's guest does not answer");
      if (take_report(*message)) return ok();
      if (message->op == NetOp::kPing) RETURN_IF_ERROR(tap_.tell(*message));
    }
  }

  // The frames lie in the TAP before the VMM goes on: whoever sends would need the processor on which they are taken
  // out. Not many at once, so that they are in that processor's cache, as frames are that have just come.
  Result<double> measure_receive() {
    constexpr unsigned kSends = kTapQueue * 4 / 5 / kSegments;
    double frames = 0;
    double ticks = 0;
    for (int batch = 0; batch < kBatches; ++batch) {
      ++round_;
      RETURN_IF_ERROR(tap_.tell({NetOp::kReceive, round_, ticks_of(1e9), std::uint64_t{kSends} * kSegments, 0}));
      for (unsigned i = 0; i < kSends; ++i) RETURN_IF_ERROR(tap_.inject());
      ::kill(vmm_, SIGCONT);
      RETURN_IF_ERROR(answer_until_report());
      stop();
      if (report_.frames == 0) return make_error("frames to the benchmark's guest were lost");
      frames += static_cast<double>(report_.frames);
      ticks += static_cast<double>(report_.ticks);
    }
    return frames * 1e9 / (ticks * ns_per_tsc_tick());
  }

  HostTap tap_;
  Program program_;
  pid_t vmm_ = -1;
  std::uint32_t round_ = 0;
  NetMessage report_{};
};

Result<Takes> against_qemu(NetOp op, const std::string& disk = {}) {
  ASSIGN_OR_RETURN(const NetNamespace inside, NetNamespace::enter());
  ASSIGN_OR_RETURN(HostTap our_tap, HostTap::make("ours"));
  ASSIGN_OR_RETURN(HostTap their_tap, HostTap::make("theirs"));
  const std::vector<std::string> our_arguments = bulkhead_arguments(our_tap.name(), disk);
  const std::vector<std::string> their_arguments = qemu_arguments(their_tap.name(), disk);
  ASSIGN_OR_RETURN(const std::unique_ptr<Peer> ours, Peer::boot(std::move(our_tap), our_arguments, "bulkhead-vmm"));
  ASSIGN_OR_RETURN(const std::unique_ptr<Peer> theirs,
                   Peer::boot(std::move(their_tap), their_arguments, "qemu-system-x86_64"));
  if (!pin_to(1)) return make_error("two processors are needed");
  const auto unpin_at_end = [](const void*) { unpin(); };
  const std::unique_ptr<const void, decltype(unpin_at_end)> pinned(&ours, unpin_at_end);
  Takes takes;
  std::vector<double> our_rates;
  std::vector<double> their_rates;
  for (int round = 0; round < kRounds; ++round) {
    ASSIGN_OR_RETURN(const double a, ours->take(op));
    ASSIGN_OR_RETURN(const double b, theirs->take(op));
    takes.values.push_back(a / b);
    our_rates.push_back(a);
    their_rates.push_back(b);
  }
  const auto kicks = [](const Peer& peer) {
    return 1000.0 * static_cast<double>(peer.last_report().kicks) / static_cast<double>(peer.last_report().frames);
  };
  takes.note = fmt::format("bulkhead {:.0f} /s, QEMU {:.0f} /s; kicks in 1,000 {:.1f}, {:.1f}", median(our_rates),
                           median(their_rates), kicks(*ours), kicks(*theirs));
  return takes;
}

Result<Takes> disk_against_qemu(NetOp op) {
  ASSIGN_OR_RETURN(const MemoryDisk disk, MemoryDisk::make());
  return against_qemu(op, disk.path());
}

}  // namespace

Result<Takes> measure_net_tx() { return against_qemu(NetOp::kSend); }
Result<Takes> measure_net_tx_big() { return against_qemu(NetOp::kSendBig); }
Result<Takes> measure_net_rx() { return against_qemu(NetOp::kReceive); }
Result<Takes> measure_net_rr() { return against_qemu(NetOp::kEcho); }
Result<Takes> measure_blk_randread() { return disk_against_qemu(NetOp::kRead); }
Result<Takes> measure_blk_seq() { return disk_against_qemu(NetOp::kReadAhead); }

}  // namespace bulkhead::bench
