#include "tools/bulkhead/socket_file.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace bulkhead::cli {
namespace {

constexpr int kBacklog = 128;

Result<UniqueFd> open_socket(const std::string& what) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return make_errno_error(what + ": cannot create a socket");
  return socket;
}

// Removes a socket on which nobody listens.
Status make_way(const std::string& what, const sockaddr_un& address) {
  struct stat info {};
  if (::lstat(address.sun_path, &info) != 0) return ok();
  if (!S_ISSOCK(info.st_mode)) return make_error(what + ": is there already, and no socket");
  ASSIGN_OR_RETURN(const UniqueFd probe, open_socket(what));
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 || errno == EAGAIN)
    return make_error(what + ": another program listens there");
  if (errno == ECONNREFUSED) ::unlink(address.sun_path);
  return ok();
}

}  // namespace

Result<SocketFile> SocketFile::listen(const std::string& option, const std::string& path) {
  const std::string what = fmt::format("{} {}", option, path);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return make_error(what + ": the path is too long for a socket");
  std::memcpy(address.sun_path, path.data(), path.size());
  RETURN_IF_ERROR(make_way(what, address));
  SocketFile file;
  ASSIGN_OR_RETURN(file.socket_, open_socket(what));
  const mode_t mask = ::umask(0177);
  const int bound = ::bind(file.socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int error = errno;
  ::umask(mask);
  if (bound != 0) return make_errno_error(what, error);
  file.path_ = path;
  if (::listen(file.socket_.get(), kBacklog) != 0) return make_errno_error(what);
  return file;
}

SocketFile::SocketFile(SocketFile&& other) noexcept
    : path_(std::exchange(other.path_, {})), socket_(std::move(other.socket_)) {}

SocketFile& SocketFile::operator=(SocketFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(socket_, other.socket_);
  return *this;
}

SocketFile::~SocketFile() {
  if (!path_.empty()) ::unlink(path_.c_str());
}

}  // namespace bulkhead::cli
