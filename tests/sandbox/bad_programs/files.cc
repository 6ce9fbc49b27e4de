// Forbidden: reaching files and sockets that were not handed over.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <termios.h>
#include <unistd.h>

#include <array>

#include "tests/sandbox/bad_programs/deeds.h"

namespace bulkhead::sandbox::probe {
namespace {

template <long number, long a = 0, long b = 0, long c = 0, long d = 0>
int call() {
  ::syscall(number, a, b, c, d);
  return kSurvived;
}

int open_file() {
  [[maybe_unused]] const int fd = ::open("/etc/passwd", O_RDONLY);
  return kSurvived;
}

int stat_path() {
  struct stat status {};
  [[maybe_unused]] const int result = ::stat("/", &status);
  return kSurvived;
}

int send_elsewhere() {
  msghdr message{};
  ::sendmsg(kRegion, &message, 0);
  return kSurvived;
}

// The upper half of an int argument's register does not count for the kernel, so it must not for the
// filter.
int send_elsewhere_in_disguise() {
  msghdr message{};
  ::syscall(SYS_sendmsg, (1L << 32) | kRegion, &message, 0);
  return kSurvived;
}

int receive_elsewhere() {
  msghdr message{};
  ::recvmsg(kRegion, &message, 0);
  return kSurvived;
}

int take_console() {
  ::ioctl(2, TIOCSTI, "x");
  return kSurvived;
}

constexpr std::array kDeeds = {
    Deed{"openat", open_file},
    Deed{"open", call<SYS_open>},
    Deed{"openat2", call<SYS_openat2>},
    Deed{"creat", call<SYS_creat>},
    Deed{"newfstatat", stat_path},
    Deed{"readlink", call<SYS_readlink>},
    Deed{"unlink", call<SYS_unlink>},
    Deed{"mkdir", call<SYS_mkdir>},
    Deed{"chmod", call<SYS_chmod>},
    Deed{"getdents64", call<SYS_getdents64>},
    Deed{"chdir", call<SYS_chdir>},
    Deed{"ftruncate", call<SYS_ftruncate, kRegion, 0>},
    Deed{"fallocate", call<SYS_fallocate, kRegion, 0, 0, 4096>},
    Deed{"dup2", call<SYS_dup2, 3, 9>},
    Deed{"fcntl", call<SYS_fcntl, 3, F_SETFL, 0>},
    Deed{"ioctl", take_console},
    Deed{"socket", call<SYS_socket, AF_INET, SOCK_STREAM, 0>},
    Deed{"socketpair", call<SYS_socketpair>},
    Deed{"connect", call<SYS_connect, kControl>},
    Deed{"bind", call<SYS_bind, kControl>},
    Deed{"sendto", call<SYS_sendto, kControl>},
    Deed{"sendmsg", send_elsewhere},
    Deed{"sendmsg-disguised", send_elsewhere_in_disguise},
    Deed{"recvmsg", receive_elsewhere},
    Deed{"memfd_create", call<SYS_memfd_create>},
    Deed{"shmget", call<SYS_shmget>},
    Deed{"sendfile", call<SYS_sendfile>},
    Deed{"splice", call<SYS_splice>},
};

}  // namespace

std::span<const Deed> file_deeds() { return kDeeds; }

}  // namespace bulkhead::sandbox::probe
