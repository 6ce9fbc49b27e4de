// exit_hot, exit_hot_added, exit_posted_added: what it costs a guest that a register lives in another process.
//
// One guest at CPL 3 writes to two places in turn, exit by exit: one is served by a jailed device process, the other by
// the same model inside the vCPU thread.
#include <cstring>

#include "devproc/host/dispatch.h"
#include "devproc/registry.h"
#include "tests/bench/figures.h"
#include "tests/bench/guest_run.h"
#include "tests/bench/ping_pong.h"
#include "tests/fakes/fake_wires.h"

namespace bulkhead::bench {
namespace {

constexpr std::uint64_t kInProcessPort = 0x1080;
constexpr std::uint64_t kInProcessMemory = 0xD0000000;
constexpr std::uint64_t kPairs = 24000;
constexpr std::size_t kTakes = 12;

// The baseline: a model called on the vCPU's own thread.
class InProcessChannel final : public vmm::DeviceChannel {
 public:
  explicit InProcessChannel(const char* type, DeviceConfig config) : wires_({.lines = 2, .streams = 2}) {
    device_ = std::move(*devproc::find_builtin(type)->create(config, wires_.wires()));
    device_->reset();
  }
  void read(std::uint32_t, const vmm::BusAccess& access, std::span<std::byte> out) override {
    std::uint64_t value = 0;
    devproc::dispatch_read(*device_, {access.region, access.offset, access.size}, value);
    std::memcpy(out.data(), &value, std::min(out.size(), sizeof value));
  }
  void write(std::uint32_t, const vmm::BusAccess& access, std::span<const std::byte> in) override {
    std::uint64_t value = 0;
    std::memcpy(&value, in.data(), std::min(in.size(), sizeof value));
    devproc::dispatch_write(*device_, {access.region, access.offset, access.size}, value);
  }

 private:
  devproc::FakeWires wires_;
  std::unique_ptr<devproc::Device> device_;
};

struct Pairs {
  std::vector<double> first_ns;
  std::vector<double> second_ns;
};

Result<Pairs> run_pairs(const ExitPairs& parameters, vmm::Claim baseline, const char* device) {
  vmm::VmOptions options;
  options.extra_claims = {std::move(baseline)};
  ASSIGN_OR_RETURN(const std::unique_ptr<vmm::VirtualMachine> vm, make_guest(parameters, device, std::move(options)));
  const control::Exited ended = vm->run(nullptr);
  if (ended.status != control::kExitDebugBase)
    return make_error("the benchmark's guest ended badly: " + ended.sentence);
  Pairs pairs;
  for (std::uint64_t i = 0; i < parameters.count; ++i) {
    pairs.first_ns.push_back(static_cast<double>(*vm->ram().load<std::uint64_t>(kFirstResults + 8 * i)) *
                             ns_per_tsc_tick());
    pairs.second_ns.push_back(static_cast<double>(*vm->ram().load<std::uint64_t>(kSecondResults + 8 * i)) *
                              ns_per_tsc_tick());
  }
  return pairs;
}

Result<Pairs> port_pairs() {
  static InProcessChannel baseline("system_ports", SystemPortsConfig{});
  const ExitPairs parameters{kPairs, kFirstResults, kSecondResults, 0x80, kInProcessPort, 0, 0, 0};
  return run_pairs(parameters, {vmm::Space::kPort, kInProcessPort, 1, &baseline, 0, 1, false, "baseline"}, nullptr);
}

// BAR 1 of the test function holds posted registers; direct boot leaves it at a known place (see find_doorbells).
Result<Pairs> posted_pairs(std::uint64_t doorbells) {
  static InProcessChannel baseline("pci_test", PciTestConfig{});
  const ExitPairs parameters{kPairs, kFirstResults, kSecondResults, 0, 0, 0, doorbells, kInProcessMemory};
  return run_pairs(parameters, {vmm::Space::kMemory, kInProcessMemory, 4096, &baseline, 0, 1, false, "baseline"},
                   "pci_test");
}

// The batch medians of a function of both sides.
template <class F>
Takes batches(const Pairs& pairs, F&& figure) {
  Takes takes;
  const std::size_t batch = pairs.first_ns.size() / kTakes;
  for (std::size_t i = 0; i < kTakes; ++i) {
    const auto part = [&](const std::vector<double>& all) {
      return median({all.begin() + static_cast<std::ptrdiff_t>(i * batch),
                     all.begin() + static_cast<std::ptrdiff_t>((i + 1) * batch)});
    };
    takes.values.push_back(figure(part(pairs.first_ns), part(pairs.second_ns)));
  }
  takes.note = fmt::format("device process {:.2f} us, vCPU thread {:.2f} us", median(pairs.first_ns) / 1000,
                           median(pairs.second_ns) / 1000);
  return takes;
}

Result<double> bare_ping_pong() {
  if (!pin_to(0)) return make_error("this needs two CPUs");
  ASSIGN_OR_RETURN(const std::unique_ptr<PingPong> bare, PingPong::start(1));
  const double ns = bare->round(20000);
  unpin();
  return ns;
}

Result<Takes> added(const Pairs& pairs, double before) {
  ASSIGN_OR_RETURN(const double after, bare_ping_pong());
  const double base = (before + after) / 2;
  Takes takes = batches(pairs, [base](double first, double second) { return (first - second) / base; });
  takes.note += fmt::format(", ping-pong {:.0f} ns", base);
  return takes;
}

}  // namespace

Result<Takes> measure_exit_hot() {
  ASSIGN_OR_RETURN(const Pairs pairs, port_pairs());
  return batches(pairs, [](double first, double second) { return first / second; });
}

Result<Takes> measure_exit_hot_added() {
  ASSIGN_OR_RETURN(const double before, bare_ping_pong());
  ASSIGN_OR_RETURN(const Pairs pairs, port_pairs());
  return added(pairs, before);
}

Result<Takes> measure_exit_posted_added() {
  // Largest BARs first from E0000000h: registers, doorbells and the MSI-X BAR have one page each, in this order.
  ASSIGN_OR_RETURN(const double before, bare_ping_pong());
  ASSIGN_OR_RETURN(const Pairs pairs, posted_pairs(0xE0001000));
  return added(pairs, before);
}

}  // namespace bulkhead::bench
