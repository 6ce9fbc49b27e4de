// Children of the fault tests: forks of a process with one thread, which share the regions that lie in
// SharedResource.
#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>

#include "ipc/base/check.h"
#include "tests/fakes/shared_resource.h"

namespace bulkhead::devproc {

struct ChildEnd {
  int exit_code = -1;  // -1: it did not exit
  int signal = 0;      // 0: it was not killed
};

inline ChildEnd wait_for(pid_t child) {
  int status = 0;
  if (child <= 0 || ::waitpid(child, &status, 0) != child) return {};
  if (WIFSIGNALED(status)) return {.exit_code = -1, .signal = WTERMSIG(status)};
  return {.exit_code = WEXITSTATUS(status), .signal = 0};
}

// Runs `body` in a process of its own, which exits with 0 after it.
template <class Body>
ChildEnd run_child(Body&& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    body();
    ::_exit(0);
  }
  return wait_for(child);
}

// A page that children write a sentence or a number into.
inline std::span<char> report_page() {
  static char* const page = static_cast<char*>(SharedResource::instance()->allocate(4096));
  return {page, 4096};
}
inline void write_text(std::span<char> page, const std::string& text) {
  const std::size_t size = std::min(text.size(), page.size() - 1);
  std::memcpy(page.data(), text.data(), size);
  page[size] = '\0';
}
inline std::string read_text(std::span<char> page) { return {page.data()}; }

inline std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
  const char* const text = std::getenv(variable);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 0);
}

}  // namespace bulkhead::devproc
