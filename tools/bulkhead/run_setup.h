// From the options of `bulkhead run` to a VmConfig with every file open: all that can be refused before a
// VMM is started is refused here, in one sentence.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ipc/control/vm_config.h"
#include "tools/bulkhead/image_server.h"
#include "tools/bulkhead/new_files.h"
#include "tools/bulkhead/options.h"
#include "tools/bulkhead/socket_file.h"

namespace bulkhead::cli {

// What `bulkhead run` keeps of the console.
struct ConsoleEnds {
  UniqueFd to_guest;                  // of the console on stdio: write end of what the VMM reads
  UniqueFd from_guest;                // the same: read end of what the VMM writes
  bool sized = false;                 // its guest is told of the terminal's size
  std::vector<UniqueFd> pty_keepers;  // pty: the other side, held open so that the VMM's side never hangs up
};

struct RunSetup {
  control::VmConfig config;
  ConsoleEnds console;
  SocketFile vsock;
  NewFiles made;
  std::string vmm_program;
  std::vector<ImageServer> image_servers;
};

Result<RunSetup> prepare_run(const RunOptions& options);

struct TerminalSize {
  std::uint16_t columns = 0;
  std::uint16_t rows = 0;
};
// Of the terminal that standard input is; nothing when it is none, or has no size.
std::optional<TerminalSize> terminal_size();

// The file NAME beside this program's own executable.
Result<std::string> beside_us(const char* name);

}  // namespace bulkhead::cli
