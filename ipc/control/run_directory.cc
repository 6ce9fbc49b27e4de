#include "ipc/control/run_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <set>
#include <thread>

#include "ipc/control/device_messages.h"

namespace bulkhead::control {
namespace {

constexpr auto kDirectoryPatience = std::chrono::seconds(5);
constexpr auto kConnectPatience = std::chrono::seconds(2);
constexpr unsigned kMaxSuffix = 1000;
constexpr int kBacklog = 16;

std::string lock_name(std::string_view name) { return fmt::format("{}.lock", name); }
std::string socket_name(std::string_view name) { return fmt::format("{}.sock", name); }

// A socket is named through the directory's descriptor: sun_path holds 107 characters, which a run
// directory and a long name could exceed, and the name cannot be redirected by a rename of the directory.
Result<sockaddr_un> socket_address(BorrowedFd directory, std::string_view name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = fmt::format("/proc/self/fd/{}/{}", directory.get(), socket_name(name));
  if (path.size() >= sizeof address.sun_path) return make_error("the VM's name is too long for a socket");
  path.copy(address.sun_path, path.size());
  return address;
}

using FileLock = struct flock;  // flock alone names the function

FileLock whole_file(short type) {
  FileLock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

// Whether some other open file description holds NAME.lock. Takes nothing.
bool is_locked(BorrowedFd lock_file) {
  FileLock lock = whole_file(F_WRLCK);
  return ::fcntl(lock_file.get(), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

// The directory's own lock, held for the few system calls of one claim, release or sweep.
class DirectoryLock {
 public:
  static Result<DirectoryLock> take(BorrowedFd directory) {
    // A descriptor of its own: flock belongs to the open file description, which others may share.
    const int fd = ::openat(directory.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return make_errno_error("cannot open the run directory");
    UniqueFd own(fd);
    const auto give_up = std::chrono::steady_clock::now() + kDirectoryPatience;
    while (::flock(own.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK && errno != EINTR) return make_errno_error("cannot lock the run directory");
      if (std::chrono::steady_clock::now() > give_up)
        return make_error("the run directory stays locked by another process that does not go on");
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    return DirectoryLock(std::move(own));
  }

 private:
  explicit DirectoryLock(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;  // closing it gives the lock back
};

void remove_files(BorrowedFd directory, std::string_view name) {
  ::unlinkat(directory.get(), socket_name(name).c_str(), 0);
  ::unlinkat(directory.get(), lock_name(name).c_str(), 0);
}

// Opens and locks NAME.lock; the caller holds the directory's lock. nullopt: a live VM has it.
Result<std::optional<UniqueFd>> try_lock(BorrowedFd directory, std::string_view name) {
  const int fd = ::openat(directory.get(), lock_name(name).c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return make_errno_error(fmt::format("cannot create the lock of VM {}", name));
  UniqueFd file(fd);
  FileLock lock = whole_file(F_WRLCK);
  if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) return std::optional(std::move(file));
  if (errno == EAGAIN || errno == EACCES) return std::optional<UniqueFd>();
  return make_errno_error(fmt::format("cannot lock the name {}", name));
}

// Every NAME of which a lock or a socket exists.
Result<std::set<std::string>> names_in(BorrowedFd directory) {
  const int fd = ::openat(directory.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return make_errno_error("cannot read the run directory");
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(fd), ::closedir);
  if (stream == nullptr) {
    ::close(fd);
    return make_errno_error("cannot read the run directory");
  }
  std::set<std::string> names;
  while (const dirent* entry = ::readdir(stream.get())) {
    std::string_view file = entry->d_name;
    if (!file.ends_with(".lock") && !file.ends_with(".sock")) continue;
    file.remove_suffix(5);
    if (is_name(file)) names.emplace(file);
  }
  return names;
}

pid_t read_pid(BorrowedFd lock_file) {
  std::array<char, 16> buffer{};
  const ssize_t got = ::pread(lock_file.get(), buffer.data(), buffer.size(), 0);
  pid_t pid = 0;
  if (got > 0) std::from_chars(buffer.data(), buffer.data() + got, pid);
  return pid > 0 ? pid : 0;
}

// Opens NAME.lock if a live VM holds it.
std::optional<UniqueFd> open_if_live(BorrowedFd directory, std::string_view name) {
  const int fd = ::openat(directory.get(), lock_name(name).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return std::nullopt;
  UniqueFd file(fd);
  if (!is_locked(file.borrow())) return std::nullopt;
  return file;
}

}  // namespace

std::string default_run_directory() {
  if (const char* chosen = std::getenv("BULKHEAD_RUN_DIR"); chosen != nullptr && *chosen != '\0') return chosen;
  if (::geteuid() == 0) return "/run/bulkhead";
  // Owned by somebody else after `su`: of no use to us.
  struct stat info {};
  if (const char* runtime = std::getenv("XDG_RUNTIME_DIR");
      runtime != nullptr && *runtime == '/' && ::stat(runtime, &info) == 0 && info.st_uid == ::geteuid())
    return fmt::format("{}/bulkhead", runtime);
  return fmt::format("/tmp/bulkhead-{}", ::geteuid());
}

ClaimedName& ClaimedName::operator=(ClaimedName&& other) noexcept {
  if (this != &other) {
    release();
    name_ = std::move(other.name_);
    directory_ = std::move(other.directory_);
    lock_ = std::move(other.lock_);
  }
  return *this;
}

ClaimedName::~ClaimedName() { release(); }

void ClaimedName::release() {
  if (!lock_.valid()) return;
  // Without the directory's lock the files must stay: the next start sweeps them.
  if (const auto guard = DirectoryLock::take(directory_.borrow())) {
    remove_files(directory_.borrow(), name_);
    lock_.reset();
  }
  lock_.reset();
}

Result<UniqueFd> ClaimedName::listen() {
  ASSIGN_OR_RETURN(const sockaddr_un address, socket_address(directory_.borrow(), name_));
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return make_errno_error("cannot create the management socket");
  UniqueFd socket(fd);
  // The name is ours, so a socket that is there belongs to a VM that died.
  ::unlinkat(directory_.get(), socket_name(name_).c_str(), 0);
  // On a Unix socket fchmod before bind decides the mode of the file that bind makes.
  if (::fchmod(fd, 0600) != 0 ||
      ::bind(fd, static_cast<const sockaddr*>(static_cast<const void*>(&address)), sizeof address) != 0 ||
      ::listen(fd, kBacklog) != 0)
    return make_errno_error(fmt::format("cannot listen on the management socket of VM {}", name_));
  return socket;
}

Result<RunDirectory> RunDirectory::open(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    return make_errno_error(fmt::format("cannot make the run directory {}", path));
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return make_errno_error(fmt::format("cannot open the run directory {}", path));
  UniqueFd directory(fd);
  struct stat info {};
  if (::fstat(fd, &info) != 0) return make_errno_error(fmt::format("cannot look at the run directory {}", path));
  if (info.st_uid != ::geteuid())
    return make_error(fmt::format("the run directory {} belongs to another user (uid {})", path, info.st_uid));
  if ((info.st_mode & 0077) != 0)
    return make_error(fmt::format("the run directory {} is open to others (mode {:04o}, should be 0700)", path,
                                  info.st_mode & 07777));
  return RunDirectory(path, std::move(directory));
}

Result<ClaimedName> RunDirectory::claim(std::string_view name, bool derived) {
  if (!is_name(name))
    return make_error(
        fmt::format("'{}' is not a name: 1 to {} letters, digits, '_', '.' or '-', the first a letter or digit", name,
                    kMaxNameLength));
  ASSIGN_OR_RETURN(const DirectoryLock guard, DirectoryLock::take(fd_.borrow()));
  std::string candidate(name);
  for (unsigned suffix = 2; suffix <= kMaxSuffix; ++suffix) {
    ASSIGN_OR_RETURN(std::optional<UniqueFd> lock, try_lock(fd_.borrow(), candidate));
    if (lock) {
      const std::string pid = fmt::format("{}\n", ::getpid());
      if (::ftruncate(lock->get(), 0) != 0 ||
          ::pwrite(lock->get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size()))
        return make_errno_error(fmt::format("cannot write the lock of VM {}", candidate));
      ASSIGN_OR_RETURN(UniqueFd directory, UniqueFd::duplicate(fd_.borrow()));
      return ClaimedName(std::move(candidate), std::move(directory), std::move(*lock));
    }
    if (!derived) break;
    const std::string tail = fmt::format("-{}", suffix);
    candidate = std::string(name.substr(0, kMaxNameLength - tail.size())) + tail;
  }
  return make_error(fmt::format("a VM named {} is already running", name));
}

Result<unsigned> RunDirectory::sweep() {
  ASSIGN_OR_RETURN(const std::set<std::string> names, names_in(fd_.borrow()));
  unsigned removed = 0;
  for (const std::string& name : names) {
    if (is_live(name)) continue;
    RETURN_IF_ERROR(sweep(name));
    ++removed;
  }
  return removed;
}

Status RunDirectory::sweep(std::string_view name) {
  if (!is_name(name)) return make_error("not a name");
  ASSIGN_OR_RETURN(const DirectoryLock guard, DirectoryLock::take(fd_.borrow()));
  // Looked at again under the lock: it may have come to life, or be gone.
  if (!open_if_live(fd_.borrow(), name)) remove_files(fd_.borrow(), name);
  return ok();
}

Result<std::vector<LiveVm>> RunDirectory::live() const {
  ASSIGN_OR_RETURN(const std::set<std::string> names, names_in(fd_.borrow()));
  std::vector<LiveVm> vms;
  for (const std::string& name : names) {
    if (const auto file = open_if_live(fd_.borrow(), name)) vms.push_back({name, read_pid(file->borrow())});
  }
  return vms;
}

bool RunDirectory::is_live(std::string_view name) const {
  return is_name(name) && open_if_live(fd_.borrow(), name).has_value();
}

Result<UniqueFd> RunDirectory::connect(std::string_view name) const {
  if (!is_live(name)) return make_error(fmt::format("no VM named {} is running", name));
  ASSIGN_OR_RETURN(const sockaddr_un address, socket_address(fd_.borrow(), name));
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return make_errno_error("cannot create a socket");
  UniqueFd socket(fd);
  // EAGAIN: more connections are waiting to be accepted than the socket holds.
  const auto give_up = std::chrono::steady_clock::now() + kConnectPatience;
  while (::connect(fd, static_cast<const sockaddr*>(static_cast<const void*>(&address)), sizeof address) != 0) {
    if ((errno != EAGAIN && errno != EINTR) || std::chrono::steady_clock::now() > give_up)
      return make_errno_error(fmt::format("cannot reach VM {} on its management socket", name));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return socket;
}

}  // namespace bulkhead::control
