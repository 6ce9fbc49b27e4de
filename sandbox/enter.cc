#include "sandbox/enter.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "ipc/base/unique_fd.h"
#include "sandbox/filter.h"

namespace bulkhead::sandbox {
namespace {

Status set_limit(__rlimit_resource resource, const char* what, std::uint64_t value) {
  rlimit limit{};
  if (::getrlimit(resource, &limit) != 0) return make_errno_error(fmt::format("cannot read the limit of {}", what));
  limit.rlim_max = std::min<rlim_t>(limit.rlim_max, value);
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(resource, &limit) != 0) return make_errno_error(fmt::format("cannot limit {}", what));
  return ok();
}

Status drop_capabilities() {
  // Being uid 0 must mean nothing: exec and setuid neither give nor take capabilities, for good.
  constexpr unsigned long kSecurebits = SECURE_ALL_BITS | SECURE_ALL_LOCKS;
  if (::prctl(PR_SET_SECUREBITS, kSecurebits & ~(1UL << SECURE_KEEP_CAPS), 0, 0, 0) != 0)
    return make_errno_error("cannot set securebits");
  int dropped = 0;
  while (::prctl(PR_CAPBSET_DROP, dropped, 0, 0, 0) == 0) ++dropped;
  if (errno != EINVAL || dropped == 0) return make_errno_error("cannot empty the capability bounding set");
  if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0)
    return make_errno_error("cannot empty the ambient capability set");
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {};
  if (::syscall(SYS_capset, &header, none) != 0) return make_errno_error("cannot drop capabilities");
  return ok();
}

// Landlock's ABI, as far as this file uses it; Debian 12's header knows version 1 only.
// Source: Linux include/uapi/linux/landlock.h.
struct LandlockRuleset {
  std::uint64_t handled_files = 0;
  std::uint64_t handled_network = 0;  // from version 4
  std::uint64_t scoped = 0;           // from version 6
};
constexpr unsigned kLandlockVersion = 1U << 0;

struct LandlockAbi {
  LandlockRuleset ruleset;
  std::size_t size;
};

constexpr std::uint64_t kLandlockReadFile = 1U << 2;
constexpr std::uint64_t kLandlockReadDirectory = 1U << 3;
struct LandlockPathBeneath {
  std::uint64_t allowed = 0;
  std::int32_t parent = -1;
} __attribute__((packed));
constexpr int kLandlockRulePathBeneath = 1;

constexpr std::size_t kLargestSmallFile = 64 << 10;

// What can be read of it; nothing of one that is not there.
std::string read_small_file(const char* path) {
  const UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  std::string text(kLargestSmallFile, '\0');
  const ssize_t size = file.valid() ? ::read(file.get(), text.data(), text.size()) : -1;
  text.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
  return text;
}

Status put_files(const std::string& root, const std::string& resolver, const std::string& tftp) {
  const std::string etc = root + "/etc";
  if (::mkdir(etc.c_str(), 0755) != 0) return make_errno_error("cannot make /etc in the jail");
  const UniqueFd file(::open((etc + "/resolv.conf").c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444));
  if (!file.valid() || ::write(file.get(), resolver.data(), resolver.size()) != static_cast<ssize_t>(resolver.size()))
    return make_errno_error("cannot copy /etc/resolv.conf into the jail");
  if (tftp.empty()) return ok();
  const std::string target = root + kTftpInJail;
  if (::mkdir(target.c_str(), 0555) != 0) return make_errno_error("cannot make the TFTP directory in the jail");
  // As the jail's own user, who may less than who started it: what is served is what everybody may read.
  if (::mount(tftp.c_str(), target.c_str(), nullptr, MS_BIND | MS_REC, nullptr) != 0)
    return make_errno_error(fmt::format("tftp={}: cannot be shown to the jail", tftp));
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
  if (::mount_setattr(AT_FDCWD, target.c_str(), AT_RECURSIVE, &attributes, sizeof attributes) != 0)
    return make_errno_error(fmt::format("tftp={}: cannot be made read-only in the jail", tftp));
  return ok();
}

LandlockAbi landlock_abi(long version) {
  // File rights by version: 13, then REFER, TRUNCATE and (version 5) IOCTL_DEV.
  int file_rights = 13;
  if (version >= 2) file_rights = 14;
  if (version >= 3) file_rights = 15;
  if (version >= 5) file_rights = 16;
  LandlockAbi abi{{(std::uint64_t{1} << file_rights) - 1, 0, 0}, sizeof(std::uint64_t)};
  if (version >= 4) abi = {{abi.ruleset.handled_files, 0b11, 0}, 2 * sizeof(std::uint64_t)};  // TCP bind, connect
  if (version >= 6)
    abi = {{abi.ruleset.handled_files, 0b11, 0b11}, sizeof(LandlockRuleset)};  // abstract sockets, signals
  return abi;
}

}  // namespace

Result<JailReport> enter_jail(const JailOptions& options) {
  JailReport report;
  warm_libc();
  if (!options.name.empty()) ::prctl(PR_SET_NAME, options.name.c_str(), 0, 0, 0);
  RETURN_IF_ERROR(limit_resources(options.limits));
  RETURN_IF_ERROR(set_hostname(options.hostname));
  RETURN_IF_ERROR(enter_empty_root(options));
  RETURN_IF_ERROR(drop_privileges());
  ASSIGN_OR_RETURN(const bool landlock, deny_by_landlock(options));
  if (!landlock) report.missing.emplace_back("Landlock");
  ASSIGN_OR_RETURN(const bool exec_gain, deny_exec_gain());
  if (!exec_gain) report.missing.emplace_back("memory-deny-write-execute");
  return report;
}

