// start_ms, start_vs_qemu, idle_cpu_ms, pss_mib: whole programs, as a user starts them.
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "ipc/base/unique_fd.h"
#include "ipc/ring/adaptive_wait.h"
#include "tests/bench/figures.h"
#include "tests/bench/program.h"

namespace bulkhead::bench {
namespace {

constexpr int kStartTakes = 15;
constexpr int kIdleTakes = 3;

std::vector<std::string> bulkhead_arguments() {
  return {program_path("bulkhead"),
          "run",
          "--kernel",
          program_path("bench-guest.elf"),
          "--memory",
          "64M",
          "--console",
          "stdio"};
}

std::vector<std::string> qemu_arguments() {
  return {"/usr/bin/qemu-system-x86_64",
          "-M",
          "microvm",
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
          "-serial",
          "stdio",
          "-kernel",
          program_path("bench-guest.elf")};
}

Result<double> start_once(std::vector<std::string> arguments) {
  ASSIGN_OR_RETURN(Program program, Program::start(std::move(arguments)));
  return program.first_byte_ms();
}

double cpu_ms(const std::vector<pid_t>& pids) {
  double sum = 0;
  for (const pid_t pid : pids) {
    std::error_code error;
    for (const auto& task : std::filesystem::directory_iterator(fmt::format("/proc/{}/task", pid), error)) {
      std::ifstream file(task.path() / "schedstat");
      double ns = 0;
      if (file >> ns) sum += ns / 1e6;
    }
  }
  return sum;
}

// Started, and left alone until what happens at start is over.
Result<Program> settled_vm(const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments = bulkhead_arguments();
  arguments.insert(arguments.end(), more.begin(), more.end());
  ASSIGN_OR_RETURN(Program program, Program::start(std::move(arguments)));
  ASSIGN_OR_RETURN([[maybe_unused]] const double ms, program.first_byte_ms());
  ::sleep(2);
  return program;
}

}  // namespace

double pss_mib(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/smaps", pid));
  std::string line;
  bool ram = false;
  double kib = 0;
  while (std::getline(file, line)) {
    // A mapping's first line has an address range; guest RAM is a memfd of its own name.
    if (line.find('-') < 17 && line.find("kB") == std::string::npos)
      ram = line.find("bulkhead-ram") != std::string::npos;
    if (!ram && line.rfind("Pss:", 0) == 0) kib += std::stod(line.substr(4));
  }
  return kib / 1024;
}

Result<Takes> measure_start() {
  Takes takes;
  for (int i = 0; i < kStartTakes; ++i) {
    ASSIGN_OR_RETURN(const double ms, start_once(bulkhead_arguments()));
    takes.values.push_back(ms);
  }
  return takes;
}

Result<Takes> measure_start_vs_qemu() {
  Takes takes;
  std::vector<double> ours;
  std::vector<double> theirs;
  for (int i = 0; i < kStartTakes; ++i) {
    ASSIGN_OR_RETURN(const double a, start_once(bulkhead_arguments()));
    ASSIGN_OR_RETURN(const double b, start_once(qemu_arguments()));
    takes.values.push_back(a / b);
    ours.push_back(a);
    theirs.push_back(b);
  }
  takes.note = fmt::format("bulkhead {:.1f} ms, QEMU microvm {:.1f} ms", median(ours), median(theirs));
  return takes;
}

Result<Takes> measure_idle_cpu() {
  ASSIGN_OR_RETURN(const Program program, settled_vm());
  Takes takes;
  for (int i = 0; i < kIdleTakes; ++i) {
    const double before = cpu_ms(process_tree(program.pid()));
    const std::int64_t from = ipc::monotonic_ns();
    ::sleep(10);
    const double seconds = static_cast<double>(ipc::monotonic_ns() - from) / 1e9;
    takes.values.push_back((cpu_ms(process_tree(program.pid())) - before) * 10 / seconds);
  }
  return takes;
}

Result<Takes> measure_pss() {
  Takes takes;
  for (int i = 0; i < kIdleTakes; ++i) {
    ASSIGN_OR_RETURN(const Program program, settled_vm());
    double sum = 0;
    takes.note.clear();
    for (const pid_t pid : process_tree(program.pid())) {
      if (pid == program.pid()) continue;  // the launcher
      const std::string name = process_name(pid);
      const double mib = pss_mib(pid);
      takes.note += fmt::format("{} {:.2f}  ", name, mib);
      sum += mib;
    }
    takes.values.push_back(sum);
  }
  return takes;
}

Result<Takes> measure_device_pss() {
  Takes takes;
  for (int i = 0; i < kIdleTakes; ++i) {
    // One of its own for each VM: the one before may hold its own still.
    char disk[] = "/var/tmp/bulkhead-bench.XXXXXX";
    const UniqueFd file(::mkstemp(disk));
    if (!file.valid() || ::ftruncate(file.get(), 16 << 20) != 0)
      return make_errno_error("cannot make a disk in /var/tmp");
    const auto remove = [](const char* path) { ::unlink(path); };
    const std::unique_ptr<const char, decltype(remove)> at_end(disk, remove);
    ASSIGN_OR_RETURN(const Program program, settled_vm({"--disk", disk, "--net", "user"}));
    double most = 0;
    takes.note.clear();
    for (const pid_t pid : process_tree(program.pid())) {
      const std::string name = process_name(pid);
      if (name.find("virtio_") == std::string::npos) continue;
      const double mib = pss_mib(pid);
      takes.note += fmt::format("{} {:.2f}  ", name, mib);
      most = std::max(most, mib);
    }
    if (most == 0) return make_error("no device process was found by its name");
    takes.values.push_back(most);
  }
  return takes;
}

}  // namespace bulkhead::bench
