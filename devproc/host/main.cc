// bulkhead-device: one program for all device processes. Started by the VMM's supervisor (sandbox/spawn.h)
// with its control socket at descriptor 3 and the standby filter at descriptor 4; it locks itself in before
// it reads a single byte from anybody, then waits for a role.
#include <unistd.h>

#include <cstdlib>

#include "devproc/host/role_process.h"
#include "ipc/base/log.h"
#include "sandbox/enter.h"
#include "sandbox/filter.h"
#include "sandbox/policies.h"

namespace {

bulkhead::Status run() {
  using namespace bulkhead;
  RETURN_IF_ERROR(sandbox::enter_jail({}));
  ASSIGN_OR_RETURN(control::ControlChannel control, control::ControlChannel::adopt(UniqueFd(sandbox::kControlFd)));
  {
    const UniqueFd program(sandbox::kStandbyFilterFd);
    ASSIGN_OR_RETURN(const sandbox::CompiledFilter filter, sandbox::import_filter(program.borrow()));
    RETURN_IF_ERROR(sandbox::load_filter(filter, sandbox::FilterScope::kProcess));
  }
  devproc::RoleProcess process(control);
  return process.run();
}

}  // namespace

int main() {
  bulkhead::set_log_role("standby");
  const bulkhead::Status status = run();
  if (!status) bulkhead::log(bulkhead::LogLevel::kError, "{}", status.error().message);
  // Nothing is left to do in here, and exit handlers might want what the filter forbids.
  ::_exit(status ? EXIT_SUCCESS : EXIT_FAILURE);
}