Status limit_resources(const JailLimits& limits) {
  RETURN_IF_ERROR(set_limit(RLIMIT_CORE, "core dumps", 0));
  RETURN_IF_ERROR(set_limit(RLIMIT_NPROC, "processes", limits.processes));
  RETURN_IF_ERROR(set_limit(RLIMIT_MSGQUEUE, "message queues", 0));
  RETURN_IF_ERROR(set_limit(RLIMIT_NICE, "priority", 0));
  RETURN_IF_ERROR(set_limit(RLIMIT_RTPRIO, "real-time priority", 0));
  RETURN_IF_ERROR(set_limit(RLIMIT_NOFILE, "open files", limits.open_files));
  RETURN_IF_ERROR(set_limit(RLIMIT_MEMLOCK, "locked memory", limits.locked_memory));
  if (limits.file_size) RETURN_IF_ERROR(set_limit(RLIMIT_FSIZE, "file size", *limits.file_size));
  if (limits.address_space) RETURN_IF_ERROR(set_limit(RLIMIT_AS, "address space", *limits.address_space));
  return ok();
}

Status set_hostname(const std::string& hostname) {
  if (::sethostname(hostname.data(), hostname.size()) != 0) return make_errno_error("cannot set the jail's host name");
  if (::setdomainname("", 0) != 0) return make_errno_error("cannot clear the jail's domain name");
  return ok();
}

Status enter_empty_root(const JailOptions& options) {
  // A directory that is there on every host with the /proc that spawn() needs; what it holds does not
  // matter.
  constexpr const char* kMountPoint = "/proc";
  constexpr unsigned long kFlags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return make_errno_error("cannot separate the jail's mounts from the host's");
  // resolv.conf has to be read while it is still there.
  const std::string resolver = options.host_network ? read_small_file("/etc/resolv.conf") : std::string();
  const bool holds_files = options.host_network || !options.tftp.empty();
  const char* size = holds_files ? "size=128k,nr_inodes=8,mode=0755" : "size=4k,nr_inodes=1,mode=0555";
  if (::mount("empty", kMountPoint, "tmpfs", kFlags, size) != 0)
    return make_errno_error("cannot mount the jail's empty root");
  if (holds_files) RETURN_IF_ERROR(put_files(kMountPoint, resolver, options.tftp));
  if (::chdir(kMountPoint) != 0) return make_errno_error("cannot go to the jail's empty root");
  // The new root goes below the old one at the same place, and the old one is then taken off the top.
  if (::syscall(SYS_pivot_root, ".", ".") == 0) {
    if (::umount2(".", MNT_DETACH) != 0) return make_errno_error("cannot unmount the host's files");
  } else if (errno == EINVAL) {
    // The host runs from its initramfs, which cannot be pivoted away from: cover it instead. Without
    // CAP_SYS_CHROOT and without a directory descriptor there is no way back.
    if (::mount(".", "/", nullptr, MS_MOVE, nullptr) != 0) return make_errno_error("cannot move the jail's root");
    if (::chroot(".") != 0) return make_errno_error("cannot change to the jail's root");
  } else {
    return make_errno_error("cannot pivot to the jail's root");
  }
  if (::chdir("/") != 0) return make_errno_error("cannot go to the jail's root");
  if (::mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | kFlags, nullptr) != 0)
    return make_errno_error("cannot make the jail's root read-only");
  return ok();
}

Status drop_privileges() {
  RETURN_IF_ERROR(drop_capabilities());
  RETURN_IF_ERROR(forbid_new_privileges());
  // Neither a core dump nor a debugger of the same user: /proc/PID belongs to root from here on.
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return make_errno_error("cannot become non-dumpable");
  ::umask(0777);
  return ok();
}

Result<bool> deny_by_landlock(const JailOptions& options) {
  const long version = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, kLandlockVersion);
  if (version < 0 && (errno == ENOSYS || errno == EOPNOTSUPP)) return false;
  if (version < 0) return make_errno_error("cannot ask for Landlock's version");
  LandlockAbi abi = landlock_abi(version);
  // Everything handled, nothing granted.
  if (options.host_network) abi.ruleset.handled_network = 0;
  const UniqueFd ruleset(static_cast<int>(::syscall(SYS_landlock_create_ruleset, &abi.ruleset, abi.size, 0)));
  if (!ruleset.valid()) return make_errno_error("cannot create a Landlock rule set");
  if (options.host_network || !options.tftp.empty()) {
    // What the root holds.
    const UniqueFd root(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    const LandlockPathBeneath rule{kLandlockReadFile | kLandlockReadDirectory, root.get()};
    if (::syscall(SYS_landlock_add_rule, ruleset.get(), kLandlockRulePathBeneath, &rule, 0) != 0)
      return make_errno_error("cannot add a Landlock rule");
  }
  if (::syscall(SYS_landlock_restrict_self, ruleset.get(), 0) != 0)
    return make_errno_error("cannot enforce a Landlock rule set");
  return true;
}

Result<bool> deny_exec_gain() {
  // Linux include/uapi/linux/prctl.h; newer than Debian 12's headers.
  constexpr int kSetMdwe = 65;
  constexpr unsigned long kRefuseExecGain = 1;
  if (::prctl(kSetMdwe, kRefuseExecGain, 0, 0, 0) == 0) return true;
  if (errno == EINVAL) return false;
  return make_errno_error("cannot forbid memory to become executable");
}

}  // namespace bulkhead::sandbox
