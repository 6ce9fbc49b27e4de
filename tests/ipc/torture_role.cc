#include "tests/ipc/torture_role.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devproc/host/event_loop.h"
#include "devproc/host/role_host.h"
#include "ipc/ring/adaptive_wait.h"
#include "tests/fakes/vector_memory.h"
#include "tests/unit/devproc/host/role_rig.h"

namespace bulkhead::torture {
namespace {

constexpr std::uint32_t kKill = 0;  // any other command: the incarnation to start

devproc::RoleSetup torture_setup() {
  devproc::RoleSetup setup;
  setup.add("test", "pci_test", PciTestConfig{})
      .add("serial", "uart16550", Uart16550Config{})
      .add("ports", "system_ports", SystemPortsConfig{})
      .add("exit", "debug_exit", DebugExitConfig{})
      .add("outbound", "debug_exit", DebugExitConfig{});
  return setup;
}

}  // namespace

TortureRole::TortureRole()
    : requests_(ipc::WritableRegion::create("requests", ipc::kRequestAreaSize, ipc::PeerRights::kReadWrite).value()),
      replies_(ipc::WritableRegion::create("replies", ipc::kReplyAreaSize, ipc::PeerRights::kReadWrite).value()),
      state_(ipc::WritableRegion::create("state", ipc::kStateRegionSize, ipc::PeerRights::kReadWrite).value()),
      doorbell_(UniqueFd::create_eventfd().value()),
      output_doorbell_(UniqueFd::create_eventfd().value()) {
  auto channels = control::ControlChannel::create_pair().value();
  vmm_ = std::move(channels.first);
  device_ = std::move(channels.second);
  requests().magic = ipc::kAreaMagic;
  requests().time.base_ns.store(ipc::monotonic_ns());
  requests().time.frozen_at.store(ipc::kVmTimeRuns);
  int sockets[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) return;
  zygote_ = ::fork();
  if (zygote_ == 0) {
    ::close(sockets[0]);
    zygote(sockets[1]);
  }
  ::close(sockets[1]);
  socket_.reset(sockets[0]);
}

TortureRole::~TortureRole() {
  socket_.reset();  // the zygote ends, and its child with it
  if (zygote_ > 0) ::waitpid(zygote_, nullptr, 0);
}

void TortureRole::zygote(int socket) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  int child = -1;
  std::uint32_t word = 0;
  while (::recv(socket, &word, sizeof word, 0) == sizeof word) {
    std::uint32_t answer = 0;
    if (word == kKill && child > 0) {
      ::kill(child, SIGKILL);
      int status = 0;
      ::waitpid(child, &status, 0);
      answer = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? 0 : 1;
      child = -1;
    } else if (word != kKill) {
      child = ::fork();
      if (child == 0) play(word);
    }
    ::send(socket, &answer, sizeof answer, MSG_NOSIGNAL);
  }
  ::_exit(0);
}

void TortureRole::play(std::uint32_t incarnation) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  devproc::RoleSetup setup = torture_setup();
  setup.role.incarnation = incarnation;
  setup.role.start = incarnation == 1 ? control::StartKind::kFresh : control::StartKind::kResume;
  devproc::VectorMemory memory(4096);
  auto host = devproc::RoleHost::create(setup.role, {.requests = &requests(),
                                                     .replies = &replies(),
                                                     .state = state_.bytes(),
                                                     .output_doorbell = output_doorbell_.borrow(),
                                                     .line_assert = {},
                                                     .line_resample = {},
                                                     .messages = {},
                                                     .kicks = {},
                                                     .backings = {},
                                                     .data = {},
                                                     .memory = &memory,
                                                     .ranges = nullptr});
  if (!host) ::_exit(1);
  auto loop = devproc::EventLoop::create(**host, requests(), doorbell_.borrow(), {}, {}, device_);
  if (!loop) ::_exit(2);
  (void)loop->run();
  ::_exit(3);
}

std::uint32_t TortureRole::command(std::uint32_t word) {
  std::uint32_t answer = 1;
  if (::send(socket_.get(), &word, sizeof word, MSG_NOSIGNAL) != sizeof word) return 1;
  if (::recv(socket_.get(), &answer, sizeof answer, 0) != sizeof answer) return 1;
  return answer;
}

void TortureRole::kill() { ended_by_themselves_ += command(kKill); }
bool TortureRole::start(std::uint32_t incarnation) { return command(incarnation) == 0; }

}  // namespace bulkhead::torture
