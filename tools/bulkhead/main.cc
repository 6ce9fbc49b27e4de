// bulkhead: starts VMs and manages the running ones. `bulkhead --help` is its manual.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <unistd.h>

#include <climits>
#include <csignal>
#include <cstdio>
#include <exception>

#include "tools/bulkhead/manage.h"
#include "tools/bulkhead/options.h"
#include "tools/bulkhead/print.h"
#include "tools/bulkhead/run.h"

namespace {

// Descriptors 0 to 2 must be taken, or a file of ours would end up as somebody's standard output; and
// nothing that our parent left open may reach the VMM. One that was closed fails when it is used, as it
// should: it is opened the other way round.
void tidy_descriptors() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (::fcntl(fd, F_GETFD) < 0) static_cast<void>(::open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY));
  }
  static_cast<void>(::close_range(3, UINT_MAX, CLOSE_RANGE_CLOEXEC));
}

struct Execute {
  int operator()(bulkhead::cli::Leave leave) const { return leave.status; }
  int operator()(const bulkhead::cli::RunOptions& options) const { return bulkhead::cli::run_vm(options); }
  int operator()(const auto& options) const { return bulkhead::cli::manage(options); }
};

}  // namespace

int main(int argc, char** argv) {
  tidy_descriptors();
  ::signal(SIGPIPE, SIG_IGN);  // a reader that went away is an error like others
  try {
    return std::visit(Execute{}, bulkhead::cli::parse_command_line(argc, argv));
  } catch (const std::exception& exception) {  // out of memory; a bug
    bulkhead::cli::complain(exception.what());
    return bulkhead::control::kExitHostError;
  }
}
