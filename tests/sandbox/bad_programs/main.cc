// jail_probe DEED STAGE: enters the jail, loads what STAGE says (jail: nothing, standby: stage 1, role:
// both stages), says "ready" on the control socket, and does the deed. No gtest here: exit statuses only.
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "ipc/base/log.h"
#include "sandbox/enter.h"
#include "sandbox/filter.h"
#include "tests/sandbox/bad_programs/deeds.h"

namespace bulkhead::sandbox::probe {
namespace {

constexpr int kCannotJail = 100;

const Deed* find(const char* name) {
  for (const auto list :
       {file_deeds(), process_deeds(), memory_deeds(), kernel_deeds(), everyday_deeds(), escape_deeds()}) {
    for (const Deed& deed : list) {
      if (std::strcmp(deed.name, name) == 0) return &deed;
    }
  }
  return nullptr;
}

Status load(int fd) {
  ASSIGN_OR_RETURN(const CompiledFilter filter, import_filter(BorrowedFd(fd)));
  return load_filter(filter, FilterScope::kProcess);
}

Status prepare(const char* stage) {
  ASSIGN_OR_RETURN(const JailReport report, enter_jail({.hostname = "probe", .limits = {}, .name = "jail-probe"}));
  for (const std::string& missing : report.missing) log(LogLevel::kWarning, "this kernel has no {}", missing);
  if (std::strcmp(stage, "jail") == 0) return ok();
  RETURN_IF_ERROR(load(kStandbyFilter));
  if (std::strcmp(stage, "role") == 0) RETURN_IF_ERROR(load(kRoleFilter));
  return ok();
}

bool say_ready() {
  char word[] = "ready";
  iovec part{word, sizeof word - 1};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  return ::sendmsg(kControl, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(part.iov_len);
}

int run(const char* name, const char* stage) {
  const Deed* deed = find(name);
  if (deed == nullptr) {
    log(LogLevel::kError, "no deed is called {}", name);
    return kCannotJail;
  }
  if (const Status prepared = prepare(stage); !prepared) {
    log(LogLevel::kError, "{}", prepared.error().message);
    return kCannotJail;
  }
  if (!say_ready()) return kCannotJail;
  return deed->perform();
}

}  // namespace
}  // namespace bulkhead::sandbox::probe

int main(int argc, char** argv) {
  if (argc != 3) return 99;
  ::_exit(bulkhead::sandbox::probe::run(argv[1], argv[2]));
}
