#include "tests/bench/local_role.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <deque>
#include <thread>

#include "devproc/host/dispatch.h"
#include "devproc/host/role_process.h"
#include "devproc/registry.h"
#include "ipc/base/futex.h"
#include "sandbox/policies.h"
#include "tests/bench/ping_pong.h"
#include "tests/fakes/fake_wires.h"

namespace bulkhead::bench {

Result<std::unique_ptr<LocalRole>> LocalRole::start(int cpu) {
  vmm::RolePlan plan{.name = "bench", .syscalls = {}, .instances = {}};
  vmm::InstancePlan ports;
  ports.name = "ports";
  ports.type = find_device_type("system_ports");
  ports.config = SystemPortsConfig{};
  for (std::uint16_t i = 0; i < ports.type->regions.size(); ++i) ports.regions.push_back({i, 0x80U + i});
  plan.instances.push_back(std::move(ports));
  return start(cpu, std::move(plan));
}

Result<std::unique_ptr<LocalRole>> LocalRole::start(int cpu, vmm::RolePlan plan, Serve serve) {
  std::unique_ptr<LocalRole> role(new LocalRole);
  role->plan_ = std::move(plan);
  ASSIGN_OR_RETURN(const vmm::MemoryLayout layout, vmm::plan_memory(vmm::kMinRam));
  ASSIGN_OR_RETURN(vmm::GuestRam ram, vmm::GuestRam::create(layout));
  role->ram_ = std::make_unique<vmm::GuestRam>(std::move(ram));
  ASSIGN_OR_RETURN(role->process_, vmm::DeviceProcess::create(role->plan_, {}, *role->ram_, *role, *role, {}));
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
  ASSIGN_OR_RETURN(const vmm::DeviceProcess::Handover handover,
                   role->process_->take_role("bench", control::StartKind::kFresh, false, filter.borrow()));
  ipc::WritableRegion replies;
  if (serve == Serve::kInPlace) {
    constexpr std::size_t kReplyFd = 1;  // DeviceProcess::take_role() grants it second
    ASSIGN_OR_RETURN(UniqueFd fd, UniqueFd::duplicate(handover.fds[kReplyFd]));
    ASSIGN_OR_RETURN(replies, ipc::WritableRegion::import(std::move(fd), ipc::kReplyAreaSize));
  }
  role->pid_ = ::fork();
  if (role->pid_ < 0) return make_errno_error("cannot fork");
  if (role->pid_ == 0) {
    role->control_ = {};
    if (serve == Serve::kInPlace) role->serve_in_place(cpu, *replies.as<ipc::ReplyArea>());
    role->child(cpu, std::move(peer), std::move(channels.second));
  }
  channels.second = {};
  if (serve == Serve::kInPlace) return role;
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

// The same models, the same ring, the same reply; the state lies on the heap and nothing is committed.
void LocalRole::serve_in_place(int cpu, ipc::ReplyArea& replies) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (cpu >= 0) pin_to(cpu);
  std::deque<devproc::FakeWires> wires;
  std::vector<std::unique_ptr<devproc::Device>> devices;
  for (const vmm::InstancePlan& instance : plan_.instances) {
    devproc::FakeWires& own =
        wires.emplace_back(devproc::FakeWireCounts{.lines = instance.lines.size(), .streams = instance.type->streams});
    devices.push_back(devproc::find_builtin(instance.type->type)->create(instance.config, own.wires()).value());
    devices.back()->reset();
    own.state.reset_dirty();
  }
  const ipc::RequestArea& requests = process_->requests();
  for (ipc::Ticket ticket = 1;; ++ticket) {
    const ipc::RequestSlot& from = requests.slots[ipc::slot_of(ticket)];
    while (from.ticket.load(std::memory_order_acquire) != ticket) ipc::cpu_relax();
    const ipc::Request request = from.request;
    ipc::Reply reply{.generation = request.generation, .status = ipc::ReplyStatus::kDone};
    devproc::dispatch_access(*devices[request.instance], request, reply);
    ipc::ReplySlot& slot = replies.slots[ipc::slot_of(ticket)];
    slot.reply = reply;
    slot.incarnation.store(1, std::memory_order_release);
    slot.ticket.exchange(ticket, std::memory_order_seq_cst);
    if (requests.waiter_asleep[ipc::slot_of(ticket)].load(std::memory_order_seq_cst) == 0) continue;
    ipc::leave_wake_note(replies.waiter_woken);
    slot.wake.fetch_add(1, std::memory_order_seq_cst);
    futex_wake_all(&slot.wake);
  }
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
  return this->request(request, wait);
}

bool LocalRole::request(const ipc::Request& request, ipc::AdaptiveWait& wait) {
  return process_->ring().call(request, wait).has_value();
}

bool LocalRole::echo() {
  char buffer[64] = {};
  return ::send(echo_.get(), buffer, sizeof buffer, 0) == sizeof buffer &&
         ::recv(echo_.get(), buffer, sizeof buffer, 0) == sizeof buffer;
}

}  // namespace bulkhead::bench
