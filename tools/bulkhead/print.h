// Output that cannot throw: a closed or full standard stream must not keep `bulkhead` from cleaning up.
#pragma once

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include "ipc/base/printable.h"
#include "ipc/control/vm_config.h"

namespace bulkhead::cli {

// "bulkhead: SENTENCE" on standard error. A sentence may quote a file's name, an argument, or what another
// program said: none of that may drive the terminal. With kKeep it may have lines, as a crash report does.
inline void complain(const std::string& sentence, const char* end_of_line = "\n",
                     Newlines newlines = Newlines::kReplace) {
  const std::string line = fmt::format("bulkhead: {}{}", printable(sentence, '?', newlines), end_of_line);
  static_cast<void>(std::fputs(line.c_str(), stderr));
}

// Returns an exit status: what was asked for has to have arrived, or `bulkhead ls >/dev/full` would end
// with 0.
[[nodiscard]] inline int print_out(const std::string& text) {
  errno = 0;
  if (std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0) return 0;
  complain(fmt::format("cannot write to standard output: {}", std::strerror(errno)));
  return control::kExitHostError;
}

}  // namespace bulkhead::cli
