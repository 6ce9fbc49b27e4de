#include "tools/bulkhead/image_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <span>
#include <utility>

#include "ipc/base/checked.h"
#include "ipc/base/host_ids.h"
#include "ipc/base/printable.h"
#include "tools/bulkhead/print.h"

namespace bulkhead::cli {
namespace {

constexpr std::chrono::seconds kStartPatience{30};
constexpr std::array<unsigned char, 4> kQcow2Magic = {'Q', 'F', 'I', 0xfb};
// docs/interop/qcow2.txt, "Header": all numbers are big-endian.
constexpr std::size_t kBackingFileOffset = 8;
constexpr std::size_t kClusterBits = 20;
constexpr std::size_t kL1Size = 36;  // entries of 8 bytes
constexpr std::size_t kL1TableOffset = 40;
constexpr std::size_t kRefcountTableOffset = 48;
constexpr std::size_t kRefcountTableClusters = 56;
constexpr std::size_t kIncompatibleFeatures = 72;  // version 3
constexpr std::uint64_t kExternalDataFile = 1U << 2;

std::uint64_t big_endian(const unsigned char* at, std::size_t bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < bytes; ++i) value = value << 8 | at[i];
  return value;
}

// Whether the tables that the header names are inside the file: qemu reads what is behind its end as zeroes, and an
// image that was cut short would be an empty disk.
bool has_its_tables(BorrowedFd image, std::span<const unsigned char> header) {
  const auto end = static_cast<std::uint64_t>(std::max<off_t>(::lseek(image.get(), 0, SEEK_END), 0));
  const std::uint64_t bits = std::min<std::uint64_t>(big_endian(&header[kClusterBits], 4), 21);  // qemu's most
  return fits(big_endian(&header[kL1TableOffset], 8), big_endian(&header[kL1Size], 4) * 8, end) &&
         fits(big_endian(&header[kRefcountTableOffset], 8), big_endian(&header[kRefcountTableClusters], 4) << bits,
              end);
}

// A qcow2 image that consists of this one file.
Status check_header(BorrowedFd image, const std::string& what) {
  std::array<unsigned char, 80> header{};
  if (::pread(image.get(), header.data(), header.size(), 0) < static_cast<ssize_t>(kIncompatibleFeatures) ||
      std::memcmp(header.data(), kQcow2Magic.data(), kQcow2Magic.size()) != 0)
    return make_error(what + ": is no qcow2 image");
  const std::uint64_t version = big_endian(header.data() + 4, 4);
  if (version != 2 && version != 3) return make_error(fmt::format("{}: is qcow2 of version {}", what, version));
  if (big_endian(header.data() + kBackingFileOffset, 8) != 0)
    return make_error(what +
                      ": has a backing file, which could be any file of yours; `qemu-img convert -O qcow2` makes "
                      "an image without");
  if (version == 3 && (big_endian(header.data() + kIncompatibleFeatures, 8) & kExternalDataFile) != 0)
    return make_error(what + ": keeps its data in another file, which could be any file of yours");
  if (!has_its_tables(image, header)) return make_error(what + ": is cut short: the image's tables are not all there");
  return ok();
}

// Of a literal, its terminating zero is sent along.
std::string as_text(const control::Message& message) {
  std::string text(reinterpret_cast<const char*>(message.bytes.data()), message.bytes.size());
  while (text.ends_with('\0')) text.pop_back();
  return text;
}

// Where the program is, as execvp(3) would look for it.
std::string find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) return ::access(name.c_str(), X_OK) == 0 ? name : "";
  const char* path = std::getenv("PATH");
  std::string_view rest = path != nullptr ? path : "/usr/bin:/bin";
  while (!rest.empty()) {
    const std::string_view folder = rest.substr(0, rest.find(':'));
    rest.remove_prefix(std::min(folder.size() + 1, rest.size()));
    const std::string candidate = fmt::format("{}/{}", folder, name);
    if (!folder.empty() && ::access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return "";
}

// Besides the standard streams.
void close_all_but(int one, int other) {
  const auto [low, high] = std::minmax({static_cast<unsigned>(one), static_cast<unsigned>(other)});
  for (const auto& [from, to] : {std::pair(3U, low - 1), std::pair(low + 1, high - 1), std::pair(high + 1, ~0U)}) {
    if (from <= to) ::close_range(from, to, 0);
  }
}

Status write_file(const std::string& path, const std::string& text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return make_errno_error(path);
  const UniqueFd file(fd);
  if (::write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) return make_errno_error(path);
  return ok();
}

// What is to be `path` in the root that the server gets, which grows on the keeper's own /tmp.
std::string in_root(std::string_view path) { return fmt::format("/tmp{}", path); }

// Everything below runs in the keeper: a child of this program with namespaces of its own.
class Keeper {
 public:
  Keeper(control::ControlChannel channel, BorrowedFd image, const ImageServer::Options& options, std::string program)
      : channel_(std::move(channel)), image_(image), options_(options), program_(std::move(program)) {}

  // The process's exit status.
  int run() {
    ::setsid();  // the terminal's signals are for the VM
    if (const Status status = serve(); !status) {
      const std::string& sentence = status.error().message;
      (void)channel_.send(std::as_bytes(std::span(sentence)), control::no_wait());
      return 1;
    }
    return watch();
  }

 private:
  Status serve() {
    RETURN_IF_ERROR(enter_namespaces());
    RETURN_IF_ERROR(enter_root());
    RETURN_IF_ERROR(start_server());
    RETURN_IF_ERROR(await_server());
    const int flags = (options_.read_only ? O_RDONLY : O_RDWR) | (options_.direct ? O_DIRECT : 0);
    const int fd = ::open("/disk", flags | O_CLOEXEC);
    if (fd < 0) return make_errno_error("its server does not let it be opened");
    const UniqueFd disk(fd);
    const std::array<BorrowedFd, 1> fds{disk.borrow()};
    return channel_.send(std::as_bytes(std::span("ready")), fds, control::no_wait());
  }

  Status enter_namespaces() {
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) != 0)
      return make_errno_error("its server cannot have namespaces of its own");
    RETURN_IF_ERROR(channel_.send(std::as_bytes(std::span("unshared")), control::no_wait()));
    const auto mapped = channel_.receive(control::deadline_in(kStartPatience), 0);  // map_ids()
    return mapped ? ok() : make_error("its server has no user: " + mapped.error().message);
  }

  Status bind(const std::string& from, const std::string& to, bool file) {
    const std::string target = in_root(to);
    if (file) {
      if (::mknod(target.c_str(), S_IFREG | 0600, 0) != 0) return make_errno_error(target);
    } else if (::mkdir(target.c_str(), 0700) != 0) {
      return make_errno_error(target);
    }
    if (::mount(from.c_str(), target.c_str(), nullptr, MS_BIND | MS_REC, nullptr) != 0)
      return make_errno_error("its server cannot have " + from);
    return ok();
  }

  // By its name, since the descriptor is of another mount namespace; but it has to be the same file still. Before our
  // root covers /tmp, where the image may be.
  Status clone_image() {
    std::error_code error;
    const auto path = std::filesystem::read_symlink(fmt::format("/proc/self/fd/{}", image_.get()), error);
    if (error) return make_errno_error("cannot tell where the image is", error.value());
    tree_.reset(
        static_cast<int>(::syscall(SYS_open_tree, AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)));
    if (!tree_.valid()) return make_errno_error("its server cannot have the image");
    struct stat opened {};
    struct stat cloned {};
    if (::fstat(image_.get(), &opened) != 0 || ::fstat(tree_.get(), &cloned) != 0)
      return make_errno_error("cannot look at the image");
    if (opened.st_dev != cloned.st_dev || opened.st_ino != cloned.st_ino)
      return make_error("is another file now than a moment ago");
    return ok();
  }
  Status place_image() {
    const std::string target = in_root("/image");
    if (::mknod(target.c_str(), S_IFREG | 0600, 0) != 0 ||
        ::syscall(SYS_move_mount, tree_.get(), "", AT_FDCWD, target.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0)
      return make_errno_error("its server cannot have the image");
    return ok();
  }

  Status make_read_only(const std::string& path) {
    mount_attr attributes{};
    attributes.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID;
    if (::syscall(SYS_mount_setattr, AT_FDCWD, in_root(path).c_str(), AT_RECURSIVE, &attributes, sizeof attributes) !=
        0)
      return make_errno_error(fmt::format("its server cannot have {} read-only", path));
    return ok();
  }

  // The programs of the system, this image, and nothing else.
  Status enter_root() {
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
      return make_errno_error("its server cannot have a file system of its own");
    RETURN_IF_ERROR(clone_image());
    if (::mount("none", in_root("").c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=0700") != 0)
      return make_errno_error("its server cannot have a file system of its own");
    for (const char* folder : {"/usr", "/lib", "/lib64", "/bin"}) {
      std::error_code error;
      const auto status = std::filesystem::symlink_status(folder, error);
      if (std::filesystem::is_symlink(status)) {
        const std::string to = std::filesystem::read_symlink(folder, error).string();
        if (::symlink(to.c_str(), in_root(folder).c_str()) != 0) return make_errno_error(in_root(folder));
      } else if (std::filesystem::is_directory(status)) {
        RETURN_IF_ERROR(bind(folder, folder, false));
        RETURN_IF_ERROR(make_read_only(folder));
      }
    }
    if (::mkdir(in_root("/etc").c_str(), 0700) != 0 || ::mkdir(in_root("/dev").c_str(), 0700) != 0)
      return make_errno_error(in_root(""));
    if (::access("/etc/ld.so.cache", R_OK) == 0) {
      RETURN_IF_ERROR(bind("/etc/ld.so.cache", "/etc/ld.so.cache", true));
      RETURN_IF_ERROR(make_read_only("/etc/ld.so.cache"));
    }
    for (const char* device : {"/dev/fuse", "/dev/null"}) RETURN_IF_ERROR(bind(device, device, true));
    RETURN_IF_ERROR(place_image());
    if (::mknod(in_root("/disk").c_str(), S_IFREG | 0600, 0) != 0) return make_errno_error(in_root(""));
    if (::chdir(in_root("").c_str()) != 0 || ::syscall(SYS_pivot_root, ".", ".") != 0 ||
        ::umount2(".", MNT_DETACH) != 0 || ::chdir("/") != 0)
      return make_errno_error("its server cannot have a root of its own");
    return ok();
  }

  Status start_server() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) return make_errno_error("cannot create a pipe");
    errors_.reset(ends[0]);
    const UniqueFd errors_end(ends[1]);
    ::fcntl(errors_.get(), F_SETFL, O_NONBLOCK);
    const std::string read_only = options_.read_only ? "on" : "off";
    const std::string file =
        fmt::format("driver=file,node-name=file,filename=/image,discard=unmap,read-only={}", read_only);
    // No backing file is opened whatever the header says by now; and it could not be, in this root.
    const std::string format = fmt::format(
        R"({{"driver":"qcow2","node-name":"disk","file":"file","backing":null,"discard":"unmap","read-only":{}}})",
        options_.read_only ? "true" : "false");
    // Not for others: with allow_other, FUSE would let in who is in the server's user namespace, and we are not.
    const std::string exported =
        fmt::format("type=fuse,id=disk,node-name=disk,mountpoint=/disk,allow-other=off,writable={}",
                    options_.read_only ? "off" : "on");
    const std::array<const char*, 10> arguments = {program_.c_str(), "--blockdev", file.c_str(),     "--blockdev",
                                                   format.c_str(),   "--export",   exported.c_str(), "--pidfile",
                                                   "/pid",           nullptr};
    server_ = ::fork();
    if (server_ < 0) return make_errno_error("cannot start its server");
    if (server_ != 0) return ok();
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    // Of its namespace's root it needs to mount; above all it cannot become one of the users mapped for the jails.
    for (int capability = 0; capability <= CAP_LAST_CAP; ++capability) {
      if (capability != CAP_SYS_ADMIN) ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    }
    const int null = ::open("/dev/null", O_RDONLY);
    ::dup2(null, STDIN_FILENO);
    ::dup2(errors_end.get(), STDOUT_FILENO);
    ::dup2(errors_end.get(), STDERR_FILENO);
    ::execv(program_.c_str(), const_cast<char* const*>(arguments.data()));
    ::dprintf(STDERR_FILENO, "cannot start %s: %s\n", program_.c_str(), std::strerror(errno));
    ::_exit(127);
  }

  // It writes its pid when the export is there.
  Status await_server() {
    const auto give_up = std::chrono::steady_clock::now() + kStartPatience;
    for (;;) {
      struct stat info {};
      if (::stat("/pid", &info) == 0 && info.st_size != 0) return ok();
      if (reap(WNOHANG)) {
        take_errors();
        return make_error(first_error_.empty() ? "its server ended at once" : first_error_);
      }
      if (std::chrono::steady_clock::now() > give_up) {
        ::kill(server_, SIGKILL);
        return make_error("its server does not get ready");
      }
      pollfd entry{.fd = errors_.get(), .events = POLLIN, .revents = 0};
      ::poll(&entry, 1, 10);
      take_errors();
    }
  }

  bool reap(int how) {
    int status = 0;
    const pid_t ended = ::waitpid(server_, &status, how);
    if (ended != server_) return false;
    server_ = -1;
    end_ = WIFSIGNALED(status) ? fmt::format("was killed by signal {}", WTERMSIG(status))
                               : fmt::format("ended with status {}", WEXITSTATUS(status));
    clean_end_ = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    return true;
  }

  // The first line that the server has said; the rest is dropped, so that it never waits for us.
  void take_errors() {
    std::array<char, 512> piece{};
    for (;;) {
      const ssize_t got = ::read(errors_.get(), piece.data(), piece.size());
      if (got <= 0) {
        if (got == 0) errors_.reset();
        return;
      }
      said_.append(piece.data(), static_cast<std::size_t>(got));
      if (first_error_.empty()) {
        if (const std::size_t end = said_.find('\n'); end != std::string::npos)
          first_error_ = printable(said_.substr(0, end));
      }
      if (said_.size() > 4096) said_.resize(4096);
    }
  }

  // Until this program is gone, or wants the end.
  int watch() {
    const UniqueFd server(static_cast<int>(::syscall(SYS_pidfd_open, server_, 0)));
    constexpr auto kNever = std::chrono::steady_clock::time_point::max();
    auto give_up = kNever;
    bool ordered = false;
    for (;;) {
      std::array<pollfd, 3> entries = {{{.fd = ordered ? -1 : channel_.fd().get(), .events = POLLIN, .revents = 0},
                                        {.fd = server.get(), .events = POLLIN, .revents = 0},
                                        {.fd = errors_.valid() ? errors_.get() : -1, .events = POLLIN, .revents = 0}}};
      if (::poll(entries.data(), entries.size(), ordered && give_up != kNever ? 100 : -1) < 0 && errno != EINTR)
        return 1;
      if (std::chrono::steady_clock::now() > give_up) {
        complain(options_.what + ": its server does not end, and is killed");
        ::kill(server_, SIGKILL);
        give_up = kNever;
      }
      if (entries[2].revents != 0) take_errors();
      if (entries[0].revents != 0) {
        ordered = true;
        give_up = std::chrono::steady_clock::now() + options_.end_patience;
        ::kill(server_, SIGTERM);  // it writes back what it has, and closes the image
      }
      if (entries[1].revents == 0 || !reap(0)) continue;
      if (ordered && clean_end_) return 0;
      if (ordered && give_up == kNever) return 1;  // and it was said why
      take_errors();
      complain(fmt::format("{}: its server {}{}{}; the guest gets I/O errors from it", options_.what, end_,
                           first_error_.empty() ? "" : ": ", first_error_));
      return 1;
    }
  }

  control::ControlChannel channel_;
  BorrowedFd image_;
  const ImageServer::Options& options_;
  std::string program_;
  pid_t server_ = -1;
  UniqueFd errors_;
  UniqueFd tree_;  // the image, as a mount
  std::string said_;
  std::string first_error_;
  std::string end_;
  bool clean_end_ = false;
};

