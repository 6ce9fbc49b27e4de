// For the jail without any filter: namespaces, empty root, limits and lost privileges have to hold on their
// own. Each deed returns 0 when everything was refused, else which attempt got through.
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string_view>

#include "tests/sandbox/bad_programs/deeds.h"

namespace bulkhead::sandbox::probe {
namespace {

bool refused(long result) { return result < 0; }
bool refused_with(long result, int error) { return result < 0 && errno == error; }

int reach_files() {
  if (!refused(::open("/etc/passwd", O_RDONLY))) return 1;
  if (!refused(::open("/proc/self/status", O_RDONLY))) return 2;
  if (!refused(::open("../../../../etc/passwd", O_RDONLY))) return 3;
  if (!refused(::open("/", O_RDONLY | O_DIRECTORY))) return 4;  // Landlock: not even the empty directory
  if (!refused(::mkdir("/new", 0700))) return 5;
  if (!refused(::open("/", O_RDWR | O_TMPFILE, 0600))) return 6;
  if (!refused(::mknod("/zero", S_IFCHR | 0600, makedev(1, 5)))) return 7;
  if (!refused(::chroot("."))) return 8;
  if (!refused(::mount("none", "/", "tmpfs", 0, nullptr))) return 9;
  if (!refused(::mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND, nullptr))) return 10;
  if (!refused(::umount2("/", MNT_DETACH))) return 11;
  return 0;
}

int reach_network() {
  const int tcp = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in loopback{};
  loopback.sin_family = AF_INET;
  loopback.sin_port = htons(22);
  loopback.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (tcp >= 0 && !refused(::connect(tcp, reinterpret_cast<sockaddr*>(&loopback), sizeof loopback))) return 1;
  if (!refused(::socket(AF_PACKET, SOCK_RAW, 0))) return 2;
  // An abstract socket of the host, which the test listens on.
  const int local = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un host{};
  host.sun_family = AF_UNIX;
  constexpr std::string_view kName = "bulkhead-sandbox-test";
  kName.copy(host.sun_path + 1, kName.size());
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + kName.size());
  if (local >= 0 && !refused(::connect(local, reinterpret_cast<sockaddr*>(&host), length))) return 3;
  return 0;
}

int reach_processes() {
  // In its own pid namespace it sees itself alone.
  if (::getpid() != 1 || ::getppid() != 0) return 1;
  if (!refused_with(::kill(2, 0), ESRCH)) return 2;
  if (!refused(::kill(-1, SIGKILL))) return 3;
  if (!refused_with(::fork(), EAGAIN)) return 4;
  if (!refused(::syscall(SYS_pidfd_open, 2, 0))) return 5;
  return 0;
}

int regain_privileges() {
  if (!refused(::setgroups(0, nullptr))) return 1;
  if (!refused(::setuid(1))) return 2;
  if (!refused(::sethostname("x", 1))) return 3;
  if (!refused(::unshare(CLONE_NEWNET))) return 4;
  if (!refused(::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21, 0, 0))) return 6;
  rlimit limit{1, 1};
  if (!refused(::setrlimit(RLIMIT_CORE, &limit))) return 7;
  if (!refused(::setpriority(PRIO_PROCESS, 0, -1))) return 8;
  return 0;
}

int check_settings() {
  int death_signal = 0;
  if (::prctl(PR_GET_PDEATHSIG, &death_signal) != 0 || death_signal != SIGKILL) return 1;
  if (::prctl(PR_GET_DUMPABLE) != 0) return 2;
  if (::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) return 3;
  rlimit limit{};
  if (::getrlimit(RLIMIT_CORE, &limit) != 0 || limit.rlim_max != 0) return 4;
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_max > 128) return 5;
  utsname names{};
  if (::uname(&names) != 0 || std::strcmp(names.nodename, "probe") != 0) return 6;
  if (::getsid(0) != ::getpid()) return 7;
  if (::umask(0) != 0777) return 8;
  sigset_t blocked;
  if (::sigprocmask(SIG_BLOCK, nullptr, &blocked) != 0 || ::sigisemptyset(&blocked) != 1) return 9;
  struct sigaction action {};
  for (const int signal : {SIGPIPE, SIGUSR1, SIGTERM, SIGHUP}) {
    if (::sigaction(signal, nullptr, &action) != 0 || action.sa_handler != SIG_DFL) return 10;
  }
  // Nothing but what the warm-up put there itself.
  if (environ != nullptr && environ[0] != nullptr &&
      (std::strcmp(environ[0], "TZ=/etc/localtime") != 0 || environ[1] != nullptr))
    return 11;
  if (::getuid() != 0 || ::getgid() != 0) return 12;
  constexpr int kGetMdwe = 66;  // newer than Debian 12's headers; EINVAL where the kernel has none
  const int mdwe = ::prctl(kGetMdwe, 0, 0, 0, 0);
  if (mdwe >= 0 && mdwe != 1) return 14;
  // All bits locked, all but KEEP_CAPS set (capabilities(7)).
  if (::prctl(PR_GET_SECUREBITS) != 0xef) return 15;
  char name[17] = {};
  if (::prctl(PR_GET_NAME, name) != 0 || std::strcmp(name, "jail-probe") != 0) return 13;
  return 0;
}

constexpr std::array kDeeds = {
    Deed{"reach-files", reach_files},         Deed{"reach-network", reach_network},
    Deed{"reach-processes", reach_processes}, Deed{"regain-privileges", regain_privileges},
    Deed{"check-settings", check_settings},
};

}  // namespace

std::span<const Deed> escape_deeds() { return kDeeds; }

}  // namespace bulkhead::sandbox::probe
