// From the options of `bulkhead run` to a VmConfig with every file open: all that can be refused before a
// VMM is started is refused here, in one sentence.
#pragma once

#include <string>
#include <vector>

#include "ipc/control/vm_config.h"
#include "tools/bulkhead/image_server.h"
#include "tools/bulkhead/options.h"

namespace bulkhead::cli {

// What `bulkhead run` keeps of the console.
struct ConsoleEnds {
  UniqueFd to_guest;    // stdio: write end of the VMM's console_input
  UniqueFd from_guest;  // stdio: read end of the VMM's console_output
  UniqueFd pty_keeper;  // pty: the other side, held open so that the VMM's side never hangs up
};

struct RunSetup {
  control::VmConfig config;
  ConsoleEnds console;
  std::string vmm_program;
  std::vector<ImageServer> image_servers;
};

Result<RunSetup> prepare_run(const RunOptions& options);

// The file NAME beside this program's own executable.
Result<std::string> beside_us(const char* name);

}  // namespace bulkhead::cli