// Inside, the keeper and the server are root, and outside our user. FUSE takes requests only from users that its
// mount's namespace knows (Linux, fs/fuse/dev.c: fuse_get_req, EOVERFLOW), and root's device processes have users of
// their own (ipc/base/host_ids.h). From outside, since mapping more than one's own user takes privilege
// there.
Status map_ids(pid_t keeper) {
  const std::string folder = fmt::format("/proc/{}/", keeper);
  const auto map = [](unsigned own) {
    const std::string inside = fmt::format("0 {} 1\n", own);
    return own != 0 ? inside : fmt::format("{}{} {} {}\n", inside, kFirstHostId, kFirstHostId, kHostIds);
  };
  RETURN_IF_ERROR(write_file(folder + "setgroups", "deny"));
  RETURN_IF_ERROR(write_file(folder + "gid_map", map(::getegid())));
  return write_file(folder + "uid_map", map(::geteuid()));
}

}  // namespace

bool looks_like_qcow2(BorrowedFd image) {
  std::array<unsigned char, 4> magic{};
  return ::pread(image.get(), magic.data(), magic.size(), 0) == static_cast<ssize_t>(magic.size()) &&
         magic == kQcow2Magic;
}

Result<ImageServer> ImageServer::start(BorrowedFd image, const Options& options) {
  const std::string& what = options.what;
  RETURN_IF_ERROR(check_header(image, what));
  const std::string program = find_program(options.program);
  if (program.empty())
    return make_error(fmt::format("{}: format=qcow2 needs {} (Debian: qemu-system-common)", what, options.program));
  if (::access("/dev/fuse", R_OK | W_OK) != 0)
    return make_errno_error(fmt::format("{}: format=qcow2 needs FUSE: /dev/fuse", what));
  ImageServer server;
  ASSIGN_OR_RETURN(auto ends, control::ControlChannel::create_pair());
  const pid_t pid = ::fork();
  if (pid < 0) return make_errno_error(fmt::format("{}: cannot start its server", what));
  if (pid == 0) {
    ends.first = control::ControlChannel();
    close_all_but(image.get(), ends.second.fd().get());
    ::_exit(Keeper(std::move(ends.second), image, options, program).run());
  }
  server.keeper_ = pid;
  server.channel_ = std::move(ends.first);
  ends.second = control::ControlChannel();
  Result<control::Message> answer = server.channel_.receive(control::deadline_in(kStartPatience), 0);
  if (answer && as_text(*answer) == "unshared") {
    if (const Status mapped = map_ids(pid); !mapped) return make_error(what + ": " + mapped.error().message);
    RETURN_IF_ERROR(server.channel_.send(std::as_bytes(std::span("mapped")), control::no_wait()));
    answer = server.channel_.receive(control::deadline_in(2 * kStartPatience), 1);
  }
  if (!answer) return make_error(fmt::format("{}: its server did not start: {}", what, answer.error().message));
  if (answer->fds.size() != 1) return make_error(fmt::format("{}: {}", what, printable(as_text(*answer))));
  server.disk_ = std::move(answer->fds[0]);
  return server;
}

ImageServer::ImageServer(ImageServer&& other) noexcept
    : channel_(std::move(other.channel_)), keeper_(std::exchange(other.keeper_, -1)), disk_(std::move(other.disk_)) {}

ImageServer::~ImageServer() {
  if (keeper_ < 0) return;
  // First, since closing the disk waits for its server, whatever that does.
  channel_ = control::ControlChannel();
  disk_.reset();
  int status = 0;
  while (::waitpid(keeper_, &status, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace bulkhead::cli
