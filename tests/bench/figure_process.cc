// start_ms, start_vs_qemu, idle_cpu_ms, pss_mib: whole programs, as a user starts them.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "ipc/base/unique_fd.h"
#include "ipc/ring/adaptive_wait.h"
#include "tests/bench/figures.h"

extern char** environ;

namespace bulkhead::bench {
namespace {

constexpr int kStartTakes = 15;
constexpr int kIdleTakes = 3;

// A program whose standard output is a pipe to us; killed and reaped at the end.
class Program {
 public:
  static Result<Program> start(std::vector<std::string> arguments) {
    int out[2];
    int in[2];
    if (::pipe2(out, O_CLOEXEC) != 0 || ::pipe2(in, O_CLOEXEC) != 0) return make_errno_error("cannot create a pipe");
    Program program;
    program.output_.reset(out[0]);
    program.input_.reset(in[1]);
    const UniqueFd writer(out[1]);
    const UniqueFd reader(in[0]);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, reader.get(), STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, writer.get(), STDOUT_FILENO);
    program.began_ = ipc::monotonic_ns();
    const int error = ::posix_spawn(&program.pid_, argv[0], &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) return make_errno_error("cannot start " + arguments[0], error);
    return program;
  }
  Program() = default;
  Program(Program&& other) noexcept
      : pid_(std::exchange(other.pid_, -1)),
        began_(other.began_),
        output_(std::move(other.output_)),
        input_(std::move(other.input_)) {}
  Program& operator=(Program&&) = delete;
  ~Program() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  // Milliseconds from its start to its first byte.
  Result<double> first_byte_ms() {
    pollfd poll{output_.get(), POLLIN, 0};
    char byte = 0;
    if (::poll(&poll, 1, 20'000) != 1 || ::read(output_.get(), &byte, 1) != 1)
      return make_error("the guest's first port write did not come");
    return static_cast<double>(ipc::monotonic_ns() - began_) / 1e6;
  }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  std::int64_t began_ = 0;
  UniqueFd output_;
  UniqueFd input_;
};

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

// `root` and all its descendants.
std::vector<pid_t> process_tree(pid_t root) {
  std::vector<std::pair<pid_t, pid_t>> parents;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream stat(entry.path() / "stat");
    std::string line;
    std::getline(stat, line);
    const std::size_t after = line.rfind(')');
    if (after == std::string::npos) continue;
    std::istringstream rest(line.substr(after + 1));
    char state = 0;
    pid_t parent = 0;
    rest >> state >> parent;
    parents.emplace_back(std::stoi(name), parent);
  }
  std::vector<pid_t> tree{root};
  for (std::size_t i = 0; i < tree.size(); ++i) {
    for (const auto& [pid, parent] : parents) {
      if (parent == tree[i]) tree.push_back(pid);
    }
  }
  return tree;
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
      std::ifstream comm(fmt::format("/proc/{}/comm", pid));
      std::string name;
      comm >> name;
      const double mib = pss_mib(pid);
      takes.note += fmt::format("{} {:.2f}  ", name, mib);
      sum += mib;
    }
    takes.values.push_back(sum);
  }
  return takes;
}

Result<Takes> measure_device_pss() {
  char disk[] = "/var/tmp/bulkhead-bench.XXXXXX";
  const UniqueFd file(::mkstemp(disk));
  if (!file.valid() || ::ftruncate(file.get(), 16 << 20) != 0)
    return make_errno_error("cannot make a disk in /var/tmp");
  const auto remove = [](const char* path) { ::unlink(path); };
  const std::unique_ptr<const char, decltype(remove)> at_end(disk, remove);
  Takes takes;
  for (int i = 0; i < kIdleTakes; ++i) {
    ASSIGN_OR_RETURN(const Program program, settled_vm({"--disk", disk, "--net", "user"}));
    double most = 0;
    takes.note.clear();
    for (const pid_t pid : process_tree(program.pid())) {
      std::ifstream comm(fmt::format("/proc/{}/comm", pid));
      std::string name;
      comm >> name;
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
