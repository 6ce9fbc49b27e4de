// bulkhead-device: one program for all device processes. Started by the VMM's supervisor (sandbox/spawn.h)
// with its control socket at descriptor 3, the standby filter at descriptor 4 and the disks' rings behind them; it
// locks itself in before it reads a single byte from anybody, then waits for a role.
#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>

#include "devproc/host/role_process.h"
#include "ipc/base/log.h"
#include "sandbox/enter.h"
#include "sandbox/filter.h"
#include "sandbox/policies.h"

namespace {

// The kernel's io_uring workers for what blocks: they are threads of this process, and count as such.
constexpr std::uint64_t kMostThreads = 32;

// Any of these processes may get the role of the relay of virtio sockets: a descriptor for each of its connections.
constexpr std::uint64_t kMostDescriptors = 1152;

int count_rings() {
  int rings = 0;
  while (::fcntl(bulkhead::sandbox::kFirstRingFd + rings, F_GETFD) >= 0) ++rings;
  return rings;
}

bulkhead::Status run() {
  using namespace bulkhead;
  const int rings = count_rings();
  sandbox::JailOptions jail;
  jail.limits.open_files = kMostDescriptors;
  if (rings != 0) jail.limits.processes = kMostThreads;
  RETURN_IF_ERROR(sandbox::enter_jail(jail));
  ASSIGN_OR_RETURN(control::ControlChannel control, control::ControlChannel::adopt(UniqueFd(sandbox::kControlFd)));
  {
    const UniqueFd program(sandbox::kStandbyFilterFd);
    ASSIGN_OR_RETURN(const sandbox::CompiledFilter filter, sandbox::import_filter(program.borrow()));
    RETURN_IF_ERROR(sandbox::load_filter(filter, sandbox::FilterScope::kProcess));
  }
  devproc::RoleProcess process(control, rings);
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
