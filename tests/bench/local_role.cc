#include "tests/bench/local_role.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "devproc/host/role_process.h"
#include "sandbox/policies.h"
#include "tests/bench/ping_pong.h"

namespace bulkhead::bench {

Result<std::unique_ptr<LocalRole>> LocalRole::start(int cpu) {
  std::unique_ptr<LocalRole> role(new LocalRole);
  role->plan_.name = "bench";
  vmm::InstancePlan ports;
  ports.name = "ports";
  ports.type = find_device_type("system_ports");
  ports.config = SystemPortsConfig{};
  for (std::uint16_t i = 0; i < ports.type->regions.size(); ++i) ports.regions.push_back({i, 0x80U + i});
  role->plan_.instances.push_back(std::move(ports));
  ASSIGN_OR_RETURN(const vmm::MemoryLayout layout, vmm::plan_memory(vmm::kMinRam));
  ASSIGN_OR_RETURN(vmm::GuestRam ram, vmm::GuestRam::create(layout));
  role->ram_ = std::make_unique<vmm::GuestRam>(std::move(ram));
  ASSIGN_OR_RETURN(role->process_, vmm::DeviceProcess::create(role->plan_, *role->ram_, *role, *role, {}));
  ASSIGN_OR_RETURN(auto channels, control::ControlChannel::create_pair());
  role->control_ = std::move(channels.first);
  int sockets[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0)
    return make_errno_error("cannot create a socket pair");
  role->echo_.reset(sockets[0]);
  UniqueFd peer(sockets[1]);
  // Everything is permitted: the figure is about the ring, and the filter's cost is known to be lost in the noise.
  ASSIGN_OR_RETURN(const sandbox::CompiledFilter everything,
                   sandbox::CompiledFilter::from_program({BPF_STMT(BPF_RET | BPF_K, 0x7fff0000U)}));
  ASSIGN_OR_RETURN(const UniqueFd filter, sandbox::export_filter(everything));
  role->pid_ = ::fork();
  if (role->pid_ < 0) return make_errno_error("cannot fork");
  if (role->pid_ == 0) {
    role->control_ = {};
    role->child(cpu, std::move(peer), std::move(channels.second));
  }
  channels.second = {};
  ASSIGN_OR_RETURN(const vmm::DeviceProcess::Handover handover,
                   role->process_->take_role("bench", control::StartKind::kFresh, false, filter.borrow()));
  RETURN_IF_ERROR(role->control_.send(handover.bytes, handover.fds, control::deadline_in(std::chrono::seconds(1))));
  ASSIGN_OR_RETURN(const control::Message ready, role->control_.receive(control::deadline_in(std::chrono::seconds(5))));
  ASSIGN_OR_RETURN(const control::FromDevice decoded, control::decode_from_device(ready.bytes));
  if (!std::holds_alternative<control::Ready>(decoded)) return make_error("the benchmark's role did not start");
  return role;
}

void LocalRole::child(int cpu, UniqueFd echo_socket, control::ControlChannel control) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (cpu >= 0) pin_to(cpu);
  std::thread([fd = echo_socket.get()] {
    char buffer[64];
    while (::recv(fd, buffer, sizeof buffer, 0) > 0) ::send(fd, buffer, sizeof buffer, 0);
  }).detach();
  devproc::RoleProcess process(control);
  const Status status = process.run();
  ::_exit(status ? 0 : 1);
}

LocalRole::~LocalRole() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

bool LocalRole::request(ipc::AdaptiveWait& wait) {
  ipc::Request request;
  request.kind = ipc::RequestKind::kWrite;
  request.size = 1;
  request.count = 1;
  request.region = 1;  // the POST code port
  request.payload[0] = 0x5a;
  return process_->ring().call(request, wait).has_value();
}

bool LocalRole::echo() {
  char buffer[64] = {};
  return ::send(echo_.get(), buffer, sizeof buffer, 0) == sizeof buffer &&
         ::recv(echo_.get(), buffer, sizeof buffer, 0) == sizeof buffer;
}

}  // namespace bulkhead::bench
