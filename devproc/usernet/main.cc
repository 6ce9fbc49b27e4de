// bulkhead-usernet: the device process of user networks. As bulkhead-device (devproc/host/main.cc), but for libslirp,
// which it is linked with, and for its jail: the host's network namespace, a copy of the host's resolv.conf and, with
// --tftp DIR, that directory, read-only.
#include <unistd.h>

#include <cstdlib>
#include <string_view>

#include "devproc/host/role_process.h"
#include "devproc/usernet/slirp_network.h"
#include "ipc/base/log.h"
#include "sandbox/enter.h"
#include "sandbox/filter.h"
#include "sandbox/policies.h"

namespace {

bulkhead::Status run(const std::string& tftp) {
  using namespace bulkhead;
  devproc::SlirpNetwork::prepare_process();
  sandbox::JailOptions jail;
  jail.limits.open_files = 1024;
  jail.host_network = true;
  jail.tftp = tftp;
  RETURN_IF_ERROR(sandbox::enter_jail(jail));
  ASSIGN_OR_RETURN(control::ControlChannel control, control::ControlChannel::adopt(UniqueFd(sandbox::kControlFd)));
  {
    const UniqueFd program(sandbox::kStandbyFilterFd);
    ASSIGN_OR_RETURN(const sandbox::CompiledFilter filter, sandbox::import_filter(program.borrow()));
    RETURN_IF_ERROR(sandbox::load_filter(filter, sandbox::FilterScope::kProcess));
  }
  devproc::RoleProcess process(control, 0, devproc::SlirpNetwork::create);
  return process.run();
}

}  // namespace

int main(int argc, char** argv) {
  std::string tftp;
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::string_view(argv[i]) == "--tftp") tftp = argv[i + 1];
  }
  bulkhead::set_log_role("standby");
  const bulkhead::Status status = run(tftp);
  if (!status) bulkhead::log(bulkhead::LogLevel::kError, "{}", status.error().message);
  ::_exit(status ? EXIT_SUCCESS : EXIT_FAILURE);
}
