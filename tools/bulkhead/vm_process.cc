#include "tools/bulkhead/vm_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <utility>

namespace bulkhead::cli {
namespace {

constexpr auto kEndPatience = std::chrono::seconds(5);

// What posix_spawn shall do in the child; freed on every path.
class SpawnPlan {
 public:
  SpawnPlan() {
    ::posix_spawn_file_actions_init(&actions_);
    ::posix_spawnattr_init(&attributes_);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;
  ~SpawnPlan() {
    ::posix_spawnattr_destroy(&attributes_);
    ::posix_spawn_file_actions_destroy(&actions_);
  }

  void set(BorrowedFd socket, BorrowedFd error_output) {
    ::posix_spawn_file_actions_addopen(&actions_, STDIN_FILENO, "/dev/null", O_RDWR, 0);
    ::posix_spawn_file_actions_adddup2(&actions_, STDIN_FILENO, STDOUT_FILENO);
    if (error_output.valid()) ::posix_spawn_file_actions_adddup2(&actions_, error_output.get(), STDERR_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions_, socket.get(), control::kVmmSocketFd);
    sigset_t none{};
    sigset_t all{};
    sigemptyset(&none);
    sigfillset(&all);
    ::posix_spawnattr_setsigmask(&attributes_, &none);
    ::posix_spawnattr_setsigdefault(&attributes_, &all);
    ::posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
  }
  [[nodiscard]] const posix_spawn_file_actions_t* actions() const { return &actions_; }
  [[nodiscard]] const posix_spawnattr_t* attributes() const { return &attributes_; }

 private:
  posix_spawn_file_actions_t actions_{};
  posix_spawnattr_t attributes_{};
};

}  // namespace

Result<VmProcess> VmProcess::start(const std::string& program, const control::VmConfig& config,
                                   BorrowedFd error_output) {
  ASSIGN_OR_RETURN(auto ends, control::ControlChannel::create_pair());
  ASSIGN_OR_RETURN(const control::Encoded encoded, control::encode(config));
  RETURN_IF_ERROR(ends.first.send(encoded.bytes, encoded.fds, control::no_wait()));
  SpawnPlan plan;
  plan.set(ends.second.fd(), error_output);
  std::string argument = program;
  char* const arguments[] = {argument.data(), nullptr};
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, program.c_str(), plan.actions(), plan.attributes(), arguments, environ);
  if (error != 0) return make_errno_error(fmt::format("cannot start {}", program), error);
  // The pid is our child's and not yet waited for, so it cannot have become somebody else's.
  UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  const int pidfd_error = errno;
  VmProcess vm(std::move(ends.first), pid, std::move(pidfd));
  if (!vm.pidfd_.valid()) return make_errno_error("cannot watch the VMM", pidfd_error);
  return vm;
}

VmProcess::VmProcess(VmProcess&& other) noexcept
    : channel_(std::move(other.channel_)), pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)) {}

VmProcess::~VmProcess() {
  if (pid_ < 0) return;
  channel_ = control::ControlChannel();  // end of file: the VMM ends the VM
  wait(kEndPatience);
}

Status VmProcess::send(const control::ToVmm& message) {
  ASSIGN_OR_RETURN(const control::Encoded encoded, control::encode(message));
  return channel_.send(encoded.bytes, encoded.fds, control::no_wait());
}

void VmProcess::kill_now() const {
  if (pid_ > 0) ::kill(pid_, SIGKILL);
}

int VmProcess::wait(std::chrono::milliseconds patience) {
  if (pid_ < 0) return 0;
  const auto give_up = std::chrono::steady_clock::now() + patience;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(give_up - std::chrono::steady_clock::now());
    pollfd entry{.fd = pidfd_.get(), .events = POLLIN, .revents = 0};
    const int ready = left.count() <= 0 || !pidfd_.valid() ? 0 : ::poll(&entry, 1, static_cast<int>(left.count()));
    if (ready > 0) break;
    if (ready == 0) {
      kill_now();
      break;
    }
    if (errno != EINTR) break;
  }
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return status;
}

std::string describe_wait_status(int status) {
  if (WIFSIGNALED(status))
    return fmt::format("was killed by signal {} ({})", WTERMSIG(status), ::strsignal(WTERMSIG(status)));
  return fmt::format("ended with status {}", WEXITSTATUS(status));
}

}  // namespace bulkhead::cli
