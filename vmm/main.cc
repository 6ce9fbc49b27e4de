// bulkhead-vmm: started by `bulkhead run` with the launcher's socket at descriptor 3. Wiring only.
#include <malloc.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "ipc/base/log.h"
#include "ipc/control/run_directory.h"
#include "ipc/control/vm_config.h"
#include "sandbox/filter.h"
#include "sandbox/tracer.h"
#include "vmm/api/management_server.h"
#include "vmm/vm.h"

namespace {

using namespace bulkhead;

constexpr std::chrono::seconds kConfigDeadline{10};
constexpr std::chrono::seconds kAnswerDeadline{5};

Status send(control::ControlChannel& launcher, const control::FromVmm& message) {
  ASSIGN_OR_RETURN(const control::Encoded encoded, control::encode(message));
  return launcher.send(encoded.bytes, encoded.fds, control::deadline_in(kAnswerDeadline));
}

Result<control::VmConfig> receive_config(control::ControlChannel& launcher) {
  ASSIGN_OR_RETURN(control::Message message,
                   launcher.receive(control::deadline_in(kConfigDeadline), control::kMaxMessageFds));
  ASSIGN_OR_RETURN(control::ToVmm decoded, control::decode_to_vmm(std::move(message)));
  auto* config = std::get_if<control::VmConfig>(&decoded);
  if (config == nullptr) return make_error("the launcher's first message is not a configuration");
  return std::move(*config);
}

// The terminal's signals are the launcher's to act on, and a closed pipe is an error code.
void leave_signals_to_launcher() {
  for (const int signal : {SIGINT, SIGQUIT, SIGTSTP, SIGHUP, SIGPIPE}) ::signal(signal, SIG_IGN);
}

void raise_open_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

Result<control::Exited> run_vm(control::ControlChannel& launcher, UniqueFd child_signals) {
  ASSIGN_OR_RETURN(control::VmConfig config, receive_config(launcher));
  const UniqueFd log = std::move(config.files.log);
  if (log.valid()) set_log_fd(log.borrow());
  ASSIGN_OR_RETURN(control::RunDirectory directory, control::RunDirectory::open(config.run_directory));
  if (Result<unsigned> swept = directory.sweep(); swept && *swept != 0)
    bulkhead::log(LogLevel::kInfo, "removed what {} dead VMs had left behind", *swept);
  ASSIGN_OR_RETURN(control::ClaimedName name, directory.claim(config.name, config.name_is_derived));
  config.name = name.name();
  ASSIGN_OR_RETURN(UniqueFd listener, name.listen());
  ASSIGN_OR_RETURN(std::unique_ptr<vmm::VirtualMachine> vm,
                   vmm::VirtualMachine::create(std::move(config), std::move(child_signals)));
  ASSIGN_OR_RETURN(std::unique_ptr<vmm::ManagementServer> server,
                   vmm::ManagementServer::start(std::move(listener), *vm));
  RETURN_IF_ERROR(
      send(launcher, control::Started{.name = name.name(),
                                      .device_processes = static_cast<std::uint32_t>(vm->device_process_count())}));
  return vm->run(&launcher);
}

}  // namespace

int main() {
  set_log_role("bulkhead-vmm");
  leave_signals_to_launcher();
  raise_open_file_limit();
  // One arena for all threads: shrinking a second one looks into /proc, which a vCPU thread's filter forbids.
  ::mallopt(M_ARENA_MAX, 1);
  // Here, before there are threads: each vCPU thread loads a filter, which an ordinary user may only do with it.
  if (const Status status = sandbox::forbid_new_privileges(); !status)
    write_log(LogLevel::kWarning, status.error().message);
  Result<UniqueFd> child_signals = sandbox::child_signal_fd();
  Result<control::ControlChannel> launcher = control::ControlChannel::adopt(UniqueFd(control::kVmmSocketFd));
  if (!child_signals || !launcher) {
    write_log(LogLevel::kError, "bulkhead-vmm is started by `bulkhead run`, not by hand");
    return control::kExitUsage;
  }
  const Result<control::Exited> ended = run_vm(*launcher, std::move(*child_signals));
  if (!ended) {
    if (!send(*launcher, control::VmFailed{.sentence = ended.error().message}))
      write_log(LogLevel::kError, ended.error().message);
    return control::kExitHostError;
  }
  (void)send(*launcher, *ended);
  return ended->status;
}
