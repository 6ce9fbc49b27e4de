// bulkhead: starts VMs and manages the running ones. `bulkhead --help` is its manual.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <exception>

#include "tools/bulkhead/manage.h"
#include "tools/bulkhead/options.h"
#include "tools/bulkhead/print.h"
#include "tools/bulkhead/run.h"

namespace {

// Descriptors 0 to 2 must be taken, or a file of ours would end up as somebody's standard output; and
// nothing that our parent left open may reach the VMM.
void tidy_descriptors() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (::fcntl(fd, F_GETFD) < 0) static_cast<void>(::open("/dev/null", O_RDWR));
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
  try {
    return std::visit(Execute{}, bulkhead::cli::parse_command_line(argc, argv));
  } catch (const std::exception& exception) {  // out of memory; a bug
    std::fprintf(stderr, "bulkhead: %s\n", exception.what());
    return bulkhead::control::kExitHostError;
  }
}
